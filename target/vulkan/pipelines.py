"""Pipelines and descriptor sets; it records and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from specdec.errors import DeviceError
from target.vulkan.binding import NULL, Handle, check, create, ffi, lib, make, vk
from target.vulkan.statistics import CAPTURE_FLAGS

if TYPE_CHECKING:
    from target.vulkan.device import Device
    from target.vulkan.memory import Region

_STAGE = vk.VK_SHADER_STAGE_COMPUTE_BIT
_STORAGE = vk.VK_DESCRIPTOR_TYPE_STORAGE_BUFFER
_POOL_SETS = 256
_POOL_DESCRIPTORS = 2048

PUSH_BYTES = 128  # what every device has; each pipeline takes all of it

# VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT, which the binding leaves None
_FULL_SUBGROUPS = 2


class Pipeline:
    """One shader, specialised; `constants` are 32-bit words by constant_id."""

    def __init__(
        self,
        device: Device,
        spirv: bytes,
        num_bindings: int,
        label: str,
        constants: Mapping[int, int] | None = None,
        subgroup_size: int = 0,
    ) -> None:
        """`subgroup_size` 0 leaves the choice to the driver."""
        self._device = device
        self.label = label
        self.num_bindings = num_bindings
        self.set_layout, self.layout = _layouts(device, num_bindings, f"building {label}")
        self.handle = NULL
        try:
            self.handle = self._compile(spirv, constants or {}, subgroup_size)
        except DeviceError:
            self.release()
            raise
        device.name(self.handle, vk.VK_OBJECT_TYPE_PIPELINE, label)

    def _compile(self, spirv: bytes, constants: Mapping[int, int], subgroup_size: int) -> Handle:
        device, action = self._device.handle, f"building {self.label}"
        module_info = make("VkShaderModuleCreateInfo", codeSize=len(spirv), pCode=spirv)
        module = create("vkCreateShaderModule", device, module_info, action)
        stage_flags, stage_next = 0, NULL
        if subgroup_size:
            stage_flags = _FULL_SUBGROUPS
            stage_next = make(
                "VkPipelineShaderStageRequiredSubgroupSizeCreateInfo",
                requiredSubgroupSize=subgroup_size,
            )
        stage = make(
            "VkPipelineShaderStageCreateInfo",
            pNext=stage_next,
            flags=stage_flags,
            stage=_STAGE,
            module=module,
            pName="main",
            pSpecializationInfo=_specialization(constants),
        )
        flags = CAPTURE_FLAGS if self._device.keeps_statistics else 0
        info = make("VkComputePipelineCreateInfo", flags=flags, layout=self.layout, stage=stage)
        out = ffi.new("VkPipeline[1]")
        result = lib.vkCreateComputePipelines(
            device, self._device.pipeline_cache.handle, 1, info, NULL, out
        )
        lib.vkDestroyShaderModule(device, module, NULL)
        check(result, action)
        return out[0]

    def release(self) -> None:
        """Destroy it; no job that uses it may run afterwards."""
        device = self._device.handle
        lib.vkDestroyPipeline(device, self.handle, NULL)
        lib.vkDestroyPipelineLayout(device, self.layout, NULL)
        lib.vkDestroyDescriptorSetLayout(device, self.set_layout, NULL)


def _layouts(device: Device, num_bindings: int, action: str) -> tuple[Handle, Handle]:
    """Layouts of the one descriptor set and of the pipeline."""
    bindings = [
        make(
            "VkDescriptorSetLayoutBinding",
            binding=i,
            descriptorType=_STORAGE,
            descriptorCount=1,
            stageFlags=_STAGE,
        )
        for i in range(num_bindings)
    ]
    info = make("VkDescriptorSetLayoutCreateInfo", bindingCount=num_bindings, pBindings=bindings)
    set_layout = create("vkCreateDescriptorSetLayout", device.handle, info, action)
    push = make("VkPushConstantRange", stageFlags=_STAGE, offset=0, size=PUSH_BYTES)
    info = make(
        "VkPipelineLayoutCreateInfo",
        setLayoutCount=1,
        pSetLayouts=[set_layout],
        pushConstantRangeCount=1,
        pPushConstantRanges=push,
    )
    layout = create("vkCreatePipelineLayout", device.handle, info, action)
    return set_layout, layout


def _specialization(constants: Mapping[int, int]) -> Handle:
    if not constants:
        return NULL
    entries = [
        make("VkSpecializationMapEntry", constantID=constant_id, offset=4 * i, size=4)
        for i, constant_id in enumerate(constants)
    ]
    words = [value & 0xFFFFFFFF for value in constants.values()]
    return make(
        "VkSpecializationInfo",
        mapEntryCount=len(entries),
        pMapEntries=entries,
        dataSize=4 * len(words),
        pData=b"".join(word.to_bytes(4, "little") for word in words),
    )


class DescriptorPool:
    """Hands out descriptor sets, freed all together."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._pools: list[Handle] = []
        self._sets_left = 0
        self._descriptors_left = 0

    def bind(self, pipeline: Pipeline, regions: Sequence[Region]) -> Handle:
        """A set with `regions` at bindings 0, 1, ...; as many as the shader declares."""
        if len(regions) != pipeline.num_bindings:
            raise AssertionError(
                f"{pipeline.label}: {len(regions)} regions for {pipeline.num_bindings} bindings"
            )
        limit = self._device.info.limits.storage_range_bytes
        for region in regions:
            assert region.size_bytes <= limit, f"{region.buffer.label}: more than {limit} bytes"
        handle = self._allocate(pipeline)
        writes = ffi.new("VkWriteDescriptorSet[]", len(regions))
        infos = ffi.new("VkDescriptorBufferInfo[]", len(regions))
        for i, region in enumerate(regions):
            infos[i].buffer = region.buffer.handle
            infos[i].offset, infos[i].range = region.offset_bytes, region.size_bytes
            writes[i].sType = vk.VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET
            writes[i].dstSet, writes[i].dstBinding = handle, i
            writes[i].descriptorCount, writes[i].descriptorType = 1, _STORAGE
            writes[i].pBufferInfo = infos + i
        lib.vkUpdateDescriptorSets(self._device.handle, len(regions), writes, 0, NULL)
        return handle

    def _allocate(self, pipeline: Pipeline) -> Handle:
        if self._sets_left == 0 or self._descriptors_left < pipeline.num_bindings:
            size = make("VkDescriptorPoolSize", type=_STORAGE, descriptorCount=_POOL_DESCRIPTORS)
            info = make(
                "VkDescriptorPoolCreateInfo",
                maxSets=_POOL_SETS,
                poolSizeCount=1,
                pPoolSizes=size,
            )
            pool = create("vkCreateDescriptorPool", self._device.handle, info, "recording a pass")
            self._pools.append(pool)
            self._sets_left, self._descriptors_left = _POOL_SETS, _POOL_DESCRIPTORS
        self._sets_left -= 1
        self._descriptors_left -= pipeline.num_bindings
        info = make(
            "VkDescriptorSetAllocateInfo",
            descriptorPool=self._pools[-1],
            descriptorSetCount=1,
            pSetLayouts=[pipeline.set_layout],
        )
        out = ffi.new("VkDescriptorSet[1]")
        check(lib.vkAllocateDescriptorSets(self._device.handle, info, out), "recording a pass")
        return out[0]

    def release(self) -> None:
        """Free every set."""
        for pool in self._pools:
            lib.vkDestroyDescriptorPool(self._device.handle, pool, NULL)
        self._pools.clear()
        self._sets_left = 0
