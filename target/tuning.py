"""Tunables of the shaders on one device, read from tunings/*.toml; it measures nothing.

What is under [numerics] fixes the order of float sums: `numerics_id` names it, and two runs give
the same bits on a device only if it agrees. Everything under [speed] leaves the bits alone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from target.pass_sizes import BLOCK_ROWS, PREFILL_ROWS
from target.vulkan import DeviceInfo

FORMS = ("lanes", "dot", "matrix", "panel")  # of a product, all with the same bits
MATRICES = ("qkv", "o", "gate_up", "down", "head")

_DIRECTORY = Path(__file__).resolve().parent / "tunings"
_VERSION = 1  # of the arithmetic in shaders/: raised when a shader's order of sums changes


@dataclass(frozen=True, slots=True)
class GemmTuning:
    """One matrix product; only `slices` changes bits."""

    slices: int = 1  # of K
    form: str = ""  # one of FORMS; empty: dot where the device accelerates it, else lanes
    tiles: int = 2  # of 32 rows, for a workgroup or a cluster of 8 lanes
    width: int = 32  # lanes along rows; in a panel all of the workgroup's
    block: int = BLOCK_ROWS  # most rows that share one unpacking of the weights
    unroll: int = 1  # groups of K that are on their way
    subgroup: int = 0  # lanes of a subgroup; 0: the driver's choice


def form_of(tuning: GemmTuning, info: DeviceInfo) -> str:
    """The form that settings lead to on a device: as tuned, where the device has it."""
    if tuning.form in ("matrix", "panel") and not info.has_cooperative_matrix:
        return "dot"
    return tuning.form or ("dot" if info.has_integer_dot else "lanes")


def runnable(tuning: GemmTuning, info: DeviceInfo) -> GemmTuning:
    """The settings with their form on a device; a panel's mean nothing to another form."""
    form = form_of(tuning, info)
    if tuning.form == "panel" != form:
        return GemmTuning(tuning.slices, form, tuning.tiles)
    return replace(tuning, form=form)


@dataclass(frozen=True, slots=True)
class Tuning:
    """Settings for one device."""

    name: str
    products: Mapping[tuple[str, int], GemmTuning]  # by matrix and rows of the pass, PREFILL_ROWS
    attention_chunk: int = 64  # keys
    norm_threads: int = 256  # 64 or 256
    attention_rows: int = 4  # that share one read of the cache
    attention_pass_rows: int = 4  # the same, in passes of 16 rows or less
    attention_shuffle: int = 0
    prefill_rows: int = 64

    def gemm(self, matrix: str, rows: int) -> GemmTuning:
        """Settings of the product with a matrix of MATRICES, for a pass of `rows`.

        Those of the largest size that divides `rows`: blocks of a product must be whole.
        """
        return self.products[matrix, max(size for size in PREFILL_ROWS if rows % size == 0)]

    @property
    def numerics_id(self) -> str:
        """Names every setting that fixes the order of float operations."""
        slices = ",".join(str(self.gemm(matrix, 1).slices) for matrix in MATRICES)
        return (
            f"w4a8-{_VERSION} slices={slices} chunk={self.attention_chunk} norm={self.norm_threads}"
        )


def shipped_tuning(info: DeviceInfo) -> Tuning:
    """Settings from the file whose `match` is part of the device's name, else the generic ones."""
    paths = sorted(_DIRECTORY.glob("*.toml"), key=lambda path: path.stem == "generic")
    for path in paths:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        if any(part.lower() in info.name.lower() for part in content["match"]):
            return parse_tuning(path.stem, content)
    raise AssertionError("generic.toml matches every device")


def parse_tuning(name: str, content: Mapping[str, Any]) -> Tuning:
    """A tuning from a file's content.

    Sections apply in order: [numerics], [speed], then [speed.rowsR] for passes of R rows, where
    larger ones start from those of 16; within one, `product` sets every matrix product,
    then a matrix's own table that one.
    """
    numerics, speed = dict(content["numerics"]), dict(content["speed"])
    by_rows = {rows: speed.pop(f"rows{rows}", {}) for rows in PREFILL_ROWS}
    assert not {"slices"} & {key for table in _tables(speed, *by_rows.values()) for key in table}
    products = {}
    for rows in PREFILL_ROWS:
        for matrix in MATRICES:
            settings: dict[str, Any] = {}
            larger = [by_rows[size] for size in PREFILL_ROWS if BLOCK_ROWS <= size < rows]
            for section in (numerics, speed, *larger, by_rows[rows]):
                settings |= section.get("product", {}) | section.get(matrix, {})
            products[matrix, rows] = GemmTuning(**settings)
    others = {
        key: value for key, value in (numerics | speed).items() if not isinstance(value, dict)
    }
    return Tuning(name, products, **others)


def _tables(*sections: Mapping[str, Any]) -> Iterator[Mapping[str, int]]:
    for section in sections:
        yield from (value for value in section.values() if isinstance(value, dict))
