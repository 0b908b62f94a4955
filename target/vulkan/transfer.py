"""Moving bytes between the host and buffers, by mapping or through a staging ring."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from target.vulkan.memory import Buffer, ByteArray, MemoryKind, Region
from target.vulkan.recording import Job, Recorder

if TYPE_CHECKING:
    from target.vulkan.device import Device

_HALF_BYTES = 16 << 20


class Transfer:
    """Writes and reads regions of any kind. Used while loading and in tests, never in a step."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._ring: Buffer | None = None  # two halves: one is filled while the other is copied
        self._pending: list[Job | None] = [None, None]

    def write(self, region: Region, values: NDArray[np.generic]) -> None:
        """Copy an array's bytes to the start of a region; `flush` before the device uses them."""
        source = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
        assert source.nbytes <= region.size_bytes, "the array is larger than its region"
        if region.buffer.view is not None:
            region.view[: source.nbytes] = source
            return
        if self._ring is None:
            self._ring = self._device.memory.allocate(2 * _HALF_BYTES, MemoryKind.UPLOAD, "staging")
        for turn, offset in enumerate(range(0, source.nbytes, _HALF_BYTES)):
            self._stage(turn % 2, source[offset : offset + _HALF_BYTES], region, offset)

    def _stage(self, half: int, chunk: ByteArray, region: Region, offset: int) -> None:
        assert self._ring is not None
        self._finish(half)
        staged = self._ring.region(half * _HALF_BYTES, chunk.nbytes)
        staged.view[:] = chunk
        self._pending[half] = self._copy(staged, region.part(offset, chunk.nbytes))

    def _copy(self, source: Region, destination: Region) -> Job:
        recorder = Recorder(self._device, f"copy to {destination.buffer.label}")
        recorder.copy(source, destination)
        job = recorder.finish()
        job.submit()
        return job

    def _finish(self, half: int) -> None:
        job = self._pending[half]
        if job is not None:
            job.wait()
            job.release()
            self._pending[half] = None

    def flush(self) -> None:
        """Wait for everything written and free the staging ring."""
        self._finish(0)
        self._finish(1)
        if self._ring is not None:
            self._device.memory.free(self._ring)
            self._ring = None

    def read(self, region: Region) -> ByteArray:
        """A copy of a region's bytes."""
        if region.buffer.view is not None:
            return region.view.copy()
        memory = self._device.memory
        buffer = memory.allocate(region.size_bytes, MemoryKind.READBACK, "staging")
        job = self._copy(region, buffer.whole)
        job.wait()
        job.release()
        values = buffer.whole.view.copy()
        memory.free(buffer)
        return values
