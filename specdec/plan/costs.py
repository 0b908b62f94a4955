"""Costs that plans rest on: a machine's roofline, or tables measured before; it times nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from specdec.costs import Costs, CostTable
from specdec.errors import UsageError
from specdec.fields import Fields, read_json_object
from specdec.plan.acceptance import MAX_DRAFT
from specdec.plan.figures import Figure
from specdec.plan.forecast import DraftCosts
from specdec.plan.machines import PlanMachine
from specdec.plan.roofline import (
    PASS_SIZES,
    DraftStep,
    Workload,
    padded,
    pass_cost,
    scaled_to_measured,
)


@dataclass(frozen=True, slots=True)
class PlanCosts:
    """Everything in seconds that a forecast needs, and where it comes from."""

    table: CostTable  # one sequence
    draft: DraftCosts
    passes: Figure  # T(1) in seconds, for label and source
    draft_step: Figure  # in seconds


def modelled_costs(machine: PlanMachine, workload: Workload, step: DraftStep) -> PlanCosts:
    """From the roofline, scaled to measured passes of this model where there are any."""
    times = {size: pass_cost(machine, workload, size).total_s for size in PASS_SIZES}
    measured = machine.passes.get(workload.model)
    source = f"roofline, limited by {pass_cost(machine, workload, 1).limit} at one token"
    if measured:
        times = scaled_to_measured(times, measured.seconds)
    sizes = range(1, MAX_DRAFT + 2)
    table = CostTable((0.0, *(times[padded(size)] for size in sizes)), step.step_s)
    passes = Figure(table.pass_s[1], "modelled", source)
    if measured:
        passes = Figure(table.pass_s[1], "measured", measured.source)
    bus_s = step.moved_bytes / machine.value("bus_gb_s") / 1e9 if machine.is_bus_shared else 0.0
    # a step of few more rows costs the array nothing; on a CPU it is taken for a third of a step
    row_s = 0.0 if step.rows > 1 else step.step_s / 3
    draft = DraftCosts(step.device, step.step_s, bus_s=bus_s, rows=step.rows, row_s=row_s)
    told = f"{step.moved_bytes / 1e6:.0f} MB read by the {step.device}, and its own time a step"
    return PlanCosts(table, draft, passes, Figure(step.step_s, "modelled", told))


def measured_costs(table: CostTable, draft_device: str, source: str) -> PlanCosts:
    """From measurements of the pair itself."""
    row_s = table.draft_step_s / 3  # assumed: a few rows share a step's reads, not its arithmetic
    draft = DraftCosts(draft_device, table.draft_step_s, table.draft_fixed_s, row_s=row_s)
    return PlanCosts(
        table,
        draft,
        Figure(table.pass_s[1], "measured", source),
        Figure(table.draft_step_s, "measured", source),
    )


def read_costs(path: Path) -> PlanCosts:
    """A file of benchmarks/measure_costs.py, or one that a run left in the user's cache."""
    if not path.is_file():
        raise UsageError(f"cannot read costs {str(path)!r}: no such file")
    fields = read_json_object(path)
    try:
        if "passes" in fields:
            key = fields.section("key")
            table = _learned(fields)
            return measured_costs(table, key.text("draft_device"), f"kept costs, {path.name}")
        table = _table(fields)
        return measured_costs(table, fields.text("draft_device"), fields.text("name"))
    except (ValueError, TypeError) as error:
        raise UsageError(f"costs {str(path)!r}: {error}; measure them again") from error


def _table(fields: Fields) -> CostTable:
    """What benchmarks/measure_costs.py writes."""
    passes = [float(str(value)) for value in fields.items("pass_s")]
    if len(passes) < 3 or passes[0] != 0.0 or min(passes[1:]) <= 0.0:
        raise ValueError("pass_s needs 0.0 and then the seconds of passes of 1, 2, ... tokens")
    draft_step_s, draft_fixed_s, other_s = (
        _seconds(fields, name) for name in ("draft_step_s", "draft_fixed_s", "other_s")
    )
    return CostTable(tuple(passes), draft_step_s, draft_fixed_s, other_s)


def _learned(fields: Fields) -> CostTable:
    """What a run's controller has kept."""
    passes = fields.section("passes")
    levels = passes.section("sizes")
    sizes = {}
    for size in levels.names():
        seconds, context, num_samples = (float(str(value)) for value in levels.items(size))
        sizes[int(size)] = (seconds, context, int(num_samples))
    costs = Costs(max(sizes, default=1), PASS_SIZES)
    step_s = _seconds(fields, "draft_step_s") if "draft_step_s" in fields else None
    costs.restore(
        sizes,
        _seconds(passes, "slope_s"),
        _seconds(fields, "draft_fixed_s"),
        step_s,
        _seconds(fields, "other_s"),
    )
    table = costs.table(context_length=256)
    if table is None:
        raise ValueError("too few passes were measured")
    return table


def _seconds(fields: Fields, name: str) -> float:
    value = float(str(fields.raw(name)))
    if not 0.0 <= value < 1e6:
        raise ValueError(f"{name} is {value}, no number of seconds")
    return value
