"""Quantised activations as the device keeps them (include/activation_layout.glsl); no test."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 16  # rows


def padded(num_rows: int) -> int:
    """Rows in whole blocks."""
    return -(-num_rows // _BLOCK) * _BLOCK


def to_blocks(rows: NDArray[Any], groups: int) -> NDArray[Any]:
    """(rows, groups x n) by blocks of 16 rows: (blocks, groups, 16, n)."""
    whole = np.zeros((padded(len(rows)), rows.shape[1]), rows.dtype)
    whole[: len(rows)] = rows
    return np.ascontiguousarray(
        whole.reshape(-1, _BLOCK, groups, rows.shape[1] // groups).swapaxes(1, 2)
    )


def from_blocks(blocks: NDArray[Any], num_rows: int, groups: int) -> NDArray[Any]:
    """The inverse of `to_blocks`: (num_rows, groups x n) of a buffer of any shape."""
    n = blocks.size // padded(num_rows) // groups
    turned = blocks.reshape(-1, groups, _BLOCK, n).swapaxes(1, 2)
    return np.ascontiguousarray(turned.reshape(-1, groups * n)[:num_rows])
