"""The comparison of live runs with replays: costs come back from rounds, and so do the rounds."""

import pytest
from live import MAX_DRAFT, Watched, costs_of, replayed
from synthetic_traces import flat_costs, stepped_costs, trace

from specdec.controller import AdaptiveLength
from specdec.costs import Costs, CostTable
from specdec.replay import replay, total_s

SIZES = (1, 2, 4, 8, 16)


def padded(costs: CostTable) -> CostTable:
    """Passes cost what those of the next padded size do."""
    sizes = [next(size for size in SIZES if size >= m) for m in range(1, MAX_DRAFT + 2)]
    return CostTable((0.0, *(costs.pass_s[size] for size in sizes)), 0.004, 0.002, 0.001)


@pytest.mark.parametrize("costs", [padded(flat_costs()), padded(stepped_costs())])
def test_a_replay_of_what_a_run_cost_is_that_run(costs: CostTable) -> None:
    watched = Watched(AdaptiveLength(Costs(MAX_DRAFT + 1, SIZES), MAX_DRAFT))
    traces = [trace("code", 150, seed) for seed in range(4)]
    rounds = [done for each in traces for done in replay(each, watched, lambda _: costs, MAX_DRAFT)]
    assert len(watched.reports) == len(rounds)
    found = costs_of(watched.reports, SIZES)
    assert found.draft_step_s == pytest.approx(0.004)
    assert found.draft_fixed_s == pytest.approx(0.002)
    assert found.pass_s[1] == pytest.approx(costs.pass_s[1])
    assert found.pass_s[16] == pytest.approx(costs.pass_s[16])
    again = replayed(traces, found, SIZES)
    assert total_s(again) == pytest.approx(total_s(rounds), rel=0.01)
