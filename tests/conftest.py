"""Fixtures every test may use."""

from vulkan_harness import device, quiet_device, shaders, shared_device

__all__ = ["device", "quiet_device", "shaders", "shared_device"]
