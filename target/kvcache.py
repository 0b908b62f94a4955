"""Keys and values on the device: regions per layer, lengths per slot; it computes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specdec.errors import SpecdecError
from target.sizes import KV_TILE, RunSizes
from target.vulkan import Device, Recorder, Region
from target.vulkan.arena import Arena, lay_out


class CutTooDeepError(SpecdecError):
    """A slot was cut to where its rings are already overwritten: open it anew and feed again."""


@dataclass(slots=True)
class _Slot:
    length: int = 0
    written: int = 0  # one more than the furthest position ever written


class KvCache:
    """The cache of every layer, and how many tokens each slot holds.

    A local layer's cache is a ring: position p lies at p modulo its size. A cut moves no data.
    """

    def __init__(self, device: Device, sizes: RunSizes) -> None:
        self._device = device
        self._sizes = sizes
        layers = range(sizes.shape.num_layers)
        self._arena = Arena(device.memory, _region_bytes(sizes), "kv cache")
        pairs = self._arena.regions
        self.keys: list[Region] = [pairs[2 * layer] for layer in layers]
        self.values: list[Region] = [pairs[2 * layer + 1] for layer in layers]
        rings = [sizes.ring(layer) for layer in layers if sizes.window(layer)]
        self._ring = min(rings, default=sizes.context_length)
        self._slots: dict[int, _Slot] = {}

    @staticmethod
    def total_bytes(device: Device, sizes: RunSizes) -> int:
        """Device memory the cache takes."""
        memory = device.memory
        layout = lay_out(_region_bytes(sizes), memory.alignment, memory.block_limit_bytes)
        return layout.total_bytes

    def open(self, slot: int) -> None:
        """Start an empty sequence."""
        assert 0 <= slot < self._sizes.num_slots, f"slot {slot} of {self._sizes.num_slots}"
        self._slots[slot] = _Slot()

    def close(self, slot: int) -> None:
        """Free a slot; closing a closed one does nothing."""
        self._slots.pop(slot, None)

    def length(self, slot: int) -> int:
        """Tokens a slot holds; 0 for a closed one."""
        held = self._slots.get(slot)
        return held.length if held else 0

    def append(self, slot: int, count: int) -> None:
        """Note that `count` more tokens are fed."""
        held = self._slots[slot]
        held.length += count
        held.written = max(held.written, held.length)
        assert held.length <= self._sizes.context_length, "the slot overflows"

    def copy_prefix(self, source: int, slot: int, length: int) -> None:
        """Let the empty `slot` hold what `source` holds in its first `length` tokens.

        CutTooDeepError where the source's rings no longer have it.
        """
        held, copied = self._slots[slot], self._slots[source]
        assert held.length == 0 and source != slot, f"slot {slot} is not empty"
        self._check_cut(source, length)
        if length == 0:
            return
        recorder = Recorder(self._device, f"copy of {length} tokens")
        regions = [*enumerate(self.keys), *enumerate(self.values)]
        for buffer in {region.buffer for _, region in regions}:
            parts = [
                self._prefix_parts(layer, region, source, slot, length)
                for layer, region in regions
                if region.buffer is buffer
            ]
            recorder.copy_within(buffer, np.concatenate(parts))
        job = recorder.finish()
        job.run()
        job.release()
        held.length, held.written = length, copied.written

    def _prefix_parts(
        self, layer: int, region: Region, source: int, slot: int, length: int
    ) -> NDArray[np.uint64]:
        """Source offset, destination offset and bytes of the parts of a layer's prefix, (N, 3).

        Tiles of 32 positions of one head are contiguous, of keys and of values.
        """
        ring, num_heads = self._sizes.ring(layer), self._sizes.shape.num_kv_heads
        slot_bytes = region.size_bytes // self._sizes.num_slots
        tiles = -(-length // KV_TILE)
        if tiles * KV_TILE >= ring:  # all of a ring: heads lie beside each other
            starts, part_bytes = np.zeros(1, np.uint64), slot_bytes
        else:
            head_bytes = slot_bytes // num_heads
            starts = np.arange(num_heads, dtype=np.uint64) * head_bytes
            part_bytes = head_bytes * KV_TILE // ring * tiles
        first = region.offset_bytes + starts
        sizes = np.full(len(starts), part_bytes, np.uint64)
        return np.stack((first + source * slot_bytes, first + slot * slot_bytes, sizes), axis=1)

    def truncate(self, slot: int, length: int) -> None:
        """Keep the first `length` tokens; CutTooDeepError where a ring no longer has them.

        The token that follows sees window - 1 positions before it. Position p is overwritten once
        p + ring has been written.
        """
        self._check_cut(slot, length)
        held = self._slots[slot]
        held.length = length
        if length == 0:
            held.written = 0

    def _check_cut(self, slot: int, length: int) -> None:
        """CutTooDeepError where the rings no longer have what the next token sees."""
        held = self._slots[slot]
        assert 0 <= length <= held.length, f"cut to {length} of {held.length} tokens"
        window = self._sizes.shape.sliding_window
        first_seen = max(0, length - window + 1)
        if length and first_seen + self._ring < held.written:
            raise CutTooDeepError(
                f"slot {slot} was fed up to {held.written} tokens and cannot be cut to {length}: "
                f"its rings of {self._ring} hold too little; open the slot again and feed it"
            )

    def release(self) -> None:
        """Free the memory."""
        self._arena.release()


def _region_bytes(sizes: RunSizes) -> list[int]:
    """Sizes of keys and values, layer by layer."""
    layers = range(sizes.shape.num_layers)
    return [sizes.kv_region_bytes(layer) for layer in layers for _ in ("keys", "values")]
