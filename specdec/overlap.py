"""Whether to draft while the target checks, and how broadly; it knows seconds, no drafter.

What a way of overlapping is worth shows in two times: how long rounds wait for the drafter, and how
much longer passes take than alone, for memory or processors may be shared. Both are measured per
way, beside the luck of how much was accepted, and compared with drafting between the passes.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from statistics import mean, median

from specdec.types import RoundReport

OFF, CHAIN, BRANCH = 0, 1, 8  # endings to work on
MODES = {"off": (OFF,), "chain": (CHAIN,), "branch": (BRANCH,), "auto": (OFF, BRANCH, CHAIN)}

_FIRST_ROUNDS = 6  # of every way, one after the other
_TRIAL_ROUNDS = 4  # when a way is tried again
_SETTLED_ROUNDS = (24, 192)  # between two trials: at first, and in the end
_GAIN = 0.1  # of the moving rate of misses
_KEPT_ROUNDS = 64  # of each way that are remembered
_LEAST_ROUNDS = 3  # before passes count as slower
_LONGEST_WAIT = 2.0  # that counts, in usual waits without overlap
_MEDIAN_ERROR = 1.86  # standard error of a median, in median deviations over the root of n
_LEAST_GAIN = 0.01  # of a round: less is not worth a change
_LEAST_WAIT = 0.2  # of a round without overlap: trials cost more than there is to win below it


class _Way:
    """What one way of overlapping has cost of late."""

    def __init__(self) -> None:
        self.waits: deque[float] = deque(maxlen=_KEPT_ROUNDS)
        self.passes: deque[tuple[int, float]] = deque(maxlen=_KEPT_ROUNDS)  # tokens, seconds

    def typical_passes(self) -> dict[int, float]:
        """Median seconds by number of tokens."""
        by_size: dict[int, list[float]] = defaultdict(list)
        for size, elapsed_s in self.passes:
            by_size[size].append(elapsed_s)
        return {size: median(times) for size, times in by_size.items()}

    def longest_pass_s(self) -> float:
        """Of the typical ones."""
        return max(self.typical_passes().values(), default=0.0)

    def mean_wait_s(self, longest_s: float) -> float:
        """For the drafter; a hold-up of the machine counts as `longest_s`."""
        return mean(min(wait, longest_s) for wait in self.waits) if self.waits else 0.0

    def slowdown(self, alone: Mapping[int, float]) -> tuple[float, float]:
        """By what part passes took longer than `alone`, and how uncertain that is."""
        ratios = [elapsed_s / alone[size] for size, elapsed_s in self.passes if size in alone]
        if len(ratios) < _LEAST_ROUNDS:
            return 0.0, 0.0
        centre = median(ratios)
        spread = median(abs(ratio - centre) for ratio in ratios)
        return centre - 1.0, _MEDIAN_ERROR * spread / len(ratios) ** 0.5


class OverlapChoice:
    """Takes the way of overlapping that costs least, and now and then tries the others."""

    def __init__(self, mode: str) -> None:
        """`mode` is a key of MODES."""
        self._choices = MODES[mode]
        self._ways = {choice: _Way() for choice in self._choices}
        self._current = self._last = self._choices[0]
        self._num_left = _FIRST_ROUNDS
        self._next_trial = 0
        self._num_settled = _SETTLED_ROUNDS[0]
        self._best, self._is_settled = OFF, False
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
        self._ways[self._current].passes.append((report.num_checked + 1, report.verify_s))
        self._ways[self._last].waits.append(report.draft_s)  # its pass was the one before
        self._last = self._current
        self._num_left -= 1
        if self._num_left <= 0 and len(self._choices) > 1:
            self._choose()

    def cost_s(self, choice: int) -> float:
        """Seconds per round that a way costs beside passes as they are without overlap."""
        way, off = self._ways[choice], self._ways[OFF]
        alone = off.typical_passes()
        slower, error = way.slowdown(alone)
        certain = max(0.0, slower - error - off.slowdown(alone)[1])
        longest_s = _LONGEST_WAIT * max(median(off.waits or [0.0]), 0.001)
        return way.mean_wait_s(longest_s) + certain * max(alone.values(), default=0.0)

    def _is_wait_long(self) -> bool:
        """Whether rounds without overlap wait long enough for another way to pay."""
        off = self._ways[OFF]
        wait_s = median(off.waits or [0.0])
        return wait_s >= _LEAST_WAIT * (wait_s + off.longest_pass_s())

    def _choose(self) -> None:
        """Where waits are long, try what was never tried, then settle on the best for a while."""
        untried = [choice for choice in self._choices if not self._ways[choice].passes]
        if self._current == OFF and not self._is_wait_long():
            self._num_left = _FIRST_ROUNDS
            return
        if untried:
            self._current, self._num_left = untried[0], _FIRST_ROUNDS
            return
        costs = {choice: self.cost_s(choice) for choice in self._choices}
        best = min(self._choices, key=costs.__getitem__)
        if costs[OFF] - costs[best] < _LEAST_GAIN * self._ways[OFF].longest_pass_s():
            best = OFF
        if self._current == best and self._is_settled:  # it has had its time: another's turn
            others = [choice for choice in self._choices if choice != best]
            self._next_trial = (self._next_trial + 1) % len(others)
            self._current, self._num_left = others[self._next_trial], _TRIAL_ROUNDS
            self._is_settled = False
            return
        if best == self._best:
            self._num_settled = min(2 * self._num_settled, _SETTLED_ROUNDS[1])
        else:
            self._num_settled = _SETTLED_ROUNDS[0]
        self._best = self._current = best
        self._num_left, self._is_settled = self._num_settled, True
