"""Which settings of a matrix product a device can run, all with the same bits; it times nothing.

The limits are those that the headers of shaders/include/gemm_*.glsl state.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from target.tuning import FORMS, MATRICES, GemmTuning, Tuning, form_of
from target.vulkan import DeviceInfo

FREE_FIELDS = tuple(field.name for field in fields(GemmTuning) if field.name != "slices")

_TILES = (1, 2, 4, 8)
_WIDTHS = (8, 16, 32, 64, 128)
_BLOCKS = (4, 8, 16)
_UNROLLS = (1, 2, 3, 4, 8)
_LANES_VALUES = 32  # M x TILES of form lanes: more compiles for minutes on Mesa's software device
_SOFTWARE_VALUES = 16  # on that device more than this spills, and takes long to compile
_PART_TILES = 16  # parts of a matrix start at multiples of this many tiles
_MATRIX_LANES = 32  # a subgroup of the matrix form


@dataclass(frozen=True, slots=True)
class Product:
    """A product of a pass: which matrix, and how many rows."""

    matrix: str  # of target.tuning.MATRICES
    rows: int

    def __str__(self) -> str:
        return f"{self.matrix} x {self.rows}"


def is_legal(tuning: GemmTuning, product: Product, info: DeviceInfo) -> bool:
    """Whether the device can run a product with these settings."""
    rows = min(product.rows, tuning.block)
    is_whole = (
        product.matrix in MATRICES
        and tuning.form in ("", *FORMS)
        and tuning.tiles in _TILES
        and _PART_TILES % tuning.tiles == 0
        and product.rows % rows == 0
        and not (product.matrix == "gate_up" and tuning.tiles % 2)
    )
    return is_whole and _fits(tuning, rows, info)


def _fits(tuning: GemmTuning, rows: int, info: DeviceInfo) -> bool:
    """Within the limits of the form."""
    form, lanes = form_of(tuning, info), tuning.width * tuning.slices
    subgroups = range(info.subgroup_sizes[1], info.subgroup_sizes[2] + 1)
    if tuning.subgroup and tuning.subgroup not in subgroups:
        return False
    if form == "lanes":
        most = _SOFTWARE_VALUES if info.kind == "software" else _LANES_VALUES
        return rows * tuning.tiles <= most and tuning.width % 8 == 0 and tuning.width <= 128
    if form == "dot":
        shared = 4 * rows * tuning.slices * 32 * tuning.tiles
        return (
            32 * tuning.tiles % tuning.width == 0
            and lanes <= info.limits.workgroup_invocations
            and shared <= info.limits.shared_bytes
        )
    if form == "panel":
        return _panel_fits(tuning, rows, info)
    return (
        tuning.subgroup == _MATRIX_LANES
        and _MATRIX_LANES * tuning.slices <= info.limits.workgroup_invocations
        and tuning.slices * max(96, 64 * tuning.tiles) * 16 <= info.limits.shared_bytes
    )


def _panel_fits(tuning: GemmTuning, rows: int, info: DeviceInfo) -> bool:
    """Within the limits that shaders/include/gemm_panel.glsl states."""
    subgroups = tuning.width // _MATRIX_LANES
    lines = (rows + 32 * tuning.tiles) * (2 * tuning.unroll + 1)
    shared = 16 * max(lines, 16 * (8 * tuning.tiles + 1)) + tuning.unroll * (
        4 * rows + 64 * tuning.tiles
    )
    return (
        tuning.subgroup == _MATRIX_LANES
        and tuning.width % (_MATRIX_LANES * tuning.tiles) == 0
        and rows % 16 == 0
        and rows * tuning.tiles % (8 * subgroups) == 0
        and subgroups % tuning.unroll == 0
        and tuning.width <= info.limits.workgroup_invocations
        and shared <= info.limits.shared_bytes
    )


def neighbours(tuning: GemmTuning, product: Product, info: DeviceInfo) -> Iterator[GemmTuning]:
    """Legal settings that differ in one of what decides the form's speed, the likeliest first."""
    form = form_of(tuning, info)
    choices: dict[str, tuple[int, ...]] = {"tiles": _TILES}
    if form != "lanes":
        choices |= {"unroll": _UNROLLS}
    if form != "matrix":
        choices |= {"width": _WIDTHS}
    if form == "dot":
        choices |= {"subgroup": (0, *_subgroups(info))}
    choices |= {"block": _BLOCKS}
    for name, values in choices.items():
        current = getattr(tuning, name)
        for value in sorted(values, key=lambda value: abs(value - current)):
            if value == current or (name == "block" and _same_rows(value, tuning, product)):
                continue
            changes: dict[str, Any] = {name: value}
            changed = replace(tuning, **changes)
            if is_legal(changed, product, info):
                yield changed


def other_forms(
    tuning: GemmTuning, product: Product, info: DeviceInfo, forms: Collection[str]
) -> Iterator[GemmTuning]:
    """The same in each other of `forms` that the device runs, with settings legal there."""
    current = form_of(tuning, info)
    for form, width, subgroup in (("lanes", 8, 0), ("dot", 32, 0), ("matrix", 32, _MATRIX_LANES)):
        if form == current or form not in forms:
            continue
        base = replace(tuning, form=form, subgroup=subgroup, width=width, unroll=1)
        for tiles, block in ((2, 16), (2, 8), (1, 16), (1, 8)):
            changed = replace(base, tiles=tiles, block=block)
            if is_legal(changed, product, info):
                yield changed
                break


def forms_of(shipped: Tuning, info: DeviceInfo) -> set[str]:
    """Forms worth trying on a device.

    What the elements of a cooperative matrix are is the device's secret, so that form is left to
    devices whose shipped settings have it.
    """
    forms = {form_of(settings, info) for settings in shipped.products.values()} | {"lanes"}
    return forms | {"dot"} if info.has_integer_dot else forms


def _same_rows(block: int, tuning: GemmTuning, product: Product) -> bool:
    """Whether a block makes no difference: passes are smaller than it anyway."""
    return min(block, product.rows) == min(tuning.block, product.rows)


def _subgroups(info: DeviceInfo) -> tuple[int, ...]:
    low, high = info.subgroup_sizes[1:]
    return tuple(size for size in (8, 16, 32, 64) if low <= size <= high) if low < high else ()
