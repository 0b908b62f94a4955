"""How long passes and draft steps take, as seen from the draft's side; it knows no model."""

from __future__ import annotations

from collections import defaultdict

from specdec.level import Level


class Pace:
    """Expects of a pass and of a step what those of the same size have taken of late."""

    def __init__(self) -> None:
        self._passes: dict[int, Level] = defaultdict(Level)  # by tokens checked
        self._steps: dict[int, Level] = defaultdict(Level)  # by rows
        self._begun: dict[int, tuple[int, float]] = {}  # by slot: tokens checked, when

    def begin_pass(self, slot: int, num_checked: int, now_s: float) -> None:
        """The target begins to check so many tokens of a slot."""
        self._begun[slot] = num_checked, now_s

    def end_pass(self, slot: int, now_s: float) -> None:
        """The verdict is there."""
        begun = self._begun.pop(slot, None)
        if begun is not None:
            self._passes[begun[0]].observe(now_s - begun[1])

    def observe_step(self, num_rows: int, elapsed_s: float) -> None:
        """Learn from a step."""
        self._steps[num_rows].observe(elapsed_s)

    def is_in_time(self, slot: int, num_rows: int, now_s: float) -> bool:
        """Whether a step that begins now should end before the slot's pass does; yes if unknown."""
        begun, step = self._begun.get(slot), self._steps[num_rows]
        if begun is None or not self._passes[begun[0]].num_samples or not step.num_samples:
            return True
        return now_s + step.value <= begun[1] + self._passes[begun[0]].value
