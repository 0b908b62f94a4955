"""Drafting while the target checks, under random delays at every point of the protocol.

Owner and worker are the real ones; time is virtual, so every delay can be had for nothing.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence

import numpy as np
import pytest
from fakes import ByteTokenizer, RuleVerifier, rule
from fuzzy_model import FuzzyDraft, FuzzyModel
from virtual_time import WORKER, VirtualProcess, World

from draft import worker_process
from draft.worker import WorkerDrafter, WorkerSettings
from specdec.controller import AdaptiveLength, FixedLength, FixedStopping
from specdec.costs import Costs
from specdec.engine import Engine, GenerationDefaults
from specdec.late_opening import LateOpening
from specdec.planning import Controller
from specdec.types import DraftRun, SamplingParams, Segment, StoppingRule

NUM_TOKENS = 60
PATIENT = WorkerSettings(hang_timeout_s=30.0, pause_s=0.05, max_restarts=50)
_world: World  # of the schedule that runs


def pause() -> None:
    _world.pause()


class CheckedDrafter(WorkerDrafter):
    """Every run must be what the model says anew, and come in time."""

    def __init__(self, recipe: FuzzyDraft) -> None:
        self.model = FuzzyModel(recipe.accuracy, recipe.seed)
        self.texts: dict[int, list[int]] = {}
        self.num_hits = 0
        super().__init__(recipe, PATIENT)

    def open(self, slot: int, prompt_ids: Sequence[int], sampling: SamplingParams) -> None:
        self.texts[slot] = list(prompt_ids)
        super().open(slot, prompt_ids, sampling)

    def confirm(self, slot: int, token_ids: Sequence[int]) -> None:
        self.texts[slot] += token_ids
        super().confirm(slot, token_ids)

    def take(
        self,
        slot: int,
        position: int,
        max_length: int,
        timeout_s: float,
        stopping: StoppingRule | None = None,
    ) -> DraftRun:
        start_s = time.perf_counter()
        run = super().take(slot, position, max_length, timeout_s, stopping)
        assert time.perf_counter() - start_s <= timeout_s + 0.5  # its own delays
        tokens = list(self.texts[slot])
        assert position == len(tokens)
        for token_id in run.token_ids:
            assert token_id == int(np.argmax(self.model.logits_after(tokens)))
            tokens.append(token_id)
        self.num_hits += run.work.is_hit
        return run


class UnrulyVerifier(RuleVerifier):
    """Takes its time; meanwhile the worker may come to harm."""

    def __init__(self, world: World, drafter: CheckedDrafter, harm: float) -> None:
        super().__init__()
        self.world, self.drafter, self.harm = world, drafter, harm

    def verify(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        world = self.world
        world.sleep(1e-5)  # no pass takes no time
        for _ in range(world.dice.randrange(4)):
            world.pause()
        if world.dice.random() < self.harm:
            kind = world.dice.choice(["kill", "slow", "stop", "well"])
            world.slowness[WORKER] = {"slow": 100.0, "stop": 1e6}.get(kind, 1.0)
            process = self.drafter._process
            if kind == "kill" and process is not None:
                process.end()  # it is found dead later
        world.pause()
        return super().verify(segments)


def plain_ids(count: int) -> tuple[int, ...]:
    tokens = list(ByteTokenizer().encode("some prompt", add_bos=True))
    for _ in range(count):
        tokens.append(rule(tokens))
    return tuple(tokens[-count:])


def controller_of(dice: random.Random) -> Controller:
    overlap = dice.choice(["auto", "off", "chain", "branch", "branch"])
    if dice.random() < 0.5:
        return FixedLength(dice.randrange(1, 9), overlap)
    return AdaptiveLength(Costs(16), 15, overlap)


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Virtual processes and clocks in place of real ones, and no talk of faults."""
    monkeypatch.setattr(logging.getLogger("specdec"), "disabled", True)
    monkeypatch.setattr("draft.worker.WorkerProcess", VirtualProcess)
    monkeypatch.setattr(VirtualProcess, "serve", worker_process._serve, raising=False)
    return monkeypatch


def new_world(seed: int, patched: pytest.MonkeyPatch) -> World:
    global _world
    _world = World(seed, scale_s=random.Random(seed).choice([1e-5, 1e-4, 1e-3]))
    patched.setattr(VirtualProcess, "world", _world, raising=False)
    patched.setattr(time, "perf_counter", _world.clock)
    patched.setattr(time, "monotonic", _world.clock)
    return _world


def run_schedule(seed: int, patched: pytest.MonkeyPatch) -> int:
    """One generation under one schedule; the number of hits."""
    world = new_world(seed, patched)
    dice = random.Random(seed)
    recipe = FuzzyDraft(dice.choice([0.3, 0.7, 0.95]), dice.randrange(5), before_step=pause)
    drafter = CheckedDrafter(recipe)
    verifier = UnrulyVerifier(world, drafter, dice.choice([0.0, 0.0, 0.1]))
    defaults = GenerationDefaults(max_new_tokens=NUM_TOKENS)
    engine = Engine(verifier, drafter, controller_of(dice), ByteTokenizer(), defaults)
    with engine:
        results = [event.result for event in engine.generate(["some prompt"])]
    assert results[-1] is not None and results[-1].token_ids == plain_ids(NUM_TOKENS)
    return drafter.num_hits


def run_cohorts(seed: int, patched: pytest.MonkeyPatch) -> None:
    """Several sequences in turn, prepared together, under one schedule."""
    world = new_world(seed, patched)
    dice = random.Random(seed)
    checked = CheckedDrafter(FuzzyDraft(0.7, seed % 5, num_slots=4, before_step=pause))
    drafter = LateOpening(checked) if seed % 2 else checked
    texts = {slot: [slot + 3, 9, 8] for slot in range(4)}
    for slot, tokens in texts.items():
        drafter.open(slot, tokens, SamplingParams())
    for _ in range(8):
        cohort = dice.sample(sorted(texts), dice.randint(1, 4))
        rules = {slot: FixedStopping(dice.randint(1, 6), dice.randrange(3)) for slot in cohort}
        for slot in cohort:
            drafter.prepare(slot, len(texts[slot]), rules[slot].max_length, rules[slot])
            world.pause()
        for slot in cohort:
            tokens, rule_of = texts[slot], rules[slot]
            run = drafter.take(slot, len(tokens), rule_of.max_length, 0.5, rule_of)
            drafter.in_flight(slot, run)
            world.pause()
            emitted = [dice.randrange(9)] if dice.random() < 0.5 else [*run.token_ids, 7]
            texts[slot] = [*tokens, *emitted]
            drafter.confirm(slot, emitted)
    drafter.release()


def test_text_and_runs_are_right_under_any_schedule(patched: pytest.MonkeyPatch) -> None:
    assert sum(run_schedule(seed, patched) for seed in range(60)) > 60


def test_cohorts_are_right_under_any_schedule(patched: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        run_cohorts(seed, patched)


@pytest.mark.prove
def test_ten_thousand_schedules(patched: pytest.MonkeyPatch) -> None:
    for seed in range(1000, 10_000):
        run_schedule(seed, patched)
    for seed in range(1000, 3000):
        run_cohorts(seed, patched)
