"""How many tokens to draft; it knows acceptances and costs, no model and no device."""

from __future__ import annotations

from specdec.types import Acceptance, DraftRun


class FixedLength:
    """The same draft length for every run; 0 is plain decoding."""

    def __init__(self, draft_length: int) -> None:
        self._draft_length = draft_length

    @property
    def mode(self) -> str:
        """`off` when nothing is ever drafted, else `fixed`."""
        return "fixed" if self._draft_length else "off"

    def draft_length(self, slot: int, position: int) -> int:
        """The fixed length, wherever the sequence stands."""
        return self._draft_length

    def observe(self, slot: int, run: DraftRun, acceptance: Acceptance) -> None:
        """Nothing to learn."""
