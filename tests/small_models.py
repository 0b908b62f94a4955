"""Random small Gemma 3 models with packed matrices, made in memory; they know no device."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from specdec.gemma3.shape import Gemma3Shape
from specdec.weights import Bits, QuantizedMatrix, matrix_sizes, pack, vector_sizes

SMALL = Gemma3Shape(
    vocab_size=500,
    hidden_size=96,
    intermediate_size=160,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    context_length=256,
    sliding_window=40,
    is_global_layer=(False, True, False),
    query_pre_attn_scalar=32.0,
    rope_scaling_factor=8.0,
)


@dataclass
class RandomModel:
    """A MatrixSource of random weights, the same for the same seed."""

    shape: Gemma3Shape = SMALL
    head_bits: Bits = 8
    seed: int = 0
    _matrices: dict[str, QuantizedMatrix] = field(default_factory=dict)
    _vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        for name, (num_rows, num_columns) in matrix_sizes(self.shape).items():
            bits: Bits = self.head_bits if name == "embed" else 4
            low, high = (-8, 8) if bits == 4 else (-127, 128)
            values = rng.integers(low, high, (num_rows, num_columns)).astype(np.int8)
            size = 1.0 / (high * np.sqrt(num_columns))  # keeps activations of the order of one
            scales = rng.uniform(0.5 * size, 1.5 * size, (num_rows, num_columns // 32))
            self._matrices[name] = pack(bits, values, scales.astype(np.float16))
        for name, length in vector_sizes(self.shape).items():
            self._vectors[name] = rng.uniform(0.5, 1.5, length).astype(np.float32)

    def matrix(self, name: str) -> QuantizedMatrix:
        return self._matrices[name]

    def vector(self, name: str) -> NDArray[np.float32]:
        return self._vectors[name]


def with_shape(**sizes: object) -> Gemma3Shape:
    """SMALL with some sizes changed."""
    return replace(SMALL, **sizes)
