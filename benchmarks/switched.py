"""A Controller that is changed between prompts; it decides nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specdec.planning import Controller, PassPlan, Turn
from specdec.types import RoundReport, SamplingParams


class Switched:
    """The controller that is switched on, the first at first; each keeps what it has learned."""

    def __init__(self, controllers: Mapping[str, Controller]) -> None:
        self._controllers = controllers
        self.current = next(iter(controllers.values()))

    def choose(self, name: str) -> None:
        """Use this one for the prompts that follow."""
        self.current = self._controllers[name]

    @property
    def mode(self) -> str:
        """As the current one says."""
        return self.current.mode

    def open(self, slot: int, sampling: SamplingParams) -> None:
        """A sequence starts."""
        self.current.open(slot, sampling)

    def plan(self, turns: Sequence[Turn], max_tokens: int) -> PassPlan:
        """The current one's plan."""
        return self.current.plan(turns, max_tokens)

    def observe(self, reports: Mapping[int, RoundReport]) -> None:
        """Told to the current one."""
        self.current.observe(reports)

    def close(self, slot: int) -> None:
        """The sequence has ended."""
        self.current.close(slot)
