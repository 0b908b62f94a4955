"""The timeline: whole JSON, every step and pass where the clocks put them."""

import json
from pathlib import Path

import pytest

from specdec.errors import UsageError
from specdec.overlap_stats import OverlapStats
from specdec.timeline import TimelineRecorder
from specdec.types import Acceptance, DraftRun, DraftStep, DraftWork, RoundReport, SamplingParams


def report(is_hit: bool, pass_start_s: float) -> RoundReport:
    """A round whose draft worked ahead for 20 ms and was waited for 5 ms."""
    ahead = DraftStep(pass_start_s - 0.1, pass_start_s - 0.08, 4, is_ahead=True)
    late = DraftStep(pass_start_s - 0.004, pass_start_s - 0.001, 1, is_ahead=False)
    num_ready = 2 if is_hit else 0
    work = DraftWork(4, is_hit, num_ready, 0.02 if is_hit else 0.0, (ahead, late))
    run = DraftRun(9, (5, 6, 7), (1.0, 1.0, 1.0), work)
    acceptance = Acceptance((5, 6), 8, is_bonus=False)
    return RoundReport(run, 3, acceptance, (5, 6, 8), 0.005, 0.05, 0.001, pass_start_s)


def test_the_file_is_a_trace_of_every_step_pass_wait_and_verdict(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    recorder = TimelineRecorder(path)
    recorder.open(0, "a", (1, 2), SamplingParams())
    for i in range(4):
        recorder.observe(0, report(i % 2 == 0, 100.0 + i))
    recorder.close(0)
    recorder.release()
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e["ph"] != "M"]
    count = dict.fromkeys(("pass of 4", "ahead", "draft", "wait for draft", "hit"), 0)
    count["miss: branches cancelled"] = 0
    for event in events:
        count[event["name"]] += 1
        assert event["ts"] >= 0.0
    assert count == {
        "pass of 4": 4,
        "ahead": 4,
        "draft": 4,
        "wait for draft": 4,
        "hit": 2,
        "miss: branches cancelled": 2,
    }
    first_pass = next(e for e in events if e["name"] == "pass of 4")
    assert (first_pass["ts"], first_pass["dur"]) == (100_000.0, 50_000.0)


def test_a_trace_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write trace"):
        TimelineRecorder(tmp_path / "none" / "trace.json")


def test_overlap_is_counted_by_hits_and_misses() -> None:
    stats, other = OverlapStats(), OverlapStats()
    for i in range(4):
        stats.observe(report(i != 0, 100.0 + i))
    other.observe(report(True, 1.0))
    stats.add(other)
    shown = stats.to_json(decode_s=1.0, verify_s=0.25)
    assert (shown["num_rounds"], shown["num_hits"], shown["num_ready_tokens"]) == (5, 4, 8)
    assert shown["hidden_share_on_hits"] == 0.8  # 4 x 20 ms hidden, 4 x 5 ms waited for
    assert shown["miss_wait_s"] == 0.005
    assert shown["draft_busy_s"] == pytest.approx(5 * 0.023)
    assert (shown["draft_idle_share"], shown["target_idle_share"]) == (0.885, 0.75)


def test_rounds_without_work_ahead_are_not_counted() -> None:
    stats = OverlapStats()
    stats.observe(RoundReport(DraftRun(3), 0, Acceptance((), 4, True), (4,), 0.1, 0.1, 0.0))
    assert stats.num_rounds == 0 and stats.hit_rate == 0.0 and stats.miss_wait_s == 0.0
