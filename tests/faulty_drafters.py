"""Drafters that go wrong in their worker; each is a picklable factory of itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fakes import RuleDrafter

from specdec.errors import ModelError
from specdec.types import DraftRun, StoppingRule

Fault = Literal[
    "raise",
    "exit",
    "kill",
    "stop",
    "hang",
    "negative",
    "huge",
    "text",
    "long",
    "elsewhere",
    "noise",
]
FAULTS: tuple[Fault, ...] = (
    "raise",
    "exit",
    "kill",
    "stop",
    "hang",
    "negative",
    "huge",
    "text",
    "long",
    "elsewhere",
    "noise",
)


@dataclass(frozen=True)
class Faulty:
    """Makes a perfect drafter whose run at and after a position suffers a fault."""

    fault: Fault
    position: int

    def __call__(self) -> FaultyDrafter:
        return FaultyDrafter(self)


class FaultyDrafter(RuleDrafter):
    device = "faulty"

    def __init__(self, plan: Faulty) -> None:
        super().__init__(1.0)
        self.plan = plan

    def take(
        self,
        slot: int,
        position: int,
        max_length: int,
        timeout_s: float,
        stopping: StoppingRule | None = None,
    ) -> DraftRun:
        max_length = min(max_length, 15)
        run = super().take(slot, position, max_length, timeout_s, stopping)
        return self.spoilt(run) if position >= self.plan.position else run

    def spoilt(self, run: DraftRun) -> DraftRun:
        ids: Sequence[object] = run.token_ids
        position = run.position
        match self.plan.fault:
            case "raise":
                raise RuntimeError("a fault\nof two lines")
            case "exit":
                os._exit(7)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "hang":
                time.sleep(1000)
            case "negative":
                ids = [-5] * len(ids)
            case "huge":
                ids = [10**6] * len(ids)
            case "text":
                ids = ["nonsense"] * len(ids)
            case "long":
                ids = [*ids] * 100
            case "elsewhere":
                position += 1
            case "noise":
                ids = [2**40] * len(ids)
        return DraftRun(position, tuple(ids), (1.0,) * len(ids))  # type: ignore[arg-type]


def unbuildable() -> RuleDrafter:
    raise ModelError("draft: no such directory")


def unspeaking() -> RuleDrafter:
    time.sleep(1000)
    raise AssertionError


def dying() -> RuleDrafter:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def perfect() -> RuleDrafter:
    return RuleDrafter(1.0)
