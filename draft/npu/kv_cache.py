"""Keys and values of all slots in the kv buffer, cut by length; it knows no stream and no device.

A layer's tiles are a ring of positions: position p lies in place p mod S. Local layers have a
ring a little longer than their window, so a slot can be cut by RING_SLACK tokens; a deeper cut
of a sequence that has gone round loses what the window would still see.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from draft.npu.layout import ELEMENT_BYTES, KV_POSITIONS, TAG_BYTES
from draft.npu.memory_map import KvMap, tile_bucket
from draft.npu.session import Buffer
from specdec.gemma3.shape import Gemma3Shape

Bytes = NDArray[np.uint8]

_KINDS = (0, 1)  # local, global


class KvCache:
    """Token ids and cached positions per slot."""

    def __init__(self, shape: Gemma3Shape, kv: KvMap, buffer: Buffer, num_slots: int) -> None:
        self._kv, self._buffer = kv, buffer
        self._head_dim = shape.head_dim
        self._windows = (shape.sliding_window, shape.context_length)
        kinds = np.array(shape.is_global_layer, np.int64)
        self._layers = [np.flatnonzero(kinds == kind) for kind in _KINDS]
        self._tiles = [[self._view(slot, kind) for kind in _KINDS] for slot in range(num_slots)]
        self.token_ids: list[list[int]] = [[] for _ in range(num_slots)]
        self._reached = [0] * num_slots  # greatest length since the slot was empty

    def _view(self, slot: int, kind: int) -> NDArray[np.uint16]:
        """Tiles (layers, tiles, 2, 16 d) of a slot."""
        start = self._kv.region(slot, kind)
        flat = self._buffer.host[start : start + self._kv.region_bytes[kind]].view(np.uint16)
        tile = KV_POSITIONS * self._head_dim
        return flat.reshape(self._kv.num_layers[kind], self._kv.num_tiles(kind), 2, tile)

    def visible(self, kind: int, position: int, length: int) -> tuple[int, int, int]:
        """For a token at `position`: first visible place, number of cached ones, ring size."""
        first = max(0, position - self._windows[kind] + 1)
        ring = self._kv.ring_slots[kind]
        return first % ring, max(0, length - first), ring

    def num_tiles(self, lengths: Sequence[int]) -> tuple[int, int]:
        """Tiles to read, of local and of global layers, so that all of these lengths are seen."""
        longest = max(lengths)
        local, everything = (
            tile_bucket(max(1, -(-longest // KV_POSITIONS)), self._kv.num_tiles(kind))
            for kind in _KINDS
        )
        return local, everything

    def append(self, slot: int, token_id: int, rows: NDArray[np.uint8]) -> None:
        """Store a token's keys and values, elements (layers, E), and let the device see them."""
        position = len(self.token_ids[slot])
        size = self._head_dim
        pairs = rows[:, TAG_BYTES : TAG_BYTES + 4 * size].view(np.uint16)
        for kind in _KINDS:
            if len(self._layers[kind]):
                self._store(slot, kind, position, pairs[self._layers[kind]])
        self.token_ids[slot].append(token_id)
        self._reached[slot] = max(self._reached[slot], position + 1)

    def _store(self, slot: int, kind: int, position: int, pairs: NDArray[np.uint16]) -> None:
        """Keys and values (layers, 2 d) into place."""
        index, place = divmod(position % self._kv.ring_slots[kind], KV_POSITIONS)
        count, size = len(pairs), self._head_dim
        tiles = self._tiles[slot][kind]
        # K [position/4][d/8][8][4], V [d/4][position/8][8][4]
        keys = tiles[:, index, 0].reshape(count, 4, size // 8, 8, 4)
        keys[:, place // 4, :, :, place % 4] = pairs[:, :size].reshape(count, -1, 8)
        values = tiles[:, index, 1].reshape(count, size // 4, 2, 8, 4)
        values[:, :, place // 8, place % 8] = pairs[:, size:].reshape(count, -1, 4)
        self._upload_tile(slot, kind, index)

    def _upload_tile(self, slot: int, kind: int, index: int) -> None:
        """Let the device see a tile of every layer."""
        start, size = self._kv.region(slot, kind), self._kv.tile_bytes
        for layer in range(self._kv.num_layers[kind]):
            self._buffer.upload(start + (layer * self._kv.num_tiles(kind) + index) * size, size)

    def truncate(self, slot: int, length: int) -> list[int]:
        """Cut a slot; the tokens to feed again where the cut is deeper than a ring allows."""
        kept = self.token_ids[slot][:length]
        ring, window = self._kv.ring_slots[0], self._windows[0]
        has_wrapped = self._reached[slot] > ring
        if length and has_wrapped and self._reached[slot] - length > ring - window + 1:
            self.token_ids[slot], self._reached[slot] = [], 0
            return kept
        self.token_ids[slot] = kept
        if length == 0:
            self._reached[slot] = 0
        return []

    def copy(self, source: int, slot: int, position: int) -> None:
        """Make `slot` hold what `source` holds; they agree already before `position`."""
        length = len(self.token_ids[source])
        for kind in _KINDS:
            if not len(self._layers[kind]):
                continue
            ring = self._kv.ring_slots[kind]
            first = max(position, length - ring)
            for index in sorted({p % ring // KV_POSITIONS for p in range(first, length)}):
                self._tiles[slot][kind][:, index] = self._tiles[source][kind][:, index]
                self._upload_tile(slot, kind, index)
        self.token_ids[slot] = list(self.token_ids[source])
        self._reached[slot] = max(self._reached[source], self._reached[slot] if position else 0)


def element_rows(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Elements (n, E)."""
    return data.reshape(-1, ELEMENT_BYTES)
