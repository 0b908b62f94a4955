"""The tile layout, byte by byte, against loops that follow its description."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from specdec.weights import Bits, matrix_sizes, pack, vector_sizes
from tests.convert_fixtures import SHAPE


def random_matrix(
    bits: Bits, num_rows: int, num_columns: int
) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    rng = np.random.default_rng(num_rows)
    low, high = (-8, 8) if bits == 4 else (-128, 128)
    values = rng.integers(low, high, (num_rows, num_columns), dtype=np.int8)
    return values, rng.standard_normal((num_rows, num_columns // 32)).astype(np.float16)


@pytest.mark.parametrize("num_rows", [1, 32, 70])
def test_int4_bytes_lie_where_the_layout_says(num_rows: int) -> None:
    values, scales = random_matrix(4, num_rows, 96)
    matrix = pack(4, values, scales)
    assert matrix.packed.shape == (-(-num_rows // 32), 3, 32, 16)
    assert matrix.packed.dtype == np.uint8
    for row in range(num_rows):
        for group in range(3):
            for j in range(4):
                for b in range(4):
                    byte = int(matrix.packed[row // 32, group, row % 32, 4 * j + b])
                    column = 32 * group + 8 * j + b
                    assert (byte & 15) - 8 == values[row, column]
                    assert (byte >> 4) - 8 == values[row, column + 4]


@pytest.mark.parametrize("num_rows", [1, 32, 70])
def test_int8_bytes_lie_where_the_layout_says(num_rows: int) -> None:
    values, scales = random_matrix(8, num_rows, 96)
    matrix = pack(8, values, scales)
    assert matrix.packed.shape == (-(-num_rows // 32), 3, 2, 32, 16)
    assert matrix.packed.dtype == np.int8
    for row in range(num_rows):
        for column in range(96):
            half, at = column % 32 // 16, column % 16
            byte = matrix.packed[row // 32, column // 32, half, row % 32, at]
            assert byte == values[row, column]


@pytest.mark.parametrize("bits", [4, 8])
def test_scales_lie_by_tile_and_group_and_padded_rows_have_none(bits: Bits) -> None:
    values, scales = random_matrix(bits, 70, 96)
    matrix = pack(bits, values, scales)
    assert matrix.scales.shape == (3, 3, 32)
    assert matrix.scales.dtype == np.float16
    for row in range(96):
        for group in range(3):
            expected = scales[row, group] if row < 70 else 0
            assert matrix.scales[row // 32, group, row % 32] == expected


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("num_rows", [1, 31, 32, 33, 64])
def test_reading_gives_back_what_was_packed(bits: Bits, num_rows: int) -> None:
    values, scales = random_matrix(bits, num_rows, 64)
    matrix = pack(bits, values, scales)
    assert np.array_equal(matrix.values(), values)
    assert np.array_equal(matrix.row_scales(), scales)
    weights = values.astype(np.float32) * np.repeat(scales.astype(np.float32), 32, axis=1)
    assert np.array_equal(matrix.dequantize(), weights)


def test_a_model_has_four_matrices_and_six_vectors_per_layer() -> None:
    assert len(matrix_sizes(SHAPE)) == 1 + 4 * SHAPE.num_layers
    assert len(vector_sizes(SHAPE)) == 1 + 6 * SHAPE.num_layers
    assert matrix_sizes(SHAPE)["layers.0.qkv"] == ((2 + 1 + 1) * 128, 256)
