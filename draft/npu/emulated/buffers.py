"""Emulated buffers: two views that agree only after a sync; they know no kernels."""

from __future__ import annotations

import operator
from enum import Enum
from typing import SupportsIndex

from draft.npu.emulated.machine import Machine, Memory


class SyncDirection(Enum):
    """`pyxrt.xclBOSyncDirection`."""

    XCL_BO_SYNC_BO_TO_DEVICE = 0
    XCL_BO_SYNC_BO_FROM_DEVICE = 1


class Flags(Enum):
    """`pyxrt.bo.flags`."""

    normal = 0
    cacheable = 1
    device_only = 2
    host_only = 3
    p2p = 4
    svm = 5


class EmulatedDevice:
    """`pyxrt.device`."""

    def __init__(self, machine: Machine, index: int) -> None:
        if index != 0:
            raise RuntimeError(f"No such device with index '{index}'")
        self.machine = machine

    def get_info(self, key: object) -> str:
        """A property as text."""
        return {InfoKeys.name: "NPU Phoenix", InfoKeys.max_clock_frequency_mhz: "1600"}[str(key)]

    def register_xclbin(self, xclbin: object) -> object:
        """The configuration itself stands for its uuid."""
        return xclbin


class InfoKeys:
    """`pyxrt.xrt_info_device`, what of it is emulated."""

    name = "name"
    max_clock_frequency_mhz = "max_clock_frequency_mhz"


class EmulatedBo:
    """`pyxrt.bo`: (device, size, flags, group), or (parent, size, offset) for a part of one."""

    normal, cacheable, device_only = Flags.normal, Flags.cacheable, Flags.device_only
    host_only, p2p, svm = Flags.host_only, Flags.p2p, Flags.svm

    def __init__(
        self,
        source: EmulatedDevice | EmulatedBo,
        size: int,
        flags: Flags | int,
        group: int | None = None,
    ) -> None:
        if isinstance(source, EmulatedDevice):
            if not isinstance(flags, Flags) or group is None:
                raise TypeError("__init__(): incompatible constructor arguments")
            self.memory, self.flags, self.group = Memory(size), flags, group
            self._host_start = self.device_start = 0
        else:
            if not isinstance(source, EmulatedBo) or not isinstance(flags, int):
                raise TypeError("__init__(): incompatible constructor arguments")
            if flags + size > source.size():
                raise RuntimeError("sub-buffer is out of its parent's bounds: Invalid argument")
            self.memory, self.flags, self.group = source.memory, source.flags, source.group
            self._host_start = source._host_start + flags
            # the driver adds the offset to the address of the whole, whatever the parent's was
            self.device_start = flags
        self._size = size

    def map(self) -> memoryview:
        """The host's view."""
        start = self._host_start
        return self.memory.host[start : start + self._size].data

    def write(self, data: bytes, seek: int) -> None:
        """Copy into the host's view."""
        self.map()[seek : seek + len(data)] = data

    def read(self, size: int, skip: int) -> memoryview:
        """A copy of the host's view."""
        return memoryview(bytes(self.map()[skip : skip + size]))

    def sync(self, direction: SyncDirection, size: int | None = None, offset: int = 0) -> None:
        """Make both views agree."""
        size = self._size - offset if size is None else size
        if not 0 <= offset <= offset + size <= self._size:
            raise RuntimeError("sync is out of the buffer's bounds: Invalid argument")
        to_device = direction is SyncDirection.XCL_BO_SYNC_BO_TO_DEVICE
        self.memory.copy(self._host_start + offset, size, to_device)

    def size(self) -> int:
        """Bytes."""
        return self._size

    def address(self) -> int:
        """The device's address."""
        return self.memory.device_address + self.device_start


def as_scalar(value: object) -> int | None:
    """The int that pybind11 would take `value` for, None if it would not."""
    return operator.index(value) if isinstance(value, SupportsIndex) else None
