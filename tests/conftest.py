"""Fixtures every test may use."""

from vulkan_harness import device, shared_device

__all__ = ["device", "shared_device"]
