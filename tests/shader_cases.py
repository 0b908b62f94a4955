"""Numpy forms of what the non-product shaders compute; they know no device.

Everything is float64 on the same inputs, so a tolerance is the shader's own rounding alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specdec.types import FloatArray

INACTIVE = 0xFFFFFFFF
Words = NDArray[np.uint32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a pass; start is the first row of its segment."""

    position: int
    slot: int = 0
    start: int = 0
    token: int = 0


def segment(position: int, num_rows: int, slot: int = 0, start: int = 0) -> list[Row]:
    """Rows of one segment that begins at row `start` of the pass."""
    return [Row(position + i, slot, start) for i in range(num_rows)]


def step_buffer(rows: Sequence[Row]) -> Words:
    """Header of 8 words, then token, slot, position, segment start of every row."""
    words = [[row.token, row.slot, row.position, row.start] for row in rows]
    return np.array([len(rows), *[0] * 7, *np.ravel(words)], np.uint32)


def attention_work(rows: Sequence[Row], max_rows: int, chunk: int, window: int) -> Words:
    """Entries (first row | rows << 16, chunk): every group of rows with every chunk it sees."""
    entries = []
    at = 0
    while at < len(rows):
        first = rows[at]
        count = 1
        while count < max_rows and at + count < len(rows) and rows[at + count].start == first.start:
            count += 1
        if first.position != INACTIVE:
            begin = max(0, first.position - window + 1) // chunk if window else 0
            last = (first.position + count - 1) // chunk
            entries += [(at | count << 16, index) for index in range(begin, last + 1)]
        at += count
    return np.array(entries, np.uint32)


def rms_norm(x: FloatArray, factor: FloatArray, eps: float = 1e-6) -> Doubles:
    """RMS norm over the last axis."""
    wide = x.astype(np.float64)
    return wide / np.sqrt(np.mean(wide * wide, axis=-1, keepdims=True) + eps) * factor


def dequantised(values: Words, scales: FloatArray) -> Doubles:
    """Quantised activations (M, K/4) words and (M, K/32) scales as numbers (M, K)."""
    integers = values.view(np.int8).reshape(*scales.shape, 32).astype(np.float64)
    return (integers * scales[..., None]).reshape(len(values), -1)


def assert_quantised(
    values: Words, scales: FloatArray, expected: Doubles, relative: float = 1e-6
) -> None:
    """Scales agree to `relative` of a group's largest value, values to half a step more."""
    groups = expected.reshape(*scales.shape, 32)
    amax = np.abs(groups).max(axis=-1)
    np.testing.assert_allclose(scales, amax / 127, rtol=relative * 4, atol=1e-35)
    error = np.abs(dequantised(values, scales).reshape(groups.shape) - groups)
    limit = scales * 0.5 + amax * relative
    worst = (error - limit[..., None]).max()
    assert worst <= 0, f"a quantised value is {worst:.3g} further off than half a step"


@dataclass(frozen=True, slots=True)
class Heads:
    """Head counts and the cache of one layer."""

    head_dim: int
    num_heads: int
    num_kv_heads: int
    ring: int
    window: int  # 0: a global layer
    num_slots: int = 1

    @property
    def constants(self) -> dict[str | int, int | float | bool]:
        """Specialization constants that every attention shader takes."""
        return {"HEAD_DIM": self.head_dim, "NUM_HEADS": self.num_heads}

    def max_chunks(self, chunk: int) -> int:
        """Most chunks one row can see."""
        return (self.window - 2) // chunk + 2 if self.window else -(-self.ring // chunk)


def rope_table(length: int, head_dim: int, theta: float = 10_000.0) -> FloatArray:
    """(cos, sin) pairs, float32 (length, head_dim / 2, 2)."""
    angles = np.arange(length)[:, None] * theta ** (-np.arange(0, head_dim, 2) / head_dim)
    return np.stack((np.cos(angles), np.sin(angles)), axis=-1).astype(np.float32)


def rotate(heads: Doubles, turns: Doubles) -> Doubles:
    """Rotate-half RoPE of heads (..., D) by (cos, sin) pairs (..., D/2, 2)."""
    a, b = np.split(heads, 2, axis=-1)
    cos, sin = turns[..., 0], turns[..., 1]
    return np.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)


