"""What an array configuration looks like from the shim: read and checked, never changed.

kernels/designs writes it beside the xclbin; the runtime checks it before it runs, and the emulated
array is built from it. It knows no files and no devices.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from specdec.errors import DeviceError

FORMAT = 1
Tile = tuple[int, int]  # column, row


@dataclass(frozen=True, slots=True)
class Argument:
    """A buffer of the kernel call, in order."""

    name: str
    index: int  # of the kernel's arguments; 0 opcode, 1 instructions, 2 their size
    patch: int  # what an address patch of the instruction stream calls it


@dataclass(frozen=True, slots=True)
class Channel:
    """A shim channel and the cores behind it, in stream order."""

    fifo: str
    column: int
    channel: int
    cores: tuple[Tile, ...]
    element_bytes: int
    is_rows: bool = False  # of an output: whole elements of one core, else joined tiles


@dataclass(frozen=True, slots=True)
class Core:
    """A core, its place in the pair that shares a channel, and its budgets."""

    tile: Tile
    is_vector: bool
    is_second: bool
    data_bytes: int
    program_bytes_estimate: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One array configuration."""

    design: str
    device: str
    num_columns: int
    arguments: tuple[Argument, ...]
    inputs: tuple[Channel, ...]
    outputs: tuple[Channel, ...]
    cores: tuple[Core, ...]
    source_hashes: dict[str, str]  # sha256 of the kernels by path below kernels/
    xclbin_sha256: str = ""  # written by kernels/build.sh; the emulated array has no xclbin

    def check_sources(self, found: dict[str, str]) -> None:
        """Raise DeviceError unless the kernels found are those the configuration was made of."""
        for name, expected in self.source_hashes.items():
            if found.get(name) != expected:
                raise DeviceError(
                    f"{name} is not the source that {self.design} was built from "
                    f"(sha256 {found.get(name, 'missing')[:12]}, the manifest says "
                    f"{expected[:12]}): run kernels/build.sh again"
                )


def parse(text: str) -> Manifest:
    """Read a manifest; DeviceError names what is wrong with it."""
    try:
        found: dict[str, Any] = json.loads(text)
        if found["format"] != FORMAT:
            raise DeviceError(
                f"manifest format {found['format']}: this version reads {FORMAT}; "
                "run kernels/build.sh again"
            )
        return Manifest(
            design=str(found["design"]),
            device=str(found["device"]),
            num_columns=int(found["num_columns"]),
            arguments=tuple(Argument(**entry) for entry in found["arguments"]),
            inputs=tuple(_channel(entry) for entry in found["inputs"]),
            outputs=tuple(_channel(entry) for entry in found["outputs"]),
            cores=tuple(
                Core(**{**entry, "tile": _tile(entry["tile"])}) for entry in found["cores"]
            ),
            source_hashes=dict(found["source_hashes"]),
            xclbin_sha256=str(found.get("xclbin_sha256", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DeviceError(
            f"manifest is not readable ({type(error).__name__}: {error}); "
            "run kernels/build.sh again"
        ) from None


def _tile(value: list[int]) -> Tile:
    column, row = value
    return column, row


def _channel(entry: dict[str, Any]) -> Channel:
    return Channel(**{**entry, "cores": tuple(map(_tile, entry["cores"]))})
