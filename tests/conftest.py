"""Fixtures every test may use."""

from vulkan_harness import device, shaders, shared_device

__all__ = ["device", "shaders", "shared_device"]
