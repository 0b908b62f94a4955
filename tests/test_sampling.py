"""The choice is drawn from the filtered softmax and depends on seed, position and logits alone."""

import numpy as np
import pytest

from specdec.sampling import (
    choose,
    choose_with_margin,
    gumbel_noise,
    perturbed_scores,
    philox,
    request_seed,
)
from specdec.types import SamplingParams


def test_philox_gives_the_published_vectors() -> None:
    """Known-answer vectors of Philox4x32-10 published with Random123."""
    vectors = [
        ([0] * 4, [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (
            [0xFFFFFFFF] * 4,
            [0xFFFFFFFF] * 2,
            [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        ),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ]
    for counter, key, expected in vectors:
        words = philox(key[0] | key[1] << 32, np.array([counter], np.uint64))
        assert words[0].tolist() == expected


def test_greedy_takes_the_lowest_of_equal_ids() -> None:
    logits = np.array([[1.0, 3.0, 3.0, 2.0]], np.float32)
    assert choose(logits, [7], SamplingParams()) == (1,)


def test_noise_is_finite_and_differs_by_seed_and_position() -> None:
    noise = gumbel_noise(1, 2, 100_000)
    assert np.isfinite(noise).all()
    assert not np.array_equal(noise, gumbel_noise(2, 2, 100_000))
    assert not np.array_equal(noise, gumbel_noise(1, 3, 100_000))
    assert abs(float(noise.mean()) - 0.5772) < 0.02  # Euler's constant, sd of the mean 0.004
    assert np.array_equal(noise[:1001], gumbel_noise(1, 2, 1001))  # whatever the vocabulary's size


FILTERS = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.5),
    SamplingParams(temperature=1.3, top_k=3),
    SamplingParams(temperature=1.0, top_p=0.7),
    SamplingParams(temperature=1.0, min_p=0.25),
    SamplingParams(temperature=0.9, top_k=5, top_p=0.9, min_p=0.05),
]


def exact_law(logits: np.ndarray, sampling: SamplingParams) -> np.ndarray:
    """The filtered softmax by its definition, in float64, written apart from the product."""
    weights = np.exp(logits.astype(np.float64) / sampling.temperature)
    order = sorted(range(len(logits)), key=lambda t: (-logits[t], t))
    if sampling.top_k:
        order = order[: sampling.top_k]
    kept, mass, total = [], 0.0, weights[order].sum()
    for token in order:
        if mass / total >= sampling.top_p:
            break
        kept.append(token)
        mass += weights[token]
    best = weights[order[0]]
    kept = [token for token in kept if weights[token] >= sampling.min_p * best]
    law = np.zeros(len(logits))
    law[kept] = weights[kept] / weights[kept].sum()
    return law


@pytest.mark.parametrize("sampling", FILTERS)
def test_draws_follow_the_filtered_softmax(sampling: SamplingParams) -> None:
    """Chi-squared over 6,000 positions; false alarm 1e-6 per case (df <= 8: limit 45)."""
    logits = np.array([2.0, 1.1, 1.0, 0.4, 0.0, -0.5, -1.0, -2.0, 1.05], np.float32)
    law = exact_law(logits, sampling)
    n = 6_000
    counts = np.zeros(len(logits))
    for position in range(n):
        counts[choose(logits[None], [position], sampling)[0]] += 1
    assert counts[law == 0].sum() == 0
    expected = law[law > 0] * n
    assert float(((counts[law > 0] - expected) ** 2 / expected).sum()) < 45.0


def test_margin_is_the_lead_of_the_chosen_token() -> None:
    logits = np.array([0.0, 4.0, 1.5], np.float32)
    assert choose_with_margin(logits, 0, SamplingParams()) == (1, 2.5)
    sampling = SamplingParams(temperature=0.7, seed=5)
    scores = np.sort(perturbed_scores(logits, 3, sampling))
    token, margin = choose_with_margin(logits, 3, sampling)
    assert (token,) == choose(logits[None], [3], sampling)
    assert margin == pytest.approx(float(scores[-1] - scores[-2]))


def test_margin_is_finite_when_one_token_is_left() -> None:
    _, margin = choose_with_margin(
        np.array([0.0, 4.0], np.float32), 0, SamplingParams(temperature=1.0, top_k=1)
    )
    assert np.isfinite(margin)


def test_request_seeds_are_stable_across_releases() -> None:
    assert request_seed(0, "0") == 0x62D069677E9C6CD5
    assert len({request_seed(0, "a"), request_seed(1, "a"), request_seed(1, "b")}) == 3
