"""What a driver's compiler made of a pipeline: statistics and instructions; it runs nothing.

Only of devices opened with `statistics`, and only where the driver tells (RADV does).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from target.vulkan.binding import Handle, check, ffi, lib, make, text, vk

if TYPE_CHECKING:
    from target.vulkan.device import Device
    from target.vulkan.pipelines import Pipeline

EXTENSION = "VK_KHR_pipeline_executable_properties"
CAPTURE_FLAGS = (
    vk.VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR
    | vk.VK_PIPELINE_CREATE_CAPTURE_INTERNAL_REPRESENTATIONS_BIT_KHR
)
_FORMATS = ("b32", "i64", "u64", "f64")  # by VkPipelineExecutableStatisticFormatKHR


@dataclass(frozen=True, slots=True)
class PipelineStatistics:
    """One compiled compute shader."""

    subgroup_size: int
    numbers: dict[str, int]  # by the driver's names, e.g. `VGPRs`
    instructions: str  # disassembly, empty where the driver gives none


def pipeline_statistics(device: Device, pipeline: Pipeline) -> PipelineStatistics:
    """Statistics of a compute pipeline of a device opened with `statistics`."""
    assert device.keeps_statistics
    info = make("VkPipelineInfoKHR", pipeline=pipeline.handle)
    executables = _list(device, "Properties", "VkPipelineExecutablePropertiesKHR", info)
    which = make("VkPipelineExecutableInfoKHR", pipeline=pipeline.handle, executableIndex=0)
    statistics = _list(device, "Statistics", "VkPipelineExecutableStatisticKHR", which)
    numbers = {
        text(entry.name): int(getattr(entry.value, _FORMATS[entry.format])) for entry in statistics
    }
    struct = "VkPipelineExecutableInternalRepresentationKHR"
    texts = _list(device, "InternalRepresentations", struct, which)
    buffers = [ffi.new("char[]", max(1, int(entry.dataSize))) for entry in texts]
    for entry, buffer in zip(texts, buffers, strict=True):
        entry.pData = buffer
    count = ffi.new("uint32_t*", len(buffers))
    call = _function(device, "InternalRepresentations")
    check(call(device.handle, which, count, texts), "reading pipeline statistics")
    named = {text(entry.name): text(buffer) for entry, buffer in zip(texts, buffers, strict=True)}
    assembly = next((code for name, code in named.items() if "ssembly" in name), "")
    return PipelineStatistics(executables[0].subgroupSize, numbers, assembly)


def _function(device: Device, name: str) -> Handle:
    full = f"vkGetPipelineExecutable{name}KHR"
    address = lib.vkGetDeviceProcAddr(device.handle, ffi.new("char[]", full.encode()))
    return ffi.cast(f"PFN_{full}", address)


def _list(device: Device, name: str, struct: str, info: Handle) -> Handle:
    """An array of `struct` filled by a call that is asked twice: how many, then which."""
    call, count = _function(device, name), ffi.new("uint32_t*")
    check(call(device.handle, info, count, ffi.NULL), "reading pipeline statistics")
    entries = ffi.new(f"{struct}[]", count[0])
    for entry in entries:
        entry.sType = getattr(vk, struct)().sType
    check(call(device.handle, info, count, entries), "reading pipeline statistics")
    return entries
