"""Plans agree with closed forms, with replays, and with what cannot be exceeded."""

import json
from pathlib import Path

import pytest

from specdec.cli import main
from specdec.controller import FixedLength
from specdec.cost_cache import CostKey, save_costs
from specdec.costs import Costs, CostTable
from specdec.errors import ModelError, UsageError
from specdec.gemma3.named import NAMED_SHAPES
from specdec.plan.acceptance import ConstantAcceptance, TraceAcceptance, shipped_traces
from specdec.plan.costs import modelled_costs, read_costs
from specdec.plan.figures import LABELS
from specdec.plan.forecast import DraftCosts, batch_forecasts, stream_forecasts
from specdec.plan.machines import machine_names, named_machine
from specdec.plan.plan import make_plan
from specdec.plan.reach import verdicts
from specdec.plan.roofline import Workload, draft_step, pass_cost, scaled_to_measured
from specdec.replay import replay, total_s

FLAT = CostTable((0.0, *(0.160 for _ in range(16))), 0.006)
TARGET = Workload("gemma-3-27b", NAMED_SHAPES["gemma-3-27b"], 8)


def test_every_figure_of_every_machine_has_a_label_and_a_source() -> None:
    needed = {"bus_gb_s", "read_gb_s", "int8_tops", "dispatch_us", "memory_gib"}
    for name in machine_names():
        machine = named_machine(name)
        assert needed <= machine.figures.keys() and machine.draft_devices()
        for figure in machine.figures.values():
            assert figure.label in LABELS and len(figure.source) > 3 and figure.value > 0
        assert machine.value("read_gb_s") < machine.value("bus_gb_s")


@pytest.mark.parametrize(
    ("rate", "step_s", "best_rate", "best_length"),
    [(0.6, 0.006, 12.5, 5), (0.7, 0.006, 15.6, 6), (0.8, 0.006, 20.9, 9), (0.8, 0.017, 15.1, 6)],
)
def test_synchronous_rates_equal_the_published_closed_form(
    rate: float, step_s: float, best_rate: float, best_length: int
) -> None:
    costs = CostTable(FLAT.pass_s, step_s)
    found = stream_forecasts(costs, DraftCosts("npu", step_s), ConstantAcceptance(rate), 0.8)[0]
    assert max(found.fixed) == pytest.approx(best_rate, abs=0.05)
    assert found.best_length == best_length and found.plain == pytest.approx(6.25)


def test_drafting_during_a_pass_pays_on_a_shared_bus_only_with_many_hits() -> None:
    draft = DraftCosts("npu", 0.006, bus_s=0.142 / 89.6)
    rates = [
        stream_forecasts(FLAT, draft, ConstantAcceptance(0.8), hits)[0] for hits in (0.1, 0.8, 0.9)
    ]
    assert rates[0].continuous == max(rates[0].fixed)  # it is then left out
    assert rates[1].continuous == pytest.approx(24.4, abs=0.4)
    assert rates[2].continuous == pytest.approx(25.3, abs=0.4)
    assert rates[2].continuous < rates[2].free


def test_trace_rates_equal_a_replay_on_those_costs() -> None:
    traces = [trace for trace in shipped_traces() if trace.kind == "code"]
    outcome = TraceAcceptance(tuple(traces), "").fixed("code", 4, FLAT)
    elapsed_s = sum(total_s(replay(t, FixedLength(4), lambda _: FLAT, 15)) for t in traces)
    assert outcome.tokens_per_s == pytest.approx(
        sum(len(trace.margins) for trace in traces) / elapsed_s
    )


def test_adaptive_and_continuous_drafting_are_forecast_from_traces() -> None:
    acceptance = TraceAcceptance(tuple(shipped_traces()[:20]), "")
    streams = stream_forecasts(FLAT, DraftCosts("npu", 0.006), acceptance, 0.8)
    for stream in streams:
        assert stream.adaptive and 0.9 * max(stream.fixed) < stream.adaptive < stream.free
        assert stream.adaptive <= stream.continuous < stream.free
        assert 0.2 < stream.hit_rate < 0.8, "simulated: not the rate that was given"


def test_a_pass_is_bytes_over_rate_until_arithmetic_takes_longer() -> None:
    machine = named_machine("ryzen-7840hs")
    one, many = pass_cost(machine, TARGET, 1), pass_cost(machine, TARGET, 64)
    assert one.limit == "memory" and many.limit == "arithmetic"
    assert one.memory_s == pytest.approx((15.9e9 + 0.51e9) / 73.4e9, rel=0.01)
    assert many.total_s > pass_cost(machine, TARGET, 32).total_s == pytest.approx(one.total_s)
    assert pass_cost(machine, TARGET, 3).arithmetic_s == pass_cost(machine, TARGET, 4).arithmetic_s


