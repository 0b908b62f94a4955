"""Many regions in few buffers, each within the device's limits; it knows no content.

Where a region lies follows from the sizes alone, so what an arena takes is known before anything
is allocated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from target.vulkan.memory import Buffer, Memory, MemoryKind, Region


@dataclass(frozen=True, slots=True)
class Layout:
    """Where regions lie: (block, offset) of each, and the size of each block."""

    places: tuple[tuple[int, int], ...]
    block_bytes: tuple[int, ...]

    @property
    def total_bytes(self) -> int:
        """Bytes of all blocks."""
        return sum(self.block_bytes)


def lay_out(sizes: Sequence[int], alignment: int, block_limit_bytes: int) -> Layout:
    """Place regions one after another, a new block where the next would not fit."""
    places: list[tuple[int, int]] = []
    blocks = [0]
    for size in sizes:
        assert size <= block_limit_bytes, "a region is larger than a block"
        padded = -(-size // alignment) * alignment
        if blocks[-1] + padded > block_limit_bytes:
            blocks.append(0)
        places.append((len(blocks) - 1, blocks[-1]))
        blocks[-1] += padded
    return Layout(tuple(places), tuple(size for size in blocks if size))


class Arena:
    """Buffers laid out for `sizes`; region i has sizes[i] bytes."""

    def __init__(self, memory: Memory, sizes: Sequence[int], label: str) -> None:
        layout = lay_out(sizes, memory.alignment, memory.block_limit_bytes)
        self._memory = memory
        self._blocks: list[Buffer] = []
        try:
            for size in layout.block_bytes:
                self._blocks.append(memory.allocate(size, MemoryKind.DEVICE, label))
        except BaseException:
            self.release()
            raise
        self.regions = [
            Region(self._blocks[block], offset, size)
            for (block, offset), size in zip(layout.places, sizes, strict=True)
        ]

    def release(self) -> None:
        """Free every block."""
        for block in self._blocks:
            self._memory.free(block)
        self._blocks.clear()
