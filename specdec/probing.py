"""What finding out whether drafting pays may cost; it knows prices in tokens, no odds and no clock.

Prices and gains are in tokens that plain decoding would have made in the same time.
"""

from __future__ import annotations

from specdec.costs import CostTable

_PROBE_SHARE = 0.01  # of plain time that probes may cost
_PROMISE_KEPT, _LEAST_PROMISE = 0.7, 0.4
_PROBE_INTERVALS = (4, 100)  # rounds: least and most between two probes
_FIRST_TOKENS = 1.2  # that a start may lose
_TOKENS_PER_ROUND = 0.008  # that may be lost in the long run
_MOST_TOKENS = 20.0  # put by for bad luck: enough for any odds that are right on average


class Probing:
    """When to try a draft though none is expected to pay: once in a new text, then rarely.

    A run that has paid is followed up until others have not.
    """

    def __init__(self) -> None:
        self._num_waited = _PROBE_INTERVALS[1]
        self._promise = 0.0

    def is_due(self, costs: CostTable) -> bool:
        """Whether this plain round should be a probe; called once per such round."""
        least, most = _PROBE_INTERVALS
        interval = min(max(costs.price(1, 1) / _PROBE_SHARE, least), most)
        self._num_waited += 1
        if self._promise > _LEAST_PROMISE or self._num_waited >= interval:
            self._num_waited = 0
            return True
        return False

    def observe(self, has_paid: bool) -> None:
        """Learn how a checked run fared."""
        self._promise = 1.0 if has_paid else _PROMISE_KEPT * self._promise


class Allowance:
    """How many tokens drafting may still lose against plain decoding.

    Odds and costs may be wrong at first, so what a start may lose is bounded whatever they say: a
    hundred rounds lose two tokens at most. What drafting gains is put by, up to a limit, for runs
    of bad luck, so that it binds nobody once drafting has paid for a while.
    """

    def __init__(self) -> None:
        self._num_tokens = _FIRST_TOKENS

    def longest_run(self, costs: CostTable, longest: int) -> int:
        """The longest run, at most `longest`, that could be lost whole; 0 is a plain round."""
        for length in range(longest, 0, -1):
            if costs.price(length, length) <= self._num_tokens:
                return length
        return 0

    def observe(self, num_gained: float) -> None:
        """Count one round that gained so many tokens over a plain one, or lost them."""
        self._num_tokens = min(self._num_tokens + num_gained + _TOKENS_PER_ROUND, _MOST_TOKENS)
