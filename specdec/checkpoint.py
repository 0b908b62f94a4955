"""Reading a converted model directory (layout: specdec.weights) as memory maps; no arithmetic."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from specdec.errors import ModelError
from specdec.fields import Fields, read_json_object
from specdec.gemma3.shape import GROUP, Gemma3Shape
from specdec.safetensors_header import TensorEntry, read_header
from specdec.weights import TILE_ROWS, Bits, QuantizedMatrix, matrix_sizes, vector_sizes

FORMAT_VERSION = 1
CONFIG_NAME = "config.json"

_MAX_SIZE = 1 << 24  # of any length in a shape: keeps products far below 2^63
_MAX_LAYERS = 1024
_EXPONENT_FLOAT16 = 0x7C00  # all ones: infinity or not a number
_DTYPES = {"U8": np.uint8, "I8": np.int8, "F16": np.float16, "F32": np.float32}
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")

AnyArray = NDArray[np.uint8] | NDArray[np.int8] | NDArray[np.float16] | NDArray[np.float32]
StoredType = Literal["U8", "I8", "F16", "F32"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What config.json says."""

    shape: Gemma3Shape
    bos_id: int
    eos_ids: tuple[int, ...]
    source_name: str
    source_sha256: str
    head_bits: Bits = 8
    chat_template: str | None = None


class Checkpoint:
    """One converted model; tensors are memory-mapped views, nothing is copied."""

    def __init__(self, info: ModelInfo, directory: Path, tensors: Mapping[str, AnyArray]) -> None:
        self.info = info
        self.directory = directory
        self._tensors = tensors
        self._sizes = matrix_sizes(info.shape)

    def matrix(self, name: str) -> QuantizedMatrix:
        """A packed matrix by name, e.g. `layers.0.qkv`."""
        num_rows, num_columns = self._sizes[name]
        bits = stored_bits(name, self.info.head_bits)
        scales = self._tensors[f"{name}.scales"].view(np.float16)
        if ((scales.view(np.uint16) & _EXPONENT_FLOAT16) == _EXPONENT_FLOAT16).any():
            raise ModelError(f"{self.directory}: {name}.scales holds NaN or inf: convert again")
        packed = self._tensors[f"{name}.int{bits}"]
        integers = packed.view(np.uint8) if bits == 4 else packed.view(np.int8)
        return QuantizedMatrix(bits, num_rows, num_columns, integers, scales)

    def vector(self, name: str) -> NDArray[np.float32]:
        """A float32 vector by name, e.g. `final_norm`."""
        vector = self._tensors[name].view(np.float32)
        if not np.isfinite(vector).all():
            raise ModelError(f"{self.directory}: {name} holds NaN or infinity: convert again")
        return vector


def open_checkpoint(directory: Path) -> Checkpoint:
    """Open and validate a directory made by `specdec convert`; ModelError says what is wrong."""
    if not directory.is_dir():
        raise ModelError(f"{directory}: no such directory: name one made by `specdec convert`")
    info = read_info(directory)
    expected = stored_tensors(info.shape, info.head_bits)
    tensors: dict[str, AnyArray] = {}
    for path in _shards(directory):
        entries = read_header(path)
        data = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        for name, entry in entries.items():
            if name not in expected or name in tensors:
                raise ModelError(f"{path}: tensor {name[:80]!r} does not belong to this model")
            tensors[name] = _view(path, name, entry, expected[name], data)
    missing = next((name for name in expected if name not in tensors), None)
    if missing is not None:
        raise ModelError(f"{directory}: tensor {missing} is missing: convert the model again")
    return Checkpoint(info, directory, tensors)


def stored_bits(matrix: str, head_bits: Bits) -> Bits:
    """Bits per value of a matrix: the embedding, which is also the head, has its own."""
    return head_bits if matrix == "embed" else 4


