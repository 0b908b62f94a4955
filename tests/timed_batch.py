"""Target and draft worker on a clock of their own, as many prompts at once meet them."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
from fakes import VOCAB, ByteTokenizer, RuleDrafter, RuleVerifier

from specdec.controller import AdaptiveLength, FixedLength
from specdec.costs import Costs
from specdec.engine import BatchSettings, Engine
from specdec.planning import Controller
from specdec.prompts import Prompt
from specdec.requests import GenerationDefaults
from specdec.types import DraftRun, SamplingParams, Segment, StoppingRule

PROMPT_LENGTH, MAX_TOKENS, NUM_TOKENS = 100, 64, 96


@dataclass(frozen=True)
class Times:
    """Seconds that devices take; passes by size, padded to the next."""

    pass_s: Mapping[int, float]
    step_s: float  # a draft step for one sequence
    row_s: float  # what each further one adds, in groups of eight
    feed_s: float  # per prompt token, target
    read_s: float  # per prompt token, draft
    round_trip_s: float = 0.0001  # to the worker

    def pass_of(self, num_tokens: int) -> float:
        return next(s for size, s in sorted(self.pass_s.items()) if num_tokens <= size)

    def steps_of(self, lengths: Sequence[int]) -> float:
        total = 0.0
        for done in range(max(lengths)):
            rows = sum(length > done for length in lengths)
            groups = -(-rows // 8)
            total += groups * self.step_s + (rows - groups) * self.row_s
        return total

    def known(self, read_s: float = 0.0) -> Costs:
        """What timing passes and draft steps for a moment tells; `read_s` if it is waited for."""
        costs = Costs(MAX_TOKENS, tuple(sorted(self.pass_s)))
        levels = {size: (seconds, 0.0, 9) for size, seconds in self.pass_s.items()}
        costs.restore(levels, 0.0, 0.0, self.step_s, 0.0, draft_read_s=read_s)
        return costs


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class TimedVerifier(RuleVerifier):
    def __init__(self, clock: Clock, times: Times) -> None:
        super().__init__()
        self.clock, self.times = clock, times
        self.max_pass_tokens = MAX_TOKENS
        self.pass_sizes = tuple(sorted(times.pass_s))

    def prefill(self, *segments: Segment) -> None:
        self.clock.now_s += self.times.feed_s * sum(len(s.token_ids) for s in segments)
        super().prefill(*segments)

    def verify(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        self.clock.now_s += self.times.pass_of(sum(len(s.token_ids) for s in segments))
        return super().verify(segments)


class TimedWorker(RuleDrafter):
    """Reads a sequence when it is opened, drafts what is prepared together, may be late.

    Right or wrong by the text alone, so that every policy meets the same chains.
    """

    def __init__(self, clock: Clock, times: Times, accuracy: float) -> None:
        super().__init__(accuracy)
        self.clock, self.times = clock, times
        self.free_s = self.answers_s = 0.0  # when the worker will have done, and have spoken
        self.prepared: dict[int, tuple[int, StoppingRule | None]] = {}
        self.ready: dict[int, DraftRun] = {}
        self.num_drafted = 0

    def open(self, slot: int, prompt_ids: Sequence[int], sampling: SamplingParams) -> None:
        super().open(slot, prompt_ids, sampling)
        read_s = self.times.read_s * len(prompt_ids) + self.times.step_s
        self.free_s = max(self.free_s, self.clock.now_s) + read_s

    def confirm(self, slot: int, token_ids: Sequence[int]) -> None:
        super().confirm(slot, token_ids)
        self.ready.pop(slot, None)
        self.prepared.pop(slot, None)

    def prepare(
        self, slot: int, position: int, max_length: int, stopping: StoppingRule | None = None
    ) -> None:
        self.prepared[slot] = max_length, stopping

    def take(
        self,
        slot: int,
        position: int,
        max_length: int,
        timeout_s: float,
        stopping: StoppingRule | None = None,
    ) -> DraftRun:
        if self.answers_s > self.clock.now_s:
            return DraftRun(position)
        self.clock.now_s += self.times.round_trip_s
        if slot in self.ready:
            return self.ready.pop(slot)
        wishes = {slot: (max_length, stopping), **self.prepared}
        self.prepared.clear()
        runs = {each: self._chain(each, *wish) for each, wish in wishes.items()}
        drafted_s = self.times.steps_of([len(run.token_ids) for run in runs.values()])
        self.free_s = max(self.free_s, self.clock.now_s) + drafted_s
        give_up_s = self.clock.now_s + timeout_s
        if self.free_s > give_up_s:
            self.clock.now_s, self.answers_s = give_up_s, self.free_s
            return DraftRun(position)
        self.clock.now_s = self.free_s
        run = runs.pop(slot)
        self.ready |= runs
        return run

    def _chain(self, slot: int, max_length: int, stopping: StoppingRule | None) -> DraftRun:
        tokens, margins = list(self.tokens[slot]), list[float]()
        position = len(tokens)
        while len(margins) < max_length and (stopping is None or stopping.should_continue(margins)):
            mixed = len(tokens) * 2654435761 + sum(tokens[-6:]) * 7919 + len(tokens) ** 2 * 40503
            draw, right = mixed % 1000 / 1000, self.next_token(tokens)
            tokens.append(right if draw < self.accuracy else (right + 1) % VOCAB)
            margins.append(2.5 if draw < 0.85 * self.accuracy else 0.7)
        self.num_drafted += len(margins)
        return DraftRun(position, tuple(tokens[position:]), tuple(margins))

    def close(self, slot: int) -> None:
        super().close(slot)
        self.ready.pop(slot, None)
        self.prepared.pop(slot, None)


class TimedInProcess(TimedWorker):
    """Drafts in the caller's time, one sequence after the other; reads with the first run."""

    def open(self, slot: int, prompt_ids: Sequence[int], sampling: SamplingParams) -> None:
        RuleDrafter.open(self, slot, prompt_ids, sampling)
        self.ready[slot] = DraftRun(0)  # stands for: not read yet

    def confirm(self, slot: int, token_ids: Sequence[int]) -> None:
        RuleDrafter.confirm(self, slot, token_ids)

    def take(
        self,
        slot: int,
        position: int,
        max_length: int,
        timeout_s: float,
        stopping: StoppingRule | None = None,
    ) -> DraftRun:
        if self.ready.pop(slot, None):
            self.clock.now_s += position * self.times.read_s
        run = self._chain(slot, max_length, stopping)
        self.clock.now_s += len(run.token_ids) * self.times.step_s
        return run


