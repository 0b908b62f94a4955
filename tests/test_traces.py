"""Records of runs: what is written, that a trace holds every chain, that a replay is exact."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes import VOCAB, ByteTokenizer, RuleVerifier, rule
from synthetic_traces import flat_costs, steep_costs, trace

from draft.reference import ModelDrafter
from specdec.controller import AdaptiveLength, FixedLength
from specdec.costs import Costs, CostTable
from specdec.engine import Engine
from specdec.errors import UsageError
from specdec.generation import Generation
from specdec.planning import Controller, RoundRecorder, Turn
from specdec.prompts import Prompt
from specdec.replay import replay
from specdec.requests import GenerationDefaults
from specdec.stopping import FixedPlan, FixedStopping
from specdec.traces import FullChain, JsonlRecorder, Trace, load_traces, read_record, save_traces
from specdec.types import DraftRun, FloatArray, RoundReport, SamplingParams

PROMPTS = [Prompt(id="code/a", text="first"), Prompt(id="prose/b", text="another one")]


class HalfRightModel:
    """A draft model that knows the rule except after some tokens; its margin hints at that."""

    vocab_size = VOCAB
    context_length = 256

    def __init__(self) -> None:
        self.cache: dict[int, list[int]] = {}

    def length(self, slot: int) -> int:
        return len(self.cache.get(slot, []))

    def feed(self, slot: int, token_ids: list[int], num_logits: int) -> FloatArray:
        cache = self.cache.setdefault(slot, [])
        logits = np.zeros((len(token_ids), VOCAB), np.float32)
        for i, token_id in enumerate(token_ids):
            cache.append(token_id)
            is_wrong = token_id % 5 == 0
            logits[i, (rule(cache) + is_wrong) % VOCAB] = 1.0 if is_wrong else 3.0 + token_id / 50
        return logits[len(token_ids) - num_logits :]

    def truncate(self, slot: int, length: int) -> None:
        del self.cache.setdefault(slot, [])[length:]


def generate(
    controller: Controller,
    recorder: RoundRecorder | None = None,
    prompts: list[Prompt] = PROMPTS,
    max_new_tokens: int = 60,
) -> list[Generation]:
    engine = Engine(
        RuleVerifier(),
        ModelDrafter(HalfRightModel(), "fake"),
        controller,
        ByteTokenizer(),
        GenerationDefaults(max_new_tokens=max_new_tokens),
        [recorder] if recorder else [],
    )
    with engine:
        return [event.result for event in engine.generate(prompts) if event.result]


def recorded(tmp_path: Path) -> list[Trace]:
    path = tmp_path / "record.jsonl"
    generate(FullChain(15), JsonlRecorder(path))
    return read_record(path)


class Reports:
    """Keeps the reports of a run."""

    def __init__(self) -> None:
        self.reports: list[list[RoundReport]] = []

    def open(self, slot: int, request_id: str, prompt_ids: object, sampling: object) -> None:
        self.reports.append([])

    def observe(self, slot: int, report: RoundReport) -> None:
        self.reports[-1].append(report)

    def close(self, slot: int) -> None:
        pass

    def release(self) -> None:
        pass


def test_recording_full_chains_leaves_the_text_as_it_is(tmp_path: Path) -> None:
    with_record = generate(FullChain(15), JsonlRecorder(tmp_path / "record.jsonl"))
    without = generate(FixedLength(0))
    assert [r.token_ids for r in with_record] == [r.token_ids for r in without]


def test_a_trace_has_a_chain_at_every_position(tmp_path: Path) -> None:
    traces = recorded(tmp_path)
    assert [t.request_id for t in traces] == ["code/a", "prose/b"]
    assert [t.kind for t in traces] == ["code", "prose"]
    for text in traces:
        assert text.margins.shape == (60, 15)
        assert text.num_drafted.tolist() == [min(15, 59 - t) for t in range(60)]
        assert (text.num_matching <= text.num_drafted).all()
        assert 0 < text.num_matching.mean() < 15


@pytest.mark.parametrize("length", [0, 1, 4, 15])
def test_a_replay_makes_the_rounds_of_the_live_run(length: int, tmp_path: Path) -> None:
    live = Reports()
    generate(FixedLength(length), live)
    for text, reports in zip(recorded(tmp_path), live.reports, strict=True):
        replayed = replay(text, FixedLength(length), lambda _: flat_costs(), 15)
        assert [(r.num_drafted, r.num_checked, r.num_accepted) for r in replayed] == [
            (len(r.run.token_ids), r.num_checked, len(r.acceptance.accepted)) for r in reports
        ]


class Clockwork(AdaptiveLength):
    """The adaptive controller under the times of a cost table, whatever the clock says."""

    def __init__(self, table: CostTable) -> None:
        super().__init__(Costs(16), 15)
        self.table = table

    def observe(self, reports: Mapping[int, RoundReport]) -> None:
        ((slot, report),) = reports.items()
        timed = RoundReport(
            report.run,
            report.num_checked,
            report.acceptance,
            report.emitted,
            self.table.round_s(len(report.run.token_ids), 0) - self.table.plain_s,
            self.table.pass_s[report.num_checked + 1],
            0.0,
        )
        super().observe({slot: timed})


@pytest.mark.parametrize("table", [flat_costs(), steep_costs()])
def test_an_adaptive_replay_makes_the_rounds_of_the_live_run(
    table: CostTable, tmp_path: Path
) -> None:
    live = Reports()
    generate(Clockwork(table), live)
    controller = AdaptiveLength(Costs(16), 15)
    for text, reports in zip(recorded(tmp_path), live.reports, strict=True):
        replayed = replay(text, controller, lambda _: table, 15)
        assert [(r.num_drafted, r.num_checked, r.num_accepted) for r in replayed] == [
            (len(r.run.token_ids), r.num_checked, len(r.acceptance.accepted)) for r in reports
        ]


class Halves(FixedPlan):
    """Checks half of every run."""

    def share(self, runs: Sequence[DraftRun]) -> tuple[int, ...]:
        return tuple(len(run.token_ids) // 2 for run in runs)


class HalfChecked(FixedLength):
    def plan(self, turns: Sequence[Turn], max_tokens: int) -> FixedPlan:
        return Halves(tuple(FixedStopping(6 if turn.longest >= 6 else 0) for turn in turns))


def test_what_is_not_checked_is_not_accepted_in_a_replay_either(tmp_path: Path) -> None:
    live = Reports()
    generate(HalfChecked(6), live)
    for text, reports in zip(recorded(tmp_path), live.reports, strict=True):
        replayed = replay(text, HalfChecked(6), lambda _: flat_costs(), 15)
        assert [r.num_accepted for r in replayed] == [len(r.acceptance.accepted) for r in reports]
        assert max(r.num_accepted for r in replayed) == 3


def test_a_record_says_what_every_round_did(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    results = generate(FixedLength(3), JsonlRecorder(path), PROMPTS[:1], max_new_tokens=12)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["event"] == "request" and lines[0]["id"] == "code/a"
    assert lines[0]["prompt_length"] == 6
    rounds = lines[1:]
    emitted = [token_id for line in rounds for token_id in line["token_ids"]]
    assert emitted == list(results[0].token_ids)
    position = 6
    for line in rounds:
        assert line["position"] == position
        assert len(line["draft_ids"]) == len(line["confidences"]) >= line["num_checked"]
        assert line["verify_s"] > 0.0
        position += len(line["token_ids"])


def test_a_record_without_full_chains_is_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    generate(FixedLength(3), JsonlRecorder(path))
    with pytest.raises(UsageError, match="'code/a' was not recorded with a full chain"):
        read_record(path)


@pytest.mark.parametrize("content", ["{", "[]", '{"event": "other"}'])
def test_a_broken_record_is_refused_with_its_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    path.write_text(content + "\n")
    with pytest.raises(UsageError, match=r"record.jsonl:1"):
        read_record(path)


def test_a_record_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write record"):
        JsonlRecorder(tmp_path / "none" / "record.jsonl")


def test_traces_come_back_from_disk(tmp_path: Path) -> None:
    before = [trace("code", 40, 1), trace("json", 25, 2, temperature=0.7)]
    save_traces(tmp_path / "traces.npz", before)
    after = load_traces(tmp_path / "traces.npz")
    for old, new in zip(before, after, strict=True):
        assert (old.request_id, old.temperature) == (new.request_id, new.temperature)
        assert old.prompt_length == new.prompt_length
        assert np.array_equal(old.num_matching, new.num_matching)
        assert np.array_equal(old.num_drafted, new.num_drafted)
        assert np.allclose(old.margins, new.margins, rtol=1e-3)


def test_infinite_margins_survive_half_precision(tmp_path: Path) -> None:
    text = trace("code", 5, 1)
    text.margins[0, 0] = np.finfo(np.float32).max
    save_traces(tmp_path / "traces.npz", [text])
    assert np.isfinite(load_traces(tmp_path / "traces.npz")[0].margins).all()


def test_the_full_chain_controller_is_one_and_says_so() -> None:
    controller = FullChain(4)
    controller.open(0, SamplingParams())
    assert controller.mode == "record"
    plan = controller.plan([Turn(0, 9, 2)], 16)
    assert plan.rules[0].max_length == 2
    assert plan.share([DraftRun(9, (1, 2), (0.0, 0.0))]) == (0,)
