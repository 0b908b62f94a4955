"""Compiled pipelines kept on disk between runs, one file per device and driver."""

from __future__ import annotations

import hashlib

from target.cache import cache_dir, read_cached, write_cached
from target.vulkan.binding import NULL, Handle, create, ffi, lib, make
from target.vulkan.info import DeviceInfo

_DIGEST_BYTES = 32


class PipelineCache:
    """A VkPipelineCache that starts from the file and is saved to it."""

    def __init__(self, device: Handle, info: DeviceInfo) -> None:
        self._device = device
        name = f"{info.vendor_id:04x}-{info.device_id:04x}-{info.cache_uuid}.bin"
        self._path = cache_dir() / "pipelines" / name
        stored = read_cached(self._path) or b""
        digest, content = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            content = b""  # damaged: drivers trust what they are given
        self._saved_bytes = len(content)
        fields = {"pInitialData": content, "initialDataSize": len(content)} if content else {}
        create_info = make("VkPipelineCacheCreateInfo", **fields)
        self.handle = create("vkCreatePipelineCache", device, create_info, "opening the device")

    def save(self) -> None:
        """Write the file if pipelines were added."""
        size = ffi.new("size_t*")
        if lib.vkGetPipelineCacheData(self._device, self.handle, size, NULL) != 0:
            return
        content = ffi.new("char[]", max(1, size[0]))
        if lib.vkGetPipelineCacheData(self._device, self.handle, size, content) != 0:
            return
        data = bytes(ffi.buffer(content, size[0]))
        if len(data) > self._saved_bytes:
            write_cached(self._path, hashlib.sha256(data).digest() + data)
            self._saved_bytes = len(data)

    def release(self) -> None:
        """Save and destroy."""
        self.save()
        lib.vkDestroyPipelineCache(self._device, self.handle, NULL)
