"""Whether sequences run as one cohort or as two by turns; it knows rates, no sequence.

With two cohorts the drafter works for one while the target checks the other: a gain where drafting
takes longer than the pass it waits for. A drafter in this process cannot work meanwhile, and then
two passes only read the weights twice. So two are tried where waiting for drafts takes more than
the passes, and kept while they make more tokens per second.
"""

from __future__ import annotations

from specdec.rounds import PassTimes

_TRIAL_PASSES = 16  # of each way, to compare
_FIRST_PAUSE, _LONGEST_PAUSE = 64, 4096  # passes before another trial, each time four times as many
_LEAST_GAIN = 1.03  # less is noise


class _Tally:
    """Tokens and seconds of some passes."""

    def __init__(self) -> None:
        self.num_passes = self.num_tokens = 0
        self.elapsed_s = self.draft_s = self.verify_s = 0.0

    def add(self, num_tokens: int, times: PassTimes) -> None:
        self.num_passes += 1
        self.num_tokens += num_tokens
        self.elapsed_s += times.total_s
        self.draft_s += times.draft_s
        self.verify_s += times.verify_s

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / max(self.elapsed_s, 1e-9)


class CohortChoice:
    """One cohort, unless two have shown to be faster."""

    def __init__(self) -> None:
        self._num_cohorts = 1
        self._tally = _Tally()
        self._rival_rate: float | None = None  # of the other way, while one is on trial
        self._patience = _TRIAL_PASSES  # passes before the next judgement
        self._pause = _FIRST_PAUSE

    def num_cohorts(self, num_sequences: int) -> int:
        """How many cohorts so many sequences should form now, 1 or 2."""
        return self._num_cohorts if num_sequences > 1 else 1

    def observe(self, num_tokens: int, times: PassTimes) -> None:
        """Learn what a pass has made, and in what time."""
        self._tally.add(num_tokens, times)
        if self._tally.num_passes < self._patience:
            return
        if self._rival_rate is not None:
            self._end_trial(self._rival_rate)
        elif self._num_cohorts == 2 or self._tally.draft_s > self._tally.verify_s:
            self._rival_rate = self._tally.tokens_per_s
            self._num_cohorts = 3 - self._num_cohorts
            self._patience = _TRIAL_PASSES
        self._tally = _Tally()

    def _end_trial(self, rival_rate: float) -> None:
        """Keep the way on trial, or return to the other, and do not ask again too soon."""
        if self._tally.tokens_per_s < _LEAST_GAIN * rival_rate:
            self._num_cohorts = 3 - self._num_cohorts
        self._rival_rate = None
        self._patience, self._pause = self._pause, min(4 * self._pause, _LONGEST_PAUSE)
