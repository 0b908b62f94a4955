"""The probability that the target accepts a draft token, learned from verdicts; it knows no costs.

An online logistic regression on the draft's margin and the token's position in its run. Only
positions that the target judged teach: the accepted ones and the first rejected one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

_MAX_MARGIN = 6.0  # in logits; beyond it a margin says no more, and filters make it infinite
_PRIOR_WEIGHT = 0.8  # per logit of margin; the pairs measured so far lie at 0.6 to 1.0
_PRIOR_BIAS = -0.3
_PRIOR_VARIANCE = (0.1, 0.5)  # of weight and bias: some ten verdicts move them
_MAX_VARIANCE = (0.4, 2.0)
_DRIFT = (3e-5, 3e-4)  # of weight and bias, in variance per verdict: some 200 are remembered
_LEAK = 0.0001  # of the way back to the prior per verdict: endless luck is not certainty
_MAX_LOGIT = 5.0
_POSITION_PRIOR = 30.0  # verdicts' worth of belief that a position is like any other
_POSITION_MEMORY = 400.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """A snapshot: what a confidence at a position is worth."""

    margin_scale: float  # from confidences to logits: the temperature, or 1 when greedy
    weight: float
    biases: tuple[float, ...]  # by position in the run; the last holds from there on

    def probability(self, confidence: float, index: int) -> float:
        """That the run's token `index` is accepted if those before it are."""
        return self.probability_of(scaled(confidence, self.margin_scale), index)

    def probability_of(self, margin: float, index: int) -> float:
        """The same of a margin in logits."""
        bias = self.biases[min(index, len(self.biases) - 1)]
        return _odds(self.weight * margin + bias)

    def weighed(
        self, shares: Sequence[tuple[float, float]], index: int
    ) -> list[tuple[float, float]]:
        """Of pairs of a margin in logits and its share: the margin's probability and its share."""
        weight, bias = self.weight, self.biases[min(index, len(self.biases) - 1)]
        return [(_odds(weight * margin + bias), share) for margin, share in shares]

    def survival(self, confidences: Sequence[float]) -> list[float]:
        """S_1 .. S_K: the probability that the run is accepted at least so far."""
        weight, scale, biases = self.weight, self.margin_scale, self.biases
        survival, reached, last = [], 1.0, len(biases) - 1
        for index, confidence in enumerate(confidences):
            bias = biases[index] if index < last else biases[last]
            reached *= _odds(weight * scaled(confidence, scale) + bias)
            survival.append(reached)
        return survival


class Calibrator:
    """Learns the calibration of one way of sampling (greedy, or with noise).

    Perturbed scores are logits / T + noise, so their margins are multiplied by T: in logits one
    law serves all temperatures.
    """

    def __init__(self, num_positions: int) -> None:
        self.num_verdicts = 0
        self._weight, self._bias = _PRIOR_WEIGHT, _PRIOR_BIAS
        self._variance = [_PRIOR_VARIANCE[0], 0.0, _PRIOR_VARIANCE[1]]  # ww, wb, bb
        self._positions = [0.0] * num_positions  # bias of each position beside the common one
        self._counts = [0] * num_positions
        self._error = 0.0  # moving log loss, in nats

    def snapshot(self, margin_scale: float, own_bias: float = 0.0) -> Calibration:
        """What is known now; `own_bias` is the sequence's."""
        biases = tuple(self._bias + offset + own_bias for offset in self._positions)
        return Calibration(margin_scale, self._weight, biases)

    def observe(
        self,
        confidence: float,
        margin_scale: float,
        index: int,
        is_hit: bool,
        own_bias: float = 0.0,
    ) -> float:
        """Learn one verdict by a step of an extended Kalman filter; returns the error made."""
        x = scaled(confidence, margin_scale)
        index = min(index, len(self._positions) - 1)
        p = _odds(self._weight * x + self._bias + self._positions[index] + own_bias)
        error = is_hit - p
        ww, wb, bb = self._variance
        gain_w, gain_b = ww * x + wb, wb * x + bb
        curvature = max(p * (1.0 - p), 0.02)
        denominator = 1.0 / curvature + x * gain_w + gain_b
        drift_w, drift_b = _DRIFT
        self._variance = [
            min(ww - gain_w * gain_w / denominator + drift_w, _MAX_VARIANCE[0]),
            wb - gain_w * gain_b / denominator,
            min(bb - gain_b * gain_b / denominator + drift_b, _MAX_VARIANCE[1]),
        ]
        step = error / curvature / denominator
        self._weight += step * gain_w + _LEAK * (_PRIOR_WEIGHT - self._weight)
        self._weight = max(self._weight, 0.0)
        self._bias += step * gain_b + _LEAK * (_PRIOR_BIAS - self._bias)
        self._learn_position(index, error)
        self.num_verdicts += 1
        loss = -log(max(p if is_hit else 1.0 - p, 1e-6))
        self._error += max(0.01, 1.0 / self.num_verdicts) * (loss - self._error)
        return error

    def to_json(self) -> dict[str, object]:
        """Everything learned, as numbers."""
        return {
            "num_verdicts": self.num_verdicts,
            "weight": round(self._weight, 4),
            "bias": round(self._bias, 4),
            "position_offsets": [round(offset, 4) for offset in self._positions],
            "log_loss": round(self._error, 4),
        }

    def _learn_position(self, index: int, error: float) -> None:
        """Move a position's own offset a little, and all of them towards nothing."""
        self._counts[index] += 1
        step = 4.0 / (_POSITION_PRIOR + min(self._counts[index], _POSITION_MEMORY))
        offset = self._positions[index] + step * error
        self._positions[index] = min(max(0.9998 * offset, -1.5), 1.5)


def scaled(confidence: float, margin_scale: float) -> float:
    """A confidence in logits, capped."""
    margin = confidence * margin_scale
    return margin if margin < _MAX_MARGIN else _MAX_MARGIN


def _odds(logit: float) -> float:
    """The probability of a logit, never quite 0 or 1."""
    if logit > _MAX_LOGIT:
        logit = _MAX_LOGIT
    elif logit < -_MAX_LOGIT:
        logit = -_MAX_LOGIT
    return 1.0 / (1.0 + exp(-logit))
