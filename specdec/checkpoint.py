"""Reading a converted model directory (layout: specdec.weights) as memory maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from specdec.gemma3.shape import Gemma3Shape
from specdec.weights import QuantizedMatrix

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What config.json says."""

    shape: Gemma3Shape
    bos_id: int
    eos_ids: tuple[int, ...]
    source_name: str
    source_sha256: str


class Checkpoint:
    """One converted model; tensors are memory-mapped views, nothing is copied."""

    info: ModelInfo
    directory: Path

    def matrix(self, name: str) -> QuantizedMatrix:
        """A packed matrix by name, e.g. `layers.0.qkv`."""
        raise NotImplementedError

    def vector(self, name: str) -> NDArray[np.float32]:
        """A float32 vector by name, e.g. `final_norm`."""
        raise NotImplementedError


def open_checkpoint(directory: Path) -> Checkpoint:
    """Open and validate a directory made by `specdec convert`; ModelError says what is wrong."""
    raise NotImplementedError
