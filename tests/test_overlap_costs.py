"""What the overlap benchmark makes of rounds: hidden drafting, and costs for the simulator."""

import pytest
from overlap_costs import hidden_of_possible, overlap_costs

from specdec.types import Acceptance, DraftRun, DraftStep, DraftWork, RoundReport


def report(
    draft_s: float,
    pass_s: float,
    work: DraftWork | None = None,
    steps: tuple[DraftStep, ...] = (),
) -> RoundReport:
    """A round of four draft tokens, all of them rejected."""
    work = work or DraftWork(steps=steps)
    run = DraftRun(10, (1, 2, 3, 4), (1.0,) * 4, work)
    return RoundReport(run, 4, Acceptance((), 7, False), (7,), draft_s, pass_s, 0.001)


def steps(count: int, seconds: float, num_rows: int, is_ahead: bool) -> tuple[DraftStep, ...]:
    """Draft steps one after the other."""
    return tuple(
        DraftStep(i * seconds, (i + 1) * seconds, num_rows, is_ahead) for i in range(count)
    )


def test_only_drafting_that_a_pass_had_time_for_could_be_hidden() -> None:
    hit = DraftWork(num_endings=3, is_hit=True, num_ready=3, ready_s=0.008)
    miss = DraftWork(num_endings=3)
    rounds = [report(0.0, 0.010), report(0.004, 0.010, hit), report(0.012, 0.010, miss)]
    assert hidden_of_possible(rounds) == pytest.approx(0.008 / 0.010)
    assert hidden_of_possible([report(0.0, 0.1), report(0.004, 0.1, hit)]) == pytest.approx(2 / 3)
    assert hidden_of_possible(rounds[:1]) == 0.0


def test_costs_add_up_to_the_rounds_they_were_taken_from() -> None:
    alone = [
        report(0.009, 0.030 if i % 5 else 0.080, steps=steps(4, 0.002, 1, False)) for i in range(20)
    ]
    rounds = {
        "off": alone,
        "chain": [report(0.001, 0.040, steps=steps(4, 0.003, 1, True))] * 6,
        "branch": [report(0.001, 0.044, steps=steps(4, 0.0045, 4, True))] * 6,
    }
    costs = overlap_costs(rounds, 4)
    assert costs.table.pass_s[5] == pytest.approx(0.040)
    assert costs.table.draft_step_s == pytest.approx(0.002)
    assert costs.table.draft_fixed_s == pytest.approx(0.001)
    assert costs.row_s == pytest.approx(0.0005)
    assert costs.step_slowdown == pytest.approx(0.5)
    assert costs.pass_slowdown == pytest.approx(0.004 / 0.018)
