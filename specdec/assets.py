"""Where shipped kernels, shaders and models lie, read but never imported, and the user's cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def asset_dir(name: str) -> Path:
    """Folder of shipped assets: inside the wheel, or beside the package in a checkout."""
    shipped = _PACKAGE / name
    return shipped if shipped.is_dir() else _PACKAGE.parent / name


def embedded_model_dir(role: str) -> Path:
    """Directory of the shipped pair's model; `role` is "target" or "draft"."""
    return _PACKAGE / "models" / "embedded" / role


def user_cache_dir(environment: Mapping[str, str]) -> Path:
    """`$XDG_CACHE_HOME/specdec`, by default `~/.cache/specdec`."""
    root = environment.get("XDG_CACHE_HOME", "")
    return (Path(root) if root else Path.home() / ".cache") / "specdec"
