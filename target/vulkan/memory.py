"""Device memory: buffers, mapped views, arenas of blocks; every byte accounted, all given back.

It knows no model: who allocates says a label, and the account is kept per label.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specdec.errors import DeviceError
from target.vulkan.binding import NULL, Handle, check, create, ffi, lib, make, vk
from target.vulkan.info import MEMORY_BUDGET

if TYPE_CHECKING:
    from target.vulkan.device import Device

ByteArray = NDArray[np.uint8]

_LOCAL = vk.VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
_VISIBLE = vk.VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | vk.VK_MEMORY_PROPERTY_HOST_COHERENT_BIT
_CACHED = vk.VK_MEMORY_PROPERTY_HOST_CACHED_BIT
_USAGE = (
    vk.VK_BUFFER_USAGE_STORAGE_BUFFER_BIT
    | vk.VK_BUFFER_USAGE_INDIRECT_BUFFER_BIT
    | vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT
    | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT
)
_LARGEST_BLOCK = 1 << 30  # keeps every block below 32-bit limits inside drivers


class MemoryKind(Enum):
    """Where a buffer lives. Each is a tuple of property sets, the best first."""

    DEVICE = (_LOCAL,)  # read and written by shaders; mapped only on unified memory
    UPLOAD = (_VISIBLE | _LOCAL, _VISIBLE)  # written by the host, read by shaders, mapped
    READBACK = (_VISIBLE | _CACHED, _VISIBLE)  # written by shaders, read by the host, mapped


@dataclass(frozen=True, slots=True, eq=False)
class Buffer:
    """A VkBuffer with memory of its own; `view` is its mapping, None where it has none."""

    handle: Handle
    memory: Handle
    size_bytes: int
    label: str
    view: ByteArray | None

    def region(self, offset_bytes: int, size_bytes: int) -> Region:
        """A part of the buffer."""
        assert offset_bytes >= 0 and offset_bytes + size_bytes <= self.size_bytes
        return Region(self, offset_bytes, size_bytes)

    @property
    def whole(self) -> Region:
        """All of it."""
        return Region(self, 0, self.size_bytes)


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a buffer, as bound to a shader; the offset keeps the device's alignment."""

    buffer: Buffer
    offset_bytes: int
    size_bytes: int

    def part(self, offset_bytes: int, size_bytes: int) -> Region:
        """A part of this part."""
        assert offset_bytes >= 0 and offset_bytes + size_bytes <= self.size_bytes
        return Region(self.buffer, self.offset_bytes + offset_bytes, size_bytes)

    @property
    def view(self) -> ByteArray:
        """The mapped bytes; only of mapped buffers."""
        assert self.buffer.view is not None, f"{self.buffer.label} is not mapped"
        return self.buffer.view[self.offset_bytes : self.offset_bytes + self.size_bytes]


