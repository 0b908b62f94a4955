"""Choosing and opening one Vulkan device, its queue and features; it runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from specdec.errors import DeviceError
from target.vulkan.binding import (
    NULL,
    Handle,
    create,
    enumerate_all,
    extension_function,
    ffi,
    lib,
    make,
    vk,
)
from target.vulkan.info import (
    COOPERATIVE_MATRIX,
    MEMORY_BUDGET,
    PREFERENCE,
    REQUIRED_FEATURES,
    DeviceInfo,
)
from target.vulkan.instance import Instance
from target.vulkan.memory import Memory
from target.vulkan.pipeline_cache import PipelineCache
from target.vulkan.statistics import EXTENSION


class Device:
    """One open device. A single thread owns it: its queue and command pool are not locked."""

    def __init__(
        self, info: DeviceInfo, instance: Instance, physical: Handle, statistics: bool = False
    ) -> None:
        self.info = info
        self.keeps_statistics = statistics
        self.physical = physical
        self.is_lost = False
        self._instance = instance
        self._family, self.has_timestamps = _compute_family(physical)
        self.handle = _create_device(info, physical, self._family, statistics)
        queue = ffi.new("VkQueue[1]")
        lib.vkGetDeviceQueue(self.handle, self._family, 0, queue)
        self.queue = queue[0]
        pool = make(
            "VkCommandPoolCreateInfo",
            flags=vk.VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
            queueFamilyIndex=self._family,
        )
        self.command_pool = create("vkCreateCommandPool", self.handle, pool, "opening the device")
        self.pipeline_cache = PipelineCache(self.handle, info)
        self.memory = Memory(self)

    @classmethod
    def open(
        cls, selector: str = "auto", *, validation: bool = False, statistics: bool = False
    ) -> Device:
        """Open the device that `selector` names: `auto`, an index, or a part of its name.

        With `validation` the Khronos layer checks every call and each of its messages is kept in
        `messages` and logged. With `statistics` the driver's compiler tells what it made of each
        pipeline (target.vulkan.statistics).
        """
        instance = Instance(validation)
        try:
            found = instance.devices()
            info = choose([info for info, _ in found], selector)
            if statistics and EXTENSION not in info.extensions:
                raise DeviceError(f"{info.name} lacks {EXTENSION}: it tells no statistics")
            return cls(info, instance, found[info.index][1], statistics)
        except BaseException:
            instance.release()
            raise

    @property
    def messages(self) -> list[str]:
        """What the validation layer said so far; empty without validation."""
        return self._instance.messages

    @property
    def has_validation(self) -> bool:
        """The validation layer is listening."""
        return self._instance.has_debug_utils

    def check_messages(self) -> None:
        """Raise DeviceError if the validation layer said anything."""
        if self.messages:
            raise DeviceError(
                f"the Vulkan validation layer reported {len(self.messages)} messages; "
                f"the first: {self.messages[0]}"
            )

    def name(self, handle: Handle, object_type: int, label: str) -> None:
        """Name an object for debuggers and validation messages."""
        if self._instance.has_debug_utils:
            info = make(
                "VkDebugUtilsObjectNameInfoEXT",
                objectType=object_type,
                objectHandle=int(ffi.cast("uintptr_t", handle)),
                pObjectName=label,
            )
            extension_function(self._instance.handle, "vkSetDebugUtilsObjectNameEXT")(
                self.handle, info
            )

    def lost(self) -> None:
        """Note that the device is gone: releasing no longer waits for it."""
        self.is_lost = True

    def release(self) -> None:
        """Give everything back; safe to call twice. Buffers still allocated are freed too."""
        if self.handle is None:
            return
        if not self.is_lost:
            lib.vkDeviceWaitIdle(self.handle)
        self.memory.release()
        self.pipeline_cache.release()
        lib.vkDestroyCommandPool(self.handle, self.command_pool, NULL)
        lib.vkDestroyDevice(self.handle, NULL)
        self.handle = None
        self._instance.release()

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.release()


def list_devices() -> list[DeviceInfo]:
    """Every device the loader knows, usable or not."""
    instance = Instance(validation=False)
    try:
        return [info for info, _ in instance.devices()]
    finally:
        instance.release()


def choose(devices: Sequence[DeviceInfo], selector: str) -> DeviceInfo:
    """The device `selector` names; `auto` prefers discrete, integrated, virtual, then software."""
    found = "; ".join(map(str, devices))
    if not devices:
        raise DeviceError(
            "no Vulkan device on this machine: install a driver (Debian: mesa-vulkan-drivers, "
            'which includes a software device) or set target.device="reference"'
        )
    if selector == "auto":
        usable = [info for info in devices if not info.missing]
        if not usable:
            lacks = "; ".join(f"{info} lacks {', '.join(info.missing)}" for info in devices)
            raise DeviceError(f"no Vulkan device here can run the target: {lacks}")
        return min(usable, key=lambda info: PREFERENCE.index(info.kind))
    if selector.isdecimal():
        matches = [info for info in devices if info.index == int(selector)]
    else:
        matches = [info for info in devices if selector.lower() in info.name.lower()]
    if len(matches) != 1:
        count = "no" if not matches else "more than one"
        raise DeviceError(f'{count} Vulkan device matches "{selector}"; this machine has {found}')
    if matches[0].missing:
        raise DeviceError(f"{matches[0].name} lacks {', '.join(matches[0].missing)}, needed here")
    return matches[0]


def _compute_family(physical: Handle) -> tuple[int, bool]:
    """Index of the queue family used, and whether it can take timestamps."""
    families = enumerate_all(
        "vkGetPhysicalDeviceQueueFamilyProperties", "VkQueueFamilyProperties", physical
    )
    for index, family in enumerate(families):
        # the first is the graphics queue where there is one: on AMD APUs it is the faster choice
        if family.queueFlags & vk.VK_QUEUE_COMPUTE_BIT:
            return index, family.timestampValidBits > 0
    raise DeviceError("the Vulkan device has no compute queue")


def _create_device(info: DeviceInfo, physical: Handle, family: int, statistics: bool) -> Handle:
    chain = NULL
    if statistics:
        struct = "VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR"
        chain = make(struct, pipelineExecutableInfo=1)
    if info.has_cooperative_matrix:
        struct = "VkPhysicalDeviceCooperativeMatrixFeaturesKHR"
        chain = make(struct, pNext=chain, cooperativeMatrix=1)
    for struct, features in REQUIRED_FEATURES.items():
        enabled = dict.fromkeys(features, 1)
        if struct == "VkPhysicalDeviceFeatures":
            chain = make("VkPhysicalDeviceFeatures2", pNext=chain, features=make(struct, **enabled))
        else:
            if struct == "VkPhysicalDeviceVulkan12Features" and info.has_cooperative_matrix:
                enabled["vulkanMemoryModel"] = 1  # cooperative matrices need it
            chain = make(struct, pNext=chain, **enabled)
    wanted = (COOPERATIVE_MATRIX, MEMORY_BUDGET, *([EXTENSION] if statistics else []))
    extensions = [name for name in wanted if name in info.extensions]
    queue = make(
        "VkDeviceQueueCreateInfo", queueFamilyIndex=family, queueCount=1, pQueuePriorities=[1.0]
    )
    create_info = make(
        "VkDeviceCreateInfo",
        pNext=chain,
        queueCreateInfoCount=1,
        pQueueCreateInfos=queue,
        enabledExtensionCount=len(extensions),
        ppEnabledExtensionNames=extensions,
    )
    return create("vkCreateDevice", physical, create_info, f"opening {info.name}")
