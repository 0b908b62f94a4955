"""Metadata and tensor places of a GGUF file, read with every length checked; it knows no model.

A damaged or hostile header can make a trusting reader loop or allocate without end. This one checks
each length against the file before it uses it, and reads a vocabulary of 262144 in a fraction of a
second; tests hold it against the `gguf` package, which decodes the weights themselves.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from specdec.errors import ModelError

_MAX_TENSORS = 1 << 16
_MAX_FIELDS = 1 << 16
_MAX_ELEMENTS = 1 << 22  # of all arrays together; Gemma's vocabulary has three of 262144
_MAX_DIMENSIONS = 4
_MAX_LENGTH = 1 << 24
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_SCALARS |= {12: "d"}
_TYPE_NAMES = {kind.value: kind.name for kind in gguf.GGMLQuantizationType}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor's entry; `shape` has rows first."""

    name: str
    type_name: str  # as the gguf package calls it, or the number of an unknown type
    shape: tuple[int, ...]
    offset: int  # from the start of the file


@dataclass(frozen=True, slots=True)
class GgufField:
    """One metadata value."""

    value: object

    def contents(self) -> object:
        """The value as Python numbers, strings and lists."""
        return self.value


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """All that stands before the tensors' data."""

    fields: dict[str, GgufField]
    tensors: list[GgufTensor]

    def get_field(self, name: str) -> GgufField | None:
        """A metadata field, as the gguf package's reader gives it."""
        return self.fields.get(name)


def read_header(path: Path) -> GgufHeader:
    """The header of a GGUF file; ModelError unless all its lengths lie within the file."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"{path}: is no GGUF file: it must start with the letters GGUF")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _HeaderReader(path, data).read()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error


class _HeaderReader:
    """A place in the header that only moves forward and never past the end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._at = 4
        self._num_elements = 0

    def read(self) -> GgufHeader:
        version = self._number("I")
        if version not in _VERSIONS:
            raise self._error(f"GGUF version is {version}: it must be 2 or 3, little-endian")
        num_tensors = self._count("Q", _MAX_TENSORS, "tensors")
        num_fields = self._count("Q", _MAX_FIELDS, "metadata fields")
        fields: dict[str, GgufField] = {}
        for _ in range(num_fields):
            name = self._string()
            if name in fields:
                raise self._error(f"metadata field {name[:80]!r} is stored twice")
            fields[name] = GgufField(self._value(self._number("I")))
        entries = [self._tensor() for _ in range(num_tensors)]
        if len({entry.name for entry in entries}) != num_tensors:
            raise self._error("two tensors have the same name")
        alignment = fields.get("general.alignment", GgufField(_DEFAULT_ALIGNMENT)).value
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._error(f"general.alignment is {alignment!r}: it must be a power of two")
        start = -(-self._at // alignment) * alignment
        return GgufHeader(fields, [self._placed(entry, start, alignment) for entry in entries])

    def _tensor(self) -> GgufTensor:
        """An entry whose offset still counts from the start of the data."""
        name = self._string()
        num_dimensions = self._count("I", _MAX_DIMENSIONS, "dimensions")
        lengths = [self._count("Q", _MAX_LENGTH, "rows or columns") for _ in range(num_dimensions)]
        if not lengths:
            raise self._error(f"tensor {name[:80]!r} has no dimensions")
        kind = self._number("I")
        type_name = _TYPE_NAMES.get(kind, f"number {kind}")
        return GgufTensor(name, type_name, tuple(reversed(lengths)), self._number("Q"))

    def _placed(self, entry: GgufTensor, start: int, alignment: int) -> GgufTensor:
        if entry.offset % alignment:
            raise self._error(
                f"tensor {entry.name[:80]!r} starts at {entry.offset}: "
                f"it must be a multiple of {alignment}"
            )
        return GgufTensor(entry.name, entry.type_name, entry.shape, start + entry.offset)

    def _value(self, kind: int) -> object:
        if kind == _ARRAY:
            return self._array()
        return self._string() if kind == _STRING else self._scalar(self._scalar_layout(kind))

    def _array(self) -> list[object]:
        kind = self._number("I")
        length = self._count("Q", _MAX_ELEMENTS - self._num_elements, "array elements")
        self._num_elements += length
        if kind == _STRING:
            return [self._string() for _ in range(length)]
        dtype = np.dtype("<" + self._scalar_layout(kind))
        start = self._skip(length * dtype.itemsize)
        values: list[object] = np.frombuffer(self._data, dtype, length, start).tolist()
        return values

    def _scalar_layout(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self._error(f"a metadata field has type {kind}: it must be 0 to 12, not nested")
        return _SCALARS[kind]

    def _string(self) -> str:
        num_bytes = self._number("Q")
        start = self._skip(num_bytes)
        try:
            return self._data[start : start + num_bytes].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._error(f"a string at byte {start} is not UTF-8: copy it again") from error

    def _count(self, layout: str, most: int, what: str) -> int:
        count = self._number(layout)
        if count > most:
            raise self._error(f"the header counts {count} {what}: the most is {most}")
        return count

    def _number(self, layout: str) -> int:
        number = self._scalar(layout)
        assert isinstance(number, int)
        return number

    def _scalar(self, layout: str) -> object:
        start = self._skip(struct.calcsize("<" + layout))
        (value,) = struct.unpack_from("<" + layout, self._data, start)
        scalar: object = value
        return scalar

    def _skip(self, num_bytes: int) -> int:
        """Step over bytes that lie within the file; returns where they start."""
        start = self._at
        if num_bytes > len(self._data) - start:
            raise self._error(
                f"the header asks for {num_bytes} bytes at byte {start} "
                f"but the file has {len(self._data)}: copy it again"
            )
        self._at += num_bytes
        return start

    def _error(self, what: str) -> ModelError:
        return ModelError(f"{self._path}: {what}")
