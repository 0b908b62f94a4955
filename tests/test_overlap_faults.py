"""A draft worker that comes to harm while the target checks: the run goes on and waits no more."""

import logging
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes import ByteTokenizer, RuleVerifier, rule
from fuzzy_model import FuzzyDraft

import specdec
from draft.branching import BranchingDrafter
from draft.worker import WorkerDrafter, WorkerSettings
from specdec.controller import AdaptiveLength, FixedLength
from specdec.costs import Costs
from specdec.engine import Engine
from specdec.load import load_target
from specdec.load.borrowed import borrowed
from specdec.overlap import MODES
from specdec.planning import Controller
from specdec.requests import GenerationDefaults
from specdec.types import RoundReport, SamplingParams, Segment, Verifier

NUM_TOKENS = 120
PATIENCE_S = 0.3
HASTY = WorkerSettings(hang_timeout_s=0.5, pause_s=0.01)
PROMPTS = Path(__file__).parent.parent / "benchmarks" / "prompts"


class Waits:
    """A RoundRecorder that keeps how long rounds waited, and how often work ahead was a hit."""

    def __init__(self) -> None:
        self.waits_s: list[float] = []
        self.num_hits = 0

    def open(
        self, slot: int, request_id: str, prompt_ids: Sequence[int], sampling: SamplingParams
    ) -> None:
        pass

    def observe(self, slot: int, report: RoundReport) -> None:
        self.waits_s.append(report.draft_s)
        self.num_hits += report.run.work.is_hit

    def close(self, slot: int) -> None:
        pass

    def release(self) -> None:
        pass


class HarmfulVerifier(RuleVerifier):
    """Does something in the middle of its passes."""

    def __init__(self, in_pass: Callable[[int], None]) -> None:
        super().__init__()
        self.in_pass = in_pass

    def verify(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        time.sleep(0.003)
        self.in_pass(self.num_passes)
        time.sleep(0.003)
        return super().verify(segments)


@dataclass
class SlowFrom:
    """Makes every step after the first so many take long; its own count travels to the worker."""

    num_quick: int
    step_s: float

    def __call__(self) -> None:
        self.num_quick -= 1
        if self.num_quick < 0:
            time.sleep(self.step_s)


@dataclass(frozen=True)
class SlowingDraft:
    """A recipe of a draft that becomes slow."""

    slowing: SlowFrom

    def __call__(self) -> BranchingDrafter:
        return FuzzyDraft(0.9, 1, before_step=self.slowing)()


def generated(
    drafter: WorkerDrafter, verifier: RuleVerifier, controller: Controller, watch: Waits
) -> tuple[int, ...]:
    defaults = GenerationDefaults(max_new_tokens=NUM_TOKENS)
    engine = Engine(verifier, drafter, controller, ByteTokenizer(), defaults, [watch])
    (result,) = [event.result for event in engine.generate(["some prompt"]) if event.result]
    return result.token_ids


def plain_ids() -> tuple[int, ...]:
    tokens = list(ByteTokenizer().encode("some prompt", add_bos=True))
    for _ in range(NUM_TOKENS):
        tokens.append(rule(tokens))
    return tuple(tokens[-NUM_TOKENS:])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_draft_killed_or_stopped_in_mid_pass_costs_one_warning_and_a_bounded_wait(
    number: signal.Signals, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specdec.rounds._DRAFT_TIMEOUT_S", PATIENCE_S)
    drafter, watch = WorkerDrafter(FuzzyDraft(0.9, 1), HASTY), Waits()

    def harm(num_passes: int) -> None:
        if num_passes == 6 and drafter._process is not None:
            os.kill(drafter._process.pid, number)

    ids = generated(drafter, HarmfulVerifier(harm), FixedLength(4, "branch"), watch)
    drafter.release()
    assert ids == plain_ids()
    assert watch.num_hits > 0
    assert max(watch.waits_s) < PATIENCE_S + 1.0
    assert sum(wait > 0.5 * PATIENCE_S for wait in watch.waits_s) <= 5  # not waited for again
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) <= 1


@pytest.mark.slow
def test_a_draft_that_becomes_a_hundred_times_slower_is_not_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    drafter, watch = WorkerDrafter(SlowingDraft(SlowFrom(40, 0.2))), Waits()
    controller = AdaptiveLength(Costs(16), 15, "branch")
    ids = generated(drafter, HarmfulVerifier(lambda num_passes: None), controller, watch)
    drafter.release()
    assert ids == plain_ids()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert sum(watch.waits_s) < 2.0  # some ten steps; the text would take hundreds


class RestlessVerifier:
    """A target that takes random naps around its passes."""

    def __init__(self, verifier: Verifier, dice: random.Random) -> None:
        self._verifier, self._dice = verifier, dice

    def __getattr__(self, name: str) -> object:
        return getattr(self._verifier, name)

    def verify(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        time.sleep(self._dice.choice([0.0, 0.0, 0.001, 0.005, 0.03]))
        return self._verifier.verify(segments)


@pytest.mark.prove
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_embedded_pair_gives_its_plain_text_under_a_hundred_schedules(
    temperature: float,
) -> None:
    settings = ["draft.device=cpu", "run.context_length=512", f"sampling.temperature={temperature}"]
    config = specdec.with_overrides(specdec.Config(), [*settings, "run.max_new_tokens=24"])
    dice = random.Random(7)
    target = RestlessVerifier(load_target(config), dice)
    files = sorted(PROMPTS.glob("*.jsonl"))
    asked = [prompt for path in files for prompt in list(specdec.read_prompts(path))[:4]]
    num_hits = 0
    plain: list[tuple[int, ...]] = []
    for number in range(1 + -(-100 // len(asked))):
        way = dice.choice([*MODES, "branch"]) if number > 1 else "branch"
        mode = "off" if not plain else dice.choice(["fixed", "auto"])
        chosen = [
            f"speculation.mode={mode}",
            f"speculation.overlap={way if number > 1 else 'branch'}",
        ]
        engine = specdec.load(specdec.with_overrides(config, chosen), target=borrowed(target))  # type: ignore[arg-type]
        with engine:
            results = [event.result for event in engine.generate(asked) if event.result]
        num_hits += sum(result.stats.overlap.num_hits for result in results)
        ids = [result.token_ids for result in results]
        plain = plain or ids
        assert ids == plain
    assert num_hits > 0