def test_measured_passes_replace_modelled_ones_and_scale_their_neighbours() -> None:
    scaled = scaled_to_measured({1: 1.0, 4: 1.0, 16: 2.0, 64: 8.0}, {1: 2.0, 16: 2.0})
    assert scaled == pytest.approx({1: 2.0, 4: 1.5, 16: 2.0, 64: 8.0})


def test_a_batch_reads_weights_once_and_stops_at_the_largest_pass() -> None:
    def pass_s(rows: int, sequences: int) -> float:
        return max(0.1, 0.005 * rows)

    def held_bytes(size: int) -> int:
        return 10 + size

    draft = DraftCosts("npu", 0.006, rows=4)
    found = list(batch_forecasts((1, 8, 16), pass_s, draft, [1, 1.8, 2.4, 2.9], held_bytes, 16, 20))
    assert [batch.plain for batch in found] == pytest.approx([10.0, 80.0, 160.0])
    assert found[0].draft_length == 3 and found[1].draft_length == 1
    assert found[2].draft_length == 0  # two tokens each would exceed 16
    assert [batch.fits for batch in found] == [True, True, False]
    assert found[1].overlapped > found[1].speculative > found[1].plain


def test_eleven_tokens_plain_and_81_in_one_stream_are_out_of_reach_of_a_780m() -> None:
    machine = named_machine("ryzen-7840hs")
    costs = modelled_costs(
        machine, TARGET, draft_step(machine, NAMED_SHAPES["gemma-3-270m"], "npu")
    )
    plan = make_plan(machine, TARGET, costs, ConstantAcceptance(0.8), 0.8, (11.0, 81.0))
    found = {verdict.claim: verdict for verdict in plan.verdicts}
    assert not found["11 tokens/s plain"].is_reachable
    assert "the bus has 89.6 GB/s" in found["11 tokens/s plain"].reason
    assert found["11 tokens/s in one stream"].is_reachable
    assert not found["81 tokens/s in one stream"].is_reachable


def test_plain_decoding_at_12_7_gb_needs_more_than_the_bus() -> None:
    streams = stream_forecasts(FLAT, DraftCosts("npu", 0.006), ConstantAcceptance(0.7), 0.8)
    batches = batch_forecasts((1,), lambda *_: 0.16, DraftCosts("npu", 0.006), [1], int, 16, None)
    plain = verdicts(11.0, 89.6, int(12.7e9), streams, list(batches))[0]
    assert not plain.is_reachable
    assert "140 GB/s" in plain.reason and "7.1 at the very most" in plain.reason


def test_costs_kept_by_a_run_and_measured_by_the_benchmark_are_read(tmp_path: Path) -> None:
    costs = Costs(16, (1, 2, 4, 8, 16))
    for _ in range(12):
        costs.observe_pass(1, 256, 0.010)
        costs.observe_pass(4, 256, 0.016)
        costs.observe_draft([3], 0.003)
    key = CostKey("device", "w4a8", "hash", "cpu", "processor")
    assert save_costs(tmp_path, key, costs)
    kept = read_costs(next(tmp_path.glob("*.json")))
    assert kept.table.pass_s[1] == pytest.approx(0.010) and kept.draft.device == "cpu"
    path = tmp_path / "measured.json"
    table = {"name": "box", "pass_s": [0, 0.02, 0.03], "draft_step_s": 0.001}
    path.write_text(json.dumps(table | {"draft_fixed_s": 0, "other_s": 0, "draft_device": "cpu"}))
    assert read_costs(path).table.longest_run == 1


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"name": "x"}', '{"passes": {}, "key": {"draft_device": "cpu"}}']
)
def test_a_damaged_cost_file_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(content)
    with pytest.raises((UsageError, ModelError)) as caught:
        read_costs(path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_command_labels_everything_and_says_what_is_out_of_reach(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "--machine", "ryzen-7840hs"]) == 0
    out = capsys.readouterr().out
    assert "OUT OF REACH  11 tokens/s plain" in out and "OUT OF REACH  81 tokens/s in one" in out
    for label in LABELS:
        assert label in out


@pytest.mark.slow
def test_the_command_plans_for_this_machine_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--json", "--acceptance", "0.7", "--goal", "5"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["figures"]["pass_s"]["label"] == "measured"
    assert plan["streams"][0]["plain"] == pytest.approx(1 / plan["pass_s"]["1"])
    assert len(plan["verdicts"]) == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--machine", "ryzen-7840h"], "did you mean 'ryzen-7840hs'"),
        (["--target", "gemma-3-27b"], "has no files to time"),
        (["--acceptance", "1.5"], "--acceptance is 1.5; legal: 0 to"),
        (["--machine", "h100", "--draft-device", "npu"], "h100 has no 'npu'; legal: cpu"),
        (["--costs", "none.json"], "no such file"),
        (["--traces", "none.npz"], "cannot read traces"),
        (["--depth", "0"], "--depth is 0"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert main(["plan", *argv]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == "" and "Traceback" not in captured.err
