"""Rounding to 4 and 8 bits: grids are kept, errors are the least, bad weights are found."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from specdec.convert.quantize import NotFiniteError, quantize_int4, quantize_int8

Floats = NDArray[np.float32]


def restored(values: NDArray[np.int8], scales: NDArray[np.float16]) -> Floats:
    return values.astype(np.float32) * np.repeat(scales.astype(np.float32), 32, axis=1)


def squared_errors(ours: Floats, weights: Floats) -> Floats:
    """Per group."""
    return np.square(ours - weights).reshape(-1, 32).sum(axis=1)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_weights_on_any_4_bit_grid_are_kept_exactly(data: st.DataObject) -> None:
    low = data.draw(st.integers(-8, 0))
    high = data.draw(st.integers(0, 7))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    values = rng.integers(low, high + 1, (4, 64))
    values[rng.random((4, 64)) < data.draw(st.floats(0, 1))] = 0
    scales = (rng.standard_normal((4, 2)) * data.draw(st.floats(1e-3, 10))).astype(np.float16)
    weights = restored(values.astype(np.int8), scales)
    assert np.array_equal(restored(*quantize_int4(weights)), weights)


@pytest.mark.parametrize("spread", [1e-4, 0.02, 3.0])
@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform", "one outlier"])
def test_no_group_is_worse_than_by_the_rule_of_q4_0(kind: str, spread: float) -> None:
    rng = np.random.default_rng(1)
    draw = {"laplace": rng.laplace, "uniform": lambda size: rng.uniform(-1, 1, size)}
    weights = draw.get(kind, rng.standard_normal)(size=(64, 256)).astype(np.float32)
    if kind == "one outlier":
        weights[:, ::32] *= 10
    weights *= np.float32(spread)
    raw = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q4_0)
    theirs = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q4_0)
    values, scales = quantize_int4(weights)
    ours = restored(values, scales)
    assert values.min() >= -8 and values.max() <= 7
    slack = 1e-5 * np.square(weights).reshape(-1, 32).sum(axis=1)
    assert (squared_errors(ours, weights) <= squared_errors(theirs, weights) + slack).all()
    assert squared_errors(ours, weights).sum() < 0.97 * squared_errors(theirs, weights).sum()


def test_a_fine_search_over_scales_gains_almost_nothing() -> None:
    weights = np.random.default_rng(2).standard_normal((16, 256)).astype(np.float32)
    groups = weights.reshape(-1, 32)
    largest = np.abs(groups).max(axis=1, keepdims=True)
    best = np.full(len(groups), np.inf, np.float32)
    for level in np.concatenate((np.arange(-11, -5, 0.02), np.arange(5, 11, 0.02))):
        scale = (largest / level).astype(np.float32)
        rounded = np.clip(np.rint(groups / scale), -8, 7) * scale
        best = np.minimum(best, np.square(groups - rounded).sum(axis=1))
    ours = squared_errors(restored(*quantize_int4(weights)), weights)
    assert ours.sum() < 1.02 * best.sum()


def test_8_bits_lose_half_a_step_at_most() -> None:
    weights = np.random.default_rng(3).standard_normal((32, 128)).astype(np.float32)
    values, scales = quantize_int8(weights)
    step = np.repeat(scales.astype(np.float32), 32, axis=1)
    assert (np.abs(restored(values, scales) - weights) <= 0.56 * step).all()
    assert np.abs(values).max() == 127


@pytest.mark.parametrize("quantize", [quantize_int4, quantize_int8])
def test_groups_of_zeros_stay_zeros(quantize: type[object]) -> None:
    weights = np.zeros((2, 64), np.float32)
    weights[0, :32] = 1
    values, scales = quantize(weights)  # type: ignore[misc]
    assert np.array_equal(restored(values, scales)[1], weights[1])


@pytest.mark.parametrize("quantize", [quantize_int4, quantize_int8])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_weights_without_a_float16_scale_are_refused(quantize: type[object], bad: float) -> None:
    weights = np.full((8, 64), 0.1, np.float32)
    weights[5, 40] = bad
    with pytest.raises(NotFiniteError):
        quantize(weights)  # type: ignore[call-arg]


def test_the_rows_of_many_blocks_do_not_depend_on_each_other() -> None:
    weights = np.random.default_rng(4).standard_normal((1100, 256)).astype(np.float32)
    values, scales = quantize_int4(weights)
    some_values, some_scales = quantize_int4(weights[900:1000])
    assert np.array_equal(values[900:1000], some_values)
    assert np.array_equal(scales[900:1000], some_scales)
