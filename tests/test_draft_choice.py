"""A draft's choice among the tokens near the best logit is the target's choice."""

import numpy as np
import pytest

from draft.choice import choose_near_best, rank_near_best
from specdec.sampling import choose_with_margin, gumbel_noise, gumbel_noise_of
from specdec.types import SamplingParams

VOCAB = 4096
SAMPLINGS = [
    SamplingParams(),
    SamplingParams(temperature=0.7, seed=5),
    SamplingParams(temperature=0.7, top_p=0.9, seed=2**63 + 5),
    SamplingParams(temperature=1.0, top_k=20, min_p=0.05, seed=7),
]


def peaked_logits(seed: int) -> np.ndarray:
    """Like a model's: a few likely tokens, the others far below."""
    random = np.random.default_rng(seed)
    return (4.0 * random.gumbel(size=VOCAB)).astype(np.float32)


def test_noise_of_some_tokens_is_that_of_all() -> None:
    token_ids = np.array([0, 1, 5, 4095, 3, 6])
    noise = gumbel_noise(9, 77, VOCAB)
    assert np.array_equal(gumbel_noise_of(9, 77, token_ids), noise[token_ids])


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_token_and_margin_are_the_targets_on_the_same_logits(sampling: SamplingParams) -> None:
    for seed in range(100):
        logits = peaked_logits(seed)
        token_id, margin = choose_near_best(logits, seed, sampling)
        wanted_id, wanted_margin = choose_with_margin(logits, seed, sampling)
        assert token_id == wanted_id
        # a second best beyond reach makes the margin greater than it is, where it is great anyway
        assert min(margin, 6.0) == pytest.approx(min(wanted_margin, 6.0))


def test_the_first_few_are_in_the_order_of_all_ties_by_id() -> None:
    for seed in range(50):
        logits = np.random.default_rng(seed).integers(0, 9, VOCAB).astype(np.float32)
        ranked, lead = rank_near_best(logits, 3, SamplingParams(), 5)
        assert ranked == tuple(np.argsort(-logits, kind="stable")[:5].tolist()) and lead == 0.0


def test_a_lone_token_leads_by_the_reach() -> None:
    logits = np.full(VOCAB, -np.inf, np.float32)
    logits[77] = 1.0
    choice = choose_near_best(logits, 3, SamplingParams(temperature=1.0))
    assert choice == (77, 12.0)
