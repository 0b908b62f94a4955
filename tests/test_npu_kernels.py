"""Every kernel of the NPU, compiled for this machine, against numpy models of the same steps."""

from __future__ import annotations

import ctypes
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from npu_array import LOG2_E, Driver, row_payloads
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

ROUNDING = {
    0: math.floor,
    1: math.ceil,
    2: math.trunc,
    3: lambda x: math.ceil(x) if x > 0 else math.floor(x),
    8: lambda x: math.ceil(x - Fraction(1, 2)),
    9: lambda x: math.floor(x + Fraction(1, 2)),
    10: lambda x: int(math.copysign(math.ceil(abs(x) - Fraction(1, 2)), x)),
    11: lambda x: int(math.copysign(math.floor(abs(x) + Fraction(1, 2)), x)),
    12: round,
    13: lambda x: 2 * math.floor(x / 2) + 1 if x % 1 == Fraction(1, 2) else round(x),
}


@pytest.fixture(scope="module")
def kernels() -> HostKernels:
    return host_kernels.load()


def integers(rng: np.random.Generator, low: int, high: int, *shape: int) -> NDArray[np.int8]:
    return rng.integers(low, high + 1, shape).astype(np.int8)


def normal(seed: int, *shape: int) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def matrix(seed: int, rows: int, columns: int) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    rng = np.random.default_rng(seed)
    scales = rng.uniform(0.001, 0.02, (rows, columns // 32)).astype(np.float16)
    return integers(rng, -8, 7, rows, columns), scales


# ---- conversions ----


@pytest.mark.parametrize("mode", ROUNDING)
def test_shift_round_rounds_every_small_value_as_the_mode_says(
    kernels: HostKernels, mode: int
) -> None:
    call = kernels.library.probe_shift_round_saturate
    for shift, value in itertools.product((1, 2, 3, 7), range(-70, 71)):
        expected = ROUNDING[mode](Fraction(value, 1 << shift))
        assert call(wide(value), shift, 1, 32, mode, 0) == expected, (value, shift)


def wide(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)


@pytest.mark.parametrize(
    ("saturation", "is_signed", "bits", "low", "high"),
    [(1, 1, 8, -128, 127), (3, 1, 8, -127, 127), (1, 0, 8, 0, 255), (1, 1, 16, -32768, 32767)],
)
def test_saturation_stops_at_the_ends_of_a_type(
    kernels: HostKernels, saturation: int, is_signed: int, bits: int, low: int, high: int
) -> None:
    call = kernels.library.probe_shift_round_saturate
    for value in (-(1 << 31), low - 1, low, -1, 0, 1, high, high + 1, (1 << 31) - 1):
        found = call(wide(value), 0, is_signed, bits, 12, saturation)
        assert found == min(max(value, low), high)


@pytest.mark.parametrize("mode", ROUNDING)
def test_floats_become_bfloat16_as_the_rounding_mode_says(kernels: HostKernels, mode: int) -> None:
    upper = np.array([0x0080, 0x3F80, 0x3F81, 0x4049, 0x7F7E, 0xBF80, 0xBF81, 0xC2FF], np.uint32)
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    bits = (upper[:, None] << 16 | lower).reshape(-1)
    found = np.zeros(len(bits), np.uint16)
    kernels.call("probe_to_bfloat16", bits.view(np.float32), len(bits), mode, found)
    for source, result in zip(bits, found, strict=True):
        magnitude = Fraction(int(source) & 0x7FFFFFFF, 1 << 16)
        negative = bool(source >> 31)
        rounded = abs(ROUNDING[mode](-magnitude if negative else magnitude))
        assert result == rounded | (0x8000 if negative else 0), hex(source)


def test_special_floats_stay_special_in_bfloat16(kernels: HostKernels) -> None:
    x = np.zeros(16, np.float32)
    x[:6] = np.inf, -np.inf, np.nan, -0.0, 3.4e38, np.array(0x7FFFFFFF, np.uint32).view(np.float32)
    found = np.zeros(16, np.uint16)
    kernels.call("probe_to_bfloat16", x, 16, 12, found)
    values = arithmetic.from_bfloat16(found)
    assert np.isposinf(values[0]) and np.isneginf(values[1]) and np.isposinf(values[4])
    assert np.isnan(values[2]) and np.isnan(values[5]) and found[3] == 0x8000
    assert np.array_equal(found, arithmetic.to_bfloat16(x))


def test_a_float16_scale_is_two_bfloat16_exactly() -> None:
    every = np.arange(0x7C00, dtype=np.uint16).view(np.float16)
    high, low = arithmetic.split_float16(every)
    total = arithmetic.from_bfloat16(high) + arithmetic.from_bfloat16(low)
    assert np.array_equal(total, every.astype(np.float32))


@pytest.mark.parametrize(
    ("function", "oracle", "exact", "low", "high"),
    [
        (0, arithmetic.reciprocal, lambda x: 1 / x, -99, 99),
        (1, arithmetic.reciprocal_root, lambda x: 1 / np.sqrt(x), -99, 99),
        (2, arithmetic.power_of_two, np.exp2, None, None),
    ],
)
def test_functions_of_a_float_keep_their_precision(
    kernels: HostKernels, function: int, oracle, exact, low: int | None, high: int | None
) -> None:
    if low is None:
        x = np.linspace(-100, 100, 4096).astype(np.float32)
    else:
        x = np.exp2(np.linspace(low, high, 4096)).astype(np.float32)
    found = np.zeros_like(x)
    kernels.call("probe_float_math", x, len(x), function, found)
    assert np.array_equal(found, oracle(x))
    truth = exact(x.astype(np.float64))
    assert np.max(np.abs(found / truth - 1)) < 2.0**-13


def test_a_power_of_two_far_below_is_exactly_zero() -> None:
    assert not arithmetic.power_of_two(np.float32([-125, -200, -1e30])).any()


# ---- the product ----


@pytest.mark.parametrize(
    ("rows", "columns"), [(8, 32), (256, 192), (192, 128), (192, 512), (130, 640), (24, 2048)]
)
def test_products_equal_the_array_s_arithmetic_bit_for_bit(
    kernels: HostKernels, rows: int, columns: int
) -> None:
    values, scales = matrix(rows, rows, columns)
    x, x_scales = arithmetic.quantize(normal(columns, 4, columns))
    driver = Driver(kernels)
    messages = [layout.set_row(row, x[row], x_scales[row]) for row in range(4)]
    found = driver.multiply(layout.pack_weights(values, scales), messages, rows)
    assert np.array_equal(found, arithmetic.gemv(x, x_scales, values, scales))
    weights = values.astype(np.float64) * np.repeat(scales.astype(np.float64), 32, axis=1)
    exact = (x * np.repeat(x_scales.astype(np.float64), 32, axis=1)) @ weights.T
    assert np.max(np.abs(found - exact)) < FLOAT_TOLERANCE * np.abs(exact).max()


@pytest.mark.parametrize("extreme", [-8, 7])
def test_the_largest_sums_stay_exact(kernels: HostKernels, extreme: int) -> None:
    values = np.full((8, 64), extreme, np.int8)
    scales = np.ones((8, 2), np.float16)
    x = np.full((4, 64), 127, np.int8)
    x[1], x[3] = -127, 0
    x_scales = np.ones((4, 2), np.float32)
    messages = [layout.set_row(row, x[row], x_scales[row]) for row in range(4)]
    found = Driver(kernels).multiply(layout.pack_weights(values, scales), messages, 8)
    assert np.array_equal(found[:, 0], 64.0 * extreme * x[:, 0].astype(np.float32))


def test_four_rows_equal_four_single_rows(kernels: HostKernels) -> None:
    values, scales = matrix(5, 256, 192)
    packed = layout.pack_weights(values, scales)
    x, x_scales = arithmetic.quantize(normal(6, 4, 192))
    messages = [layout.set_row(row, x[row], x_scales[row]) for row in range(4)]
    together = Driver(kernels).multiply(packed, messages, 256)
    for row in range(4):
        alone = Driver(kernels).multiply(packed, [messages[row]], 256)
        assert np.array_equal(alone[row], together[row])


def test_a_product_does_not_depend_on_where_blocks_are_cut(kernels: HostKernels) -> None:
    values, scales = matrix(7, 8, 192)
    blocks = np.ascontiguousarray(layout.pack_weights(values, scales)[0, 0, 0, 64:])[: 6 * 160]
    x, x_scales = arithmetic.quantize(normal(8, 4, 192))
    rows, row_scales = np.zeros(4 * 192, np.int8), np.zeros(2 * 6 * 32, np.uint16)
    for row in range(4):
        message = layout.set_row(row, x[row], x_scales[row])[64:]
        kernels.call("gemv_store_row", message, row, 192, rows, row_scales)
    results = []
    for cut in range(7):
        partial, group = np.zeros(32, np.float32), np.zeros(1, np.int32)
        tiles = np.zeros(2 * 32, np.float32)
        counts = [
            kernels.call(
                "gemv_w4a8", part, len(part) // 160, 6, rows, row_scales, group, partial, tiles
            )
            for part in (blocks[: cut * 160].copy(), blocks[cut * 160 :].copy())
        ]
        assert sum(counts) == 1
        results.append(tiles[:32].copy())
    expected = arithmetic.gemv(x, x_scales, values, scales).reshape(-1)
    assert all(np.array_equal(result, expected) for result in results)


def test_top_8_of_every_core_hold_the_8_best_of_all(kernels: HostKernels) -> None:
    num_rows = 1000  # not a multiple of 128: padding must not win
    values, scales = matrix(9, num_rows, 64)
    x, x_scales = arithmetic.quantize(normal(10, 4, 64))
    driver = Driver(kernels)
    messages = [layout.set_row(row, x[row], x_scales[row]) for row in range(4)]
    packed = layout.pack_weights(values, scales, keep_best=True)
    for column, channel in itertools.product(range(4), range(2)):
        driver.send(column, channel, [*messages, packed[column, channel]])
    found = np.stack([driver.receive(column, 0, 8 * layout.TILE_BYTES) for column in range(4)])
    parts = found.reshape(4, 2, 4, layout.TILE_BYTES)  # column, values or ids, core
    logits = arithmetic.gemv(x, x_scales, values, scales)
    best = np.ascontiguousarray(parts[:, 0]).view(np.float32).reshape(16, 4, 8)
    ids = np.ascontiguousarray(parts[:, 1]).view(np.int32).reshape(16, 4, 8)
    for row in range(4):
        held = ids[:, row].reshape(-1)
        order = np.lexsort((held, -best[:, row].reshape(-1)))[:8]
        expected = np.lexsort((np.arange(num_rows), -logits[row]))[:8]
        assert held[order].tolist() == expected.tolist()
        assert np.array_equal(best[:, row].reshape(-1)[order], logits[row, expected])


def test_equal_logits_keep_the_lowest_ids(kernels: HostKernels) -> None:
    best, ids = np.zeros(32, np.float32), np.zeros(32, np.int32)
    kernels.call("head_top_k_clear", best, ids)
    for first in range(0, 24, 8):
        kernels.call("head_top_k", np.ones(32, np.float32), first, 20, best, ids)
    assert ids.reshape(4, 8).tolist() == [list(range(8))] * 4


# ---- what stands between the products ----


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


# ---- the array and its compiler ----


def test_a_core_ignores_what_is_not_addressed_to_it(kernels: HostKernels) -> None:
    driver = Driver(kernels)
    driver.load_hidden(0, np.ones(192, np.float32))
    words = layout.tag(Operation.LOAD_HIDDEN, layout.Target.FIRST, 1, (192,))
    driver.send(0, 1, [layout.element(words, np.zeros(192, np.float32).tobytes())])
    assert driver.hidden(0, 192).all()


def test_waiting_for_what_no_core_sends_is_a_stall(kernels: HostKernels) -> None:
    driver = Driver(kernels)
    with pytest.raises(host_kernels.HostStallError, match="no core will send"):
        driver.row(0)
    driver.array.reset()
    driver.load_hidden(0, np.ones(32, np.float32))
    assert driver.hidden(0, 32).all()


def test_memories_are_as_large_as_the_design_says(kernels: HostKernels) -> None:
    assert kernels.call("probe_memory_bytes", 0) == 18944
    assert kernels.call("probe_memory_bytes", 1) == 21696


def test_no_compiler_is_an_error_that_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_kernels, "COMPILERS", ("no-such-compiler",))
    with pytest.raises(host_kernels.DeviceError, match=r"no C\+\+ compiler.*apt install g\+\+"):
        host_kernels.load()


def test_a_folder_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with pytest.raises(host_kernels.DeviceError, match="XDG_CACHE_HOME"):
        host_kernels.load()


def test_the_end_of_a_transfer_is_its_furthest_word() -> None:
    step = np.zeros(1, host_kernels.STEP_DTYPE)[0]
    step["length"] = 40
    assert host_kernels.extent(step) == 40
    step["d0_size"], step["d0_step"], step["d1_size"], step["d1_step"] = 8, 1, 4, 100
    step["d2_step"] = 8
    assert host_kernels.extent(step) == 308
    step["iteration_size"], step["iteration_step"], step["repeat"] = 2, 1000, 1
    assert host_kernels.extent(step) == 1308
