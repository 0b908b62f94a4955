"""Where kernels/, shaders/ and the shipped models live; they are read, never imported."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def asset_dir(name: str) -> Path:
    """Folder of shipped assets: inside the wheel, or beside the package in a checkout."""
    shipped = _PACKAGE / name
    return shipped if shipped.is_dir() else _PACKAGE.parent / name


def embedded_model_dir(role: str) -> Path:
    """Directory of the shipped pair's model; `role` is "target" or "draft"."""
    return _PACKAGE / "models" / "embedded" / role
