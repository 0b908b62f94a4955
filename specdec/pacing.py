"""How fast a sequence has run of late; it knows tokens and seconds only."""

from __future__ import annotations

_RATE_MEMORY = 0.95  # what a sequence's running rate keeps per round
_CARRIED_ROUNDS = 5.0  # rounds' worth of the last rate that a new sequence starts with


class RunningRate:
    """Tokens per second over the last rounds."""

    def __init__(self, num_tokens: float = 0.0, elapsed_s: float = 0.0) -> None:
        self._num_tokens = num_tokens
        self._elapsed_s = elapsed_s

    def carried(self) -> RunningRate:
        """The same rate on little evidence, for the next sequence to start from."""
        if not self._elapsed_s:
            return RunningRate()
        weight = _CARRIED_ROUNDS * (1 - _RATE_MEMORY)
        return RunningRate(weight * self._num_tokens, weight * self._elapsed_s)

    def observe(self, num_tokens: int, elapsed_s: float) -> None:
        """Count one round."""
        self._num_tokens = _RATE_MEMORY * self._num_tokens + num_tokens
        self._elapsed_s = _RATE_MEMORY * self._elapsed_s + elapsed_s

    @property
    def tokens_per_s(self) -> float:
        """The rate; 0.0 before the first round."""
        return self._num_tokens / self._elapsed_s if self._elapsed_s else 0.0
