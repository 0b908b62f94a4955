"""What finding out whether drafting pays may cost; it knows prices in tokens, no odds, no clock.

Prices are in tokens that plain decoding would have made in the same time.
"""

from __future__ import annotations

from collections.abc import Collection

from specdec.costs import CostTable
from specdec.types import RoundReport

_PROBE_SHARE = 0.01  # of plain time that probes may cost
_PROMISE_KEPT, _LEAST_PROMISE = 0.7, 0.4
_PROBE_INTERVALS = (4, 100)  # rounds: least and most between two probes
_FIRST_PASSES = 1.2  # that a start may lose
_PASSES_PER_PASS = 0.008  # that may be lost in the long run
MOST_TRIES = 8  # of a probe that gets no run, for the drafter has to read the text first
_LONGEST_READING = 4.0  # passes beyond what drafting takes; more is an accident
_MOST_PASSES = 20.0  # put by for bad luck: enough for any odds that are right on average


class Probing:
    """When to try a draft though none is expected to pay: once in a new text, then rarely.

    A run that has paid is followed up until others have not.
    """

    def __init__(self) -> None:
        self._num_waited = _PROBE_INTERVALS[1]
        self._promise = 0.0
        self._num_tries = 0  # of the last probe, while no run has come

    @property
    def is_promising(self) -> bool:
        """Whether one of the last probes has paid, or is still to come."""
        return self._promise > _LEAST_PROMISE or 0 < self._num_tries < MOST_TRIES

    def is_due(self, interval: float, num_rounds: int = 1) -> bool:
        """Whether this plain round should be a probe; so many came since this was asked."""
        self._num_waited += num_rounds
        if self.is_promising or self._num_waited >= interval:
            self._num_waited = 0
            return True
        return False

    def observe(self, has_paid: bool) -> None:
        """Learn how a checked run fared."""
        self._promise = 1.0 if has_paid else _PROMISE_KEPT * self._promise

    def observe_asked(self, has_come: bool) -> None:
        """A run was asked for, and has come or not."""
        self._num_tries = 0 if has_come else self._num_tries + 1


class Allowance:
    """How many plain passes' worth drafting may still lose against plain decoding.

    Odds and costs may be wrong at first, so what a start may lose is bounded whatever they say: a
    hundred passes lose two at most. What drafting gains is put by, up to a limit, for runs of bad
    luck, so that it binds nobody once drafting has paid for a while.
    """

    def __init__(self) -> None:
        self._num_passes = _FIRST_PASSES

    def longest_run(self, costs: CostTable, longest: int) -> int:
        """The longest run, at most `longest`, that could be lost whole; 0 is a plain round."""
        for length in range(longest, 0, -1):
            if costs.price(length, length) <= self._num_passes * costs.num_sequences:
                return length
        return 0

    def left_s(self, costs: CostTable) -> float:
        """What a pass of several may lose, in seconds."""
        return max(self._num_passes, 0.0) * (costs.pass_s[costs.num_sequences] + costs.other_s)

    def observe(self, reports: Collection[RoundReport], costs: CostTable, pass_s: float) -> None:
        """Count a pass that took `pass_s`, and what its drafting cost or gained.

        Sequences that share a pass wait for each other's runs, late ones too: there the wait
        itself counts, up to that of a few passes, for a drafter has texts to read at first.
        """
        num_sequences = len(reports)
        plain_s = costs.pass_s[num_sequences] + costs.other_s
        num_tokens = sum(len(report.acceptance.accepted) + 1 for report in reports)
        waited_for = [len(r.run.token_ids) - r.run.work.num_ready for r in reports]
        longest = max(waited_for)
        draft_s = costs.draft_s(longest) + (sum(waited_for) - longest) * costs.draft_row_s
        if num_sequences > 1:
            longest_s = draft_s + _LONGEST_READING * plain_s
            draft_s = min(sum(report.draft_s for report in reports), longest_s)
        num_gained = num_tokens / num_sequences - (pass_s + draft_s + costs.other_s) / plain_s
        self._num_passes = min(self._num_passes + num_gained + _PASSES_PER_PASS, _MOST_PASSES)


def probe_interval(price: float) -> float:
    """Rounds between two probes, by what one costs in plain rounds."""
    least, most = _PROBE_INTERVALS
    return min(max(price / _PROBE_SHARE, least), most)
