"""Command buffers recorded once and replayed; it knows no pipeline's meaning.

A replay is three calls: submit, wait, reset. Nothing in a recorded buffer changes; what varies
from one replay to the next (positions, ids, grid sizes) lies in mapped buffers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specdec.errors import DeviceError
from target.vulkan.binding import NULL, Handle, check, create, ffi, lib, make, vk
from target.vulkan.pipelines import Pipeline

if TYPE_CHECKING:
    from target.vulkan.device import Device
    from target.vulkan.memory import Buffer, Region

_COMPUTE = vk.VK_PIPELINE_BIND_POINT_COMPUTE
_SHADER = vk.VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT
_TRANSFER = vk.VK_PIPELINE_STAGE_TRANSFER_BIT
_HOST = vk.VK_PIPELINE_STAGE_HOST_BIT
_SHADER_ACCESS = vk.VK_ACCESS_SHADER_READ_BIT | vk.VK_ACCESS_SHADER_WRITE_BIT
_TRANSFER_ACCESS = vk.VK_ACCESS_TRANSFER_READ_BIT | vk.VK_ACCESS_TRANSFER_WRITE_BIT
_WRITES = vk.VK_ACCESS_SHADER_WRITE_BIT | vk.VK_ACCESS_TRANSFER_WRITE_BIT

DEFAULT_TIMEOUT_S = 120.0  # a software device compiles in the first replay of a size


class Recorder:
    """Writes one command buffer; `finish` turns it into a Job."""

    def __init__(self, device: Device, label: str, num_timestamps: int = 0) -> None:
        self._device = device
        self._label = label
        info = make(
            "VkCommandBufferAllocateInfo",
            commandPool=device.command_pool,
            level=vk.VK_COMMAND_BUFFER_LEVEL_PRIMARY,
            commandBufferCount=1,
        )
        self._commands = ffi.new("VkCommandBuffer[1]")
        check(lib.vkAllocateCommandBuffers(device.handle, info, self._commands), "recording")
        self._cb = self._commands[0]
        device.name(self._cb, vk.VK_OBJECT_TYPE_COMMAND_BUFFER, label)
        check(lib.vkBeginCommandBuffer(self._cb, make("VkCommandBufferBeginInfo")), "recording")
        self._barrier = _memory_barrier(vk.VK_ACCESS_SHADER_WRITE_BIT, _SHADER_ACCESS)
        self._pipeline: Pipeline | None = None
        self._queries: Handle | None = None
        self._num_timestamps = num_timestamps if device.has_timestamps else 0
        if self._num_timestamps:
            info = make(
                "VkQueryPoolCreateInfo",
                queryType=vk.VK_QUERY_TYPE_TIMESTAMP,
                queryCount=num_timestamps,
            )
            self._queries = create("vkCreateQueryPool", device.handle, info, "recording")
            lib.vkCmdResetQueryPool(self._cb, self._queries, 0, num_timestamps)

    def dispatch(
        self, pipeline: Pipeline, descriptors: Handle, groups: tuple[int, int, int], push: bytes
    ) -> None:
        """Run `groups` workgroups."""
        self._bind(pipeline, descriptors, push)
        lib.vkCmdDispatch(self._cb, *groups)

    def dispatch_indirect(
        self, pipeline: Pipeline, descriptors: Handle, groups: Region, push: bytes
    ) -> None:
        """Run as many workgroups as three uint32 in `groups` say at replay."""
        self._bind(pipeline, descriptors, push)
        lib.vkCmdDispatchIndirect(self._cb, groups.buffer.handle, groups.offset_bytes)

    def _bind(self, pipeline: Pipeline, descriptors: Handle, push: bytes) -> None:
        if pipeline is not self._pipeline:
            lib.vkCmdBindPipeline(self._cb, _COMPUTE, pipeline.handle)
            self._pipeline = pipeline
        sets = ffi.new("VkDescriptorSet[1]", [descriptors])
        lib.vkCmdBindDescriptorSets(self._cb, _COMPUTE, pipeline.layout, 0, 1, sets, 0, NULL)
        if push:
            lib.vkCmdPushConstants(
                self._cb,
                pipeline.layout,
                vk.VK_SHADER_STAGE_COMPUTE_BIT,
                0,
                len(push),
                ffi.from_buffer(push),
            )

    def barrier(self) -> None:
        """What shaders wrote before is visible to shaders after."""
        self._order(_SHADER, _SHADER, self._barrier)

    def copy(self, source: Region, destination: Region) -> None:
        """Copy bytes between buffers; both regions have the same size."""
        assert source.size_bytes == destination.size_bytes
        part = make(
            "VkBufferCopy",
            srcOffset=source.offset_bytes,
            dstOffset=destination.offset_bytes,
            size=source.size_bytes,
        )
        lib.vkCmdCopyBuffer(self._cb, source.buffer.handle, destination.buffer.handle, 1, part)

    def copy_within(self, buffer: Buffer, parts: NDArray[np.uint64]) -> None:
        """Copy inside a buffer, after what shaders did before and before what they do after.

        `parts` (N, 3): source offset, destination offset, bytes; no two overlap.
        """
        copies = ffi.from_buffer("VkBufferCopy[]", np.ascontiguousarray(parts, np.uint64))
        before = _memory_barrier(vk.VK_ACCESS_SHADER_WRITE_BIT, _TRANSFER_ACCESS)
        after = _memory_barrier(vk.VK_ACCESS_TRANSFER_WRITE_BIT, _SHADER_ACCESS)
        self._order(_SHADER, _TRANSFER, before)
        lib.vkCmdCopyBuffer(self._cb, buffer.handle, buffer.handle, len(parts), copies)
        self._order(_TRANSFER, _SHADER, after)

    def _order(self, stages_before: int, stages_after: int, barrier: Handle) -> None:
        lib.vkCmdPipelineBarrier(
            self._cb, stages_before, stages_after, 0, 1, barrier, 0, NULL, 0, NULL
        )

    def fill(self, region: Region, word: int) -> None:
        """Fill with a 32-bit word."""
        lib.vkCmdFillBuffer(
            self._cb, region.buffer.handle, region.offset_bytes, region.size_bytes, word
        )

    def timestamp(self, index: int) -> None:
        """Note the time when everything before is done; nothing where devices cannot."""
        if self._queries is not None:
            lib.vkCmdWriteTimestamp(
                self._cb, vk.VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, self._queries, index
            )

    def finish(self) -> Job:
        """Close the recording; its results become visible to the host when a replay ends."""
        to_host = _memory_barrier(_WRITES, vk.VK_ACCESS_HOST_READ_BIT)
        self._order(_SHADER | _TRANSFER, _HOST, to_host)
        check(lib.vkEndCommandBuffer(self._cb), f"recording {self._label}")
        return Job(self._device, self._commands, self._label, self._queries, self._num_timestamps)


def _memory_barrier(writes: int, reads: int) -> Handle:
    return make("VkMemoryBarrier", srcAccessMask=writes, dstAccessMask=reads)


class Job:
    """A recorded command buffer, replayed by `run`; one replay at a time."""

    def __init__(
        self, device: Device, commands: Handle, label: str, queries: Handle, num_timestamps: int
    ) -> None:
        self._device = device
        self._commands = commands
        self._label = label
        self._queries = queries
        self._num_timestamps = num_timestamps
        self._submit = make("VkSubmitInfo", commandBufferCount=1, pCommandBuffers=commands)
        fence = create("vkCreateFence", device.handle, make("VkFenceCreateInfo"), "recording")
        self._fences = ffi.new("VkFence[1]", [fence])

    def submit(self) -> None:
        """Start a replay without waiting for it."""
        result = lib.vkQueueSubmit(self._device.queue, 1, self._submit, self._fences[0])
        self._checked(result)

    def wait(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Wait until the replay is done."""
        device = self._device.handle
        result = lib.vkWaitForFences(device, 1, self._fences, 1, int(timeout_s * 1e9))
        if result == vk.VK_TIMEOUT:
            self._device.lost()
            raise DeviceError(
                f"{self._device.info.name} did not finish {self._label} within {timeout_s:g} s: "
                "the device hangs or is far too slow for this model"
            )
        self._checked(result)
        self._checked(lib.vkResetFences(device, 1, self._fences))

    def run(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Replay and wait."""
        self.submit()
        self.wait(timeout_s)

    def _checked(self, result: int) -> None:
        if result == vk.VK_ERROR_DEVICE_LOST:
            self._device.lost()
        check(result, f"running {self._label}")

    def timestamps_s(self, count: int) -> list[float]:
        """The first `count` times noted in the last replay, in seconds from an arbitrary origin."""
        if not self._num_timestamps:
            return []
        ticks = ffi.new("uint64_t[]", count)
        result = lib.vkGetQueryPoolResults(
            self._device.handle,
            self._queries,
            0,
            count,
            8 * count,
            ticks,
            8,
            vk.VK_QUERY_RESULT_64_BIT | vk.VK_QUERY_RESULT_WAIT_BIT,
        )
        check(result, "reading timestamps")
        period_s = self._device.info.limits.timestamp_period_ns * 1e-9
        return [tick * period_s for tick in ticks]

    def release(self) -> None:
        """Free the command buffer; it must not be running."""
        device = self._device.handle
        lib.vkFreeCommandBuffers(device, self._device.command_pool, 1, self._commands)
        lib.vkDestroyFence(device, self._fences[0], NULL)
        if self._queries is not None:
            lib.vkDestroyQueryPool(device, self._queries, NULL)
