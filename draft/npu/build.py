"""The array configuration on disk, checked before anything runs: a manifest and its xclbin.

It knows no device. The emulated array needs the manifest alone, which is part of the program; the
xclbin is built by kernels/build.sh.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from draft.npu import layout
from draft.npu.manifest import Manifest, parse
from specdec.assets import asset_dir
from specdec.errors import DeviceError

KERNEL_NAME = "MLIR_AIE"
DESIGN = "draft_array"
FIRST_BUFFER = 3  # kernel argument of the first buffer; before: opcode, instructions, their size
_BUFFERS = ("weights", "io", "kv")


@dataclass(frozen=True, slots=True)
class ArrayBuild:
    """A configuration that fits this program."""

    manifest: Manifest
    path: Path  # what is handed to pyxrt: an xclbin; the emulated array reads the manifest


def find_build() -> ArrayBuild:
    """The compiled configuration; DeviceError if it is missing, damaged or another version's."""
    folder = asset_dir("kernels") / "build"
    path = folder / f"{DESIGN}.xclbin"
    if not path.is_file():
        raise DeviceError(
            f"NPU: {path} does not exist: build it with kernels/build.sh (needs mlir-aie and "
            "Peano), or set draft.device to cpu or npu-emulated"
        )
    manifest = _read(folder / f"{DESIGN}.json")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != manifest.xclbin_sha256:
        raise DeviceError(
            f"NPU: {path} is not the file its manifest describes (sha256 {found[:12]}, manifest "
            f"{manifest.xclbin_sha256[:12] or 'none'}): run kernels/build.sh again"
        )
    return ArrayBuild(manifest, path)


def emulated_build() -> ArrayBuild:
    """The configuration of the emulated array."""
    path = asset_dir("kernels") / f"{DESIGN}.json"
    return ArrayBuild(_read(path), path)


def _read(path: Path) -> Manifest:
    try:
        manifest = parse(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceError(f"NPU: cannot read {path}: {error}: run kernels/build.sh again") from None
    check_manifest(manifest)
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """DeviceError unless the configuration is the one that this program writes streams for."""
    arguments = tuple((entry.name, entry.index, entry.patch) for entry in manifest.arguments)
    expected = tuple((name, FIRST_BUFFER + i, i) for i, name in enumerate(_BUFFERS))
    sizes = {channel.element_bytes for channel in manifest.inputs}
    for what, found, wanted in (
        ("device", manifest.device, "npu1"),
        ("columns", manifest.num_columns, layout.NUM_COLUMNS),
        ("arguments", arguments, expected),
        ("element sizes", sizes, {layout.ELEMENT_BYTES}),
        ("cores", len(manifest.cores), layout.NUM_CORES),
    ):
        if found != wanted:
            raise DeviceError(
                f"NPU: the manifest of {manifest.design} has {what} {found}, this program needs "
                f"{wanted}: run kernels/build.sh again"
            )
