"""Rotary position embedding: cosines and sines per absolute position; it knows no layers."""

from __future__ import annotations

import numpy as np

from specdec.types import FloatArray

_TILE = 64  # positions computed at a time: always the same arrays, so always the same bits


class Rope:
    """Tables of one frequency base; angle of pair i at position p: p / factor x theta^(-2i/H)."""

    def __init__(self, head_dim: int, theta: float, factor: float) -> None:
        exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
        self._frequencies = theta**-exponents / factor
        self._tiles: list[tuple[FloatArray, FloatArray]] = []

    def tables(self, position: int, count: int) -> tuple[FloatArray, FloatArray]:
        """Cosines and sines, each float32 (count, H/2), from `position` on."""
        first, last = position // _TILE, (position + count - 1) // _TILE
        while len(self._tiles) <= last:
            start = len(self._tiles) * _TILE
            angles = np.arange(start, start + _TILE)[:, None] * self._frequencies
            cosines, sines = np.cos(angles), np.sin(angles)
            self._tiles.append((cosines.astype(np.float32), sines.astype(np.float32)))
        tiles = self._tiles[first : last + 1]
        offset = position - first * _TILE
        cosines = np.concatenate([tile[0] for tile in tiles])[offset : offset + count]
        sines = np.concatenate([tile[1] for tile in tiles])[offset : offset + count]
        return cosines, sines


def rotate(x: FloatArray, cosines: FloatArray, sines: FloatArray) -> FloatArray:
    """Rotate pairs (i, i + H/2) of heads x (T, N, H) by tables (T, H/2)."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    cosines, sines = cosines[:, None], sines[:, None]
    return np.concatenate(
        (first * cosines - second * sines, second * cosines + first * sines), axis=-1
    )
