"""Attention over a key/value cache in one form for every pass; it knows no weights.

Keys are taken in tiles of 64 and queries in blocks of 4, both at fixed absolute positions, so the
arrays handed to every matrix product have the same shape, and a token the same row in them,
whatever else is fed with it. Tiles are summed ascending; a masked key has weight 0 exactly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specdec.types import FloatArray

TILE = 64
_BLOCK = 4  # query positions per matrix product; divides TILE


class KeyValueCache:
    """Keys and values of all layers for one sequence, float32 (layer, head, tile, 64, H) each.

    Positions at or beyond the sequence's length hold old or zero values: finite, never seen.
    """

    def __init__(self, num_layers: int, num_kv_heads: int, head_dim: int) -> None:
        self._keys = np.zeros((num_layers, num_kv_heads, 0, TILE, head_dim), np.float32)
        self._values = self._keys.copy()

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens; room grows by doubling."""
        held = self._keys.shape[2]
        needed = -(-length // TILE)
        if needed > held:
            extra = max(needed, 2 * held, 4) - held
            padding = ((0, 0), (0, 0), (0, extra), (0, 0), (0, 0))
            self._keys = np.pad(self._keys, padding)
            self._values = np.pad(self._values, padding)

    def copy(self) -> KeyValueCache:
        """A cache of its own with the same content."""
        copied = KeyValueCache(0, 0, 0)
        copied._keys, copied._values = self._keys.copy(), self._values.copy()
        return copied

    def write(self, layer: int, position: int, keys: FloatArray, values: FloatArray) -> None:
        """Store keys and values (T, heads, H) from `position` on."""
        stop = position + len(keys)
        for cache, new in ((self._keys[layer], keys), (self._values[layer], values)):
            heads, _, _, head_dim = cache.shape
            cache.reshape(heads, -1, head_dim)[:, position:stop] = new.swapaxes(0, 1)

    def tiles(self, layer: int, first: int, stop: int) -> tuple[FloatArray, FloatArray]:
        """Keys and values of tiles first .. stop - 1 of a layer: (heads, tiles, 64, H) each."""
        return self._keys[layer, :, first:stop], self._values[layer, :, first:stop]


def attend(
    queries: FloatArray, cache: KeyValueCache, layer: int, position: int, window: int
) -> FloatArray:
    """Attention of queries (T, N, H), already scaled, whose first stands at `position`.

    A query at i sees keys j <= i with i - j < window. Returns (T, N, H).
    """
    num_tokens, num_heads, head_dim = queries.shape
    start = position // _BLOCK * _BLOCK
    stop = -(-(position + num_tokens) // _BLOCK) * _BLOCK
    first_tile, stop_tile = max(0, start - window + 1) // TILE, (stop - 1) // TILE + 1
    keys, values = cache.tiles(layer, first_tile, stop_tile)
    num_kv_heads = len(keys)
    blocks = np.zeros((stop - start, num_heads, head_dim), np.float32)
    blocks[position - start : position - start + num_tokens] = queries
    # rows of one product: a block's positions x the query heads that share a key head
    blocks = blocks.reshape(-1, _BLOCK, num_kv_heads, num_heads // num_kv_heads, head_dim)
    rows = np.ascontiguousarray(blocks.swapaxes(1, 2)).reshape(
        len(blocks), num_kv_heads, 1, -1, head_dim
    )
    scores = rows @ keys.swapaxes(2, 3)  # (block, kv head, tile, row, 64)
    seen = _visible(start, stop, first_tile, stop_tile, window)
    weighted = _softmax_sum(scores, seen, values)
    mixed = weighted.reshape(len(blocks), num_kv_heads, _BLOCK, -1, head_dim).swapaxes(1, 2)
    return mixed.reshape(-1, num_heads, head_dim)[position - start :][:num_tokens]


def _visible(
    start: int, stop: int, first_tile: int, stop_tile: int, window: int
) -> NDArray[np.bool_]:
    """Which keys each query position sees: (block, 1, tile, _BLOCK, 1, 64)."""
    query = np.arange(start, stop).reshape(-1, 1, 1, _BLOCK, 1, 1)
    key = np.arange(first_tile * TILE, stop_tile * TILE).reshape(1, 1, -1, 1, 1, TILE)
    distance = query - key
    return (distance >= 0) & (distance < window)


def _softmax_sum(scores: FloatArray, seen: NDArray[np.bool_], values: FloatArray) -> FloatArray:
    """Softmax over all tiles of scores (block, kv head, tile, row, 64), times the values."""
    blocks, heads, num_tiles = scores.shape[:3]
    split = scores.reshape(blocks, heads, num_tiles, _BLOCK, -1, TILE)
    np.copyto(split, np.float32(-np.inf), where=~seen)
    peak = scores.max(axis=(2, 4), keepdims=True)
    weights = np.exp(scores - peak)
    tile_sums = weights.sum(axis=4, keepdims=True)
    tile_values = weights @ values  # (block, kv head, tile, row, H)
    total: FloatArray = tile_sums[:, :, 0]
    mixed: FloatArray = tile_values[:, :, 0]
    for tile in range(1, num_tiles):
        total += tile_sums[:, :, tile]
        mixed += tile_values[:, :, tile]
    mixed /= total
    return mixed