def prompts(count: int) -> list[Prompt]:
    """Of one length."""
    rng = random.Random(2)
    letters = [chr(code) for code in range(33, 120)]
    texts = ("".join(rng.choices(letters, k=PROMPT_LENGTH)) for _ in range(count))
    return [Prompt(id=str(number), text=text) for number, text in enumerate(texts)]


def tokens_per_s(
    monkeypatch: pytest.MonkeyPatch,
    drafter: TimedWorker,
    controller: Controller,
    batch_size: int,
    count: int,
) -> float:
    """Of a whole run, prefill included; nothing was learned before it."""
    clock = drafter.clock
    monkeypatch.setattr(time, "perf_counter", clock)
    defaults = GenerationDefaults(max_new_tokens=NUM_TOKENS)
    verifier = TimedVerifier(clock, drafter.times)
    batch = BatchSettings(batch_size)
    engine = Engine(verifier, drafter, controller, ByteTokenizer(), defaults, batch=batch)
    found = [event.result for event in engine.generate(prompts(count)) if event.result]
    return sum(len(result.token_ids) for result in found) / clock.now_s


def gain(
    monkeypatch: pytest.MonkeyPatch,
    kind: type[TimedWorker],
    times: Times,
    accuracy: float,
    batch_size: int,
) -> float:
    """How many times as fast as plain decoding a cold adaptive run is."""
    count = max(8, 2 * batch_size)
    known = times.known(times.read_s if kind is TimedInProcess else 0.0)
    rates = [
        tokens_per_s(monkeypatch, kind(Clock(), times, accuracy), controller, batch_size, count)
        for controller in (FixedLength(0), AdaptiveLength(known, 15))
    ]
    return rates[1] / rates[0]
