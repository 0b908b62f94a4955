"""A whole plan: costs, forecasts and verdicts for a machine and a pair, as one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from specdec.plan.acceptance import AcceptanceModel
from specdec.plan.costs import PlanCosts
from specdec.plan.figures import Figure
from specdec.plan.forecast import (
    BatchForecast,
    StreamForecast,
    batch_forecasts,
    stream_forecasts,
)
from specdec.plan.machines import PlanMachine
from specdec.plan.reach import Verdict, verdicts
from specdec.plan.roofline import PASS_SIZES, Workload, padded, pass_cost, scaled_to_measured

_BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one machine can do with one pair."""

    title: str
    figures: dict[str, Figure]  # inputs by name
    weights_bytes: int
    moved_bytes: int  # by a pass of one sequence
    operations_per_token: int
    pass_s: dict[int, float]  # by number of tokens
    measured_sizes: tuple[int, ...]  # of pass_s; the others are modelled
    streams: list[StreamForecast]
    batches: list[BatchForecast]
    verdicts: list[Verdict]


def make_plan(
    machine: PlanMachine | None,
    workload: Workload,
    costs: PlanCosts,
    acceptance: AcceptanceModel,
    hit_rate: float,
    goals: Sequence[float],
) -> Plan:
    """Forecast everything; without a `machine` the costs are measured ones of this one."""
    streams = stream_forecasts(costs.table, costs.draft, acceptance, hit_rate)
    pass_s = _pass_times(machine, workload, costs)
    batches = _batches(machine, workload, costs, streams, pass_s)
    moved = workload.weights_bytes + workload.kv_read_bytes
    bus = machine.value("bus_gb_s") if machine else None
    return Plan(
        machine.title if machine else "this machine",
        _figures(machine, costs, acceptance, streams, hit_rate),
        workload.weights_bytes,
        moved,
        pass_cost(machine, workload, 1).num_operations if machine else 0,
        pass_s,
        _measured_sizes(machine, workload, pass_s),
        streams,
        batches,
        [verdict for goal in goals for verdict in verdicts(goal, bus, moved, streams, batches)],
    )


def _figures(
    machine: PlanMachine | None,
    costs: PlanCosts,
    acceptance: AcceptanceModel,
    streams: Sequence[StreamForecast],
    hit_rate: float,
) -> dict[str, Figure]:
    """Everything that the forecasts rest on."""
    mean = _mean_tokens_per_pass(streams)
    return {
        **(machine.figures if machine else {}),
        "pass_s": costs.passes,
        "draft_step_s": costs.draft_step,
        f"tokens_per_pass_at_{len(mean) - 1}": Figure(
            round(mean[-1], 3), acceptance.label, acceptance.source
        ),
        "hit_rate": _hit_rate(streams, hit_rate),
    }


def _hit_rate(streams: Sequence[StreamForecast], assumed: float) -> Figure:
    """Of branches drafted during a pass, over kinds of text."""
    mean = sum(stream.hit_rate for stream in streams) / len(streams)
    if mean == assumed:
        return Figure(assumed, "assumed", "of branches drafted during a pass")
    return Figure(round(mean, 3), "modelled", "simulation of branches drafted during a pass")


def _mean_tokens_per_pass(streams: Sequence[StreamForecast]) -> list[float]:
    """Over kinds of text, by draft length."""
    per_pass = [stream.tokens_per_pass for stream in streams]
    return [sum(column) / len(streams) for column in zip(*per_pass, strict=True)]


def _batches(
    machine: PlanMachine | None,
    workload: Workload,
    costs: PlanCosts,
    streams: Sequence[StreamForecast],
    pass_s: Mapping[int, float],
) -> list[BatchForecast]:
    """Batches up to the largest pass whose time is known."""
    most = max(pass_s)
    slope_s = 0.0  # of each further sequence's cache
    if machine is not None:
        slope_s = workload.kv_read_bytes / machine.value("read_gb_s") / 1e9
    return list(
        batch_forecasts(
            [size for size in _BATCHES if size <= most],
            lambda rows, sequences: pass_s[padded(rows)] + (sequences - 1) * slope_s,
            costs.draft,
            _mean_tokens_per_pass(streams),
            lambda size: workload.weights_bytes + size * workload.kv_held_bytes,
            most,
            int(machine.value("memory_gib") * 2**30) if machine else None,
        )
    )


def _pass_times(
    machine: PlanMachine | None, workload: Workload, costs: PlanCosts
) -> dict[int, float]:
    """Seconds by pass size: as far as measured, or to the largest the target has."""
    if machine is None:
        longest = costs.table.longest_run + 1
        return {size: costs.table.pass_s[size] for size in PASS_SIZES if size <= longest}
    times = {size: pass_cost(machine, workload, size).total_s for size in PASS_SIZES}
    measured = machine.passes.get(workload.model)
    return scaled_to_measured(times, measured.seconds) if measured else times


def _measured_sizes(
    machine: PlanMachine | None, workload: Workload, pass_s: Mapping[int, float]
) -> tuple[int, ...]:
    if machine is None:
        return tuple(pass_s)
    measured = machine.passes.get(workload.model)
    return tuple(sorted(measured.seconds)) if measured else ()
