"""The array's own arithmetic in numpy, step by step: the oracle of every kernel.

Products of bf16 are exact in float32, every float32 addition rounds by itself, reductions halve.
It follows the kernels' order of operations, so results agree with the host build bit for bit; it
knows no layout and no device. Denormals are not flushed here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specdec.gemma3.shape import GROUP
from specdec.types import FloatArray

Bits = NDArray[np.uint16]

KV_POSITIONS = 16
_HIDDEN = np.float32(-1e30)
_MAGIC = np.float32(12582912.0)  # 1.5 x 2^23: adding it rounds to an integer, half to even


def to_bfloat16(x: FloatArray) -> Bits:
    """Round to nearest even, as bits."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), bits >> 16 | 0x40, rounded).astype(np.uint16)


def from_bfloat16(bits: Bits) -> FloatArray:
    """The float32 that bf16 bits stand for."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _rounded(x: FloatArray) -> FloatArray:
    return from_bfloat16(to_bfloat16(x))


def split(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Two bf16 values whose sum is x to 16 bits."""
    high = _rounded(x)
    return high, _rounded(x - high)


def split_float16(scales: NDArray[np.float16]) -> tuple[Bits, Bits]:
    """A float16 as two bf16, exactly."""
    wide = scales.astype(np.float32)
    high = to_bfloat16(wide)
    return high, to_bfloat16(wide - from_bfloat16(high))


def multiply(x: FloatArray, y: FloatArray | np.float32) -> FloatArray:
    """x y by three products of bf16; relative error at most 2^-15."""
    x_high, x_low = split(x)
    y_high, y_low = split(np.asarray(y, np.float32))
    product: FloatArray = x_high * y_high + x_low * y_high + x_high * y_low
    return product


def _bits(x: FloatArray) -> NDArray[np.int32]:
    return np.ascontiguousarray(x).view(np.int32)


def reciprocal(x: FloatArray) -> FloatArray:
    """1 / x for 2^-100 <= x < 2^100."""
    y = (np.int32(0x7EF311C7) - _bits(x)).view(np.float32)
    for _ in range(3):
        y = multiply(y, np.float32(2) - multiply(x, y))
    return y


def reciprocal_root(x: FloatArray) -> FloatArray:
    """1 / sqrt(x) for 2^-100 <= x < 2^100."""
    half = multiply(x, np.float32(0.5))
    y = (np.int32(0x5F3759DF) - (_bits(x) >> 1)).view(np.float32)
    for _ in range(3):
        y = multiply(y, np.float32(1.5) - multiply(half, multiply(y, y)))
    return y


def power_of_two(x: FloatArray) -> FloatArray:
    """2^x; exactly 0 from -125 down."""
    clamped = np.maximum(x, np.float32(-125))
    shifted = clamped + _MAGIC
    fraction = clamped - (shifted - _MAGIC)
    total = np.full_like(clamped, 0.009618129)
    for coefficient in (0.05550411, 0.24022651, 0.6931472, 1.0):
        total = multiply(total, fraction) + np.float32(coefficient)
    scaled = _bits(total) + ((_bits(shifted) - np.int32(0x4B400000)) << 23)
    return scaled.view(np.float32) - np.float32(2.0**-125)


def reduce_add(lanes: FloatArray) -> FloatArray:
    """Sum of the last axis by halving: lanes i and i + N/2 first."""
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def gemv(
    x: NDArray[np.int8],
    x_scales: FloatArray,
    values: NDArray[np.int8],
    scales: NDArray[np.float16],
) -> FloatArray:
    """W4A8 products of rows x (B, K), scales (B, K/32), with values (N, K): (B, N)."""
    return gemv_by_parts(x, split(x_scales), values, scales)


def gemv_by_parts(
    x: NDArray[np.int8],
    x_scales: tuple[FloatArray, FloatArray],
    values: NDArray[np.int8],
    scales: NDArray[np.float16],
) -> FloatArray:
    """The same with the bf16 high and low parts of the scales as they travel.

    Where the low part is half a unit of the high one, splitting their sum gives two others.
    """
    batch, num_groups = x_scales[0].shape
    num_rows = len(values)
    grouped = x.reshape(batch, num_groups, GROUP).astype(np.float32).swapaxes(0, 1)
    weights = values.reshape(num_rows, num_groups, GROUP).astype(np.float32).transpose(1, 2, 0)
    dots = np.matmul(grouped, weights)  # (G, B, N): integers below 2^24, exact
    high, low = (from_bfloat16(part).T for part in split_float16(scales))  # (G, N)
    x_high, x_low = (part.T[:, :, None] for part in x_scales)  # (G, B, 1)
    total = np.zeros((batch, num_rows), np.float32)
    for group in range(num_groups):
        first, second = split(dots[group])
        term = first * high[group] + second * high[group]
        term = term + first * low[group] + second * low[group]
        first, second = split(term)
        total = total + first * x_high[group] + second * x_high[group] + first * x_low[group]
    return total


