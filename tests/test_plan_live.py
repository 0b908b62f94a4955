"""Plans against the engine itself, on devices made of a rule and a clock that only they advance."""

import importlib
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes import VOCAB, ByteTokenizer, RuleDrafter, RuleVerifier

from specdec.controller import AdaptiveLength, FixedLength
from specdec.costs import Costs, CostTable
from specdec.engine import Engine
from specdec.plan.acceptance import TraceAcceptance
from specdec.planning import Controller, RoundRecorder
from specdec.prompts import Prompt
from specdec.requests import GenerationDefaults
from specdec.traces import FullChain, JsonlRecorder, read_record
from specdec.types import DraftRun, Segment, StoppingRule

NUM_TOKENS = 300
PROMPTS = [Prompt(id=f"{kind}/{i}", text=f"{kind} {i}") for kind in ("a", "b") for i in range(3)]
TABLES = {
    "flat": CostTable((0.0, *(0.2 for _ in range(16))), 0.006),
    "stepped": CostTable((0.0, *(0.2 if m <= 8 else 0.3 for m in range(1, 17))), 0.017, 0.01),
    "steep": CostTable((0.0, *(0.02 + 0.004 * m for m in range(1, 17))), 0.001),
}


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class TimedVerifier(RuleVerifier):
    def __init__(self, clock: Clock, costs: CostTable) -> None:
        super().__init__()
        self.clock, self.costs = clock, costs

    def verify(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        self.clock.now_s += self.costs.pass_s[sum(len(s.token_ids) for s in segments)]
        return super().verify(segments)


class TimedDrafter(RuleDrafter):
    """Right or wrong by position alone, so that every policy meets the same chains."""

    def __init__(self, clock: Clock, costs: CostTable) -> None:
        super().__init__(0.0)
        self.clock, self.costs = clock, costs

    def take(
        self,
        slot: int,
        position: int,
        max_length: int,
        timeout_s: float,
        stopping: StoppingRule | None = None,
    ) -> DraftRun:
        tokens, margins = list(self.tokens[slot]), []
        while len(margins) < max_length and (stopping is None or stopping.should_continue(margins)):
            draw = (len(tokens) * 2654435761 + len(tokens) ** 2 * 40503) % 1000
            right = self.next_token(tokens)
            tokens.append(right if draw < 750 else (right + 1) % VOCAB)
            margins.append(2.5 if draw < 650 else 0.7)  # surer where it is more often right
        self.clock.now_s += self.costs.draft_fixed_s + len(margins) * self.costs.draft_step_s
        return DraftRun(position, tuple(tokens[position:]), tuple(margins))


def rate(
    clock: Clock, costs: CostTable, controller: Controller, recorders: Sequence[RoundRecorder] = ()
) -> float:
    """Tokens per second of the engine over all prompts."""
    engine = Engine(
        TimedVerifier(clock, costs),
        TimedDrafter(clock, costs),
        controller,
        ByteTokenizer(),
        GenerationDefaults(max_new_tokens=NUM_TOKENS),
        recorders,
    )
    with engine:
        stats = [event.result.stats for event in engine.generate(PROMPTS) if event.result]
    return sum(one.num_tokens for one in stats) / sum(one.decode_s for one in stats)


@pytest.mark.parametrize("name", TABLES)
def test_a_plan_from_measured_inputs_is_within_5_percent_of_the_engine(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    costs, clock = TABLES[name], Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    path = tmp_path / "record.jsonl"
    rate(clock, costs, FullChain(15), [JsonlRecorder(path)])
    acceptance = TraceAcceptance(tuple(read_record(path)), "recorded")
    for length in (0, 1, 4, 9):
        live = rate(clock, costs, FixedLength(length))
        times_s = [1.0 / acceptance.fixed(kind, length, costs).tokens_per_s for kind in "ab"]
        assert 2.0 / sum(times_s) == pytest.approx(live, rel=0.02)
    known = Costs(16)
    known.restore(
        {m: (costs.pass_s[m], 0.0, 9) for m in (1, 2, 4, 8, 16)},
        0.0,
        costs.draft_fixed_s,
        costs.draft_step_s,
        0.0,
    )
    live = rate(clock, costs, AdaptiveLength(known, 15))
    times_s = [1.0 / found.tokens_per_s for found in acceptance.adaptive(costs).values()]
    assert 2.0 / sum(times_s) == pytest.approx(live, rel=0.05)


def test_costs_measured_by_rounds_of_changing_length_are_those_of_the_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    measure_costs = importlib.import_module("measure_costs")
    costs, clock = TABLES["steep"], Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    cycle = measure_costs.Cycle()
    rate(clock, costs, cycle)
    found = measure_costs.table(cycle.reports, is_padded=False)
    assert found["pass_s"] == pytest.approx(costs.pass_s)
    assert found["draft_step_s"] == pytest.approx(costs.draft_step_s)
    assert found["draft_fixed_s"] == pytest.approx(costs.draft_fixed_s, abs=1e-6)


def test_costs_measured_by_rounds_of_changing_length_add_up_to_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    measure_costs = importlib.import_module("measure_costs")
    costs, clock = TABLES["stepped"], Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    cycle = measure_costs.Cycle()
    rate(clock, costs, cycle)
    for index, (report, _) in enumerate(cycle.reports):
        if index % 7 == 0:  # a busy machine: medians do not see it
            object.__setattr__(report, "verify_s", 2.0 * report.verify_s)
    found = measure_costs.table(cycle.reports, is_padded=False)
    seconds = sum(report.verify_s for report, _ in cycle.reports)
    told = sum(found["pass_s"][report.num_checked + 1] for report, _ in cycle.reports)
    assert told == pytest.approx(seconds, rel=0.03)
