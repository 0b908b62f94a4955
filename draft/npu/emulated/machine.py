"""The emulated machine: its memory, contexts, faults and clock; it knows no instruction streams."""

from __future__ import annotations

import logging
import mmap
import signal
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from draft.npu.emulated.latency import LatencyModel
from draft.npu.host_kernels import HostKernels

MAX_CONTEXTS = 6
_POISON = 0xFF  # not a number, in bf16 and in float32

_log = logging.getLogger("specdec")


class Fault(Enum):
    """What a run can be made to suffer."""

    TIMEOUT = "the array hangs"
    CONTEXT_LOST = "the driver has reset the context"
    ERROR = "the firmware reports an error"


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults to inject: `runs` by number of the run, from 0; `memlock` at the first context."""

    runs: tuple[tuple[int, Fault], ...] = ()
    is_memlock_low: bool = False


@dataclass(slots=True)
class Machine:
    """State that all objects of one emulated driver share."""

    kernels: HostKernels
    latency: LatencyModel | None = None  # None: everything takes no time
    faults: Faults = field(default_factory=Faults)
    num_contexts: int = 0
    num_runs: int = 0
    modelled_s: float = 0.0  # time that runs would have taken
    is_hung: bool = False  # for good: only a reboot or a rescan of the bus would help
    page_faults: list[str] = field(default_factory=list)  # what dmesg would say

    def next_fault(self) -> Fault | None:
        """The fault of the run that starts now."""
        number = self.num_runs
        self.num_runs += 1
        return dict(self.faults.runs).get(number)

    def page_fault(self, what: str) -> None:
        """The IOMMU has refused an access: nothing else tells the program."""
        self.page_faults.append(f"AMD-Vi: Event logged [IO_PAGE_FAULT] {what}")


class Memory:
    """The bytes of a buffer as the host sees them, and as the device does."""

    def __init__(self, size: int) -> None:
        self.host = _pages(size)
        self.device = _pages(size)
        self.device[:] = _POISON
        self.device_address = int(self.device.ctypes.data)
        self.version = 0  # changes when the device's bytes do

    def copy(self, offset: int, size: int, to_device: bool) -> None:
        """Make both views of a range agree."""
        part = slice(offset, offset + size)
        if to_device:
            self.device[part] = self.host[part]
            self.version += 1
        else:
            self.host[part] = self.device[part]


def _pages(size: int) -> NDArray[np.uint8]:
    """Zeroed bytes on whole pages, as the driver maps them."""
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


def segmentation_fault(why: str) -> None:
    """End the process as the driver's library would."""
    _log.critical("emulated NPU: segmentation fault: %s", why)
    signal.raise_signal(signal.SIGSEGV)
