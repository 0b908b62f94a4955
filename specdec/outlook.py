"""What draft tokens not drafted yet will look like, by their margins; it knows no verdicts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from specdec.calibration import Calibration, scaled

Odds = tuple[tuple[tuple[float, float], ...], ...]

_BINS = (0.7, 2.0, 4.0)  # upper ends, in logits; the last bin has none
_PRIOR = ((0.3, 0.2), (1.3, 0.25), (3.0, 0.3), (5.2, 0.25))  # mean margin and share of each bin
_SHARE_GAIN, _MEAN_GAIN, _SPREAD_GAIN = 0.05, 0.2, 0.06
_FORGETTING = 0.5  # of the way back to the prior that a new text starts at


class Outlook:
    """Running shares of margins of what one sequence has drafted, by position in the run.

    Margins, not odds: what a margin is worth is the calibration's business and changes at once
    with it. A position is reached only after what is before it looked good, which is how the shares
    will be used as well.
    """

    def __init__(self, max_length: int) -> None:
        self._shares = [list(_PRIOR) for _ in range(max(max_length, 1))]

    def for_new_text(self) -> Outlook:
        """What is expected of another text: half of what this one was like."""
        outlook = Outlook(len(self._shares))
        for mine, ours in zip(outlook._shares, self._shares, strict=True):
            _move(mine, ours, 1.0 - _FORGETTING)
        return outlook

    def odds(self, calibration: Calibration, length: int) -> Odds:
        """For each of `length` positions: pairs of a probability of acceptance and its share."""
        return tuple(
            tuple(calibration.weighed(shares, index))
            for index, shares in enumerate(self._shares[:length])
        )

    def observe(self, confidences: Sequence[float], margin_scale: float) -> None:
        """Learn from a run, whether it was checked or not.

        Positions it did not reach follow the last it did, more slowly: else a text that never went
        so far would be believed about one that could.
        """
        length = min(len(confidences), len(self._shares))
        for shares, confidence in zip(self._shares, confidences, strict=False):
            margin = scaled(confidence, margin_scale)
            hit = bisect_left(_BINS, margin)
            for i, (mean, share) in enumerate(shares):
                moved = _MEAN_GAIN * (margin - mean) if i == hit else 0.0
                shares[i] = (mean + moved, share + _SHARE_GAIN * ((i == hit) - share))
        for shares in self._shares[length:] if length else ():
            _move(shares, self._shares[length - 1], _SPREAD_GAIN)

    def to_json(self) -> list[list[float]]:
        """By position: the share of each bin of margins."""
        return [[round(share, 4) for _, share in shares] for shares in self._shares]


def _move(
    shares: list[tuple[float, float]], others: Sequence[tuple[float, float]], gain: float
) -> None:
    """Move means and shares part of the way to others."""
    for i, ((mean, share), (other_mean, other_share)) in enumerate(
        zip(shares, others, strict=True)
    ):
        shares[i] = (mean + gain * (other_mean - mean), share + gain * (other_share - share))
