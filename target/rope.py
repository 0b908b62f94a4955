"""Cosines and sines of rotary position embedding as the shaders read them."""

from __future__ import annotations

import numpy as np

from specdec.types import FloatArray


def rope_table(head_dim: int, theta: float, factor: float, length: int) -> FloatArray:
    """Pairs (cos, sin) of p / factor x theta^(-2i/H): float32 (length, H/2, 2), from float64."""
    frequencies = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim) / factor
    angles = np.arange(length, dtype=np.float64)[:, None] * frequencies
    return np.stack((np.cos(angles), np.sin(angles)), axis=-1).astype(np.float32)
