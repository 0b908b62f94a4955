"""The emulated pyxrt with one small stream: an element of any buffer through a core and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pytest

from draft.npu import host_kernels
from draft.npu.build import emulated_build
from draft.npu.emulated.buffers import EmulatedBo, SyncDirection
from draft.npu.emulated.latency import LatencyModel
from draft.npu.emulated.machine import Faults, Machine
from draft.npu.emulated.runs import CommandState, EmulatedRun
from draft.npu.emulated.xrt import EmulatedXrt
from draft.npu.layout import ELEMENT_BYTES, ROW_FLOATS, Operation, Target, element, tag
from draft.npu.model import NpuModel, NpuSettings
from draft.npu.session import Session
from draft.npu.shim import Direction, ShimBd, StreamBuilder, Transfer
from draft.npu.surface import Xrt
from specdec.gemma3.loading import MatrixSource
from specdec.gemma3.shape import Gemma3Shape

TO_DEVICE = SyncDirection.XCL_BO_SYNC_BO_TO_DEVICE
FROM_DEVICE = SyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE
COMPLETED = CommandState.ERT_CMD_STATE_COMPLETED
TIMEOUT = CommandState.ERT_CMD_STATE_TIMEOUT
BUFFER_BYTES = 4 * ELEMENT_BYTES
_WORDS = ELEMENT_BYTES // 4


def needs_compiler() -> host_kernels.HostKernels:
    """The kernels of this machine; skips, saying so, where nothing can compile them."""
    if host_kernels.find_compiler() is None:
        pytest.skip(f"no C++ compiler ({' or '.join(host_kernels.COMPILERS)})")
    return host_kernels.load()


def make_machine(latency: LatencyModel | None = None, faults: Faults | None = None) -> Machine:
    return Machine(needs_compiler(), latency, faults or Faults())


def make_xrt(machine: Machine | None = None) -> EmulatedXrt:
    return EmulatedXrt(machine or make_machine())


def make_session(xrt: EmulatedXrt | None = None) -> Session:
    return Session(cast(Xrt, xrt or make_xrt()), emulated_build())


def make_model(
    shape: Gemma3Shape, source: MatrixSource, context_length: int, num_slots: int = 1
) -> NpuModel:
    settings = NpuSettings(context_length, num_slots)
    return NpuModel(make_session(), shape, source, settings)


def load_element(first: float = 1.0) -> np.ndarray:
    payload = np.arange(ROW_FLOATS, dtype=np.float32) + np.float32(first)
    return element(tag(Operation.LOAD_HIDDEN, Target.SECOND, 1, (ROW_FLOATS,)), payload.tobytes())


def store_element() -> np.ndarray:
    return element(tag(Operation.STORE_HIDDEN, Target.SECOND, 1, (ROW_FLOATS,)))


def echo_stream(source: int = 0, offset: int = 0, num_stored: int = 1) -> bytes:
    """Buffer `source` -> core -> third element of io (buffer 1), whose second says store."""
    stream = StreamBuilder()
    out = Transfer(1, 2 * ELEMENT_BYTES, ShimBd(num_stored * _WORDS))
    stream.task(0, Direction.S2MM, 1, [out], token=True)
    loads = [Transfer(source, offset, ShimBd(_WORDS)), Transfer(1, ELEMENT_BYTES, ShimBd(_WORDS))]
    stream.task(0, Direction.MM2S, 1, loads)
    stream.wait(0, Direction.S2MM, 1)
    stream.finish(0, Direction.MM2S, 1)
    return stream.encode()


@dataclass
class Rig:
    """Device, context, kernel, three buffers and the echo's instructions; all synced."""

    xrt: EmulatedXrt = field(default_factory=make_xrt)
    stream: bytes = field(default_factory=echo_stream)

    def __post_init__(self) -> None:
        self.machine = self.xrt.machine
        self.device = self.xrt.device(0)
        xclbin = self.xrt.xclbin(str(emulated_build().path))
        self.context = self.xrt.hw_context(self.device, self.device.register_xclbin(xclbin))
        self.kernel = self.xrt.kernel(self.context, "MLIR_AIE")
        self.buffers = [self.buffer(self.kernel.group_id(3 + index)) for index in range(3)]
        self.instructions = self.store(self.stream)
        self.write(self.buffers[0], 0, load_element())
        self.write(self.buffers[1], ELEMENT_BYTES, store_element())

    def buffer(self, group: int, size: int = BUFFER_BYTES) -> EmulatedBo:
        return self.xrt.bo(self.device, size, self.xrt.bo.host_only, group)

    def store(self, stream: bytes) -> EmulatedBo:
        group = self.kernel.group_id(1)
        bo = self.xrt.bo(self.device, len(stream), self.xrt.bo.cacheable, group)
        bo.write(stream, 0)
        bo.sync(TO_DEVICE)
        return bo

    def write(self, bo: EmulatedBo, offset: int, data: np.ndarray) -> None:
        bo.write(data.tobytes(), offset)
        bo.sync(TO_DEVICE)

    def arguments(self) -> list[object]:
        return [3, self.instructions, self.instructions.size(), *self.buffers]

    def start(self) -> EmulatedRun:
        return self.kernel(*self.arguments())

    def heard(self, sync: bool = True) -> np.ndarray:
        """Floats of the echo, as the host sees them."""
        io = self.buffers[1]
        if sync:
            io.sync(FROM_DEVICE)
        start = 2 * ELEMENT_BYTES + 64
        return np.frombuffer(io.map()[start : start + 4 * ROW_FLOATS], np.float32)

    def is_echoed(self, first: float = 1.0) -> bool:
        return bool((self.heard() == np.arange(ROW_FLOATS) + first).all())
