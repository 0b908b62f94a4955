"""A draft's choice of the next token: the target's, but only among tokens near the best logit.

A token whose logit / T lies 12 below the best one's is chosen e^12 times more rarely, and a draft
may be wrong; noise and filters for the few tokens above that cost a tenth of those for all.
"""

from __future__ import annotations

import numpy as np

from specdec.sampling import perturbed_scores
from specdec.types import FloatArray, SamplingParams

_REACH = 12.0


def choose_near_best(
    logits: FloatArray, position: int, sampling: SamplingParams
) -> tuple[int, float]:
    """The chosen token for logits (V,) and its lead over the second best perturbed score.

    A lead above 12 is told as 12: the second best may be out of reach.
    """
    (chosen,), lead = rank_near_best(logits, position, sampling, 1)
    return chosen, lead


def rank_near_best(
    logits: FloatArray, position: int, sampling: SamplingParams, count: int
) -> tuple[tuple[int, ...], float]:
    """The first `count` tokens in the order of choice, fewer where filters leave fewer; the lead.

    Had the first not been there, the second would have been chosen, and so on.
    """
    lowest = logits.max() - np.float32(_REACH * (sampling.temperature or 1.0))
    token_ids = np.flatnonzero(logits >= lowest)
    scores = perturbed_scores(logits[token_ids], position, sampling, token_ids)
    most = min(max(count, 2), len(scores))
    least = np.partition(scores, -most)[-most]
    high = np.flatnonzero(scores >= least)  # few, where sorting all takes longer than a step
    order = high[np.argsort(-scores[high], kind="stable")[:most]]  # ties: lowest id first
    lead = scores[order[0]] - scores[order[1]] if len(order) > 1 else np.inf
    ranked = tuple(int(token_ids[i]) for i in order[:count] if scores[i] > -np.inf)
    return ranked, float(min(lead, _REACH))
