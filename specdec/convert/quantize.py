"""Floats to integers of 4 or 8 bits in groups of 32; it knows no files and no model.

A weight becomes `value x scale` with one float16 scale per group. For 4 bits the value lies in
-8 .. 7 and the scale may be negative, exactly as in GGUF's Q4_0. Q4_0 takes the scale that maps the
largest weight to -8; here the scale is searched for, so that the squared error is the least:

1. For each trial level n, the scale largest / n rounds every weight x to a value q.
2. The best scale for these values is x.q / q.q, rounded to float16.
3. The trial with the least squared error wins; the weights are rounded once more to its scale.

Weights that already lie on a 4-bit grid are kept exactly: the level that their largest has on the
grid gives back their own values and scale, with error 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specdec.gemma3.shape import GROUP

# Levels of the largest weight of a group. Negative: it takes the side that reaches -8. Beyond -8
# and 7 it is clipped to serve the rest of the group. 1 .. 6 only matter for weights on a grid that
# they do not fill. A step of 0.1 instead lowers the error of normal weights by 0.06 % only.
_TRIAL_LEVELS = (-8.0, -7.2, -7.6, -8.4, -8.8, -9.2, 7.0, 6.4, 6.8, 7.2, 7.6, 8.0)
_GRID_LEVELS = (6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
_ZERO = 1e-30  # groups below it are zeros: their float16 scale is 0
_BLOCK_GROUPS = 8192  # one block's work arrays stay in a core's second level cache

Quantized = tuple[NDArray[np.int8], NDArray[np.float16]]


class NotFiniteError(ValueError):
    """Weights hold NaN or infinity, or are too large for a float16 scale."""


def quantize_int4(weights: NDArray[np.float32]) -> Quantized:
    """Values (R, K) in -8 .. 7 and scales (R, K/32) of the least squared error found."""
    values = np.empty(weights.shape, np.int8)
    scales = np.empty((len(weights), weights.shape[1] // GROUP), np.float16)
    groups, flat_scales = weights.reshape(-1, GROUP), scales.reshape(-1)
    flat_values = values.reshape(-1, GROUP)
    for start in range(0, len(groups), _BLOCK_GROUPS):
        block = slice(start, start + _BLOCK_GROUPS)
        # groups along the last axis: every step below runs over long contiguous rows
        columns = np.ascontiguousarray(groups[block].T)  # (32, G)
        with np.errstate(all="ignore"):
            flat_scales[block] = _search_scales(columns)
            _check_finite(flat_scales[block])
            flat_values[block] = _round_to_grid(columns, flat_scales[block]).T
    return values, scales


def quantize_int8(weights: NDArray[np.float32]) -> Quantized:
    """Values (R, K) in -127 .. 127 and scales (R, K/32) that map each group's largest to 127."""
    groups = weights.reshape(len(weights), -1, GROUP)
    with np.errstate(all="ignore"):
        largest = np.maximum(groups.max(axis=2), -groups.min(axis=2))
        scales = (largest / 127).astype(np.float16)
        _check_finite(scales)
        exact = groups * _inverse(scales.astype(np.float32))[..., None]
        values = np.clip(np.rint(exact, out=exact), -127, 127, out=exact).astype(np.int8)
    return values.reshape(weights.shape), scales


def _search_scales(columns: NDArray[np.float32]) -> NDArray[np.float16]:
    """Steps 1 to 3 up to the last rounding; NaN where no scale gives a finite error."""
    highest, lowest = columns.max(axis=0), columns.min(axis=0)
    largest = np.where(highest >= -lowest, highest, lowest)
    best_error, best_scale = np.full_like(largest, np.inf), np.zeros_like(largest)
    work = np.empty_like(columns)
    for level in _TRIAL_LEVELS + _GRID_LEVELS:
        np.multiply(columns, level / largest, out=work)
        np.clip(np.rint(work, out=work), -8, 7, out=work)
        scale = np.einsum("kg,kg->g", columns, work) / np.einsum("kg,kg->g", work, work)
        scale = scale.astype(np.float16).astype(np.float32)
        np.subtract(columns, np.multiply(work, scale, out=work), out=work)
        error = np.einsum("kg,kg->g", work, work)
        is_better = error < best_error
        np.copyto(best_error, error, where=is_better)
        np.copyto(best_scale, scale, where=is_better)
    best_scale[np.isinf(best_error) & ~(np.abs(largest) < _ZERO)] = np.nan
    scales: NDArray[np.float16] = best_scale.astype(np.float16)
    return scales


def _round_to_grid(
    columns: NDArray[np.float32], scales: NDArray[np.float16]
) -> NDArray[np.float32]:
    """Step 3: the nearest values, (32, G)."""
    values = columns * _inverse(scales.astype(np.float32))
    return np.clip(np.rint(values, out=values), -8, 7, out=values)


def _inverse(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / scale, and 0 for a group whose weights all are 0 (or too small for a float16 scale)."""
    return np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)


def _check_finite(scales: NDArray[np.float16]) -> None:
    if not np.isfinite(scales).all():
        raise NotFiniteError
