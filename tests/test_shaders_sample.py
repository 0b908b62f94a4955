"""The choice on the device by temperature, filters and noise against specdec.sampling."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from shader_cases import INACTIVE, Row, step_buffer
from test_sampling import exact_law
from vulkan_harness import run

from specdec.assets import asset_dir
from specdec.sampling import choose, perturbed_scores, philox
from specdec.types import FloatArray, SamplingParams
from target.step import sampling_row
from target.vulkan import Device

# The device's logarithms err by 5e-6 where the noise is largest (22.9), its quotients by 2.5 ulp;
# its sums of masses by about 1e-6. Beyond these gaps no choice may differ.
SCORE_TOLERANCE = 2e-5
MASS_TOLERANCE = 1e-5  # relative, of top_p and min_p

UNTOUCHED = 0xABCDABCD
DUMP = """// The words and the noise of counters.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/gumbel.glsl"
layout(local_size_x = 64) in;
layout(push_constant) uniform Push { uint count, low, high; } key;
layout(binding = 0, std430) readonly buffer Counters { uvec4 counters[]; };
layout(binding = 1, std430) writeonly buffer Words { uvec4 words[]; };
layout(binding = 2, std430) readonly buffer Chosen { uint chosen[]; };
layout(binding = 3, std430) writeonly buffer Noise { float noise[]; };
void main() {
    uint i = gl_GlobalInvocationID.x;
    if (i >= key.count) return;
    words[i] = philox(uvec2(key.low, key.high), counters[i]);
    noise[i] = gumbel(chosen[i]);
}
"""


def sampled(
    device: Device,
    logits: FloatArray,
    positions: Sequence[int],
    params: SamplingParams | Sequence[SamplingParams],
) -> NDArray[np.uint32]:
    """The device's choice for the token at positions[r] from logits[r]; padding is poison."""
    rows, vocab = logits.shape
    stride = -(-vocab // 32) * 32
    padded = np.full((rows, stride), 1e9, np.float32)
    padded[:, :vocab] = logits
    each = [params] * rows if isinstance(params, SamplingParams) else params
    buffers = [
        step_buffer([Row((position - 1) & INACTIVE) for position in positions]),
        np.stack([sampling_row(row) for row in each]).view(np.uint32),
        padded,
        np.full(rows, UNTOUCHED, np.uint32),
    ]
    return run(device, "sample", buffers, rows, [vocab, stride])[3]


def dumped(device: Device, folder: Path, seed: int, counters: NDArray, words: NDArray) -> list:
    shutil.copytree(asset_dir("shaders") / "include", folder / "include")
    (folder / "dump.comp").write_text(DUMP)
    count = len(counters)
    buffers = [counters, np.zeros_like(counters), words, np.zeros(count, np.float32)]
    push = [count, seed & 0xFFFFFFFF, seed >> 32]
    return run(device, "dump", buffers, -(-count // 64), push, source_dir=folder)


def test_the_devices_words_are_the_hosts(device: Device, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counters = rng.integers(0, 2**32, (1000, 4), np.uint64).astype(np.uint32)
    counters[0], counters[1] = 0, 2**32 - 1
    seed = 0xFEDCBA9876543210
    words = dumped(device, tmp_path, seed, counters, counters[:, 0].copy())[1]
    np.testing.assert_array_equal(words, philox(seed, counters.astype(np.uint64)))


def test_noise_is_exact_to_float32_at_both_ends(device: Device, tmp_path: Path) -> None:
    edges = [0, 1, 2, 2**23, 2**24 + 1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2, 2**32 - 1]
    near_one = 1580030169 + np.arange(-50, 50)  # -ln u crosses 1: where the noise crosses 0
    others = np.random.default_rng(1).integers(0, 2**32, 4000)
    words = np.concatenate((edges, near_one, others)).astype(np.uint32)
    noise = dumped(device, tmp_path, 0, np.zeros((len(words), 4), np.uint32), words)[3]
    expected = -np.log(-np.log((words.astype(np.float64) + 0.5) / 2**32))
    np.testing.assert_allclose(noise, expected, rtol=2e-7, atol=3e-7)


FILTERS = [
    {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    for top_k, top_p, min_p in itertools.product((0, 1, 20), (1.0, 0.9, 0.3), (0.0, 0.08))
]


def gap(logits: FloatArray, position: int, params: SamplingParams, token: int) -> float:
    """How much less the token scores than the best; infinity if it is filtered out."""
    scores = perturbed_scores(logits, position, params).astype(np.float64)
    return float(scores.max() - scores[token])


def smallest_gap(logits: FloatArray, position: int, params: SamplingParams, token: int) -> float:
    """The gap under the parameters, or with the filters moved by less than the tolerance."""
    nudges = (1.0, 1.0 - MASS_TOLERANCE, 1.0 + MASS_TOLERANCE)
    moved = [
        replace(params, top_p=min(1.0, params.top_p * p), min_p=params.min_p * m)
        for p, m in itertools.product(nudges, nudges)
    ]
    return min(gap(logits, position, each, token) for each in moved)


@pytest.mark.parametrize("step", [0.0, 0.5], ids=["continuous", "many ties"])
@pytest.mark.parametrize("vocab", [33, 500, pytest.param(16384, marks=pytest.mark.slow)])
def test_the_device_chooses_what_the_host_chooses(device: Device, vocab: int, step: float) -> None:
    """432 rows a case; a choice may differ at a near-tie alone, and at most one in a hundred."""
    rng = np.random.default_rng(vocab)
    temperatures = (0.3, 0.7, 1.0, 1.5)
    params = [
        SamplingParams(temperature=t, seed=int(rng.integers(0, 2**63)) * 2 + 1, **filters)
        for t, filters, _ in itertools.product(temperatures, FILTERS, range(6))
    ]
    logits = (rng.standard_normal((len(params), vocab)) * 3).astype(np.float32)
    if step:
        logits = (np.round(logits / step) * step).astype(np.float32)
    positions = rng.integers(1, 2**31, len(params)).tolist()
    differing = []
    for r, token in enumerate(sampled(device, logits, positions, params)):
        row, position = logits[r], positions[r]
        if choose(row[None], [position], params[r]) != (token,):
            differing.append((params[r], smallest_gap(row, position, params[r], int(token))))
    print(*differing, sep="\n")
    assert all(each <= SCORE_TOLERANCE for _, each in differing), differing
    assert len(differing) <= len(params) // 100


def test_a_prefix_that_ends_among_equals_keeps_the_lowest_ids(device: Device) -> None:
    logits = np.zeros((400, 600), np.float32)
    logits[:, 7] = 1.0
    positions = range(1, 401)
    for params in (
        SamplingParams(temperature=1.0, top_k=5),
        SamplingParams(temperature=1.0, top_p=(np.e + 3.5) / (np.e + 599)),
    ):
        tokens = sampled(device, logits, positions, params)
        assert set(tokens.tolist()) == {7, 0, 1, 2, 3}
        np.testing.assert_array_equal(tokens, choose(logits, positions, params))


def test_filters_that_leave_one_token_leave_the_best(device: Device) -> None:
    logits = np.random.default_rng(2).standard_normal((16, 300)).astype(np.float32)
    for filters in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        params = SamplingParams(temperature=1.5, **filters)
        tokens = sampled(device, logits, range(1, 17), params)
        np.testing.assert_array_equal(tokens, logits.argmax(axis=1))


def test_filters_at_their_ends_change_nothing(device: Device) -> None:
    logits = np.random.default_rng(3).standard_normal((16, 300)).astype(np.float32)
    free = sampled(device, logits, range(1, 17), SamplingParams(temperature=1.5))
    for filters in ({"top_k": 300}, {"top_k": 2**31 - 1}, {"top_p": 1 - 1e-9}, {"min_p": 1e-30}):
        params = SamplingParams(temperature=1.5, **filters)
        np.testing.assert_array_equal(sampled(device, logits, range(1, 17), params), free)


LAW_LOGITS = np.array([2.0, 1.1, 1.0, 0.4, 0.0, -0.5, -1.0, -2.0, 1.05], np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0, seed=1),
        SamplingParams(temperature=0.7, top_k=5, seed=2),
        SamplingParams(temperature=1.3, top_p=0.8, seed=3),
        SamplingParams(temperature=0.9, min_p=0.2, seed=4),
        SamplingParams(temperature=1.1, top_k=7, top_p=0.9, min_p=0.1, seed=5),
    ],
    ids=str,
)
def test_draws_follow_the_filtered_softmax(device: Device, params: SamplingParams) -> None:
    """Chi-squared over 8,000 positions; false alarm 1e-6 per case (df <= 8: limit 45)."""
    n = 8_000
    law = exact_law(LAW_LOGITS, params)
    tokens = sampled(device, np.tile(LAW_LOGITS, (n, 1)), range(1, n + 1), params)
    counts = np.bincount(tokens, minlength=len(law))
    assert counts[law == 0].sum() == 0
    expected = law[law > 0] * n
    assert float(((counts[law > 0] - expected) ** 2 / expected).sum()) < 45.0


@pytest.mark.slow
def test_a_rows_choice_does_not_depend_on_its_neighbours(device: Device) -> None:
    rng = np.random.default_rng(4)
    logits = rng.standard_normal((16, 2000)).astype(np.float32)
    params = [SamplingParams(temperature=0.4 + 0.1 * r, seed=r, **FILTERS[r]) for r in range(16)]
    alone = [sampled(device, logits[r : r + 1], [50 + r], params[r])[0] for r in range(16)]
    for count in range(1, 17):
        rows = rng.permutation(16)[:count]
        got = sampled(device, logits[rows], (50 + rows).tolist(), [params[r] for r in rows])
        np.testing.assert_array_equal(got, np.array(alone)[rows])


def test_a_greedy_row_among_sampled_ones_takes_the_lowest_best(device: Device) -> None:
    logits = np.random.default_rng(5).integers(-3, 3, (3, 700)).astype(np.float32)
    sampling = SamplingParams(temperature=1.0, top_k=3)
    greedy = SamplingParams(top_k=3, top_p=0.5)
    tokens = sampled(device, logits, [4, 5, 6], [sampling, greedy, sampling])
    assert tokens[1] == logits[1].argmax()
    assert (tokens[0], tokens[2]) == choose(logits[:1], [4], sampling) + choose(
        logits[2:], [6], sampling
    )


def test_padding_rows_write_nothing_and_odd_logits_hang_nothing(device: Device) -> None:
    logits = np.zeros((4, 64), np.float32)
    logits[1] = np.nan
    logits[2, 3:] = -np.inf
    logits[3, 1::2] = -0.0
    params = SamplingParams(temperature=0.5, top_k=3, top_p=0.9)
    tokens = sampled(device, logits, [0, 2, 3, 4], params)  # INACTIVE + 1 is 0
    assert tokens[0] == UNTOUCHED and tokens[1] < 64
    assert (tokens[2],) == choose(logits[2:3], [3], params)
    assert (tokens[3],) == choose(logits[3:], [4], params)
