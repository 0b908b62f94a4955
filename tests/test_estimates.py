"""Statistics of comparisons on synthetic measurements whose true value is known."""

from math import log

import numpy as np
import pytest

from specdec.compare.estimates import estimate, without_outliers

TRUTH = 1.7
NUM_SIMULATIONS = 1000


def measurements(
    rng: np.random.Generator,
    num_prompts: int,
    num_repeats: int,
    *,
    between: float = 0.2,
    share_hit: float = 0.03,
) -> np.ndarray:
    """Prompts scatter around the truth, repeats around their prompt; some are hit by a factor 3."""
    prompts = rng.normal(log(TRUTH), between, (num_prompts, 1))
    hit = rng.random((num_prompts, num_repeats)) < share_hit
    factor = np.where(hit, rng.choice([1 / 3, 3.0], hit.shape), 1.0)
    return np.exp(rng.normal(prompts, 0.05, (num_prompts, num_repeats))) * factor


@pytest.mark.slow
@pytest.mark.parametrize(("num_prompts", "num_repeats"), [(6, 3), (6, 1), (24, 5)])
def test_the_interval_covers_the_truth_in_93_percent_of_1000_simulations(
    num_prompts: int, num_repeats: int
) -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for seed in range(NUM_SIMULATIONS):
        found = estimate(measurements(rng, num_prompts, num_repeats), seed)
        assert found.low is not None and found.high is not None and found.over == "prompts"
        covered += found.low <= TRUTH <= found.high
    assert covered >= 0.93 * NUM_SIMULATIONS


@pytest.mark.slow
def test_one_prompt_repeated_has_an_interval_for_itself_that_covers() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for seed in range(NUM_SIMULATIONS):
        found = estimate(measurements(rng, 1, 12, between=0.0), seed)
        assert found.low is not None and found.high is not None and found.over == "repeats"
        covered += found.low <= TRUTH <= found.high
    assert covered >= 0.93 * NUM_SIMULATIONS


@pytest.mark.slow
def test_removing_outliers_does_not_bias_and_clean_data_lose_next_to_none() -> None:
    rng = np.random.default_rng(5)
    clean = [estimate(measurements(rng, 24, 5, share_hit=0.0), 0) for _ in range(200)]
    hit = [estimate(measurements(rng, 24, 5, share_hit=0.1), 0) for _ in range(200)]
    for results in (clean, hit):
        errors = np.log([result.value for result in results]) - log(TRUTH)
        assert abs(errors.mean()) < 3.0 * errors.std() / np.sqrt(len(errors)) + 1e-3
    assert sum(result.num_outliers for result in clean) < 0.003 * 200 * 120
    assert sum(result.num_outliers for result in hit) == pytest.approx(0.1 * 200 * 120, rel=0.1)


def test_outliers_are_judged_against_their_own_prompt_only() -> None:
    unusual = [[1.0, 1.01, 1.02], [1.0, 1.01, 0.99], [9.0, 9.1, 9.05]]
    assert estimate(unusual).num_outliers == 0
    spoilt = [[1.0, 1.01, 2.0], [1.0, 1.01, 0.99], [9.0, 9.1, 9.05]]
    kept = without_outliers([np.log(repeats) for repeats in spoilt])
    assert [len(repeats) for repeats in kept] == [2, 3, 3]
    assert estimate([[1.0, 5.0], [1.0, 1.0]]).num_outliers == 0, "two repeats cannot accuse"


def test_too_few_values_have_no_interval() -> None:
    found = estimate([[2.0, 2.0], [3.0, 3.0]])
    assert found.value == pytest.approx(6.0**0.5)
    assert (found.low, found.high, found.over) == (None, None, "")


def test_a_ratio_and_its_inverse_tell_the_same() -> None:
    values = measurements(np.random.default_rng(1), 9, 3)
    there, back = estimate(values, 1), estimate(1.0 / values, 1)
    assert there.value == pytest.approx(1.0 / back.value)
    assert there.num_outliers == back.num_outliers
