"""A Controller that is changed between prompts, and the order of turns; it decides nothing."""

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


def turn_order(names: Sequence[str], turn: int) -> list[str]:
    """The order in which ways take their turns: each as often in each place.

    A Williams design: in an even number of ways, each also follows each other equally often. Odd
    turns of an odd number go backwards.
    """
    count = len(names)
    first = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(count)]
    order = [names[(place + turn) % count] for place in first]
    return order[::-1] if count % 2 and turn % 2 else order
