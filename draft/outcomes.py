"""How the pass in flight may end, the likeliest endings first; it knows no model and no cache.

A pass over a run x_1 .. x_K ends with j accepted tokens and the target's next token t. The draft
already knows what it would have taken instead of x_(j+1), so the ending (j, t) has probability
    S_j (1 - p_(j+1)) r(t),
S_j the survival of the run to token j, p its tokens' odds of acceptance, r(t) how often the target
takes the draft's second, third, ... choice where it rejects the first. Both are learned from the
verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specdec.calibration import Calibrator
from specdec.types import SamplingParams

NUM_OTHERS = 4  # choices after the first that are kept for every token

_NUM_POSITIONS = 4  # of a run, with odds of their own
_PRIOR_SHARES = (0.4, 0.15, 0.08, 0.05)  # of the choices after the first
_PRIOR_WEIGHT = 20.0  # rejections' worth of belief in them
_MEMORY = 0.99  # of a count, per rejection


@dataclass(frozen=True, slots=True)
class Ending:
    """One way a pass may end."""

    num_accepted: int
    next_token: int
    probability: float


@dataclass(frozen=True, slots=True)
class Drafted:
    """A draft token as it was chosen: its margin, and what would have been chosen without it."""

    token_id: int
    margin: float
    others: tuple[int, ...] = ()
    elapsed_s: float = 0.0  # of the step that it came from


class EndingOdds:
    """Learns from verdicts how likely endings are, for greedy and sampled text apart."""

    def __init__(self) -> None:
        self._laws: dict[bool, _Law] = {}

    def rank(
        self, run: Sequence[Drafted], num_checked: int, sampling: SamplingParams
    ) -> list[Ending]:
        """Endings that contradict the draft's first choice, the likeliest first.

        `run` may be longer than the `num_checked` tokens in flight: its next one is the draft's
        choice of the token after them. Where that is unknown yet, so are the endings with it.
        """
        law = self._law(sampling)
        calibration = law.calibrator.snapshot(_margin_scale(sampling))
        shares, reached = law.shares(), 1.0
        endings: list[Ending] = []
        for j, drafted in enumerate(run[: num_checked + 1]):
            p = calibration.probability(drafted.margin, j)
            for token, share in zip(drafted.others, shares, strict=False):
                endings.append(Ending(j, token, reached * (1.0 - p) * share))
            reached *= p
        return sorted(endings, key=lambda ending: -ending.probability)

    def learn(
        self, run: Sequence[Drafted], token_ids: Sequence[int], sampling: SamplingParams
    ) -> None:
        """Learn from what the target emitted where `run` was drafted."""
        law = self._law(sampling)
        for j, (drafted, token_id) in enumerate(zip(run, token_ids, strict=False)):
            is_hit = drafted.token_id == token_id
            law.calibrator.observe(drafted.margin, _margin_scale(sampling), j, is_hit)
            if not is_hit:
                law.count(drafted.others, token_id)
                return

    def _law(self, sampling: SamplingParams) -> _Law:
        return self._laws.setdefault(sampling.temperature == 0.0, _Law())


class _Law:
    """Odds of one way of sampling."""

    def __init__(self) -> None:
        self.calibrator = Calibrator(_NUM_POSITIONS)
        self._counts = [_PRIOR_WEIGHT * share for share in _PRIOR_SHARES]
        self._total = _PRIOR_WEIGHT

    def shares(self) -> list[float]:
        """How often a rejected token gives way to the draft's second choice, third, ..."""
        return [count / self._total for count in self._counts]

    def count(self, others: Sequence[int], token_id: int) -> None:
        """A token was rejected for `token_id`."""
        self._total = _MEMORY * self._total + 1.0
        for rank in range(NUM_OTHERS):
            is_it = rank < len(others) and others[rank] == token_id
            self._counts[rank] = _MEMORY * self._counts[rank] + is_it


def _margin_scale(sampling: SamplingParams) -> float:
    return sampling.temperature or 1.0
