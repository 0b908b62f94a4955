"""Several recorders of one run as one; it knows nothing of what they record."""

from __future__ import annotations

from collections.abc import Sequence

from specdec.planning import RoundRecorder
from specdec.types import RoundReport, SamplingParams


class Recorders:
    """A RoundRecorder that tells others, in order."""

    def __init__(self, recorders: Sequence[RoundRecorder]) -> None:
        self._recorders = tuple(recorders)

    def open(
        self, slot: int, request_id: str, prompt_ids: Sequence[int], sampling: SamplingParams
    ) -> None:
        """A request starts in `slot`."""
        for recorder in self._recorders:
            recorder.open(slot, request_id, prompt_ids, sampling)

    def observe(self, slot: int, report: RoundReport) -> None:
        """Record a finished round."""
        for recorder in self._recorders:
            recorder.observe(slot, report)

    def close(self, slot: int) -> None:
        """The slot's request has ended."""
        for recorder in self._recorders:
            recorder.close(slot)

    def release(self) -> None:
        """Nothing follows."""
        for recorder in self._recorders:
            recorder.release()
