"""Replays recorded traces under any controller, exactly, on a given cost table; it runs no model.

What the target accepts of a run depends on the trace alone, so only times are modelled: those of a
cost table. A controller under replay sees them as it would live, with noise if wanted; the result
counts them without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from specdec.costs import CostTable
from specdec.planning import Controller, Turn
from specdec.traces import Trace
from specdec.types import Acceptance, DraftRun, RoundReport, SamplingParams

_SLOT = 0

Noise = Callable[[], float]  # a factor near 1


@dataclass(frozen=True, slots=True)
class ReplayedRound:
    """One round of a replay."""

    num_drafted: int
    num_checked: int
    num_accepted: int
    elapsed_s: float


def no_noise() -> float:
    """Times exactly as in the table."""
    return 1.0


def replay(
    trace: Trace,
    controller: Controller,
    costs: Callable[[int], CostTable],
    max_draft_length: int,
    noise: Noise = no_noise,
) -> list[ReplayedRound]:
    """The rounds that `controller` would have made of this text; `costs` by round number."""
    controller.open(_SLOT, SamplingParams(temperature=trace.temperature))
    num_tokens, position = len(trace.margins), 0
    rounds: list[ReplayedRound] = []
    while position < num_tokens:
        table = costs(len(rounds))
        longest = min(max_draft_length, num_tokens - position - 1)
        context_length = trace.prompt_length + position
        plan = controller.plan([Turn(_SLOT, context_length, longest)], max_draft_length + 1)
        rule = plan.rules[0]
        chain = trace.margins[position][: trace.num_drafted[position]].tolist()
        num_drafted = 0
        while num_drafted < min(rule.max_length, len(chain)) and rule.should_continue(
            chain[:num_drafted]
        ):
            num_drafted += 1
        run = DraftRun(context_length, (0,) * num_drafted, tuple(chain[:num_drafted]))
        num_checked = plan.share([run])[0]
        num_accepted = min(int(trace.num_matching[position]), num_checked)
        report = _report(run, num_checked, num_accepted, table, noise)
        controller.observe({_SLOT: report})
        elapsed_s = table.round_s(num_drafted, num_checked)
        rounds.append(ReplayedRound(num_drafted, num_checked, num_accepted, elapsed_s))
        position += num_accepted + 1
    controller.close(_SLOT)
    return rounds


def clairvoyant_s(trace: Trace, costs: CostTable, max_draft_length: int) -> float:
    """The least time for this text if every verdict were known beforehand: a bound for all."""
    num_tokens = len(trace.margins)
    least_s = [0.0] * (num_tokens + 1)  # from a position to the end
    for position in range(num_tokens - 1, -1, -1):
        longest = min(max_draft_length, num_tokens - position - 1)
        reachable = min(int(trace.num_matching[position]), longest, costs.longest_run)
        least_s[position] = min(
            costs.round_s(length, length) + least_s[position + length + 1]
            for length in range(reachable + 1)
        )
    return least_s[0]


def total_s(rounds: Sequence[ReplayedRound]) -> float:
    """Seconds of all rounds."""
    return sum(done.elapsed_s for done in rounds)


def _report(
    run: DraftRun, num_checked: int, num_accepted: int, table: CostTable, noise: Noise
) -> RoundReport:
    """What the engine would have told the controller."""
    draft_s = table.round_s(len(run.token_ids), 0) - table.plain_s
    accepted = run.token_ids[:num_accepted]
    return RoundReport(
        run,
        num_checked,
        Acceptance(accepted, 0, is_bonus=num_accepted == num_checked),
        (*accepted, 0),
        draft_s * noise(),
        table.pass_s[num_checked + 1] * noise(),
        table.other_s * noise(),
    )
