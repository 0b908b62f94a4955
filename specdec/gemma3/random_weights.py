"""Weights of any shape that mean nothing, for timing a model without its files.

Time does not depend on values, so one random tile is repeated, which takes no memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specdec.gemma3.shape import Gemma3Shape
from specdec.weights import Bits, QuantizedMatrix, matrix_sizes, vector_sizes


@dataclass(frozen=True, slots=True)
class RandomWeights:
    """A MatrixSource whose matrices repeat one random tile."""

    shape: Gemma3Shape
    head_bits: Bits

    def matrix(self, name: str) -> QuantizedMatrix:
        """A packed matrix by name."""
        num_rows, num_columns = matrix_sizes(self.shape)[name]
        bits: Bits = self.head_bits if name == "embed" else 4
        tiles, groups = -(-num_rows // 32), num_columns // 32
        rng = np.random.default_rng(groups)
        tile = (groups, 32, 16) if bits == 4 else (groups, 2, 32, 16)
        packed = rng.integers(0, 256, tile, np.uint8)
        scales = rng.uniform(0.5, 1.5, (groups, 32)) / (8 if bits == 4 else 128) / groups
        return QuantizedMatrix(
            bits,
            num_rows,
            num_columns,
            np.broadcast_to(packed if bits == 4 else packed.view(np.int8), (tiles, *tile)),
            np.broadcast_to(scales.astype(np.float16), (tiles, groups, 32)),
        )

    def vector(self, name: str) -> NDArray[np.float32]:
        """A vector of ones."""
        return np.ones(vector_sizes(self.shape)[name], np.float32)
