"""A plan as text for people; it computes nothing and prints nothing itself."""

from __future__ import annotations

from collections.abc import Iterator

from specdec.plan.costs import PlanCosts
from specdec.plan.forecast import BatchForecast, StreamForecast
from specdec.plan.plan import Plan
from specdec.plan.roofline import Workload


def plan_text(plan: Plan, workload: Workload, costs: PlanCosts) -> str:
    """Inputs with their labels, then forecasts, then what can be reached and what cannot."""
    lines = [
        plan.title,
        f"target {workload.model}, draft on {costs.draft.device}, {workload.depth} tokens deep",
        "",
        "what it rests on",
    ]
    width = max(len(name) for name in plan.figures)
    lines += [f"  {name:{width}}  {figure}" for name, figure in plan.figures.items()]
    lines += ["", *_passes(plan), "", *_streams(plan.streams), "", *_batches(plan.batches), ""]
    for verdict in plan.verdicts:
        mark = "within reach" if verdict.is_reachable else "OUT OF REACH"
        lines.append(f"{mark}  {verdict.claim}: {verdict.reason}")
    return "\n".join(lines)


def _passes(plan: Plan) -> Iterator[str]:
    weights, moved = plan.weights_bytes / 1e9, plan.moved_bytes / 1e9
    yield f"a pass reads {moved:.2f} GB ({weights:.2f} weights, {moved - weights:.2f} cache)"
    if plan.operations_per_token:
        yield f"and computes {plan.operations_per_token / 1e9:.1f} G operations per token"
    sizes = "  ".join(f"T({size}) {seconds * 1e3:.1f}" for size, seconds in plan.pass_s.items())
    measured = ", ".join(map(str, plan.measured_sizes))
    yield f"T(m) in ms, modelled{f' (measured at m = {measured})' * bool(measured)}: {sizes}"


def _streams(streams: list[StreamForecast]) -> Iterator[str]:
    yield "one sequence, tokens/s, modelled"
    yield (
        f"  {'kind':20}{'plain':>8}{'fixed (K)':>14}{'auto':>8}{'continuous (hits)':>19}"
        f"{'free drafts':>13}{'tokens/pass':>13}"
    )
    for stream in streams:
        fixed = f"{max(stream.fixed):.1f} ({stream.best_length})"
        continuous = f"{stream.continuous:.1f} ({stream.hit_rate:.0%})"
        adaptive = f"{stream.adaptive:.1f}" if stream.adaptive is not None else "-"
        yield (
            f"  {stream.kind:20}{stream.plain:8.1f}{fixed:>14}{adaptive:>8}"
            f"{continuous:>19}{stream.free:13.1f}"
            f"{stream.tokens_per_pass[stream.best_length]:13.2f}"
        )


def _batches(batches: list[BatchForecast]) -> Iterator[str]:
    yield "many sequences, tokens/s in all, modelled"
    yield f"  {'batch':>6}{'plain':>9}{'speculative (K)':>18}{'overlapped':>12}{'memory GB':>11}"
    for batch in batches:
        speculative = f"{batch.speculative:.1f} ({batch.draft_length})"
        yield (
            f"  {batch.num_sequences:6}{batch.plain:9.1f}{speculative:>18}"
            f"{batch.overlapped:12.1f}{batch.held_bytes / 1e9:11.2f}"
            f"{'' if batch.fits else '  does not fit'}"
        )
