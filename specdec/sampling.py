"""Choosing the next token so that the draft can never change it; numpy form, no device.

The token at position i is `argmax_t(logit_t / T + G(seed, i, t))` over the tokens that filters
leave: the Gumbel-max trick (Gumbel 1954; Maddison et al. 2014, arXiv 1411.0030) draws from the
softmax, and noise that depends on nothing but seed, position and token id makes the draw the same
for plain and speculative decoding and lets a draft with its own logits pick with the same noise
(cf. arXiv 2408.07978). Noise comes from Philox4x32-10 (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"). Temperature 0 is G = 0. Ties go to the lowest id.

Filters apply in this order, each on what the one before left: temperature, top-k, top-p (shortest
prefix of the sorted tokens whose renormalised probability reaches top_p), min-p (probability at
least min_p times the best).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from specdec.types import FloatArray, SamplingParams

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)


def request_seed(run_seed: int, request_id: str) -> int:
    """A request's 64-bit seed: the same alone and in any batch of a run with `run_seed`."""
    digest = hashlib.blake2b(f"{run_seed}:{request_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def philox(seed: int, counter: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Philox4x32-10: 32-bit words (..., 4) for counters (..., 4), both held in uint64."""
    c0, c1, c2, c3 = (counter[..., i] for i in range(4))
    key = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = (
            (product1 >> _WORD) ^ c1 ^ np.uint64(key[0]),
            (product0 >> _WORD) ^ c3 ^ np.uint64(key[1]),
        )
        c1, c3 = product1 & _LOW, product0 & _LOW
        key = [(k + w) & 0xFFFFFFFF for k, w in zip(key, _WEYL, strict=True)]
    return np.stack((c0, c1, c2, c3), axis=-1)


def gumbel_noise(seed: int, position: int, vocab_size: int) -> FloatArray:
    """G(seed, position, t) for every token id t: float32 (V,).

    Token t takes word t mod 4 of counter (t div 4, position, 0, 0). A word r becomes the uniform
    (r + 1/2) / 2^32, strictly between 0 and 1, so that neither logarithm meets its pole.
    """
    blocks = np.arange((vocab_size + 3) // 4)
    return _gumbel(_noise_words(seed, position, blocks).reshape(-1)[:vocab_size])


def gumbel_noise_of(seed: int, position: int, token_ids: NDArray[np.integer]) -> FloatArray:
    """G(seed, position, t) for some token ids t: float32 (n,), the same as in `gumbel_noise`."""
    words = _noise_words(seed, position, token_ids // 4)
    return _gumbel(words[np.arange(len(token_ids)), token_ids % 4])


def perturbed_scores(
    logits: FloatArray,
    position: int,
    sampling: SamplingParams,
    token_ids: NDArray[np.integer] | None = None,
) -> FloatArray:
    """Scores (V,) whose argmax is the chosen token: logits / T + G, -inf where filtered out.

    `logits` (V,) score the token at `position`. Greedy sampling returns the logits themselves.
    `token_ids` (V,) names the tokens where the logits are only some of the vocabulary's.
    """
    if sampling.temperature == 0.0:
        return logits
    scaled = logits / np.float32(sampling.temperature)
    if token_ids is None:
        noise = gumbel_noise(sampling.seed, position, len(scaled))
    else:
        noise = gumbel_noise_of(sampling.seed, position, token_ids)
    return np.where(_kept(scaled, sampling), scaled + noise, np.float32(-np.inf))


def choose(
    logits: FloatArray, positions: Sequence[int], sampling: SamplingParams
) -> tuple[int, ...]:
    """The chosen token for each row of logits (m, V); row r scores the token at positions[r]."""
    return tuple(
        int(np.argmax(perturbed_scores(row, position, sampling)))
        for row, position in zip(logits, positions, strict=True)
    )


def log_probabilities(logits: FloatArray, token_ids: Sequence[int]) -> tuple[float, ...]:
    """ln softmax(row)[token] for each row of logits (m, V) and its token, in float32.

    logit - max - ln sum exp(logit - max): temperature 1, before any filter. The sum is taken in
    float64, a row by itself, so that neighbours in a pass cannot change its order.
    """
    return tuple(
        float(np.float32(_log_probability(row.astype(np.float64), token)))
        for row, token in zip(logits, token_ids, strict=True)
    )


def choose_with_margin(
    logits: FloatArray, position: int, sampling: SamplingParams
) -> tuple[int, float]:
    """The chosen token for logits (V,) and its lead over the second best perturbed score."""
    scores = perturbed_scores(logits, position, sampling)
    best = int(np.argmax(scores))
    second = np.partition(scores, -2)[-2]
    return best, float(min(scores[best] - second, np.finfo(np.float32).max))


def _log_probability(logits: NDArray[np.float64], token_id: int) -> float:
    shifted = logits - logits.max()
    return float(shifted[token_id] - np.log(np.exp(shifted).sum()))


def _noise_words(seed: int, position: int, blocks: NDArray[np.integer]) -> NDArray[np.uint64]:
    """The four words (n, 4) of each block of four token ids."""
    counter = np.zeros((len(blocks), 4), np.uint64)
    counter[:, 0] = blocks
    counter[:, 1] = position
    return philox(seed, counter)


def _gumbel(words: NDArray[np.uint64]) -> FloatArray:
    uniform = (words.astype(np.float64) + 0.5) * 2.0**-32
    noise: FloatArray = (-np.log(-np.log(uniform))).astype(np.float32)
    return noise


def _kept(scaled: FloatArray, sampling: SamplingParams) -> NDArray[np.bool_]:
    """Which tokens the filters leave, by id: bool (V,)."""
    kept = np.ones(len(scaled), np.bool_)
    if sampling.top_k or sampling.top_p < 1.0:
        order = np.argsort(-scaled, kind="stable")  # ties: lowest id first
        num_kept = min(sampling.top_k or len(order), len(order))
        if sampling.top_p < 1.0:
            mass = np.exp((scaled[order[:num_kept]] - scaled[order[0]]).astype(np.float64))
            before = np.cumsum(mass) - mass
            num_kept = int(np.searchsorted(before, sampling.top_p * mass.sum(), side="left"))
        kept[order[num_kept:]] = False
    if sampling.min_p > 0.0:
        kept &= scaled >= scaled.max() + np.float32(np.log(sampling.min_p))
    return kept
