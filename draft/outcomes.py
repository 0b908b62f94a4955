"""Which endings of the pass in flight to work for, learned from verdicts; it knows no cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from specdec.calibration import Calibrator
from specdec.endings import LEAST_PROBABILITY, NUM_OTHERS, RankShares, rank_endings
from specdec.types import SamplingParams

_NUM_POSITIONS = 4  # of a run, with odds of their own


@dataclass(frozen=True, slots=True)
class Drafted:
    """A draft token as it was chosen: its margin, and what would have been chosen without it."""

    token_id: int
    margin: float
    others: tuple[int, ...] = ()
    elapsed_s: float = 0.0  # of the step that it came from


@dataclass(slots=True)
class _Law:
    """Odds of one way of sampling."""

    calibrator: Calibrator = field(default_factory=lambda: Calibrator(_NUM_POSITIONS))
    ranks: RankShares = field(default_factory=RankShares)


class EndingOdds:
    """Learns from verdicts how likely endings are, for greedy and sampled text apart."""

    def __init__(self) -> None:
        self._laws = {True: _Law(), False: _Law()}

    def rank(
        self, run: Sequence[Drafted], num_checked: int, sampling: SamplingParams
    ) -> Iterator[tuple[int, int]]:
        """Numbers of accepted tokens and next tokens that contradict the draft's first choice.

        The likeliest first, as far as they are worth any work. `run` may be longer than the
        `num_checked` tokens in flight: its next one is the draft's choice of the token after them.
        """
        law = self._laws[sampling.temperature == 0.0]
        calibration = law.calibrator.snapshot(_margin_scale(sampling))
        margins = [drafted.margin for drafted in run]
        for ending in rank_endings(margins, num_checked, calibration, law.ranks.shares):
            if ending.probability < LEAST_PROBABILITY:
                return
            others = run[ending.num_accepted].others
            if ending.rank < len(others):
                yield ending.num_accepted, others[ending.rank]

    def learn(
        self, run: Sequence[Drafted], token_ids: Sequence[int], sampling: SamplingParams
    ) -> None:
        """Learn from what the target emitted where `run` was drafted."""
        law = self._laws[sampling.temperature == 0.0]
        for j, (drafted, token_id) in enumerate(zip(run, token_ids, strict=False)):
            is_hit = drafted.token_id == token_id
            law.calibrator.observe(drafted.margin, _margin_scale(sampling), j, is_hit)
            if not is_hit:
                others = drafted.others
                law.ranks.observe(others.index(token_id) if token_id in others else NUM_OTHERS)
                return


def _margin_scale(sampling: SamplingParams) -> float:
    return sampling.temperature or 1.0
