"""What a conversion did, in figures; it computes no weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from specdec.checkpoint import stored_bits
from specdec.convert.matrices import is_exact
from specdec.convert.source import SourceModel
from specdec.gemma3.shape import Gemma3Shape
from specdec.weights import Bits


@dataclass(frozen=True, slots=True)
class LossSum:
    """Rounding losses summed over some weights."""

    bits: Bits
    num_weights: int
    squared_error: float
    squared_norm: float

    def __add__(self, other: LossSum) -> LossSum:
        return LossSum(
            self.bits,
            self.num_weights + other.num_weights,
            self.squared_error + other.squared_error,
            self.squared_norm + other.squared_norm,
        )


@dataclass(frozen=True, slots=True)
class ClassLoss:
    """One class of tensors: |converted - source| / |source| over all its weights."""

    tensor_class: str
    bits: Bits
    num_weights: int
    relative_error: float


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """The outcome of one conversion."""

    out: str
    source_kind: str
    source_name: str
    source_sha256: str
    shape: Gemma3Shape
    head_bits: Bits
    size_bytes: int  # of the model-*.safetensors
    elapsed_s: float
    losses: tuple[ClassLoss, ...]
    num_exact_tensors: int  # taken over bit for bit
    skipped_tensors: tuple[str, ...]


def class_losses(sums: Mapping[str, LossSum]) -> tuple[ClassLoss, ...]:
    """Relative errors of every class of matrices."""
    return tuple(
        ClassLoss(
            name,
            loss.bits,
            loss.num_weights,
            math.sqrt(loss.squared_error / loss.squared_norm) if loss.squared_norm else 0.0,
        )
        for name, loss in sums.items()
    )


def count_exact(model: SourceModel, head_bits: Bits) -> int:
    """Matrices of the source whose integers and scales are kept as they are."""
    return sum(
        is_exact(tensor, stored_bits(role, head_bits))
        for role, tensor in model.tensors.items()
        if len(tensor.shape) == 2
    )
