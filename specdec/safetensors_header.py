"""Where the tensors of a safetensors file lie; it reads no tensor and knows no model."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import safetensors

from specdec.errors import ModelError


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: its type in safetensors' terms and its bytes within the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int  # from the start of the file
    num_bytes: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Every tensor of the file by name; the library checks lengths, overlaps and sizes first."""
    try:
        # Refuses truncated files, headers beyond the file, gaps, overlaps and wrong byte counts.
        with safetensors.safe_open(path, framework="np"):
            pass
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(header_bytes))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (safetensors.SafetensorError, ValueError, struct.error, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"{path}: is truncated or no safetensors file ({reason}): copy it again"
        ) from error
    entries = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        entries[name] = TensorEntry(entry["dtype"], shape, 8 + header_bytes + start, end - start)
    return entries
