"""Protocols of who decides how far to draft, and of who watches; they know no model, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from specdec.types import DraftRun, RoundReport, SamplingParams, StoppingRule


@dataclass(frozen=True, slots=True)
class Turn:
    """A sequence that takes part in the next pass; its run starts at `position`."""

    slot: int
    position: int
    longest: int  # most draft tokens that it could use; 0 where nothing drafts


class PassPlan(Protocol):
    """How far the sequences of one pass draft, and how the pass is shared among their runs."""

    @property
    def rules(self) -> Sequence[StoppingRule]:
        """When to stop each sequence's run."""

    def share(self, runs: Sequence[DraftRun]) -> Sequence[int]:
        """How long a prefix of each run is checked; with one token a sequence more it fits."""


class Controller(Protocol):
    """Decides how many tokens to draft and how many of them to check."""

    @property
    def mode(self) -> str:
        """`auto`, `fixed` or `off`, as shown in results."""

    def open(self, slot: int, sampling: SamplingParams) -> None:
        """A sequence starts in `slot`."""

    def plan(self, turns: Sequence[Turn], max_tokens: int) -> PassPlan:
        """The plan of one pass of at most `max_tokens` tokens, one a sequence at least."""

    def observe(self, reports: Mapping[int, RoundReport]) -> None:
        """Learn from a finished pass: the round of each slot, whose times add up to the pass's."""

    def close(self, slot: int) -> None:
        """The slot's sequence has ended."""


class RoundRecorder(Protocol):
    """Writes down what the rounds of a run did."""

    def open(
        self, slot: int, request_id: str, prompt_ids: Sequence[int], sampling: SamplingParams
    ) -> None:
        """A request starts in `slot`."""

    def observe(self, slot: int, report: RoundReport) -> None:
        """Write down a finished round."""

    def close(self, slot: int) -> None:
        """The slot's request has ended."""

    def release(self) -> None:
        """Nothing follows; everything observed is on disk afterwards."""
