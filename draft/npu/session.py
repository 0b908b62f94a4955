"""One hardware context with its buffers and programs, on pyxrt or what stands in for it.

It knows buffers, instruction streams and states; no model. Every wait has a timeout, every state
is checked, and whatever pyxrt raises becomes a DeviceError that says what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from draft.npu.build import FIRST_BUFFER, KERNEL_NAME, ArrayBuild
from draft.npu.faults import explain
from draft.npu.surface import Bo, Kernel, Run, XclbinKernel, Xrt
from specdec.errors import DeviceError

Bytes = NDArray[np.uint8]

_OPCODE = 3  # run an instruction stream
_INSTRUCTIONS = 1  # argument
_COMPLETED = "ERT_CMD_STATE_COMPLETED"


@contextmanager
def _doing(what: str) -> Iterator[None]:
    """Errors of pyxrt as errors for the user."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise explain(what, error) from error


class Buffer:
    """A buffer or a part of one: `host` is what the host sees, the device sees what is uploaded."""

    def __init__(self, xrt: Xrt, bo: Bo, is_part: bool = False) -> None:
        self.bo = bo
        self.host: Bytes = np.frombuffer(bo.map(), np.uint8)
        self._xrt = xrt
        self._is_part = is_part
        self._directions = xrt.xclBOSyncDirection

    def part(self, offset: int, size: int) -> Buffer:
        """A part that is synced by itself."""
        # the device address of a part of a part would be wrong
        assert not self._is_part, "parts are made of whole buffers"
        with _doing("make a sub-buffer"):
            return Buffer(self._xrt, self._xrt.bo(self.bo, size, offset), is_part=True)

    def upload(self, offset: int = 0, size: int | None = None) -> None:
        """Let the device see what the host wrote."""
        size = len(self.host) - offset if size is None else size
        with _doing("write a buffer"):
            self.bo.sync(self._directions.XCL_BO_SYNC_BO_TO_DEVICE, size, offset)

    def download(self, offset: int = 0, size: int | None = None) -> None:
        """Let the host see what the device wrote."""
        size = len(self.host) - offset if size is None else size
        with _doing("read a buffer"):
            self.bo.sync(self._directions.XCL_BO_SYNC_BO_FROM_DEVICE, size, offset)


class Program:
    """An instruction stream on the device and the run that repeats it."""

    def __init__(self, run: Run, instructions: Buffer) -> None:
        self.run = run
        self.instructions = instructions  # kept alive


class Session:
    """An array configuration in a hardware context; there is one per process."""

    def __init__(self, xrt: Xrt, build: ArrayBuild) -> None:
        self._xrt = xrt
        num_arguments = FIRST_BUFFER + len(build.manifest.arguments)
        with _doing("open the NPU"):
            self._device = xrt.device(0)
            xclbin = xrt.xclbin(str(build.path))
            _check_kernel(xclbin.get_kernels(), num_arguments)
            uuid = self._device.register_xclbin(xclbin)
            self._context = xrt.hw_context(self._device, uuid)
            self._kernel: Kernel = xrt.kernel(self._context, KERNEL_NAME)
        self._num_buffers = len(build.manifest.arguments)

    def buffer(self, index: int, size: int) -> Buffer:
        """A data buffer for the array's argument `index`, from 0, zeroed on both sides."""
        with _doing(f"make a buffer of {size} bytes"):
            group = self._kernel.group_id(FIRST_BUFFER + index)
            bo = self._xrt.bo(self._device, size, self._xrt.bo.host_only, group)
            buffer = Buffer(self._xrt, bo)
        buffer.host[:] = 0
        buffer.upload()
        return buffer

    def program(self, stream: bytes, buffers: Sequence[Buffer]) -> Program:
        """Make a stream ready to run on these buffers, all that the configuration has."""
        if len(buffers) != self._num_buffers:  # one more would crash the driver's library
            raise DeviceError(
                f"NPU: {len(buffers)} buffers for a configuration of {self._num_buffers}: "
                "the manifest names them"
            )
        with _doing("store instructions"):
            group = self._kernel.group_id(_INSTRUCTIONS)
            bo = self._xrt.bo(self._device, len(stream), self._xrt.bo.cacheable, group)
            instructions = Buffer(self._xrt, bo)
            instructions.host[:] = np.frombuffer(stream, np.uint8)
            instructions.upload()
            run = self._xrt.run(self._kernel)
            run.set_arg(0, _OPCODE)
            run.set_arg(_INSTRUCTIONS, bo)
            run.set_arg(2, len(stream))
            for index, buffer in enumerate(buffers):
                run.set_arg(FIRST_BUFFER + index, buffer.bo)
        return Program(run, instructions)

    def run(self, program: Program, timeout_ms: int) -> None:
        """Run to the end; DeviceError after `timeout_ms` or if the run fails."""
        assert timeout_ms > 0, "0 would wait for ever"
        with _doing("run the draft"):
            program.run.start()
            state = program.run.wait(timeout_ms)
        if state.name != _COMPLETED:
            raise explain(f"run the draft within {timeout_ms} ms", state.name)


def _check_kernel(kernels: Sequence[XclbinKernel], num_arguments: int) -> None:
    """DeviceError unless the xclbin has our kernel with the manifest's arguments."""
    found = {kernel.get_name(): kernel.get_num_args() for kernel in kernels}
    if found.get(KERNEL_NAME, 0) < num_arguments:
        raise DeviceError(
            f"NPU: the xclbin offers {found or 'no kernels'}, needed is {KERNEL_NAME} with "
            f"{num_arguments} arguments: run kernels/build.sh again"
        )
