"""Whether to draft while the target checks, and how broadly; it knows seconds, no drafter.

What a way of overlapping is worth shows in two times: how long rounds wait for the drafter, and how
much longer passes take than alone, for memory or processors may be shared. Both are measured per
way, beside the luck of how much was accepted, and compared with drafting between the passes.
"""

from __future__ import annotations

from specdec.level import Level
from specdec.types import RoundReport

OFF, CHAIN, BRANCH = 0, 1, 8  # endings to work on
MODES = {"off": (OFF,), "chain": (CHAIN,), "branch": (BRANCH,), "auto": (OFF, BRANCH, CHAIN)}

_FIRST_ROUNDS = 6  # of every way, one after the other
_TRIAL_ROUNDS = 4  # when a way is tried again
_SETTLED_ROUNDS = 96  # between two trials
_GAIN = 0.1  # of the moving mean of waits: they are short or long, not noisy
_LEAST_GAIN = 0.01  # of a round: less is not worth a change


class _Way:
    """What one way of overlapping has cost of late."""

    def __init__(self) -> None:
        self.num_rounds = 0
        self.wait_s = 0.0
        self.passes: dict[int, Level] = {}  # seconds by number of tokens

    def observe_wait(self, elapsed_s: float) -> None:
        """Learn from one wait for the drafter."""
        self.num_rounds += 1
        self.wait_s += max(_GAIN, 1.0 / self.num_rounds) * (elapsed_s - self.wait_s)

    def observe_pass(self, num_tokens: int, elapsed_s: float) -> None:
        """Learn from one pass."""
        self.passes.setdefault(num_tokens, Level()).observe(elapsed_s)


class OverlapChoice:
    """Takes the way of overlapping that costs least, and now and then tries the others."""

    def __init__(self, mode: str) -> None:
        """`mode` is a key of MODES."""
        self._choices = MODES[mode]
        self._ways = {choice: _Way() for choice in self._choices}
        self._current = self._last = self._choices[0]
        self._num_left = _FIRST_ROUNDS
        self._next_trial = 1
        self._miss_rate = 1.0

    @property
    def num_endings(self) -> int:
        """For the next round: as in StoppingRule."""
        return self._current

    @property
    def waited_share(self) -> float:
        """The part of all runs that has to be waited for; the others are ready."""
        return self._miss_rate if self._current != OFF else 1.0

    def observe(self, report: RoundReport) -> None:
        """Learn from a round that asked its drafter."""
        if report.run.work.num_endings:
            self._miss_rate += _GAIN * ((not report.run.work.is_hit) - self._miss_rate)
        self._ways[self._current].observe_pass(report.num_checked + 1, report.verify_s)
        self._ways[self._last].observe_wait(report.draft_s)  # its pass was the one before
        self._last = self._current
        self._num_left -= 1
        if self._num_left <= 0 and len(self._choices) > 1:
            self._choose()

    def cost_s(self, choice: int) -> float:
        """Seconds per round that a way costs beside passes as they are without overlap."""
        way, alone = self._ways[choice], self._ways[OFF]
        excess = [
            (level.value - alone.passes[size].value, level.num_samples)
            for size, level in way.passes.items()
            if size in alone.passes
        ]
        total = sum(count for _, count in excess)
        slower_s = sum(value * count for value, count in excess) / total if total else 0.0
        return way.wait_s + max(0.0, slower_s)

    def _choose(self) -> None:
        """Try what was never tried, else settle on the best; after that, another in turn."""
        untried = [c for c in self._choices if not self._ways[c].num_rounds]
        if untried:
            self._current, self._num_left = untried[0], _FIRST_ROUNDS
            return
        costs = {choice: self.cost_s(choice) for choice in self._choices}
        best = min(self._choices, key=costs.__getitem__)
        round_s = max((level.value for level in self._ways[OFF].passes.values()), default=0.0)
        if costs[OFF] - costs[best] < _LEAST_GAIN * round_s:
            best = OFF
        if self._current == best:  # it has had its time: another one's turn
            others = [choice for choice in self._choices if choice != best]
            self._next_trial = (self._next_trial + 1) % len(others)
            self._current, self._num_left = others[self._next_trial], _TRIAL_ROUNDS
        else:
            self._current, self._num_left = best, _SETTLED_ROUNDS
