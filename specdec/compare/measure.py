"""Runs contenders in turn on the same prompts and keeps what every round did."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from specdec.compare.contenders import Contender
from specdec.config import Config, RunConfig, TargetConfig
from specdec.engine import Engine
from specdec.errors import PromptError
from specdec.generation import Generation
from specdec.load import Progress, load, load_target
from specdec.load.borrowed import borrowed
from specdec.prompts import Prompt
from specdec.types import RoundReport, SamplingParams, Verifier

_WARM_UP_TOKENS = 32


class RoundLog:
    """A RoundRecorder that keeps the rounds of the running request."""

    def __init__(self) -> None:
        self._rounds: list[RoundReport] = []

    def open(
        self, slot: int, request_id: str, prompt_ids: Sequence[int], sampling: SamplingParams
    ) -> None:
        """A request starts; the one before is forgotten."""
        self._rounds = []

    def observe(self, slot: int, report: RoundReport) -> None:
        """Keep a round."""
        self._rounds.append(report)

    def close(self, slot: int) -> None:
        """The rounds stay until the next request."""

    def release(self) -> None:
        """Nothing to give back."""

    @property
    def rounds(self) -> tuple[RoundReport, ...]:
        """The rounds of the last request."""
        return tuple(self._rounds)


@dataclass(frozen=True, slots=True)
class Entrant:
    """A contender ready to run."""

    contender: Contender
    engine: Engine
    log: RoundLog


@dataclass(frozen=True, slots=True)
class Run:
    """One prompt continued by one contender."""

    contender: str
    kind: str
    generation: Generation
    rounds: tuple[RoundReport, ...]


def open_entrants(
    contenders: Sequence[Contender], held: ExitStack, progress: Progress
) -> list[Entrant]:
    """An engine for each, closed with `held`; those that can share a target do."""
    targets: dict[tuple[TargetConfig, RunConfig], Verifier] = {}
    entrants = []
    for contender in contenders:
        key = _target_settings(contender.config)
        if key not in targets:
            targets[key] = load_target(contender.config, progress)
            held.callback(targets[key].release)
        log = RoundLog()
        engine = load(contender.config, recorder=log, target=borrowed(targets[key]))
        entrants.append(Entrant(contender, held.enter_context(engine), log))
    return entrants


def warm_up(entrants: Sequence[Entrant], prompt: Prompt) -> None:
    """Let everybody compile, allocate and learn its costs; PromptError if it cannot run."""
    for entrant in entrants:
        _run(entrant, replace(prompt, max_new_tokens=_WARM_UP_TOKENS))


def run_all(
    entrants: Sequence[Entrant], layers: Sequence[Sequence[Prompt]], budget_s: float
) -> Iterator[list[Run]]:
    """Yield the runs of each layer; every prompt by all contenders, whose order turns around.

    The first layer always runs; no further one starts that would end after `budget_s`. A layer
    in which an engine is cancelled is dropped, and none follows.
    """
    start = time.perf_counter()
    longest_s, turn = 0.0, 0
    for index, layer in enumerate(layers):
        layer_start = time.perf_counter()
        if index and layer_start - start + longest_s > budget_s:
            return
        runs = []
        for prompt in layer:
            order = entrants if turn % 2 == 0 else entrants[::-1]
            runs += [_run(entrant, prompt) for entrant in order]
            turn += 1
        if any(run.generation.finish_reason == "cancelled" for run in runs):
            return
        longest_s = max(longest_s, time.perf_counter() - layer_start)
        yield runs


def _run(entrant: Entrant, prompt: Prompt) -> Run:
    results = [event.result for event in entrant.engine.generate([prompt])]
    generation = results[-1]
    assert generation is not None, "the last event of a prompt carries its result"
    if generation.error:
        raise PromptError(f"{entrant.contender.name}: {generation.error}")
    return Run(entrant.contender.name, prompt.kind, generation, entrant.log.rounds)


def _target_settings(config: Config) -> tuple[TargetConfig, RunConfig]:
    """What contenders must have in common to share a target."""
    return config.target, config.run
