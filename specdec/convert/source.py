"""A model to be imported: its shape and where its tensors lie; it knows no file format's header.

Importers name tensors by role: `embed`, `layers.I.{q,k,v,o,gate,up,down}` and the vectors of
specdec.weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from specdec.convert.encodings import Encoding, RawRows, decode
from specdec.errors import ModelError
from specdec.gemma3.shape import Gemma3Shape
from specdec.weights import vector_sizes

_READ_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """One tensor in a file; rows are contiguous. Bytes are read, not mapped: see `read_rows`."""

    name: str  # in the source's own terms, for messages
    shape: tuple[int, ...]
    encoding: Encoding
    path: Path
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.encoding.row_bytes(self.shape[-1])

    def read_rows(self, start: int, stop: int) -> RawRows:
        """Encoded rows. Mapped pages would count as memory of this process, so none are used."""
        raw = np.empty((stop - start, self.row_bytes), np.uint8)
        target = raw.data.cast("B")
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset + start * self.row_bytes)
            while target:
                num_read = file.readinto(target[:_READ_BYTES])
                if not num_read:
                    raise ModelError(f"{self.path}: ends within {self.name}: copy the file again")
                target = target[num_read:]
        return raw

    def read_vector(self) -> NDArray[np.float32]:
        """All weights of a vector."""
        vector: NDArray[np.float32] = decode(self.encoding, self.read_rows(0, 1))[0]
        if not np.isfinite(vector).all():
            raise ModelError(f"{self.path}: {self.name} holds NaN or infinity: get a sound copy")
        return vector


@dataclass(frozen=True, slots=True)
class SourceModel:
    """What an importer hands over: everything the converted directory is made from."""

    kind: Literal["huggingface", "gguf"]
    name: str
    shape: Gemma3Shape
    bos_id: int
    eos_ids: tuple[int, ...]
    chat_template: str | None
    tokenizer: bytes | None  # a serialized sentencepiece model, if the source has one
    tensors: Mapping[str, SourceTensor]  # by role
    norm_offset: float  # what to add to stored norm weights: 1 where Gemma's 1 + w is not applied
    files: tuple[Path, ...]  # all that the source's hash covers
    skipped_tensors: tuple[str, ...] = ()


def role_sizes(shape: Gemma3Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every role and the shape its tensor must have."""
    hidden, ffn = shape.hidden_size, shape.intermediate_size
    yield "embed", (shape.vocab_size, hidden)
    for layer in range(shape.num_layers):
        yield f"layers.{layer}.q", (shape.query_size, hidden)
        yield f"layers.{layer}.k", (shape.kv_size, hidden)
        yield f"layers.{layer}.v", (shape.kv_size, hidden)
        yield f"layers.{layer}.o", (hidden, shape.query_size)
        yield f"layers.{layer}.gate", (ffn, hidden)
        yield f"layers.{layer}.up", (ffn, hidden)
        yield f"layers.{layer}.down", (hidden, ffn)
    for name, length in vector_sizes(shape).items():
        yield name, (length,)


def check_tensors(
    where: Path, shape: Gemma3Shape, tensors: Mapping[str, SourceTensor], names: Mapping[str, str]
) -> None:
    """ModelError unless every role has its tensor in the right shape.

    `names` gives the source's own name of a role, for the message.
    """
    for role, expected in role_sizes(shape):
        tensor = tensors.get(role)
        if tensor is None:
            raise ModelError(f"{where}: tensor {names[role]} is missing: the model is incomplete")
        if tensor.shape != expected:
            raise ModelError(
                f"{tensor.path}: {tensor.name} has shape {list(tensor.shape)}: "
                f"the config asks for {list(expected)}"
            )
        if tensor.shape[-1] % tensor.encoding.block_length:
            raise ModelError(
                f"{tensor.path}: rows of {tensor.name} have {tensor.shape[-1]} weights: "
                f"{tensor.encoding.value} needs a multiple of {tensor.encoding.block_length}"
            )
        _check_bytes_in_file(tensor)


def _check_bytes_in_file(tensor: SourceTensor) -> None:
    num_rows = tensor.shape[0] if len(tensor.shape) == 2 else 1
    end = tensor.offset + num_rows * tensor.row_bytes
    size = os.stat(tensor.path).st_size
    if end > size:
        raise ModelError(
            f"{tensor.path}: {tensor.name} ends at byte {end} but the file has {size}: "
            "copy the file again"
        )
