"""How many tokens to draft and to check; it knows acceptances and costs, no model, no device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specdec.types import DraftRun, RoundReport, SamplingParams


@dataclass(frozen=True, slots=True)
class FixedStopping:
    """Draft `max_length` tokens, check them all."""

    max_length: int

    def should_continue(self, confidences: Sequence[float]) -> bool:
        """Until the length is reached."""
        return len(confidences) < self.max_length

    def num_to_check(self, run: DraftRun) -> int:
        """The whole run."""
        return min(len(run.token_ids), self.max_length)


class FixedLength:
    """The same draft length for every run; 0 is plain decoding."""

    def __init__(self, draft_length: int) -> None:
        self._draft_length = draft_length

    @property
    def mode(self) -> str:
        """`off` when nothing is ever drafted, else `fixed`."""
        return "fixed" if self._draft_length else "off"

    def open(self, slot: int, sampling: SamplingParams) -> None:
        """Every sequence is treated alike."""

    def plan(self, slot: int, position: int, longest: int) -> FixedStopping:
        """The fixed length, wherever the sequence stands."""
        return FixedStopping(min(self._draft_length, longest))

    def observe(self, slot: int, report: RoundReport) -> None:
        """Nothing to learn."""

    def close(self, slot: int) -> None:
        """Nothing is kept."""
