"""The Vulkan instance: the loader's devices, and with validation the layer's messages."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from specdec.errors import DeviceError
from target.vulkan.binding import (
    API_VERSION,
    NULL,
    Handle,
    enumerate_all,
    extension_function,
    ffi,
    lib,
    make,
    text,
    vk,
)
from target.vulkan.info import DeviceInfo, describe

VALIDATION_LAYER = "VK_LAYER_KHRONOS_validation"
DEBUG_UTILS = "VK_EXT_debug_utils"

_log = logging.getLogger(__name__)


class Instance:
    """The VkInstance and, with validation, the listener of the layer's messages."""

    def __init__(self, validation: bool) -> None:
        self.messages: list[str] = []
        layers = [VALIDATION_LAYER] if validation else []
        if validation and VALIDATION_LAYER not in _layer_names():
            raise DeviceError(
                f"run.validation is true but {VALIDATION_LAYER} is not installed: install it "
                "(Debian: vulkan-validationlayers) or set run.validation=false"
            )
        available = _instance_extensions(layers)
        self.has_debug_utils = validation and DEBUG_UTILS in available
        extensions = [DEBUG_UTILS] if self.has_debug_utils else []
        app = make("VkApplicationInfo", pApplicationName="specdec", apiVersion=API_VERSION)
        info = make(
            "VkInstanceCreateInfo",
            pApplicationInfo=app,
            enabledLayerCount=len(layers),
            ppEnabledLayerNames=layers,
            enabledExtensionCount=len(extensions),
            ppEnabledExtensionNames=extensions,
        )
        out = ffi.new("VkInstance[1]")
        result = lib.vkCreateInstance(info, NULL, out)
        if result < 0:
            raise DeviceError(
                "the Vulkan loader found no working driver: install one (Debian: "
                'mesa-vulkan-drivers) or set target.device="reference"'
            )
        self.handle: Handle | None = out[0]
        self._listener: Handle | None = None
        if self.has_debug_utils:
            self._listen()

    def devices(self) -> list[tuple[DeviceInfo, Handle]]:
        """Every physical device with its handle, in the loader's order."""
        handles = enumerate_all("vkEnumeratePhysicalDevices", "VkPhysicalDevice", self.handle)
        return [(describe(index, handle), handle) for index, handle in enumerate(handles)]

    def _listen(self) -> None:
        def hear(_severity: int, _kinds: int, data: Handle, _user: Handle) -> int:
            message = text(data.pMessage)
            self.messages.append(message)
            _log.error("Vulkan validation: %s", message)
            return 0

        self._callback = ffi.callback("PFN_vkDebugUtilsMessengerCallbackEXT", hear)
        info = make(
            "VkDebugUtilsMessengerCreateInfoEXT",
            messageSeverity=vk.VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT
            | vk.VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
            messageType=vk.VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT,
            pfnUserCallback=self._callback,
        )
        out = ffi.new("VkDebugUtilsMessengerEXT[1]")
        extension_function(self.handle, "vkCreateDebugUtilsMessengerEXT")(
            self.handle, info, NULL, out
        )
        self._listener = out[0]

    def release(self) -> None:
        """Destroy the instance; safe to call twice."""
        if self.handle is None:
            return
        if self._listener is not None:
            extension_function(self.handle, "vkDestroyDebugUtilsMessengerEXT")(
                self.handle, self._listener, NULL
            )
        lib.vkDestroyInstance(self.handle, NULL)
        self.handle = None


def _layer_names() -> set[str]:
    layers = enumerate_all("vkEnumerateInstanceLayerProperties", "VkLayerProperties")
    return {text(layer.layerName) for layer in layers}


def _instance_extensions(layers: Sequence[str]) -> set[str]:
    """Extensions of the loader and drivers, and those of `layers`."""
    sources = [NULL, *(ffi.new("char[]", layer.encode()) for layer in layers)]
    return {
        text(entry.extensionName)
        for source in sources
        for entry in enumerate_all(
            "vkEnumerateInstanceExtensionProperties", "VkExtensionProperties", source
        )
    }
