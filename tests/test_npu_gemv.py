"""The W4A8 product and the head's top 8 through the emulated array, against numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from npu_array import Driver, normal
from numpy.typing import NDArray

from draft.npu import arithmetic, host_kernels, layout
from draft.npu.host_kernels import HostKernels

pytestmark = pytest.mark.skipif(
    host_kernels.find_compiler() is None, reason="no C++ compiler (g++ or clang++) is installed"
)

# Relative to the largest value of a row: a product of split bf16 is off by at most 2^-15, and a
# kernel chains a handful of them.
FLOAT_TOLERANCE = 2.0**-12


@pytest.fixture(scope="module")
def kernels() -> HostKernels:
    return host_kernels.load()


def integers(rng: np.random.Generator, low: int, high: int, *shape: int) -> NDArray[np.int8]:
    return rng.integers(low, high + 1, shape).astype(np.int8)


def matrix(seed: int, rows: int, columns: int) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    rng = np.random.default_rng(seed)
    scales = rng.uniform(0.001, 0.02, (rows, columns // 32)).astype(np.float16)
    return integers(rng, -8, 7, rows, columns), scales


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


def test_an_equal_logit_beside_a_greater_one_does_not_enter(kernels: HostKernels) -> None:
    best, ids = np.zeros(32, np.float32), np.zeros(32, np.int32)
    kernels.call("head_top_k_clear", best, ids)
    tiles = np.ones((2, 4, 8), np.float32)
    tiles[1, :, 0] = 2
    for place, tile in enumerate(tiles):
        kernels.call("head_top_k", tile, 8 * place, 16, best, ids)
    assert ids.reshape(4, 8).tolist() == [[8, *range(7)]] * 4


def test_padding_does_not_win_over_negative_logits(kernels: HostKernels) -> None:
    best, ids = np.zeros(32, np.float32), np.zeros(32, np.int32)
    kernels.call("head_top_k_clear", best, ids)
    tile = np.zeros((4, 8), np.float32)
    tile[:, :3] = -1, -3, -2
    kernels.call("head_top_k", tile, 8, 11, best, ids)
    assert ids.reshape(4, 8)[:, :4].tolist() == [[8, 10, 9, -1]] * 4
