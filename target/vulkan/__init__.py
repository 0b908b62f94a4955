"""A Vulkan device as buffers, programs and recorded jobs; it knows no model.

The only place that touches the pip package `vulkan`. Importing it raises DeviceError where the
Vulkan loader is missing.
"""

from target.vulkan.device import Device, list_devices
from target.vulkan.info import DeviceInfo
from target.vulkan.memory import Buffer, Memory, MemoryKind, Region
from target.vulkan.pipelines import DescriptorPool, Pipeline
from target.vulkan.recording import Job, Recorder
from target.vulkan.statistics import PipelineStatistics, pipeline_statistics
from target.vulkan.transfer import Transfer

__all__ = [
    "Buffer",
    "DescriptorPool",
    "Device",
    "DeviceInfo",
    "Job",
    "Memory",
    "MemoryKind",
    "Pipeline",
    "PipelineStatistics",
    "Recorder",
    "Region",
    "Transfer",
    "list_devices",
    "pipeline_statistics",
]
