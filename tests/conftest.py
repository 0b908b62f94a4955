"""Fixtures every test may use."""

import importlib
from pathlib import Path

import pytest
from vulkan_harness import device, quiet_device, shaders, shared_device

__all__ = ["device", "quiet_device", "shaders", "shared_device"]


@pytest.fixture(autouse=True)
def own_costs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What engines learn of costs in a test stays there: no test, and no user, starts with it."""
    costs = importlib.import_module("specdec.load.costs")  # `specdec.load` is a function's name too
    monkeypatch.setattr(costs, "user_cache_dir", lambda environment: tmp_path / "costs")