def stored_tensors(
    shape: Gemma3Shape, head_bits: Bits
) -> dict[str, tuple[StoredType, tuple[int, ...]]]:
    """Type and shape of every tensor in a converted model's files, by name."""
    tensors: dict[str, tuple[StoredType, tuple[int, ...]]] = {}
    for name, (num_rows, num_columns) in matrix_sizes(shape).items():
        tiles, groups = -(-num_rows // TILE_ROWS), num_columns // GROUP
        if stored_bits(name, head_bits) == 4:
            tensors[f"{name}.int4"] = ("U8", (tiles, groups, TILE_ROWS, GROUP // 2))
        else:
            tensors[f"{name}.int8"] = ("I8", (tiles, groups, 2, TILE_ROWS, GROUP // 2))
        tensors[f"{name}.scales"] = ("F16", (tiles, groups, TILE_ROWS))
    for name, length in vector_sizes(shape).items():
        tensors[name] = ("F32", (length,))
    return tensors


def read_info(directory: Path) -> ModelInfo:
    """What config.json of a converted directory says, checked."""
    fields = read_json_object(directory / CONFIG_NAME)
    if "format_version" not in fields:
        raise ModelError(
            f"{fields.where}: has no format_version: make the directory with `specdec convert`"
        )
    version = fields.integer("format_version", 0, 1 << 30)
    if version != FORMAT_VERSION:
        raise ModelError(
            f"{fields.where}: format_version is {version}, this program reads {FORMAT_VERSION}: "
            "convert the model again"
        )
    shape = _read_shape(fields)
    last_id = shape.vocab_size - 1
    return ModelInfo(
        shape=shape,
        bos_id=fields.integer("bos_id", 0, last_id),
        eos_ids=fields.integers("eos_ids", 0, last_id),
        source_name=fields.text("source_name"),
        source_sha256=fields.text("source_sha256"),
        head_bits=_read_head_bits(fields),
        chat_template=fields.text_if_any("chat_template"),
    )


def info_to_json(info: ModelInfo) -> str:
    """The text of config.json for `read_info`; every shape field lies at the top level."""
    values = dataclasses.asdict(info)
    shape = values.pop("shape")
    head = f"int{info.head_bits}"
    quantization = {"embed": head, "layers": "int4", "norms": "float32", "group": GROUP}
    document = {"format_version": FORMAT_VERSION, **shape, **values, "quantization": quantization}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def check_shape(shape: Gemma3Shape, where: str) -> None:
    """ModelError if the sizes do not fit together or not the group of 32 columns."""
    for name in ("hidden_size", "intermediate_size", "query_size"):
        size = getattr(shape, name)
        if size % GROUP:
            raise ModelError(f"{where}: {name} is {size}: it must be a multiple of {GROUP}")
    if shape.num_heads % shape.num_kv_heads:
        raise ModelError(
            f"{where}: {shape.num_heads} heads cannot share {shape.num_kv_heads} KV heads: "
            "the first must be a multiple of the second"
        )
    if shape.head_dim % 2:
        raise ModelError(f"{where}: head_dim is {shape.head_dim}: it must be even")


def read_sizes(fields: Fields, name: str, default: int | None = None) -> int:
    """One length of a shape."""
    return fields.integer(name, 1, _MAX_SIZE, default)


def check_num_layers(num_layers: int, where: str) -> int:
    """The number of layers, if it is one that a model can have."""
    if not 1 <= num_layers <= _MAX_LAYERS:
        raise ModelError(f"{where}: {num_layers} layers: there must be 1 to {_MAX_LAYERS}")
    return num_layers


def _read_shape(fields: Fields) -> Gemma3Shape:
    """The shape in a converted directory's config.json."""
    layers = fields.items("is_global_layer")
    check_num_layers(len(layers), fields.where)
    if not all(isinstance(is_global, bool) for is_global in layers):
        raise fields.error("is_global_layer", "a list of true and false")
    shape = Gemma3Shape(
        vocab_size=read_sizes(fields, "vocab_size"),
        hidden_size=read_sizes(fields, "hidden_size"),
        intermediate_size=read_sizes(fields, "intermediate_size"),
        num_heads=read_sizes(fields, "num_heads"),
        num_kv_heads=read_sizes(fields, "num_kv_heads"),
        head_dim=read_sizes(fields, "head_dim"),
        context_length=read_sizes(fields, "context_length"),
        sliding_window=read_sizes(fields, "sliding_window"),
        is_global_layer=tuple(bool(is_global) for is_global in layers),
        query_pre_attn_scalar=fields.number("query_pre_attn_scalar"),
        rms_norm_eps=fields.number("rms_norm_eps"),
        rope_theta_global=fields.number("rope_theta_global"),
        rope_theta_local=fields.number("rope_theta_local"),
        rope_scaling_factor=fields.number("rope_scaling_factor"),
    )
    check_shape(shape, fields.where)
    return shape


def _read_head_bits(fields: Fields) -> Bits:
    bits = fields.integer("head_bits", 4, 8)
    if bits not in (4, 8):
        raise fields.error("head_bits", "4 or 8")
    return 4 if bits == 4 else 8


def _shards(directory: Path) -> list[Path]:
    """Every model-0000i-of-0000N.safetensors, all N of them."""
    matches = [match for path in directory.iterdir() if (match := _SHARD.fullmatch(path.name))]
    if not matches:
        raise ModelError(f"{directory}: holds no model-*.safetensors: convert the model again")
    total = max(int(match[2]) for match in matches)
    paths = [directory / shard_name(index, total) for index in range(len(matches))]
    for path in paths:
        if not path.is_file() or len(matches) != total:
            raise ModelError(
                f"{directory}: has {len(matches)} model files where {total} belong: copy it again"
            )
    return paths


def shard_name(index: int, num_shards: int) -> str:
    """File name of one shard; counted from 1 as the wider world does."""
    return f"model-{index + 1:05d}-of-{num_shards:05d}.safetensors"


def _view(
    path: Path,
    name: str,
    entry: TensorEntry,
    expected: tuple[StoredType, tuple[int, ...]],
    data: NDArray[np.uint8],
) -> AnyArray:
    """The tensor's bytes in the mapped file, typed."""
    if (entry.dtype, entry.shape) != expected:
        raise ModelError(
            f"{path}: {name} is {entry.dtype} {list(entry.shape)}: "
            f"it must be {expected[0]} {list(expected[1])}"
        )
    array = data[entry.offset : entry.offset + entry.num_bytes]
    if entry.offset % 4:
        raise ModelError(f"{path}: {name} is not aligned to 4 bytes: convert the model again")
    typed: AnyArray = array.view(_DTYPES[entry.dtype]).reshape(entry.shape)
    return typed
