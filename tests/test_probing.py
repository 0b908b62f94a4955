"""What a start may lose, and what is expected of tokens not drafted yet."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic_traces import (
    MAX_DRAFT,
    cliff_costs,
    flat_costs,
    from_hits,
    steep_costs,
    stepped_costs,
)

from specdec.calibration import Calibration
from specdec.controller import AdaptiveLength
from specdec.costs import Costs, CostTable
from specdec.outlook import Outlook
from specdec.probing import Allowance, Probing, probe_interval
from specdec.replay import replay, total_s
from specdec.types import Acceptance, DraftRun, RoundReport

TABLES = {
    "flat": flat_costs(),
    "stepped": stepped_costs(),
    "steep": steep_costs(),
    "cliff": cliff_costs(),
}


def informed(costs: CostTable) -> AdaptiveLength:
    """A controller that knows all costs and has seen no verdict."""
    known = Costs(MAX_DRAFT + 1)
    levels = {m: (costs.pass_s[m], 20.0, 9) for m in range(1, MAX_DRAFT + 2)}
    known.restore(levels, 0.0, costs.draft_fixed_s, costs.draft_step_s, costs.other_s)
    return AdaptiveLength(known, MAX_DRAFT)


@pytest.mark.parametrize("margin", [0.0, 1.5, 60.0])
@pytest.mark.parametrize("table", TABLES)
def test_a_start_with_a_draft_that_is_always_wrong_loses_two_tokens_in_a_hundred(
    table: str, margin: float
) -> None:
    wrong = from_hits(
        "wrong", np.zeros(300, bool), np.full(300, margin), num_tokens=100, temperature=0.0
    )
    costs = TABLES[table]
    rounds = replay(wrong, informed(costs), lambda _: costs, MAX_DRAFT)
    assert len(rounds) == 100
    assert total_s(rounds) <= 102.0 * costs.plain_s


def test_luck_put_by_is_spent_but_no_more() -> None:
    costs, allowance = steep_costs(), Allowance()
    lucky = RoundReport(DraftRun(3), 2, Acceptance((1, 2), 3, is_bonus=True), (1, 2, 3), 0, 0, 0)
    unlucky = replace(lucky, acceptance=Acceptance((), 3, is_bonus=False), emitted=(3,))
    assert allowance.longest_run(costs, 15) == 1
    for _ in range(1000):
        allowance.observe([lucky], costs, costs.plain_s)  # two tokens more than plain
    assert allowance.longest_run(costs, 15) == 15
    for _ in range(50):
        allowance.observe([unlucky], costs, 1.5 * costs.plain_s)
    assert allowance.longest_run(costs, 15) == 0


def test_sequences_that_wait_for_late_runs_are_charged_for_it() -> None:
    costs = replace(steep_costs(), num_sequences=2)
    plain = RoundReport(DraftRun(3), 0, Acceptance((), 3, is_bonus=True), (3,), 0, 0, 0)
    late = replace(plain, draft_s=0.3 * costs.plain_s)
    lengths = []
    for report in (plain, late):
        allowance = Allowance()
        for _ in range(2):
            allowance.observe([report, report], costs, costs.pass_s[2])
        lengths.append(allowance.longest_run(costs, 15))
    assert lengths[0] > 0 == lengths[1]


def test_a_probe_that_gets_no_run_is_made_again_but_not_for_ever() -> None:
    probing, interval = Probing(), probe_interval(price=0.5)
    assert interval == 50.0 and probing.is_due(interval)
    for _ in range(3):
        probing.observe_asked(has_come=False)
        assert probing.is_due(interval)
    probing.observe_asked(has_come=True)
    assert not probing.is_due(interval)
    for _ in range(100):
        probing.observe_asked(has_come=False)
    assert not probing.is_due(interval) and probing.is_due(interval, num_rounds=50)


def test_an_outlook_follows_margins_and_meets_new_texts_half_way() -> None:
    certain, outlook = Calibration(1.0, 1.0, (0.0,)), Outlook(6)
    for _ in range(200):
        outlook.observe((0.1, 0.1), 1.0)
    mean = [sum(p * share for p, share in pairs) for pairs in outlook.odds(certain, 6)]
    assert mean == pytest.approx([0.525] * 6, abs=0.01)  # of a logit of 0.1, beyond the run too
    fresh, other = Outlook(6), outlook.for_new_text()
    means = [
        sum(p * share for p, share in each.odds(certain, 1)[0]) for each in (outlook, other, fresh)
    ]
    assert means[0] + 0.1 < means[1] < means[2] - 0.1
    doubtful = Calibration(1.0, 0.0, (-3.0,))
    assert all(p < 0.05 for p, _ in fresh.odds(doubtful, 1)[0])
