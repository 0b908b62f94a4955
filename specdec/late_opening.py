"""A drafter that hears of a sequence only once a run of it is wanted; it knows no model.

Where several sequences share passes, drafting pays for some of them, or for none. A drafter that
reads all prompts and all that is emitted takes time from machine and engine for nothing. So it is
told of a sequence when its first run is wanted, and told to forget it when none was for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specdec.types import Drafter, DraftRun, SamplingParams, StoppingRule

FADED_ROUNDS = 32  # without drafting, before a sequence is forgotten
_MOST_TRIES = 8  # runs of K = 0 before a drafter is taken to have none, not to be reading


@dataclass(slots=True)
class _Slot:
    """One sequence, as the drafter must be told of it."""

    token_ids: list[int]  # confirmed
    sampling: SamplingParams
    is_open: bool = False
    num_idle: int = 0  # rounds since a run was wanted
    num_tries: int = 0  # to get the first run


class LateOpening:
    """A Drafter around another.

    The first run of a sequence is not waited for: to read its tokens takes many times as long as
    to draft. Until the drafter has answered, no other sequence is opened, or they would wait for
    each other's.
    """

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._slots: dict[int, _Slot] = {}
        self._opening: int | None = None  # slot that the drafter has not answered for yet

    @property
    def device(self) -> str:
        """Name of what drafts."""
        return self._drafter.device

    def open(self, slot: int, prompt_ids: Sequence[int], sampling: SamplingParams) -> None:
        """Remember a sequence."""
        self._slots[slot] = _Slot(list(prompt_ids), sampling)

    def confirm(self, slot: int, token_ids: Sequence[int]) -> None:
        """Append confirmed tokens; the drafter forgets a sequence that no run was wanted of."""
        state = self._slots[slot]
        state.token_ids.extend(token_ids)
        if not state.is_open:
            return
        state.num_idle += 1
        if state.num_idle > FADED_ROUNDS:
            self._forget(slot, state)
        else:
            self._drafter.confirm(slot, token_ids)

    def take(
        self,
        slot: int,
        position: int,
        max_length: int,
        timeout_s: float,
        stopping: StoppingRule | None = None,
    ) -> DraftRun:
        """The drafter's run; K = 0 while it reads what it had not been told of."""
        state = self._slots[slot]
        state.num_idle = 0
        if not state.is_open:
            if self._opening is not None:
                return DraftRun(position)
            self._drafter.open(slot, tuple(state.token_ids), state.sampling)
            state.is_open, state.num_tries, self._opening, timeout_s = True, 0, slot, 0.0
        state.num_tries += 1
        run = self._drafter.take(slot, position, max_length, timeout_s, stopping)
        if slot == self._opening and (run.token_ids or state.num_tries >= _MOST_TRIES):
            self._opening = None
        return run

    def prepare(
        self, slot: int, position: int, max_length: int, stopping: StoppingRule | None = None
    ) -> None:
        """Begin a run of a sequence that the drafter has answered for."""
        if self._slots[slot].is_open and slot != self._opening:
            self._drafter.prepare(slot, position, max_length, stopping)

    def in_flight(self, slot: int, run: DraftRun) -> None:
        """Tell the drafter what is checked, if it knows the sequence."""
        if self._slots[slot].is_open:
            self._drafter.in_flight(slot, run)

    def close(self, slot: int) -> None:
        """Forget the sequence."""
        state = self._slots.pop(slot, None)
        if state is not None and state.is_open:
            self._forget(slot, state)

    def release(self) -> None:
        """Give back the drafter's resources."""
        self._drafter.release()

    def _forget(self, slot: int, state: _Slot) -> None:
        """Let the drafter forget a sequence."""
        self._drafter.close(slot)
        state.is_open = False
        if slot == self._opening:
            self._opening = None
