"""Emulated contexts, kernels and runs; they know no model.

It behaves as npu drivers are reported to: what silicon does silently is done silently here, what
crashes there crashes here. Where no report exists, the choice is named in draft/npu/README.md.
"""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from draft.npu.build import FIRST_BUFFER, KERNEL_NAME
from draft.npu.emulated.buffers import (
    EmulatedBo,
    EmulatedDevice,
    Flags,
    as_scalar,
)
from draft.npu.emulated.machine import MAX_CONTEXTS, Fault, Machine, segmentation_fault
from draft.npu.emulated.shim_decoder import Decoded, decode_stream
from draft.npu.host_kernels import HostStallError, source_hashes
from draft.npu.manifest import Manifest, parse
from draft.npu.txn import TxnError
from specdec.assets import asset_dir

_OPCODE = 3
_FIRST_GROUP = 0x20000  # every argument has a group of its own here


class CommandState(Enum):
    """`pyxrt.ert_cmd_state`, what of it is emulated."""

    ERT_CMD_STATE_NEW = 1
    ERT_CMD_STATE_SUBMITTED = 7
    ERT_CMD_STATE_COMPLETED = 4
    ERT_CMD_STATE_ERROR = 5
    ERT_CMD_STATE_TIMEOUT = 8


class EmulatedXclbin:
    """`pyxrt.xclbin`; the file is the configuration's manifest."""

    def __init__(self, path: str) -> None:
        self.manifest: Manifest = parse(Path(path).read_text())
        self.manifest.check_sources(source_hashes(asset_dir("kernels")))

    def get_kernels(self) -> list[EmulatedXclbin]:
        """Its one kernel, itself."""
        return [self]

    def get_name(self) -> str:
        """The kernel's name."""
        return KERNEL_NAME

    def get_num_args(self) -> int:
        """Opcode, instructions, their size, buffers."""
        return FIRST_BUFFER + len(self.manifest.arguments)

    def get_uuid(self) -> EmulatedXclbin:
        """It stands for itself."""
        return self


class EmulatedContext:
    """`pyxrt.hw_context`: a fresh array with the configuration loaded."""

    def __init__(self, device: EmulatedDevice, xclbin: EmulatedXclbin) -> None:
        machine = device.machine
        if machine.faults.is_memlock_low:
            raise RuntimeError(
                "mmap(addr=0x0, len=67108864, prot=3, flags=8193, offset=4294967296) failed "
                "(err=-11): Resource temporarily unavailable"
            )
        if machine.num_contexts == MAX_CONTEXTS:
            raise RuntimeError("DRM_IOCTL_AMDXDNA_CREATE_HWCTX IOCTL failed (err=-22)")
        machine.num_contexts += 1
        weakref.finalize(self, _free_context, machine)
        self.machine = machine
        self.xclbin = xclbin
        self.array = machine.kernels.array(xclbin.manifest)
        self.is_lost = False
        weakref.finalize(self, self.array.close)


def _free_context(machine: Machine) -> None:
    machine.num_contexts -= 1


