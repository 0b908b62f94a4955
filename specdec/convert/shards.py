"""Safetensors files written piece by piece from several threads; it knows no model.

Sizes are known beforehand, so the headers come first and each piece goes straight to its place.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from specdec.checkpoint import StoredType, shard_name

_ITEM_BYTES = {"U8": 1, "I8": 1, "F16": 2, "F32": 4}
_SHARD_BYTES = 2 << 30
_ALIGNMENT = 64  # of the data's start: one cache line

Stored = tuple[StoredType, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Place:
    handle: int
    offset: int
    num_bytes: int


class ShardWriter:
    """Open files with room for every tensor; `write` fills them in any order."""

    def __init__(
        self, directory: Path, tensors: Mapping[str, Stored], shard_bytes: int = _SHARD_BYTES
    ) -> None:
        self._places: dict[str, _Place] = {}
        self._handles: list[int] = []
        self.size_bytes = 0
        groups = _grouped(tensors, shard_bytes)
        for index, names in enumerate(groups):
            path = directory / shard_name(index, len(groups))
            self._open(path, {name: tensors[name] for name in names})

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            os.close(handle)

    def write(self, name: str, first_byte: int, array: NDArray[np.generic]) -> None:
        """Put an array's bytes into a tensor, from its `first_byte` on."""
        place = self._places[name]
        assert first_byte + array.nbytes <= place.num_bytes, f"{name} is written past its end"
        data = memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        offset = place.offset + first_byte
        while data:
            num_written = os.pwrite(place.handle, data, offset)
            data, offset = data[num_written:], offset + num_written

    def sync(self) -> None:
        """Make all that was written last through a power cut."""
        for handle in self._handles:
            os.fsync(handle)

    def _open(self, path: Path, tensors: Mapping[str, Stored]) -> None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self._handles.append(handle)
        header, offsets = _header(tensors)
        for name, (start, end) in offsets.items():
            self._places[name] = _Place(handle, len(header) + start, end - start)
        size = len(header) + max(end for _, end in offsets.values())
        os.posix_fallocate(handle, 0, size)  # a full disk shows here and not after an hour
        os.pwrite(handle, header, 0)
        self.size_bytes += size


def stored_bytes(stored: Stored) -> int:
    """Bytes of one tensor."""
    dtype, shape = stored
    return _ITEM_BYTES[dtype] * math.prod(shape)


def _grouped(tensors: Mapping[str, Stored], shard_bytes: int) -> list[list[str]]:
    """Names per file: in order, each file as full as it may be, at least one tensor in each."""
    groups: list[list[str]] = []
    room = 0
    for name, stored in tensors.items():
        size = stored_bytes(stored)
        if not groups or size > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append(name)
        room -= size
    return groups


def _header(tensors: Mapping[str, Stored]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The file's first bytes, and where each tensor lies after them."""
    entries: dict[str, object] = {"__metadata__": {"format": "specdec"}}
    offsets = {}
    at = 0
    for name, (dtype, shape) in tensors.items():
        end = at + stored_bytes((dtype, shape))
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        offsets[name] = (at, end)
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, offsets
