"""Embedding, norms, quantisation, rotation and choice on the device against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from activation_rows import from_blocks, padded
from numpy.typing import NDArray
from shader_cases import (
    INACTIVE,
    Heads,
    Row,
    assert_quantised,
    keys_from,
    rms_norm,
    rope_table,
    rotate,
    step_buffer,
)
from vulkan_harness import Bench, run

from specdec.types import FloatArray
from specdec.weights import pack
from target.vulkan import Device

HIDDEN_SIZES = [32, 192, 640, 1152, 5376]


def normal(seed: int, *shape: int, scale: float = 1.0) -> FloatArray:
    values = np.random.default_rng(seed).standard_normal(shape) * scale
    return values.astype(np.float32)


def words(num_rows: int, columns: int) -> NDArray[np.uint32]:
    return np.zeros((padded(num_rows), columns // 4), np.uint32)


def scales(num_rows: int, columns: int) -> FloatArray:
    return np.zeros((padded(num_rows), columns // 32), np.float32)


def quantised_rows(out: list[NDArray], num_rows: int) -> tuple[NDArray, FloatArray]:
    """Values and scales, the last two buffers of a shader, row by row."""
    groups = out[-1].shape[1]
    return from_blocks(out[-2], num_rows, groups), from_blocks(out[-1], num_rows, groups)


def norm_quantize(device: Device, x: FloatArray, factor: FloatArray) -> tuple[NDArray, FloatArray]:
    num_rows, hidden = x.shape
    buffers = [x, factor, words(num_rows, hidden), scales(num_rows, hidden)]
    out = run(device, "norm_quantize", buffers, num_rows, constants={"HIDDEN": hidden})
    return quantised_rows(out, num_rows)


@pytest.mark.parametrize("hidden", HIDDEN_SIZES)
def test_input_norm_is_quantised_within_half_a_step(device: Device, hidden: int) -> None:
    x, factor = normal(1, 3, hidden, scale=30.0), normal(2, hidden) + 1
    values, group_scales = norm_quantize(device, x, factor)
    assert_quantised(values, group_scales, rms_norm(x, factor))


def test_a_row_of_zeros_and_a_huge_row_stay_finite(device: Device) -> None:
    x = np.zeros((3, 64), np.float32)
    x[1] = 1e15
    x[2, 5] = 1e-20
    values, group_scales = norm_quantize(device, x, np.ones(64, np.float32))
    assert_quantised(values, group_scales, rms_norm(x, np.ones(64, np.float32)))
    assert not values[0].any() and not group_scales[0].any()


@pytest.mark.parametrize("threads", [64, 256])
@pytest.mark.parametrize("hidden", HIDDEN_SIZES)
def test_residual_takes_the_normed_projection(device: Device, hidden: int, threads: int) -> None:
    num_rows = 3
    x, y = normal(3, num_rows, hidden, scale=100.0), normal(4, num_rows, hidden)
    post, following = normal(5, hidden) + 1, normal(6, hidden) + 1
    buffers = [x, y, post, following, words(num_rows, hidden), scales(num_rows, hidden)]
    constants = {"HIDDEN": hidden, "THREADS": threads}
    out = run(device, "residual_norm_quantize", buffers, num_rows, constants=constants)
    expected = x + rms_norm(y, post)
    np.testing.assert_allclose(out[0], expected, rtol=2e-6, atol=2e-5)
    assert_quantised(*quantised_rows(out, num_rows), rms_norm(out[0], following))


def test_a_rows_bits_do_not_depend_on_its_neighbours(device: Device) -> None:
    hidden = 1152
    x, y = normal(7, 16, hidden), normal(8, 16, hidden)
    post, following = normal(9, hidden), normal(10, hidden)

    def run_rows(rows: list[int]) -> list[NDArray]:
        count = len(rows)
        buffers = [x[rows], y[rows], post, following, words(count, hidden), scales(count, hidden)]
        out = run(device, "residual_norm_quantize", buffers, count, constants={"HIDDEN": hidden})
        return [out[0], *quantised_rows(out, count)]

    together = run_rows(list(range(16)))
    for rows in ([11], [3, 11], [11, 0, 1, 2]):
        alone = run_rows(rows)
        for one, many in zip(alone, together, strict=True):
            at = rows.index(11)
            assert one[at].tobytes() == many[11].tobytes()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("hidden", [64, 640, 2560])
def test_embedding_rows_are_dequantised_over_parts(device: Device, bits: int, hidden: int) -> None:
    rng = np.random.default_rng(bits + hidden)
    vocab, cut = 160, 96
    low, high = (-8, 8) if bits == 4 else (-127, 128)
    values = rng.integers(low, high, (vocab, hidden)).astype(np.int8)
    matrix = pack(bits, values, rng.random((vocab, hidden // 32)).astype(np.float16))
    tokens = [0, 95, 96, 159, 31, 32]
    step = step_buffer([*[Row(3, token=t) for t in tokens], Row(INACTIVE, token=7)])
    normalizer = float(np.float32(hidden**0.5))
    grid = (-(-hidden // 32 // 64), len(tokens) + 1)
    with Bench(device) as bench:
        program = bench.program("embed", {"BITS": bits}, {"HIDDEN": hidden})
        out = bench.upload(np.full((len(tokens) + 1, hidden), np.nan, np.float32))
        step_region = bench.upload(step)
        for first, stop in ((0, cut), (cut, vocab)):
            tiles = slice(first // 32, stop // 32)
            part = [bench.upload(matrix.packed[tiles]), bench.upload(matrix.scales[tiles])]
            push = [first, stop - first, normalizer]
            bench.dispatch(program, [step_region, *part, out], grid, push)
        bench.run()
        x = bench.download(out, np.float32).reshape(-1, hidden)
    expected = matrix.dequantize()[tokens] * np.float32(normalizer)
    np.testing.assert_array_equal(x[:-1], expected)
    np.testing.assert_array_equal(x[-1], 0)


def chosen(device: Device, values: FloatArray, ids: NDArray[np.uint32]) -> NDArray:
    out = np.zeros(len(values), np.uint32)
    return run(device, "choose", [values, ids, out], len(values), [values.shape[1]])[2]


@pytest.mark.parametrize("num_partials", [1, 7, 256, 257, 8192])
def test_choice_is_the_largest_value_and_the_lowest_id_on_ties(
    device: Device, num_partials: int
) -> None:
    rng = np.random.default_rng(num_partials)
    values = rng.integers(-3, 3, (5, num_partials)).astype(np.float32)
    ids = rng.permutation(5 * num_partials).astype(np.uint32).reshape(5, num_partials)
    best = values == values.max(axis=1, keepdims=True)
    expected = np.where(best, ids, 2**32 - 1).min(axis=1)
    np.testing.assert_array_equal(chosen(device, values, ids), expected)


def test_choice_reads_every_partial(device: Device) -> None:
    ids = np.tile(np.arange(600, dtype=np.uint32), (600, 1))
    np.testing.assert_array_equal(chosen(device, np.eye(600, dtype=np.float32), ids), ids[0])


def test_choice_survives_infinities_and_nan(device: Device) -> None:
    nan, infinity = np.nan, np.inf
    values = np.array([[nan, -5, nan], [-infinity, -infinity, nan], [nan] * 3], np.float32)
    ids = np.array([[4, 9, 2], [8, 6, 1], [3, 4, 5]], np.uint32)
    np.testing.assert_array_equal(chosen(device, values, ids), [9, 6, 0])


SHAPES = [
    Heads(32, 4, 4, 64, 0, 2),
    Heads(64, 4, 2, 64, 0, 2),
    Heads(128, 4, 2, 64, 0, 2),
    Heads(256, 4, 1, 96, 0, 2),
]


def rotated(device: Device, shape: Heads, rows: list[Row], y: FloatArray) -> list[NDArray]:
    """q (M, heads, D), K and V (slots x kv heads, ring, D)."""
    dim, num_cached = shape.head_dim, shape.num_slots * shape.num_kv_heads
    factors = [normal(21, dim) + 1, normal(22, dim) + 1]
    cache = np.full((num_cached, shape.ring, dim), 7.0, np.float16)
    q = np.full((len(rows), shape.num_heads, dim), 5.0, np.float32)
    buffers = [step_buffer(rows), y, *factors, rope_table(500, dim), q, cache, cache]
    constants = {
        **shape.constants,
        "NUM_KV_HEADS": shape.num_kv_heads,
        "QUERY_SCALE": 0.25,
    }
    grid = (shape.num_heads + 2 * shape.num_kv_heads, len(rows))
    out = run(device, "qk_norm_rope", buffers, grid, [shape.ring], constants=constants)
    return [out[5], keys_from(out[6], shape.ring, dim), out[7]]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_queries_and_keys_are_normed_and_rotated_and_cached(device: Device, shape: Heads) -> None:
    dim, heads, kv_heads = shape.head_dim, shape.num_heads, shape.num_kv_heads
    rows = [Row(0), Row(1), Row(407, slot=1, start=2), Row(INACTIVE, start=3)]
    y = normal(20, len(rows), heads + 2 * kv_heads, dim, scale=3.0)
    q, keys, values = rotated(device, shape, rows, y)
    turns = rope_table(500, dim).astype(np.float64)
    expected_keys = np.full(keys.shape, 7.0)
    expected_values = np.full(values.shape, 7.0)
    for r, row in enumerate(rows[:3]):
        turn = turns[row.position]
        expected = rotate(rms_norm(y[r, :heads], normal(21, dim) + 1), turn) * 0.25
        np.testing.assert_allclose(q[r], expected, rtol=1e-5, atol=1e-5)
        cached = slice(row.slot * kv_heads, (row.slot + 1) * kv_heads)
        key = rotate(rms_norm(y[r, heads:-kv_heads], normal(22, dim) + 1), turn)
        expected_keys[cached, row.position % shape.ring] = key
        expected_values[cached, row.position % shape.ring] = y[r, -kv_heads:].astype(np.float16)
    np.testing.assert_array_equal(q[3], 5.0)
    # a key's float32 error of about 1e-6 can tip its fp16 rounding: half a unit and that
    np.testing.assert_allclose(keys, expected_keys, rtol=2.0**-11 + 1e-5, atol=1e-5)
    np.testing.assert_array_equal(values, expected_values.astype(np.float16))


def test_cached_values_round_to_even_and_are_finite(device: Device) -> None:
    shape = Heads(32, 1, 1, 32, 0)
    special = [65504, 65519.9, 65520, 1e30, np.inf, -np.inf, np.nan, 1 + 2**-11, 1 + 3 * 2**-11]
    special += [6e-8, 2.9e-8, 3.1e-8, 6.1e-5, 6.09e-5, -0.0, 0.0, 1e-30, 0.1, -2.5e-7, 2**-14]
    y = normal(23, 1, 3, 32)
    y[0, 2, : len(special)] = special
    value = rotated(device, shape, [Row(5)], y)[2][0, 5]
    with np.errstate(over="ignore", invalid="ignore"):
        expected = np.clip(np.nan_to_num(y[0, 2], nan=np.inf), -65504, 65504).astype(np.float16)
    np.testing.assert_array_equal(value, expected)
