"""Norm, quantisation, rotation, attention and GeGLU through the emulated array, against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from npu_array import LOG2_E, Driver, normal, row_payloads
from numpy.typing import NDArray

from draft.npu import arithmetic, host_kernels, layout
from draft.npu.host_kernels import HostKernels
from draft.npu.layout import Operation
from specdec.types import FloatArray

pytestmark = pytest.mark.skipif(
    host_kernels.find_compiler() is None, reason="no C++ compiler (g++ or clang++) is installed"
)

# Relative to the largest value of a row: a product of split bf16 is off by at most 2^-15, and a
# kernel chains a handful of them.
FLOAT_TOLERANCE = 2.0**-12


@pytest.fixture(scope="module")
def kernels() -> HostKernels:
    return host_kernels.load()


@pytest.mark.parametrize("size", [192, 640])
def test_norm_and_quantisation_follow_numpy(kernels: HostKernels, size: int) -> None:
    hidden, factor = normal(11, size) * 30, normal(12, size) + 1
    driver = Driver(kernels)
    driver.load_hidden(2, hidden)
    driver.vector(2, Operation.NORM_QUANTIZE, (size, 3, 1e-6, 1 / size), [factor.tobytes()])
    row, values, scales = layout.read_set_row(driver.row(2))
    normed = arithmetic.rms_norm(hidden, factor, 1e-6)
    expected, expected_scales = arithmetic.quantize(normed)
    assert row == 3
    assert np.array_equal(values, expected) and np.array_equal(scales, expected_scales)
    wide = hidden.astype(np.float64)
    exact = wide / np.sqrt(np.mean(wide**2) + 1e-6) * factor
    assert np.max(np.abs(normed - exact)) < FLOAT_TOLERANCE * np.abs(exact).max()


def test_a_group_of_zeros_has_scale_zero_and_ties_round_to_even(kernels: HostKernels) -> None:
    x = np.zeros(64, np.float32)
    x[32:40] = 127, 2.5, 3.5, -2.5, -0.5, 0.49, -126.5, 1
    values, high, low = np.ones(64, np.int8), np.ones(2, np.uint16), np.ones(2, np.uint16)
    kernels.call("quantize_row", x, 64, values, high, low)
    assert not values[:32].any() and high[0] == low[0] == 0
    assert values[32:40].tolist() == [127, 2, 4, -2, 0, 0, -126, 1]
    assert abs(arithmetic.from_bfloat16(high)[1] - 1) < 2.0**-8


def test_residual_adds_the_norm_of_summed_slices(kernels: HostKernels) -> None:
    hidden, factor = normal(13, 640) * 20, normal(14, 640)
    slices = normal(15, 3, 640)
    driver = Driver(kernels)
    driver.load_hidden(0, hidden)
    payloads = [factor.tobytes(), *(part.tobytes() for part in slices)]
    driver.vector(0, Operation.RESIDUAL, (640, 1e-6, 3, 1 / 640), payloads)
    total = slices[0] + slices[1] + slices[2]
    expected = hidden + arithmetic.rms_norm(total, factor, 1e-6)
    assert np.array_equal(driver.hidden(0, 640), expected)


@pytest.mark.parametrize("size", [512, 2048, 32])
def test_geglu_follows_numpy(kernels: HostKernels, size: int) -> None:
    gate_up = normal(16, 2 * size) * 4
    gate_up[:4] = 0, 40, -40, 1e-3
    driver = Driver(kernels)
    driver.vector(1, Operation.GEGLU, (size, 2), [b"", *row_payloads(gate_up)])
    row, values, scales = layout.read_set_row(driver.row(1))
    gate, up = gate_up.reshape(-1, 2, 32).swapaxes(0, 1)
    outputs = arithmetic.geglu(gate, up)
    expected, expected_scales = arithmetic.quantize(outputs.reshape(-1))
    assert row == 2
    assert np.array_equal(values, expected) and np.array_equal(scales, expected_scales)
    wide = gate.astype(np.float64)
    inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
    exact = 0.5 * wide * (1 + np.tanh(inner)) * up
    assert np.max(np.abs(outputs - exact)) < FLOAT_TOLERANCE * np.abs(exact).max()


class Token:
    """A token's heads, its cache of keys and values, and its attention by the array's model."""

    def __init__(self, seed: int, num_heads: int, head_dim: int, cached: int, slots: int) -> None:
        self.num_heads, self.head_dim, self.slots = num_heads, head_dim, slots
        self.qkv = normal(seed, (num_heads + 2) * head_dim) * 2
        self.norms = normal(seed + 1, 2, head_dim) + 1
        angles = normal(seed + 2, head_dim // 2)
        self.rotation = np.stack((np.cos(angles), np.sin(angles)))
        self.keys = arithmetic.to_bfloat16(normal(seed + 3, slots, head_dim))
        self.values = arithmetic.to_bfloat16(normal(seed + 4, slots, head_dim))
        self.scale = head_dim**-0.5 * LOG2_E
        self.visible_begin, self.visible_count = 0, cached

    def visible(self) -> NDArray[np.bool_]:
        return (np.arange(self.slots) - self.visible_begin) % self.slots < self.visible_count

    def heads(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        heads = self.qkv.reshape(-1, self.head_dim)
        queries = arithmetic.rms_norm(heads[:-2], self.norms[0], 1e-6)
        key = arithmetic.rms_norm(heads[-2], self.norms[1], 1e-6)
        cosines, sines = self.rotation
        return (
            arithmetic.rope(queries, cosines, sines),
            arithmetic.rope(key, cosines, sines),
            heads[-1],
        )

    def expected(self) -> FloatArray:
        queries, key, value = self.heads()
        attention = arithmetic.Attention(queries, self.scale)
        rounded = (arithmetic.from_bfloat16(arithmetic.to_bfloat16(part)) for part in (key, value))
        attention.row(*rounded)
        keys, values = arithmetic.from_bfloat16(self.keys), arithmetic.from_bfloat16(self.values)
        visible = self.visible()
        for start in range(0, self.slots, 16):
            part = slice(start, start + 16)
            attention.tile(keys[part], values[part], visible[part])
        return attention.finish().reshape(-1)

    def exact(self) -> FloatArray:
        queries, key, value = (part.astype(np.float64) for part in self.heads())
        visible = self.visible()
        keys = np.concatenate((key[None], arithmetic.from_bfloat16(self.keys)[visible]))
        values = np.concatenate((value[None], arithmetic.from_bfloat16(self.values)[visible]))
        scores = queries @ keys.T * self.head_dim**-0.5
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        return (weights / weights.sum(axis=1, keepdims=True) @ values).reshape(-1)

    def run(self, driver: Driver, column: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The KV_ROW and the SET_ROW element the array makes."""
        size = self.head_dim
        ring = (size, self.visible_begin, self.visible_count, self.slots)
        driver.vector(column, Operation.POSITION, ring, [self.rotation.tobytes()])
        parameters = (size, self.num_heads, 1e-6, self.scale, 1 / size)
        payloads = [self.norms.tobytes(), *row_payloads(self.qkv)]
        driver.vector(column, Operation.ROPE, parameters, payloads)
        kv_row = driver.row(column)
        tiles = np.zeros((self.slots // 16, *layout.kv_tile_shape(size)), np.uint16)
        for slot in range(self.slots):
            layout.store_kv(tiles, slot, self.keys[slot], self.values[slot])
        pieces = tiles.reshape(-1, layout.KV_PIECE_BYTES // 2)
        attend = [b"", *(piece.tobytes() for piece in pieces)]
        driver.vector(column, Operation.ATTEND, (size, len(tiles), 0), attend)
        driver.vector(column, Operation.FINISH, (size, self.num_heads, column))
        return kv_row, driver.row(column)


@pytest.mark.parametrize(("num_heads", "head_dim"), [(2, 64), (4, 256), (3, 128)])
@pytest.mark.parametrize(
    ("begin", "cached", "slots"), [(0, 0, 16), (0, 5, 16), (0, 64, 64), (50, 60, 64)]
)
def test_attention_equals_its_model_over_any_part_of_a_ring(
    kernels: HostKernels, num_heads: int, head_dim: int, begin: int, cached: int, slots: int
) -> None:
    token = Token(20 + cached, num_heads, head_dim, cached, slots)
    token.visible_begin = begin
    kv_row, output = token.run(Driver(kernels), 1)
    _, key, value = token.heads()
    found_key, found_value = layout.read_kv_row(kv_row)
    assert np.array_equal(found_key, arithmetic.to_bfloat16(key))
    assert np.array_equal(found_value, arithmetic.to_bfloat16(value))
    expected, scales = arithmetic.quantize(token.expected())
    row, found, found_scales = layout.read_set_row(output)
    assert row == 1
    assert np.array_equal(found, expected) and np.array_equal(found_scales, scales)
    # weights and scores pass through bf16: 2^-8 each
    exact = token.exact()
    assert np.max(np.abs(token.expected() - exact)) < 2.0**-6 * np.abs(exact).max()


def test_hidden_positions_may_hold_anything_finite(kernels: HostKernels) -> None:
    token = Token(40, 2, 64, 20, 32)
    plain = token.run(Driver(kernels), 0)[1]
    token.keys[20:], token.values[20:] = 0x7F00, 0xFF00
    assert np.array_equal(token.run(Driver(kernels), 0)[1], plain)


def test_a_row_of_another_column_counts_like_a_cached_position(kernels: HostKernels) -> None:
    token = Token(50, 2, 64, 0, 16)
    driver = Driver(kernels)
    size = token.head_dim
    driver.vector(3, Operation.POSITION, (size, 0, 0, 16), [token.rotation.tobytes()])
    payloads = [token.norms.tobytes(), *row_payloads(token.qkv)]
    driver.vector(3, Operation.ROPE, (size, 2, 1e-6, token.scale, 1 / size), payloads)
    driver.row(3)
    other = token.keys[0].tobytes() + token.values[0].tobytes()
    driver.vector(3, Operation.KV_ROW, (size,), [other])
    driver.vector(3, Operation.FINISH, (size, 2, 3))
    token.visible_count = 1
    queries, key, value = token.heads()
    attention = arithmetic.Attention(queries, token.scale)
    attention.row(*(arithmetic.from_bfloat16(arithmetic.to_bfloat16(p)) for p in (key, value)))
    attention.row(
        arithmetic.from_bfloat16(token.keys[0]), arithmetic.from_bfloat16(token.values[0])
    )
    expected, _ = arithmetic.quantize(attention.finish().reshape(-1))
    assert np.array_equal(layout.read_set_row(driver.row(3))[1], expected)
