"""Two ways to multiply by a weight matrix, behind one protocol; it knows no layers and no cache.

`W4A8` is the arithmetic every device computes (bit for bit independent of how many tokens share
a pass); `Float32` is the plain matrix product that quality and correctness are measured against.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from specdec.gemma3.shape import GROUP
from specdec.types import FloatArray
from specdec.weights import TILE_ROWS, QuantizedMatrix

MIN_AMAX = np.float32(2.0**-100)  # a group whose largest value is below it is quantised to zeros
# A product of (16, 32) x (32, 256) stays below the size from which OpenBLAS starts threads, whose
# waiting costs more than these products.
_COLUMNS = 256
_TOKENS = 16
_SCRATCH = 8192  # sums computed at a time, so that their arrays stay in a core's cache


class Linear(Protocol):
    """A matrix W of N rows and K columns that multiplies rows of activations."""

    def __call__(self, x: FloatArray) -> FloatArray:
        """Return W x for every row of x: (T, K) -> (T, N)."""

    def rows(self, row_ids: Sequence[int]) -> FloatArray:
        """Rows of W as float32 (len(row_ids), K): the embedding of those tokens."""


class Float32:
    """Float32 weights; low bits of a product depend on how many tokens are fed together."""

    def __init__(self, weights: FloatArray) -> None:
        self._weights = weights  # (N, K)

    def __call__(self, x: FloatArray) -> FloatArray:
        """Return W x for every row of x: (T, K) -> (T, N)."""
        return x @ self._weights.T

    def rows(self, row_ids: Sequence[int]) -> FloatArray:
        """Rows of W as float32 (len(row_ids), K)."""
        return self._weights[list(row_ids)].astype(np.float32, copy=False)


def quantize(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """INT8 values, as float32 (K/32, T, 32), and float32 scales (K/32, T) of activations (T, K).

    scale = amax x 1/127 and value = x x (127/amax), rounded half to even, all in float32.
    """
    grouped = x.reshape(len(x), -1, GROUP).transpose(1, 0, 2)
    amax = np.abs(grouped).max(axis=2)
    is_zero = amax < MIN_AMAX
    inverse = np.where(is_zero, np.float32(0), np.float32(127) / np.maximum(amax, MIN_AMAX))
    scales = np.where(is_zero, np.float32(0), amax * np.float32(1 / 127))
    return np.rint(grouped * inverse[:, :, None]), scales


class W4A8:
    """INT4 or INT8 weights times INT8 activations, in the one arithmetic of all devices.

    dot = sum over a group of weight x activation, an exact integer (below 2^24, so float32
    products give it in any order); acc = fma(dot, d_w x d_a, acc), groups ascending. With S
    slices, slice s takes groups s, s + S, ... and the slices are summed ascending.
    """

    def __init__(self, matrix: QuantizedMatrix, num_slices: int = 1) -> None:
        self._matrix = matrix
        self._num_slices = num_slices
        num_groups, num_blocks = matrix.num_columns // GROUP, -(-matrix.num_rows // _COLUMNS)
        self._values = np.zeros((num_groups, num_blocks, GROUP, _COLUMNS), np.float32)
        self._scales = np.zeros((num_groups, num_blocks, 1, _COLUMNS), np.float32)
        for block in range(num_blocks):
            _expand(matrix, block, self._values[:, block], self._scales[:, block, 0])

    def __call__(self, x: FloatArray) -> FloatArray:
        """Return W x for every row of x: (T, K) -> (T, N)."""
        num_blocks = self._values.shape[1]
        out = np.empty((len(x), num_blocks, _COLUMNS), np.float32)
        for first in range(0, len(x), _TOKENS):
            values, scales = quantize(x[first : first + _TOKENS])
            rows = out[first : first + _TOKENS].swapaxes(0, 1)
            step = max(1, _SCRATCH // (values.shape[1] * _COLUMNS))
            for start in range(0, num_blocks, step):
                part = slice(start, start + step)
                dots = np.matmul(values[:, None], self._values[:, part])  # (G, n, T, 256), exact
                weight_scales = self._scales[:, part]
                rows[part] = _accumulate(dots, weight_scales, scales, self._num_slices)
        return out.reshape(len(x), -1)[:, : self._matrix.num_rows]

    def rows(self, row_ids: Sequence[int]) -> FloatArray:
        """Rows of W as float32 (len(row_ids), K)."""
        return self._matrix.rows(np.asarray(row_ids, np.int64))


def _expand(matrix: QuantizedMatrix, block: int, values: FloatArray, scales: FloatArray) -> None:
    """Write rows of a block of the matrix into values (G, 32, 256) and scales (G, 256)."""
    tiles = slice(block * _COLUMNS // TILE_ROWS, (block + 1) * _COLUMNS // TILE_ROWS)
    packed, tile_scales = matrix.packed[tiles], matrix.scales[tiles]
    num_rows = len(packed) * TILE_ROWS
    part = QuantizedMatrix(matrix.bits, num_rows, matrix.num_columns, packed, tile_scales)
    values[..., :num_rows] = part.values().reshape(num_rows, -1, GROUP).transpose(1, 2, 0)
    scales[:, :num_rows] = part.row_scales().T


def _accumulate(
    dots: FloatArray, weight_scales: FloatArray, scales: FloatArray, num_slices: int
) -> FloatArray:
    """Scale group dots (G, n, T, 256) by d_w x d_a and sum them over groups: (n, T, 256)."""
    total = _fma_chain(dots, weight_scales, scales, range(0, len(dots), num_slices))
    for first in range(1, min(num_slices, len(dots))):
        total += _fma_chain(dots, weight_scales, scales, range(first, len(dots), num_slices))
    return total


def _fma_chain(
    dots: FloatArray, weight_scales: FloatArray, scales: FloatArray, groups: range
) -> FloatArray:
    """acc = fma(dot, d_w x d_a, acc) over `groups`, ascending.

    numpy has no fma: the product of two float32 is exact in float64, the sum is made there and
    rounded to float32 after every group.
    """
    shape = dots.shape[1:]
    acc, wide_acc = np.zeros(shape, np.float32), np.zeros(shape, np.float64)
    batch = max(1, 2 * _SCRATCH // acc.size)  # groups scaled by one call
    for start in range(0, len(groups), batch):
        part = slice(groups[start], groups.stop, groups.step)
        scale = weight_scales[part][:batch] * scales[part][:batch, None, :, None]
        products = np.multiply(dots[part][:batch], scale, dtype=np.float64)
        for product in products:
            np.add(wide_acc, product, out=product)
            np.copyto(acc, product, casting="same_kind")
            np.copyto(wide_acc, acc)
    return acc
