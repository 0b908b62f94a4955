"""Tunables of the shaders on one device, read from tunings/*.toml; it measures nothing.

What is under [numerics] fixes the order of float sums: `numerics_id` names it, and two runs give
the same bits on a device only if it agrees. Everything under [speed] leaves the bits alone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from target.vulkan import DeviceInfo

MATRICES = ("qkv", "o", "gate_up", "down", "head")

_DIRECTORY = Path(__file__).resolve().parent / "tunings"
_VERSION = 1  # of the arithmetic in shaders/: raised when a shader's order of sums changes


@dataclass(frozen=True, slots=True)
class GemmTuning:
    """One matrix product; only `slices` changes bits."""

    slices: int = 1  # of K
    tiles: int = 2  # of 32 rows, for a workgroup or a cluster of 8 lanes
    width: int = 32  # lanes along rows
    unroll: int = 1  # groups of K in flight


@dataclass(frozen=True, slots=True)
class Tuning:
    """Settings for one device."""

    name: str
    products: Mapping[str, GemmTuning] = field(default_factory=dict)
    attention_chunk: int = 64  # keys
    attention_rows: int = 4  # that share one read of the cache
    attention_shuffle: int = 0
    prefill_rows: int = 64

    def gemm(self, matrix: str) -> GemmTuning:
        """Settings of the product with a matrix of MATRICES."""
        return self.products[matrix]

    @property
    def numerics_id(self) -> str:
        """Names every setting that fixes the order of float operations."""
        slices = ",".join(str(self.gemm(matrix).slices) for matrix in MATRICES)
        return f"w4a8-{_VERSION} slices={slices} chunk={self.attention_chunk}"


def tuning_for(info: DeviceInfo) -> Tuning:
    """Settings from the file whose `match` is part of the device's name, else the generic ones."""
    paths = sorted(_DIRECTORY.glob("*.toml"), key=lambda path: path.stem == "generic")
    for path in paths:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        if any(part.lower() in info.name.lower() for part in content["match"]):
            return parse_tuning(path.stem, content)
    raise AssertionError("generic.toml matches every device")


def parse_tuning(name: str, content: Mapping[str, Any]) -> Tuning:
    """A tuning from a file's content; a matrix's own settings stand over those of `product`."""
    products = {matrix: GemmTuning() for matrix in MATRICES}
    settings: dict[str, int] = {}
    for section in ("numerics", "speed"):
        for key, value in content[section].items():
            if key == "product":
                products = {matrix: replace(gemm, **value) for matrix, gemm in products.items()}
            elif key in products:
                products[key] = replace(products[key], **value)
            else:
                settings[key] = value
    return Tuning(name, products, **settings)
