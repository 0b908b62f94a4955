"""The simulator of drafting while the target checks: exact where exactness can be had."""

import numpy as np
import pytest
from synthetic_traces import TASKS, flat_costs, from_hits, hopeless, stepped_costs, trace

from specdec.controller import AdaptiveLength, FixedLength
from specdec.costs import Costs, CostTable
from specdec.replay import replay, total_s
from specdec.simulator import OverlapCosts, Simulation, simulate
from specdec.traces import Trace

TEXTS = [trace(kind, 300, seed=1) for kind in TASKS]


def simulated(
    traces: list[Trace], table: CostTable, way: str, length: int = 6, **costs: float
) -> Simulation:
    return simulate(traces, OverlapCosts(table, **costs), FixedLength(length, way), 15)


@pytest.mark.parametrize("table", [flat_costs(), stepped_costs()])
@pytest.mark.parametrize("length", [0, 3, 7])
def test_without_overlap_it_is_the_replay(table: CostTable, length: int) -> None:
    for text in TEXTS:
        result = simulated([text], table, "off", length)
        rounds = replay(text, FixedLength(length), lambda _: table, 15)
        assert result.num_rounds == len(rounds)
        assert result.num_tokens == sum(done.num_accepted + 1 for done in rounds)
        assert result.elapsed_s == pytest.approx(total_s(rounds))


def test_a_perfect_draft_is_hidden_whole_but_for_the_first_run() -> None:
    text = from_hits("perfect", np.ones(400, bool), np.full(400, 5.0), 300, 0.0)
    table = flat_costs(pass_s=0.2, draft_s=0.01)
    result = simulated([text], table, "chain")
    num_rounds = -(-300 // 7)
    assert result.num_rounds == num_rounds
    assert result.overlap.num_hits == num_rounds - 1
    assert result.elapsed_s == pytest.approx(num_rounds * 0.2 + 6 * 0.01)
    synchronous = simulated([text], table, "off")
    assert synchronous.elapsed_s == pytest.approx(result.elapsed_s, rel=0.35)
    assert synchronous.elapsed_s > result.elapsed_s


def test_a_chain_hits_as_often_as_the_text_goes_on_as_drafted() -> None:
    text = trace("chat", 2000, seed=7)
    result = simulated([text], flat_costs(), "chain", length=3)
    expected, position = [], 0
    while position < 2000:
        longest = min(3, 2000 - position - 1)
        matching = int(text.num_matching[position])
        expected.append(matching > longest)
        position += min(matching, longest) + 1
    assert result.overlap.hit_rate == pytest.approx(np.mean(expected), abs=0.01)


def test_branches_hit_more_than_a_chain_and_both_beat_waiting_on_devices_of_their_own() -> None:
    table = flat_costs(pass_s=0.2, draft_s=0.012)
    for text in TEXTS:
        off, chain, branch = (simulated([text], table, way) for way in ("off", "chain", "branch"))
        assert branch.overlap.hit_rate > chain.overlap.hit_rate
        assert branch.tokens_per_s > chain.tokens_per_s * 0.995
        assert branch.tokens_per_s > off.tokens_per_s


def test_where_both_share_a_bus_a_hopeless_draft_loses_and_auto_does_not() -> None:
    text = [hopeless(3000, seed=2)]
    table = flat_costs(pass_s=0.2, draft_s=0.012)
    shared = {"pass_slowdown": 0.6}
    off, branch, auto = (
        simulated(text, table, way, **shared).tokens_per_s for way in ("off", "branch", "auto")
    )
    assert branch < off
    assert auto >= 0.98 * off


def test_the_adaptive_controller_gains_from_overlap_too() -> None:
    table = stepped_costs(draft_s=0.01)
    rates = {}
    for way in ("off", "auto"):
        controller = AdaptiveLength(Costs(16, (1, 2, 4, 8, 16)), 15, way)
        rates[way] = simulate(TEXTS * 3, OverlapCosts(table), controller, 15).tokens_per_s
    assert rates["auto"] > 1.02 * rates["off"]


def test_known_ranks_decide_which_branch_was_right() -> None:
    base = trace("creative", 500, seed=3)
    is_first = base.num_matching > 0
    results = []
    for rank in (1, 5):
        ranks = np.where(is_first, 0, rank).astype(np.uint8)
        text = Trace(**{name: getattr(base, name) for name in Trace.__slots__} | {"ranks": ranks})
        results.append(simulated([text], flat_costs(), "branch").overlap.hit_rate)
    assert results[0] > results[1] + 0.3  # always the second choice, never any


def test_slower_steps_beside_a_pass_hide_less() -> None:
    table = flat_costs(pass_s=0.05, draft_s=0.012)
    free = simulated(TEXTS, table, "branch")
    slow = simulated(TEXTS, table, "branch", row_s=0.003, step_slowdown=0.5)
    assert slow.overlap.num_ready_tokens < free.overlap.num_ready_tokens
    assert slow.tokens_per_s < free.tokens_per_s
