"""What a physical device is and can do, read once; it opens nothing and chooses nothing."""

from __future__ import annotations

from dataclasses import dataclass

from target.vulkan.binding import (
    API_VERSION,
    NULL,
    Handle,
    enumerate_all,
    ffi,
    lib,
    make,
    text,
    vk,
)

# Feature struct -> features every shader and the recorder may rely on.
REQUIRED_FEATURES: dict[str, tuple[str, ...]] = {
    "VkPhysicalDeviceVulkan11Features": ("storageBuffer16BitAccess",),
    "VkPhysicalDeviceVulkan12Features": (
        "shaderFloat16",
        "shaderInt8",
        "storageBuffer8BitAccess",
        "scalarBlockLayout",
        "hostQueryReset",
    ),
    "VkPhysicalDeviceVulkan13Features": (
        "subgroupSizeControl",
        "computeFullSubgroups",
        "shaderIntegerDotProduct",
        "synchronization2",
        "maintenance4",
    ),
    "VkPhysicalDeviceFeatures": ("shaderInt16",),
}
_KINDS = {0: "other", 1: "integrated", 2: "discrete", 3: "virtual", 4: "software"}
PREFERENCE = ("discrete", "integrated", "virtual", "software", "other")
COOPERATIVE_MATRIX = "VK_KHR_cooperative_matrix"
MEMORY_BUDGET = "VK_EXT_memory_budget"


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """Sizes in bytes and counts a program must stay within."""

    storage_range_bytes: int
    allocation_bytes: int
    buffer_bytes: int
    storage_alignment: int
    shared_bytes: int
    workgroup_invocations: int
    workgroup_count_x: int
    push_constant_bytes: int
    timestamp_period_ns: float


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One physical device; `missing` names what it lacks to be used here."""

    index: int
    name: str
    kind: str  # discrete, integrated, virtual, software or other
    driver: str
    vendor_id: int
    device_id: int
    cache_uuid: str
    subgroup_sizes: tuple[int, int, int]  # default, smallest, largest
    heap_bytes: tuple[int, ...]  # device-local heaps
    limits: DeviceLimits
    extensions: frozenset[str]
    has_integer_dot: bool  # packed signed 4x8-bit dot products are accelerated
    missing: tuple[str, ...]

    @property
    def has_cooperative_matrix(self) -> bool:
        """Cooperative matrices can be enabled."""
        return COOPERATIVE_MATRIX in self.extensions

    @property
    def is_unified(self) -> bool:
        """Host and device share memory, so that weights are written in place."""
        return self.kind in ("integrated", "software")

    def __str__(self) -> str:
        return f"{self.index}: {self.name} ({self.kind}, {self.driver})"


def describe(index: int, physical: Handle) -> DeviceInfo:
    """Read everything about one physical device."""
    basic = ffi.new("VkPhysicalDeviceProperties*")
    lib.vkGetPhysicalDeviceProperties(physical, basic)
    extensions = frozenset(
        text(entry.extensionName)
        for entry in enumerate_all(
            "vkEnumerateDeviceExtensionProperties", "VkExtensionProperties", physical, NULL
        )
    )
    driver = f"{basic.driverVersion:#x}"
    sizes, has_integer_dot, buffer_bytes, allocation_bytes = (0, 0, 0), False, 0, 0
    missing: tuple[str, ...] = ("Vulkan 1.3",)
    if basic.apiVersion >= API_VERSION:
        v11, v12, v13 = _properties(physical)
        driver = f"{text(v12.driverName)} {text(v12.driverInfo)}".strip()
        sizes = (v11.subgroupSize, v13.minSubgroupSize, v13.maxSubgroupSize)
        has_integer_dot = bool(v13.integerDotProduct4x8BitPackedSignedAccelerated)
        buffer_bytes, allocation_bytes = v13.maxBufferSize, v11.maxMemoryAllocationSize
        missing = _missing_features(physical)
    return DeviceInfo(
        index=index,
        name=text(basic.deviceName),
        kind=_KINDS.get(basic.deviceType, "other"),
        driver=driver,
        vendor_id=basic.vendorID,
        device_id=basic.deviceID,
        cache_uuid=bytes(basic.pipelineCacheUUID).hex(),
        subgroup_sizes=sizes,
        heap_bytes=_device_heaps(physical),
        limits=_limits(basic.limits, buffer_bytes, allocation_bytes),
        extensions=extensions,
        has_integer_dot=has_integer_dot,
        missing=missing,
    )


def _limits(raw: Handle, buffer_bytes: int, allocation_bytes: int) -> DeviceLimits:
    return DeviceLimits(
        storage_range_bytes=raw.maxStorageBufferRange,
        allocation_bytes=allocation_bytes,
        buffer_bytes=buffer_bytes,
        storage_alignment=raw.minStorageBufferOffsetAlignment,
        shared_bytes=raw.maxComputeSharedMemorySize,
        workgroup_invocations=raw.maxComputeWorkGroupInvocations,
        workgroup_count_x=raw.maxComputeWorkGroupCount[0],
        push_constant_bytes=raw.maxPushConstantsSize,
        timestamp_period_ns=raw.timestampPeriod,
    )


def _properties(physical: Handle) -> tuple[Handle, Handle, Handle]:
    """Properties of Vulkan 1.1, 1.2 and 1.3."""
    v13 = make("VkPhysicalDeviceVulkan13Properties")
    v12 = make("VkPhysicalDeviceVulkan12Properties", pNext=v13)
    v11 = make("VkPhysicalDeviceVulkan11Properties", pNext=v12)
    lib.vkGetPhysicalDeviceProperties2(physical, make("VkPhysicalDeviceProperties2", pNext=v11))
    return v11, v12, v13


def _missing_features(physical: Handle) -> tuple[str, ...]:
    chained: dict[str, Handle] = {}
    chain = NULL
    for name in REQUIRED_FEATURES:
        if name != "VkPhysicalDeviceFeatures":
            chain = chained[name] = make(name, pNext=chain)
    all_features = make("VkPhysicalDeviceFeatures2", pNext=chain)
    lib.vkGetPhysicalDeviceFeatures2(physical, all_features)
    chained["VkPhysicalDeviceFeatures"] = all_features.features
    return tuple(
        feature
        for struct, features in REQUIRED_FEATURES.items()
        for feature in features
        if not getattr(chained[struct], feature)
    )


def _device_heaps(physical: Handle) -> tuple[int, ...]:
    memory = ffi.new("VkPhysicalDeviceMemoryProperties*")
    lib.vkGetPhysicalDeviceMemoryProperties(physical, memory)
    heaps = [memory.memoryHeaps[i] for i in range(memory.memoryHeapCount)]
    return tuple(heap.size for heap in heaps if heap.flags & vk.VK_MEMORY_HEAP_DEVICE_LOCAL_BIT)