class EmulatedKernel:
    """`pyxrt.kernel`."""

    def __init__(self, context: EmulatedContext, name: str) -> None:
        if name != KERNEL_NAME:
            raise RuntimeError(f"No compute units satisfy requirement: kernel '{name}'")
        self.context = context
        self.num_args = context.xclbin.get_num_args()

    def group_id(self, argument: int) -> int:
        """The group of a buffer argument."""
        if argument not in (1, *range(FIRST_BUFFER, self.num_args)):
            raise RuntimeError(f"No memory group for argument {argument}")
        return _FIRST_GROUP + argument

    def __call__(self, *arguments: object) -> EmulatedRun:
        """Set the arguments and start; one of a wrong type is left unset, without a word."""
        run = EmulatedRun(self)
        for index, value in enumerate(arguments):
            if isinstance(value, EmulatedBo) or as_scalar(value) is not None:
                run.set_arg(index, value)
        run.start()
        return run


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A stream ready to be carried out; `key` is all it was made of."""

    key: tuple[object, ...]
    steps: NDArray[np.void]
    duration_s: float


class EmulatedRun:
    """`pyxrt.run`; it is carried out when it is waited for or its state asked."""

    def __init__(self, kernel: EmulatedKernel) -> None:
        self._kernel = kernel
        self._context = kernel.context
        self._machine = kernel.context.machine
        self._bos: dict[int, EmulatedBo] = {}
        self._scalars: dict[int, int] = {}
        self._state = CommandState.ERT_CMD_STATE_NEW
        self._fault: Fault | None = None
        self._elapsed_s = 0.0
        self._prepared: _Prepared | None = None
        self.is_listed = False  # in a runlist, which alone may submit it

    def set_arg(self, index: int, value: object) -> None:
        """Set an argument; it stays set."""
        if index >= self._kernel.num_args:
            segmentation_fault(f"argument {index} of a kernel of {self._kernel.num_args}")
        scalar = as_scalar(value)
        if isinstance(value, EmulatedBo):
            self._bos[index] = value
        elif scalar is not None:
            self._scalars[index] = scalar
        else:
            raise TypeError("set_arg(): incompatible function arguments")

    def start(self) -> None:
        """Submit."""
        if self.is_listed:
            raise RuntimeError("run belongs to a runlist: Operation not permitted")
        self.submit()

    def submit(self) -> None:
        """Hand it to the firmware."""
        self._fault = self._machine.next_fault()
        self._context.is_lost |= self._fault is Fault.CONTEXT_LOST
        if self._context.is_lost:
            raise RuntimeError("DRM_IOCTL_AMDXDNA_EXEC_CMD IOCTL failed (err=2)")
        self._state = CommandState.ERT_CMD_STATE_SUBMITTED

    def state(self) -> CommandState:
        """The state now."""
        if self._state is CommandState.ERT_CMD_STATE_SUBMITTED:
            self._state = self._outcome()
        is_hung = self._state is CommandState.ERT_CMD_STATE_TIMEOUT
        return CommandState.ERT_CMD_STATE_SUBMITTED if is_hung else self._state

    def wait(self, timeout_ms: int = 0) -> CommandState:
        """Wait; without a timeout, for ever."""
        if timeout_ms < 0:
            raise TypeError("wait(): incompatible function arguments")
        if self._state is CommandState.ERT_CMD_STATE_SUBMITTED:
            self._state = self._outcome()
        while self._state is CommandState.ERT_CMD_STATE_TIMEOUT and timeout_ms == 0:
            time.sleep(1.0)
        if 0 < timeout_ms < 1000 * self._elapsed_s:
            return CommandState.ERT_CMD_STATE_TIMEOUT
        return self._state

    def _outcome(self) -> CommandState:
        """Carry it out."""
        self._machine.is_hung |= self._fault is Fault.TIMEOUT
        if self._machine.is_hung:
            return CommandState.ERT_CMD_STATE_TIMEOUT
        instructions, size = self._bos.get(1), self._scalars.get(2, 0)
        opcode = self._scalars.get(0, 0)
        if self._fault is Fault.ERROR or (opcode != _OPCODE and opcode != 0):
            return CommandState.ERT_CMD_STATE_ERROR
        if instructions is None or size == 0 or opcode == 0:  # left unset: nothing to do
            return CommandState.ERT_CMD_STATE_COMPLETED
        if not self._groups_fit():
            return CommandState.ERT_CMD_STATE_COMPLETED
        if (prepared := self._prepare(instructions, size)) is None:
            self._machine.is_hung = True
            return CommandState.ERT_CMD_STATE_TIMEOUT
        return self._execute(prepared)

    def _groups_fit(self) -> bool:
        """Whether all buffers are mapped for their arguments; if not, nothing is touched."""
        for index in (1, *range(FIRST_BUFFER, self._kernel.num_args)):
            bo = self._bos.get(index)
            flags = Flags.cacheable if index == 1 else Flags.host_only
            if bo is None or (bo.group, bo.flags) != (self._kernel.group_id(index), flags):
                self._machine.page_fault(f"argument {index}")
                return False
        return True

    def _prepare(self, instructions: EmulatedBo, size: int) -> _Prepared | None:
        """The stream with the buffers' addresses; decoded once, until either changes."""
        memory, start = instructions.memory, instructions.device_start
        bos = [self._bos[index] for index in range(FIRST_BUFFER, self._kernel.num_args)]
        key = (memory, memory.version, start, size, *(bo.address() for bo in bos))
        if self._prepared is None or self._prepared.key != key:
            stream = memory.device[start : start + size].tobytes()
            try:
                decoded = decode_stream(stream, self._context.xclbin.manifest.num_columns)
            except TxnError as error:
                raise RuntimeError(f"emulated NPU: {error}") from error
            if not self._relocate(decoded, bos):
                return None
            latency = self._machine.latency
            duration_s = 0.0 if latency is None else latency.run_s(decoded)
            self._prepared = _Prepared(key, decoded.steps, duration_s)
        return self._prepared

    def _relocate(self, decoded: Decoded, bos: list[EmulatedBo]) -> bool:
        """Give the steps their addresses; False if one leaves its buffer."""
        for index, bo in enumerate(bos):
            used = decoded.arguments == index
            last = bo.device_start + int(decoded.ends[used].max(initial=0))
            if last > len(bo.memory.device):
                self._machine.page_fault(f"argument {FIRST_BUFFER + index}, byte {last}")
                return False
            decoded.steps["address"][used] = bo.address() + decoded.offsets[used]
        return True

    def _execute(self, prepared: _Prepared) -> CommandState:
        try:
            self._context.array.execute(prepared.steps)
        except HostStallError:
            self._machine.is_hung = True
            return CommandState.ERT_CMD_STATE_TIMEOUT
        self._elapsed_s = prepared.duration_s
        self._machine.modelled_s += prepared.duration_s
        if self._machine.latency is not None:
            self._machine.latency.pass_time(prepared.duration_s)
        return CommandState.ERT_CMD_STATE_COMPLETED
