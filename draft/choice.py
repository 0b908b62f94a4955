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
    lowest = logits.max() - np.float32(_REACH * (sampling.temperature or 1.0))
    token_ids = np.flatnonzero(logits >= lowest)
    scores = perturbed_scores(logits[token_ids], position, sampling, token_ids)
    best = int(np.argmax(scores))
    lead = scores[best] - np.delete(scores, best).max(initial=-np.inf)
    return int(token_ids[best]), float(min(lead, _REACH))