class Memory:
    """Allocates, fills, reads and frees the buffers of one device."""

    def __init__(self, device: Device, *, in_place: bool | None = None) -> None:
        """`in_place` writes DEVICE buffers through a mapping; None: where memory is unified."""
        self._device = device
        self._buffers: set[Buffer] = set()
        self._in_place = device.info.is_unified if in_place is None else in_place
        properties = ffi.new("VkPhysicalDeviceMemoryProperties*")
        lib.vkGetPhysicalDeviceMemoryProperties(device.physical, properties)
        self._types = [properties.memoryTypes[i] for i in range(properties.memoryTypeCount)]
        self._properties = properties
        self.used_bytes: Counter[str] = Counter()  # by label

    @property
    def alignment(self) -> int:
        """Offset alignment of every region a shader binds."""
        return max(256, self._device.info.limits.storage_alignment)

    @property
    def block_limit_bytes(self) -> int:
        """Largest buffer to allocate at once."""
        limits = self._device.info.limits
        largest = min(limits.allocation_bytes, limits.buffer_bytes, _LARGEST_BLOCK)
        return largest // self.alignment * self.alignment

    @property
    def binding_limit_bytes(self) -> int:
        """Largest region that a shader can be given."""
        return min(self._device.info.limits.storage_range_bytes, self.block_limit_bytes)

    def available_bytes(self) -> int:
        """Memory that DEVICE buffers can still take, as far as the driver tells."""
        info = self._device.info
        if info.kind == "software":  # its heap is the host's memory, whatever size it reports
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        candidates = self._type_indices(0xFFFFFFFF, MemoryKind.DEVICE)
        heaps = {self._types[index].heapIndex for index in candidates}
        if MEMORY_BUDGET in info.extensions:
            budget = make("VkPhysicalDeviceMemoryBudgetPropertiesEXT")
            query = make("VkPhysicalDeviceMemoryProperties2", pNext=budget)
            lib.vkGetPhysicalDeviceMemoryProperties2(self._device.physical, query)
            free = [budget.heapBudget[heap] - budget.heapUsage[heap] for heap in heaps]
        else:
            used = self.used_bytes.total()
            free = [self._properties.memoryHeaps[heap].size - used for heap in heaps]
        # a discrete device's second local heap is a window onto its first
        return int(sum(free) if self._in_place else max(free))

    def allocate(self, size_bytes: int, kind: MemoryKind, label: str) -> Buffer:
        """A buffer of `size_bytes`; mapped if the kind is, or written in place on this device."""
        device = self._device.handle
        action = f"allocating {size_bytes} bytes for {label}"
        info = make("VkBufferCreateInfo", size=size_bytes, usage=_USAGE)
        handle = create("vkCreateBuffer", device, info, action)
        memory = NULL
        try:
            memory = self._allocate_for(handle, kind, action)
            check(lib.vkBindBufferMemory(device, handle, memory, 0), action)
            is_mapped = kind is not MemoryKind.DEVICE or self._in_place
            view = self._map(memory, size_bytes) if is_mapped else None
        except DeviceError:
            lib.vkDestroyBuffer(device, handle, NULL)
            lib.vkFreeMemory(device, memory, NULL)
            raise
        self._device.name(handle, vk.VK_OBJECT_TYPE_BUFFER, label)
        buffer = Buffer(handle, memory, size_bytes, label, view)
        self._buffers.add(buffer)
        self.used_bytes[label] += size_bytes
        return buffer

    def _allocate_for(self, buffer: Handle, kind: MemoryKind, action: str) -> Handle:
        """Memory for a buffer, of the first type that still has some."""
        needs = ffi.new("VkMemoryRequirements*")
        lib.vkGetBufferMemoryRequirements(self._device.handle, buffer, needs)
        indices = self._type_indices(needs.memoryTypeBits, kind)
        if not indices:
            raise DeviceError(f"{self._device.info.name} has no memory type for {action}")
        out = ffi.new("VkDeviceMemory[1]")
        for index in indices:
            info = make("VkMemoryAllocateInfo", allocationSize=needs.size, memoryTypeIndex=index)
            result = lib.vkAllocateMemory(self._device.handle, info, NULL, out)
            if result == 0:
                return out[0]
        check(result, action)
        raise AssertionError("check raises")

    def _type_indices(self, allowed: int, kind: MemoryKind) -> list[int]:
        """Types fit for a kind, the best first; drivers list the faster of equals first."""
        wanted = kind.value
        if kind is MemoryKind.DEVICE and self._in_place:
            wanted = (_VISIBLE | _LOCAL, _VISIBLE)  # an APU's heaps are the same memory
        fit = [
            index
            for flags in wanted
            for index, entry in enumerate(self._types)
            if allowed >> index & 1 and entry.propertyFlags & flags == flags
        ]
        return list(dict.fromkeys(fit))

    def _map(self, memory: Handle, size_bytes: int) -> ByteArray:
        pointer = ffi.new("void**")
        check(
            lib.vkMapMemory(self._device.handle, memory, 0, size_bytes, 0, pointer),
            "mapping memory",
        )
        return np.frombuffer(ffi.buffer(pointer[0], size_bytes), np.uint8)

    def free(self, buffer: Buffer) -> None:
        """Give one buffer back; nothing may still use it."""
        self._buffers.remove(buffer)
        self.used_bytes[buffer.label] -= buffer.size_bytes
        lib.vkDestroyBuffer(self._device.handle, buffer.handle, NULL)
        lib.vkFreeMemory(self._device.handle, buffer.memory, NULL)

    def release(self) -> None:
        """Give everything back."""
        for buffer in tuple(self._buffers):
            self.free(buffer)
