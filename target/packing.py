"""A model's weights on the device: where every matrix lies, and loading it; it runs nothing.

Matrices keep the tile layout of specdec.weights byte for byte: loading is copying, and on unified
memory the copy goes from the mapped file straight into its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specdec.gemma3.loading import MatrixSource
from specdec.weights import Bits, QuantizedMatrix, matrix_sizes, vector_sizes
from target.sizes import MatrixPart, RunSizes, matrix_parts
from target.vulkan import Device, Region, Transfer
from target.vulkan.arena import Arena, lay_out

Progress = Callable[[int, int], None]  # bytes loaded, bytes in all


@dataclass(frozen=True, slots=True)
class PackedPart:
    """Tiles of a matrix in device memory."""

    extent: MatrixPart
    packed: Region
    scales: Region


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A matrix in device memory, in parts of whole tiles that fit a binding each."""

    name: str
    bits: Bits
    num_rows: int
    num_columns: int
    parts: tuple[PackedPart, ...]


class WeightMap:
    """Sizes of all weights of a run on a device, in the order they are stored."""

    def __init__(self, sizes: RunSizes, device: Device) -> None:
        self.sizes = sizes
        memory = device.memory
        self.matrices: dict[str, tuple[MatrixPart, ...]] = {}
        for name, (num_rows, num_columns) in matrix_sizes(sizes.shape).items():
            parts = matrix_parts(num_rows, num_columns, self.bits(name), memory.binding_limit_bytes)
            self.matrices[name] = tuple(parts)
        self.vectors = vector_sizes(sizes.shape)
        self._alignment, self._block_limit = memory.alignment, memory.block_limit_bytes

    def bits(self, name: str) -> Bits:
        """Bits per value of a matrix."""
        return self.sizes.head_bits if name == "embed" else 4

    def region_bytes(self) -> list[int]:
        """Sizes of all regions: values and scales of every part, then the vectors."""
        parts = [part for parts in self.matrices.values() for part in parts]
        regions = [size for part in parts for size in (part.packed_bytes, part.scale_bytes)]
        return regions + [4 * length for length in self.vectors.values()]

    @property
    def total_bytes(self) -> int:
        """Device memory the weights take."""
        return lay_out(self.region_bytes(), self._alignment, self._block_limit).total_bytes


class PackedModel:
    """All weights of one model in device memory."""

    def __init__(
        self, device: Device, weights: WeightMap, source: MatrixSource, progress: Progress
    ) -> None:
        self.sizes = weights.sizes
        self._arena = Arena(device.memory, weights.region_bytes(), "weights")
        self.matrices: dict[str, PackedMatrix] = {}
        self.vectors: dict[str, Region] = {}
        transfer = Transfer(device)
        try:
            regions = iter(self._arena.regions)
            loaded = _Loader(transfer, regions, progress, sum(weights.region_bytes()))
            for name in weights.matrices:
                self.matrices[name] = loaded.matrix(weights, name, source.matrix(name))
            for name in weights.vectors:
                self.vectors[name] = loaded.region(source.vector(name))
            transfer.flush()
        except BaseException:
            transfer.flush()
            self.release()
            raise

    def matrix(self, layer: int, name: str) -> PackedMatrix:
        """A layer's matrix: qkv, o, gate_up or down."""
        return self.matrices[f"layers.{layer}.{name}"]

    def vector(self, layer: int, name: str) -> Region:
        """A layer's norm factors."""
        return self.vectors[f"layers.{layer}.{name}"]

    def release(self) -> None:
        """Free the weights."""
        self._arena.release()


class _Loader:
    """Copies arrays into regions, in order, and tells how far it is."""

    def __init__(
        self, transfer: Transfer, regions: Iterator[Region], progress: Progress, total_bytes: int
    ) -> None:
        self._transfer = transfer
        self._regions = regions
        self._progress = progress
        self._total_bytes = total_bytes
        self._done_bytes = 0

    def matrix(self, weights: WeightMap, name: str, matrix: QuantizedMatrix) -> PackedMatrix:
        """Copy a matrix part by part."""
        assert matrix.bits == weights.bits(name), name
        parts = []
        first = 0
        for extent in weights.matrices[name]:
            stop = first + extent.num_tiles
            packed = self.region(matrix.packed[first:stop])
            parts.append(PackedPart(extent, packed, self.region(matrix.scales[first:stop])))
            first = stop
        return PackedMatrix(name, matrix.bits, matrix.num_rows, matrix.num_columns, tuple(parts))

    def region(self, values: NDArray[np.generic]) -> Region:
        """Copy an array into the next region, which has its size."""
        region = next(self._regions)
        assert region.size_bytes == values.nbytes, "the file and the shape disagree"
        self._transfer.write(region, values)
        self._done_bytes += values.nbytes
        self._progress(self._done_bytes, self._total_bytes)
        return region
