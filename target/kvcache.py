"""Keys and values on the device: regions per layer, lengths per slot; it computes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.errors import SpecdecError
from target.sizes import RunSizes
from target.vulkan import Device, Region
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

    def truncate(self, slot: int, length: int) -> None:
        """Keep the first `length` tokens; CutTooDeepError where a ring no longer has them.

        The token that follows sees window - 1 positions before it. Position p is overwritten once
        p + ring has been written.
        """
        held = self._slots[slot]
        assert 0 <= length <= held.length, f"cut to {length} of {held.length} tokens"
        window = self._sizes.shape.sliding_window
        first_seen = max(0, length - window + 1)
        if length and first_seen + self._ring < held.written:
            raise CutTooDeepError(
                f"slot {slot} was fed up to {held.written} tokens and cannot be cut to {length}: "
                f"its rings of {self._ring} hold too little; open the slot again and feed it"
            )
        held.length = length
        if length == 0:
            held.written = 0

    def release(self) -> None:
        """Free the memory."""
        self._arena.release()


def _region_bytes(sizes: RunSizes) -> list[int]:
    """Sizes of keys and values, layer by layer."""
    layers = range(sizes.shape.num_layers)
    return [sizes.kv_region_bytes(layer) for layer in layers for _ in ("keys", "values")]
