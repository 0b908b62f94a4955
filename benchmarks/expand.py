"""A small converted model in a larger one's shape, computing the same function; knows no device.

    python benchmarks/expand.py OUT [--shape 27b] [--layers 65] [--source DIR]

What it costs to run is the large model's, what it says is the small one's: so a speculative run
at 27B's cost can be measured with a draft and a target that were trained together. How:

- The small model's width D lies in the first columns of the large width W, the rest is zero. The
  embedding is multiplied by sqrt(W) instead of sqrt(D), so the residual stream is s = sqrt(W / D)
  times the small one's. Its mean square over W columns is then the small one's over D, and norms
  before a matrix are divided by s. A matrix's output is not scaled, so its mean square is D / W of
  the small one's: with eps x D / W the norm after it is s times the small one's, as it must be.
- Further heads and inner columns hold random weights; the columns of `o` and `down` that read them
  have scale 0, and so have all rows beyond D.
- Further layers hold random weights; the factors of their post-norms are 0.

Left small: the vocabulary (a tokenizer's padding is bounded), whose head is 5 % of 27B's bytes:
three layers more than 27B's 62 stand for it. The window and positions are the small model's.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
from bench_target import SHAPES
from numpy.typing import NDArray

from specdec.assets import embedded_model_dir
from specdec.checkpoint import (
    CONFIG_NAME,
    Checkpoint,
    info_to_json,
    open_checkpoint,
    stored_bits,
    stored_tensors,
)
from specdec.convert.shards import ShardWriter
from specdec.convert.staging import staged_directory
from specdec.errors import UsageError
from specdec.gemma3.loading import MatrixSource
from specdec.gemma3.named import gemma3_layers
from specdec.gemma3.shape import GROUP, Gemma3Shape
from specdec.weights import TILE_ROWS, Bits, QuantizedMatrix, matrix_sizes, vector_sizes

LAYERS_FOR_A_HEAD = 3  # whose bytes are about those of a head of 262,208 rows at 27B's width
_RANDOM_BYTES = 1 << 22  # repeated: time does not depend on values
_WRITERS = 8


@dataclass(frozen=True, slots=True)
class TileBlock:
    """Tiles of a small matrix and where they go in the large one."""

    first_from: int
    first_to: int
    count: int


def expanded_shape(small: Gemma3Shape, sizes: Gemma3Shape) -> Gemma3Shape:
    """The shape of `small` with the widths, heads and layers of `sizes`.

    UsageError where `small` does not fit into it.
    """
    if small.head_dim != sizes.head_dim or small.head_dim % TILE_ROWS:
        raise UsageError(
            f"head_dim is {small.head_dim} and {sizes.head_dim}: both must be one multiple of 32"
        )
    if small.num_heads * sizes.num_kv_heads != sizes.num_heads * small.num_kv_heads:
        raise UsageError("query heads per key head differ: choose shapes in which they are equal")
    if sizes.is_global_layer[: small.num_layers] != small.is_global_layer:
        raise UsageError("the first layers are not local and global alike: choose another shape")
    for name in ("hidden_size", "intermediate_size", "num_kv_heads"):
        if getattr(small, name) > getattr(sizes, name):
            raise UsageError(f"{name} is {getattr(small, name)}, above {getattr(sizes, name)}")
    return replace(
        small,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_heads=sizes.num_heads,
        num_kv_heads=sizes.num_kv_heads,
        is_global_layer=sizes.is_global_layer,
        rms_norm_eps=small.rms_norm_eps * small.hidden_size / sizes.hidden_size,
    )


class Expanded:
    """A MatrixSource of shape `large` that computes what `source` of shape `small` does."""

    def __init__(
        self, source: MatrixSource, small: Gemma3Shape, large: Gemma3Shape, head_bits: Bits
    ) -> None:
        self._source, self._small, self._large = source, small, large
        self._head_bits = head_bits
        self._sizes, self._lengths = matrix_sizes(large), vector_sizes(large)
        self._random: dict[str, QuantizedMatrix] = {}  # by kind
        self._lock = Lock()

    def matrix(self, name: str) -> QuantizedMatrix:
        """A packed matrix by name: the small model's tiles among random ones."""
        kind = name.rpartition(".")[2]
        with self._lock:
            if kind not in self._random:
                self._random[kind] = self._random_matrix(name)
        random = self._random[kind]
        if not self._is_of_small(name):
            return random
        packed = random.packed.copy()
        nulled = kind in ("embed", "o", "down")
        scales = np.zeros_like(random.scales) if nulled else random.scales.copy()
        small = self._source.matrix(name)
        for block in self._blocks(kind, len(small.scales)):
            taken = slice(block.first_from, block.first_from + block.count)
            place = slice(block.first_to, block.first_to + block.count)
            width = small.scales.shape[1]
            packed[place, :width] = small.packed[taken]
            scales[place, :width] = small.scales[taken]
        return replace(random, packed=packed, scales=scales)

    def _random_matrix(self, name: str) -> QuantizedMatrix:
        """Random values of the large shape: further layers share one per kind."""
        num_rows, num_columns = self._sizes[name]
        bits = stored_bits(name, self._head_bits)
        tiles, groups = -(-num_rows // TILE_ROWS), num_columns // GROUP
        rng = np.random.default_rng(num_columns)
        inner = (TILE_ROWS, 16) if bits == 4 else (2, TILE_ROWS, 16)
        values = np.resize(rng.integers(0, 256, _RANDOM_BYTES, np.uint8), (tiles, groups, *inner))
        scales = rng.uniform(0.5, 1.5, (tiles, groups, TILE_ROWS)) / (8 * num_columns)
        packed = values if bits == 4 else values.view(np.int8)
        return QuantizedMatrix(bits, num_rows, num_columns, packed, scales.astype(np.float16))

    def vector(self, name: str) -> NDArray[np.float32]:
        """A norm's factors; those of further layers' post-norms are 0."""
        kind = name.rpartition(".")[2]
        is_after = kind.startswith("post_") and kind != "final_norm"
        vector = np.full(self._lengths[name], 0.0 if is_after else 1.0, np.float32)
        if self._is_of_small(name):
            small = self._source.vector(name)
            vector[: len(small)] = small
        if len(vector) == self._large.hidden_size and not is_after:
            vector *= np.float32(np.sqrt(self._small.hidden_size / self._large.hidden_size))
        return vector

    def _is_of_small(self, name: str) -> bool:
        parts = name.split(".")
        return parts[0] != "layers" or int(parts[1]) < self._small.num_layers

    def _blocks(self, kind: str, num_tiles: int) -> Iterator[TileBlock]:
        """Where tiles of a small matrix go; of `qkv`, the keys follow all of the query heads."""
        if kind != "qkv":
            yield TileBlock(0, 0, num_tiles)
            return
        first_from = first_to = 0
        for size in ("query_size", "kv_size", "kv_size"):
            count, room = (getattr(s, size) // TILE_ROWS for s in (self._small, self._large))
            yield TileBlock(first_from, first_to, count)
            first_from, first_to = first_from + count, first_to + room


def write_expanded(source: Checkpoint, sizes: Gemma3Shape, out: Path) -> int:
    """Write `source` in the shape of `sizes` as a converted model; returns the bytes of weights."""
    info = source.info
    large = expanded_shape(info.shape, sizes)
    matrices = Expanded(source, info.shape, large, info.head_bits)
    digest = hashlib.sha256(f"{info.source_sha256} {large}".encode()).hexdigest()
    new_info = replace(
        info, shape=large, source_sha256=digest, source_name=f"{info.source_name} expanded"
    )
    with (
        staged_directory(out) as staging,
        ShardWriter(staging, stored_tensors(large, info.head_bits)) as shards,
        ThreadPoolExecutor(_WRITERS) as pool,
    ):

        def write_matrix(name: str) -> None:
            matrix = matrices.matrix(name)
            shards.write(f"{name}.int{matrix.bits}", 0, matrix.packed)
            shards.write(f"{name}.scales", 0, matrix.scales)

        for _ in pool.map(write_matrix, matrix_sizes(large)):
            pass
        for name in vector_sizes(large):
            shards.write(name, 0, matrices.vector(name))
        shutil.copy(source.directory / "tokenizer.model", staging)
        (staging / CONFIG_NAME).write_text(info_to_json(new_info))
        return shards.size_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="directory to make, best in memory (/dev/shm)")
    parser.add_argument("--shape", choices=SHAPES, default="27b")
    parser.add_argument("--layers", type=int, default=0, help="default: 3 more, for the head")
    parser.add_argument("--source", type=Path, default=embedded_model_dir("target"))
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    num_layers = args.layers or shape.num_layers + LAYERS_FOR_A_HEAD
    start = time.perf_counter()
    sizes = replace(shape, is_global_layer=gemma3_layers(num_layers))
    written = write_expanded(open_checkpoint(args.source), sizes, args.out)
    elapsed_s = time.perf_counter() - start
    print(f"{args.out}: {written / 1e9:.2f} GB, {num_layers} layers, in {elapsed_s:.1f} s")


if __name__ == "__main__":
    main()