def rms_norm(x: FloatArray, factor: FloatArray, eps: float) -> FloatArray:
    """RMS norm of rows (..., n), n a multiple of 16."""
    high, low = split(x)
    lanes = np.zeros((*x.shape[:-1], 16), np.float32)
    for start in range(0, x.shape[-1], 16):
        h, rest = high[..., start : start + 16], low[..., start : start + 16]
        lanes = lanes + h * h + rest * h + h * rest
    mean = multiply(reduce_add(lanes)[..., None], np.float32(1 / x.shape[-1]))
    return multiply(multiply(x, reciprocal_root(mean + np.float32(eps))), factor)


def quantize(x: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
    """INT8 values (..., K) and scales (..., K/32), each scale the sum of two bf16."""
    values, (high, low) = quantize_by_parts(x)
    return values, high + low


def quantize_by_parts(
    x: FloatArray,
) -> tuple[NDArray[np.int8], tuple[FloatArray, FloatArray]]:
    """The same with the high and low parts of the scales."""
    groups = x.reshape(*x.shape[:-1], -1, GROUP)
    amax = np.abs(groups).max(axis=-1)
    inverse = multiply(reciprocal(np.maximum(amax, np.float32(2.0**-100))), np.float32(127))
    scaled = multiply(groups, inverse[..., None])
    values = np.clip(np.rint(scaled), -128, 127).astype(np.int8)
    return values.reshape(x.shape), split(multiply(amax, np.float32(1 / 127)))


def rope(heads: FloatArray, cosines: FloatArray, sines: FloatArray) -> FloatArray:
    """Rotate pairs (i, i + d/2) of heads (..., d)."""
    half = heads.shape[-1] // 2
    first, second = heads[..., :half], heads[..., half:]
    return np.concatenate(
        (
            multiply(first, cosines) - multiply(second, sines),
            multiply(second, cosines) + multiply(first, sines),
        ),
        axis=-1,
    )


def geglu(gate: FloatArray, up: FloatArray) -> FloatArray:
    """gelu_tanh(gate) x up."""
    cubic = multiply(multiply(multiply(gate, gate), np.float32(0.044715)), gate)
    exponent = np.minimum(multiply(gate + cubic, np.float32(-2.3022082)), np.float32(99))
    sigmoid = reciprocal(power_of_two(exponent) + np.float32(1))
    return multiply(multiply(gate, sigmoid), up)


def dot_bfloat16(a: FloatArray, b: FloatArray, start: FloatArray) -> FloatArray:
    """start + a b for bf16 values a (M, K), b (K, N): eight products at a time, then rounded."""
    total = start
    for first in range(0, a.shape[1], 8):
        wide = np.zeros(total.shape)
        for k in range(first, first + 8):
            wide = wide + a[:, k, None].astype(np.float64) * b[k].astype(np.float64)
        total = (total + wide).astype(np.float32)
    return total


class Attention:
    """One token's attention: up to 4 query heads over one key head, 16 positions at a time."""

    def __init__(self, queries: FloatArray, scale: float) -> None:
        """Start with queries (heads, d), normed and rotated; `scale` includes log2(e)."""
        self._queries = _rounded(multiply(queries, np.float32(scale)))
        num_heads, head_dim = queries.shape
        self._peak = np.full((num_heads, 1), _HIDDEN)
        self._total = np.zeros((num_heads, 1), np.float32)
        self._mixed = np.zeros((num_heads, head_dim), np.float32)

    def tile(self, keys: FloatArray, values: FloatArray, visible: NDArray[np.bool_]) -> None:
        """Add 16 positions: bf16 keys and values (16, d), of which `visible` count."""
        scores = dot_bfloat16(
            self._queries, keys.T, np.zeros((len(self._queries), KV_POSITIONS), np.float32)
        )
        weights = self._weigh(np.where(visible, scores, _HIDDEN))
        self._mixed = dot_bfloat16(weights, values, self._mixed)

    def row(self, key: FloatArray, value: FloatArray) -> None:
        """Add one position: bf16 key and value (d,)."""
        keys, values = np.zeros((2, KV_POSITIONS, len(key)), np.float32)
        keys[0], values[0] = key, value
        scores = dot_bfloat16(
            self._queries, keys.T, np.zeros((len(self._queries), KV_POSITIONS), np.float32)
        )
        scores[:, 1:] = _HIDDEN
        weights = self._weigh(scores)
        self._mixed = dot_bfloat16(weights[:, :8], values[:8], self._mixed)

    def finish(self) -> FloatArray:
        """The attention's output, (heads, d)."""
        return multiply(self._mixed, reciprocal(self._total))

    def _weigh(self, scores: FloatArray) -> FloatArray:
        """Softmax weights (heads, 16), rounded to bf16; a greater peak rescales the sums."""
        peak = np.maximum(self._peak, scores.max(axis=1, keepdims=True))
        if np.any(peak > self._peak):
            correction = power_of_two(self._peak - peak)
            self._total = multiply(self._total, correction)
            self._mixed = multiply(self._mixed, correction)
            self._peak = peak
        weights = _rounded(power_of_two(scores - peak))
        # blocks of 4 positions are lanes: (0 + 1) + (2 + 3), then neighbouring lanes
        blocks = weights.reshape(-1, 4, 4)
        lanes = (blocks[:, 0] + blocks[:, 1]) + (blocks[:, 2] + blocks[:, 3])
        sums = (lanes[:, 0] + lanes[:, 1]) + (lanes[:, 2] + lanes[:, 3])
        self._total = self._total + sums[:, None]
        return weights