def lay_out_keys(keys: NDArray[np.float16]) -> NDArray[np.float16]:
    """Keys (..., ring, D) in the cache's tiles of 32 positions by 8 dims."""
    *lead, ring, dim = keys.shape
    tiles = keys.reshape(*lead, ring // 32, 32, dim // 8, 8)
    return np.ascontiguousarray(np.swapaxes(tiles, -3, -2))


def keys_from(tiles: NDArray[np.float16], ring: int, head_dim: int) -> NDArray[np.float16]:
    """The inverse of `lay_out_keys`: (slots x kv heads, ring, D)."""
    units = tiles.reshape(-1, ring // 32, head_dim // 8, 32, 8)
    return np.swapaxes(units, -3, -2).reshape(-1, ring, head_dim)


def quantised_heads(heads: Doubles) -> tuple[NDArray[np.int8], FloatArray]:
    """Heads (..., D) as int8 and one float32 scale per 32 dims (..., D / 32)."""
    groups = heads.astype(np.float32).reshape(*heads.shape[:-1], -1, 32)
    scales = np.abs(groups).max(axis=-1) / np.float32(127)
    values = np.rint(groups / np.maximum(scales, 1e-30)[..., None]).astype(np.int8)
    return values.reshape(heads.shape), scales.astype(np.float32)


def lay_out_int8_keys(values: NDArray[np.int8], scales: FloatArray) -> NDArray[np.uint8]:
    """Keys (..., ring, D) and scales (..., ring, D / 32) as the bytes of their tiles."""
    *lead, ring, dim = values.shape
    units = np.swapaxes(values.reshape(*lead, ring // 32, 32, dim // 16, 16), -3, -2)
    turned = np.swapaxes(scales.reshape(*lead, ring // 32, 32, dim // 32), -2, -1)
    parts = (np.ascontiguousarray(units), np.ascontiguousarray(turned))
    flat = [part.view(np.uint8).reshape(*lead, ring // 32, -1) for part in parts]
    return np.concatenate(flat, axis=-1)


def int8_keys_from(cache: NDArray[np.uint8], ring: int, dim: int) -> Doubles:
    """The inverse of `lay_out_int8_keys`, dequantised: (slots x kv heads, ring, D)."""
    tiles = cache.reshape(-1, ring // 32, 36 * dim)
    units = tiles[..., : 32 * dim].reshape(-1, ring // 32, dim // 16, 32, 16).view(np.int8)
    scales = np.ascontiguousarray(tiles[..., 32 * dim :]).view(np.float32)
    turned = np.swapaxes(scales.reshape(-1, ring // 32, dim // 32, 32), -2, -1)
    values = np.swapaxes(units, -3, -2).reshape(-1, ring, dim // 32, 32).astype(np.float64)
    result: Doubles = values * turned.reshape(-1, ring, dim // 32, 1)
    return result.reshape(-1, ring, dim)


def lay_out_int8_values(values: NDArray[np.int8], scales: FloatArray) -> NDArray[np.uint8]:
    """Values (..., ring, D) and scales as bytes, position by position."""
    parts = (np.ascontiguousarray(values), np.ascontiguousarray(scales))
    return np.concatenate([part.view(np.uint8) for part in parts], axis=-1)


def int8_values_from(cache: NDArray[np.uint8], ring: int, dim: int) -> Doubles:
    """The inverse of `lay_out_int8_values`, dequantised: (slots x kv heads, ring, D)."""
    rows = cache.reshape(-1, ring, dim * 9 // 8)
    values = rows[..., :dim].view(np.int8).reshape(-1, ring, dim // 32, 32).astype(np.float64)
    scales = np.ascontiguousarray(rows[..., dim:]).view(np.float32)
    return (values * scales[..., None]).reshape(-1, ring, dim)


def attend(queries: Doubles, keys: Doubles, values: Doubles, position: int, window: int) -> Doubles:
    """One row's attention: queries (N, D) of one kv head over positions (S, D)."""
    first = max(0, position - window + 1) if window else 0
    seen = slice(first, position + 1)
    scores = queries @ keys[seen].T
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: Doubles = weights @ values[seen] / weights.sum(axis=-1, keepdims=True)
    return result
