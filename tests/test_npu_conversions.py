"""Rounding, saturation, bf16 and float functions of the modelled core against definitions."""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from draft.npu import arithmetic, host_kernels
from draft.npu.host_kernels import HostKernels
from specdec.types import FloatArray

pytestmark = pytest.mark.skipif(
    host_kernels.find_compiler() is None, reason="no C++ compiler (g++ or clang++) is installed"
)

FloatFunction = Callable[[FloatArray], FloatArray]

ROUNDING = {
    0: math.floor,
    1: math.ceil,
    2: math.trunc,
    3: lambda x: math.ceil(x) if x > 0 else math.floor(x),
    8: lambda x: math.ceil(x - Fraction(1, 2)),
    9: lambda x: math.floor(x + Fraction(1, 2)),
    10: lambda x: int(math.copysign(math.ceil(abs(x) - Fraction(1, 2)), x)),
    11: lambda x: int(math.copysign(math.floor(abs(x) + Fraction(1, 2)), x)),
    12: round,
    13: lambda x: 2 * math.floor(x / 2) + 1 if x % 1 == Fraction(1, 2) else round(x),
}


@pytest.fixture(scope="module")
def kernels() -> HostKernels:
    return host_kernels.load()


@pytest.mark.parametrize("mode", ROUNDING)
def test_shift_round_rounds_every_small_value_as_the_mode_says(
    kernels: HostKernels, mode: int
) -> None:
    call = kernels.library.probe_shift_round_saturate
    for shift, value in itertools.product((1, 2, 3, 7), range(-70, 71)):
        expected = ROUNDING[mode](Fraction(value, 1 << shift))
        assert call(wide(value), shift, 1, 32, mode, 0) == expected, (value, shift)


def wide(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)


@pytest.mark.parametrize(
    ("saturation", "is_signed", "bits", "low", "high"),
    [(1, 1, 8, -128, 127), (3, 1, 8, -127, 127), (1, 0, 8, 0, 255), (1, 1, 16, -32768, 32767)],
)
def test_saturation_stops_at_the_ends_of_a_type(
    kernels: HostKernels, saturation: int, is_signed: int, bits: int, low: int, high: int
) -> None:
    call = kernels.library.probe_shift_round_saturate
    for value in (-(1 << 31), low - 1, low, -1, 0, 1, high, high + 1, (1 << 31) - 1):
        found = call(wide(value), 0, is_signed, bits, 12, saturation)
        assert found == min(max(value, low), high)


@pytest.mark.parametrize("mode", ROUNDING)
def test_floats_become_bfloat16_as_the_rounding_mode_says(kernels: HostKernels, mode: int) -> None:
    upper = np.array([0x0080, 0x3F80, 0x3F81, 0x4049, 0x7F7E, 0xBF80, 0xBF81, 0xC2FF], np.uint32)
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    bits = (upper[:, None] << 16 | lower).reshape(-1)
    found = np.zeros(len(bits), np.uint16)
    kernels.call("probe_to_bfloat16", bits.view(np.float32), len(bits), mode, found)
    for source, result in zip(bits, found, strict=True):
        magnitude = Fraction(int(source) & 0x7FFFFFFF, 1 << 16)
        negative = bool(source >> 31)
        rounded = abs(ROUNDING[mode](-magnitude if negative else magnitude))
        assert result == rounded | (0x8000 if negative else 0), hex(source)


def test_special_floats_stay_special_in_bfloat16(kernels: HostKernels) -> None:
    x = np.zeros(16, np.float32)
    x[:6] = np.inf, -np.inf, np.nan, -0.0, 3.4e38, np.array(0x7FFFFFFF, np.uint32).view(np.float32)
    found = np.zeros(16, np.uint16)
    kernels.call("probe_to_bfloat16", x, 16, 12, found)
    values = arithmetic.from_bfloat16(found)
    assert np.isposinf(values[0]) and np.isneginf(values[1]) and np.isposinf(values[4])
    assert np.isnan(values[2]) and np.isnan(values[5]) and found[3] == 0x8000
    assert np.array_equal(found, arithmetic.to_bfloat16(x))


def test_a_float16_scale_is_two_bfloat16_exactly() -> None:
    every = np.arange(0x7C00, dtype=np.uint16).view(np.float16)
    high, low = arithmetic.split_float16(every)
    total = arithmetic.from_bfloat16(high) + arithmetic.from_bfloat16(low)
    assert np.array_equal(total, every.astype(np.float32))


@pytest.mark.parametrize(
    ("function", "oracle", "exact", "low", "high"),
    [
        (0, arithmetic.reciprocal, lambda x: 1 / x, -99, 99),
        (1, arithmetic.reciprocal_root, lambda x: 1 / np.sqrt(x), -99, 99),
        (2, arithmetic.power_of_two, np.exp2, None, None),
    ],
)
def test_functions_of_a_float_keep_their_precision(
    kernels: HostKernels,
    function: int,
    oracle: FloatFunction,
    exact: FloatFunction,
    low: int | None,
    high: int | None,
) -> None:
    if low is None:
        x = np.linspace(-100, 100, 4096).astype(np.float32)
    else:
        x = np.exp2(np.linspace(low, high, 4096)).astype(np.float32)
    found = np.zeros_like(x)
    kernels.call("probe_float_math", x, len(x), function, found)
    assert np.array_equal(found, oracle(x))
    truth = exact(x.astype(np.float64))
    assert np.max(np.abs(found / truth - 1)) < 2.0**-13


def test_a_power_of_two_far_below_is_exactly_zero() -> None:
    assert not arithmetic.power_of_two(np.float32([-125, -200, -1e30])).any()
