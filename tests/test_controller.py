"""The adaptive draft length: against every fixed one, against plain, and after changes."""

import json
import pickle
import random
from itertools import product

import numpy as np
import pytest
from fakes import ByteTokenizer, RuleDrafter, RuleVerifier
from synthetic_traces import (
    MAX_DRAFT,
    TASKS,
    cliff_costs,
    flat_costs,
    hopeless,
    steep_costs,
    stepped_costs,
    trace,
)

from specdec.calibration import Calibration, Calibrator
from specdec.controller import AdaptiveLength, FixedLength
from specdec.costs import Costs, CostTable
from specdec.engine import Engine
from specdec.planning import Controller
from specdec.replay import Noise, clairvoyant_s, no_noise, replay, total_s
from specdec.requests import GenerationDefaults
from specdec.sharing import Stakes, share_budget
from specdec.stopping import AdaptiveStopping
from specdec.traces import Trace
from specdec.types import DraftRun

TABLES = {
    "flat": flat_costs(),
    "stepped": stepped_costs(),
    "steep": steep_costs(),
    "cliff": cliff_costs(),
}


def adaptive() -> AdaptiveLength:
    return AdaptiveLength(Costs(MAX_DRAFT + 1), MAX_DRAFT)


def noisy(seed: int) -> Noise:
    """Five per cent of jitter, and one time in a hundred five times as long."""
    rng = random.Random(seed)
    return lambda: rng.lognormvariate(0.0, 0.05) * (5.0 if rng.random() < 0.01 else 1.0)


def seconds(traces: list[Trace], controller: Controller, costs: CostTable) -> float:
    noise = noisy(1)
    return sum(
        total_s(replay(text, controller, lambda _: costs, MAX_DRAFT, noise)) for text in traces
    )


def best_fixed(traces: list[Trace], costs: CostTable) -> float:
    return min(seconds(traces, FixedLength(k), costs) for k in range(MAX_DRAFT + 1))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", TASKS)
def test_is_within_three_per_cent_of_the_best_fixed_length_of_each_kind(
    kind: str, table: str
) -> None:
    traces = [trace(kind, 200, seed) for seed in range(10)]
    assert seconds(traces, adaptive(), TABLES[table]) <= best_fixed(traces, TABLES[table]) / 0.97


@pytest.mark.parametrize("table", TABLES)
def test_beats_every_fixed_length_on_a_mix(table: str) -> None:
    traces = [trace(kind, 100, seed) for seed, kind in product(range(4), TASKS)]
    mine = seconds(traces, adaptive(), TABLES[table])
    assert mine < best_fixed(traces, TABLES[table])
    assert mine > sum(clairvoyant_s(text, TABLES[table], MAX_DRAFT) for text in traces)


@pytest.mark.parametrize("table", TABLES)
def test_costs_at_most_two_per_cent_where_the_draft_is_hopeless(table: str) -> None:
    traces = [hopeless(300, seed) for seed in range(4)]
    plain = seconds(traces, FixedLength(0), TABLES[table])
    assert seconds(traces, adaptive(), TABLES[table]) <= plain / 0.98


def rate_after(
    controller: Controller, texts: list[Trace], costs: CostTable, num_skipped: int
) -> float:
    """Tokens per second of the given texts beyond their first rounds."""
    rounds = [
        done for text in texts for done in replay(text, controller, lambda _: costs, MAX_DRAFT)
    ][num_skipped:]
    return sum(done.num_accepted + 1 for done in rounds) / total_s(rounds)


@pytest.mark.parametrize("before, after", [("json", "creative"), ("creative", "json")])
@pytest.mark.parametrize("table", TABLES)
def test_recovers_within_fifty_passes_of_another_kind_of_text(
    before: str, after: str, table: str
) -> None:
    switched, settled = adaptive(), adaptive()
    texts = [trace(after, 400, seed) for seed in range(90, 94)]
    seconds([trace(before, 300, seed) for seed in range(3)], switched, TABLES[table])
    seconds([trace(after, 300, seed) for seed in range(3)], settled, TABLES[table])
    mine = rate_after(switched, texts, TABLES[table], 50)
    assert mine >= 0.97 * rate_after(settled, texts, TABLES[table], 50)


@pytest.mark.parametrize("text", [hopeless(200, 1), trace("creative", 200, 1)])
def test_finds_its_way_back_from_plain_decoding(text: Trace) -> None:
    controller, costs = adaptive(), steep_costs()
    seconds([text] * 5, controller, costs)
    easy = [trace("json", 300, seed) for seed in range(3)]
    fresh = rate_after(adaptive(), easy, costs, 50)
    assert rate_after(controller, easy, costs, 50) >= 0.97 * fresh


def test_recovers_within_fifty_passes_of_a_slower_clock() -> None:
    controller, costs = adaptive(), stepped_costs()
    slow = CostTable(tuple(1.4 * x for x in costs.pass_s), costs.draft_step_s)
    seconds([trace("code", 300, seed) for seed in range(3)], controller, costs)
    texts = [trace("code", 300, seed) for seed in range(90, 93)]
    settled = adaptive()
    seconds([trace("code", 300, seed) for seed in range(3)], settled, slow)
    mine = rate_after(controller, texts, slow, 50)
    assert mine >= 0.98 * rate_after(settled, texts, slow, 50)


def test_margins_of_all_temperatures_are_judged_in_logits() -> None:
    one = [trace("chat", 150, seed, temperature=1.0) for seed in range(8)]
    several = [
        trace("chat", 150, seed, temperature=temperature)
        for seed, temperature in enumerate((0.15, 1.0, 0.4, 2.0) * 2)
    ]
    costs = stepped_costs()
    assert seconds(several, adaptive(), costs) == pytest.approx(
        seconds(one, adaptive(), costs), rel=1e-6
    )


def test_a_draft_without_margins_is_judged_by_position() -> None:
    texts = [
        Trace(t.request_id, 0.0, 20, np.zeros_like(t.margins), t.num_drafted, t.num_matching)
        for t in (trace("code", 200, seed) for seed in range(10))
    ]
    costs = flat_costs()
    assert seconds(texts, adaptive(), costs) <= best_fixed(texts, costs) / 0.97


def rule(costs: CostTable, rate: float, p: float = 0.7, max_length: int = 15) -> AdaptiveStopping:
    """A rule that takes a confidence for a logit and expects p of every token."""
    return AdaptiveStopping(
        max_length=max_length,
        min_length=0,
        calibration=Calibration(1.0, 1.0, (0.0,)),
        odds=(((p, 1.0),),) * 15,
        mean_probability=(p,) * 15,
        costs=costs,
        rate=rate,
    )


def test_the_rule_is_picklable_and_pure() -> None:
    stopping = rule(flat_costs(), 10.0)
    again = pickle.loads(pickle.dumps(stopping))
    assert again == stopping
    confidences = [2.0, 1.0, 0.5]
    assert again.should_continue(confidences) == stopping.should_continue(confidences)
    assert confidences == [2.0, 1.0, 0.5]


def test_looks_beyond_a_step_that_a_few_more_tokens_would_not_pay() -> None:
    costs = CostTable((0.0, *[0.1] * 8, *[0.25] * 8), 0.001)
    sure = [6.0] * 7  # the eighth draft token is the ninth of the pass: the step costs 3 tokens
    assert rule(costs, 20.0, p=0.95).should_continue(sure)
    assert not rule(costs, 20.0, p=0.95, max_length=9).should_continue(sure)  # too few beyond it
    assert rule(costs, 20.0).num_to_check(DraftRun(9, (1,) * 8, (6.0,) * 8)) == 7


def test_checks_nothing_that_is_not_worth_its_place() -> None:
    stopping = rule(steep_costs(), 1 / 0.06)
    assert stopping.num_to_check(DraftRun(9, (1, 2, 3), (5.0, -5.0, 5.0))) == 1
    assert stopping.num_to_check(DraftRun(9, (1, 2), (-5.0, 5.0))) == 0
    assert stopping.num_to_check(DraftRun(9)) == 0


def test_never_drafts_more_than_the_maximum() -> None:
    stopping = rule(flat_costs(draft_s=0.0), 5.0, max_length=3)
    assert stopping.should_continue([9.0, 9.0])
    assert not stopping.should_continue([9.0, 9.0, 9.0])
    assert stopping.num_to_check(DraftRun(1, (1,) * 5, (9.0,) * 5)) == 3


def test_calibration_finds_the_odds_of_margin_and_position() -> None:
    rng, calibrator = np.random.default_rng(3), Calibrator(4)
    points = list(product(range(4), (0.0, 1.0, 4.0)))
    found = []
    for count in range(9000):
        index, margin = int(rng.integers(4)), float(rng.exponential(2.0))
        logit = 0.5 * min(margin, 6.0) - 0.4 - (1.0 if index == 0 else 0.0)
        calibrator.observe(margin, 1.0, index, bool(rng.random() < 1 / (1 + np.exp(-logit))))
        if count > 3000 and count % 50 == 0:  # it forgets, so it wavers: take the mean
            snapshot = calibrator.snapshot(1.0)
            found.append([snapshot.probability(margin, index) for index, margin in points])
    for (index, margin), probability in zip(points, np.mean(found, axis=0), strict=True):
        truth = 1 / (1 + np.exp(-(0.5 * margin - 0.4 - (1.0 if index == 0 else 0.0))))
        assert probability == pytest.approx(truth, abs=0.05)


def test_infinite_margins_and_endless_luck_do_no_harm() -> None:
    calibrator = Calibrator(4)
    for _ in range(3000):
        calibrator.observe(3e38, 1.0, 0, True)
    assert 0.95 < calibrator.snapshot(1.0).probability(3e38, 0) < 1.0
    for _ in range(300):
        calibrator.observe(3e38, 1.0, 0, False)
    assert calibrator.snapshot(1.0).probability(3e38, 0) < 0.5


def best_lengths(survivals: list[list[float]], costs: CostTable, rate: float, limit: int) -> float:
    """The greatest value of any choice of lengths."""
    return max(
        sum(sum(s[:n]) for s, n in zip(survivals, lengths, strict=True))
        - rate * costs.pass_s[len(survivals) + sum(lengths)]
        for lengths in product(*(range(len(s) + 1) for s in survivals))
        if len(survivals) + sum(lengths) <= limit
    )


@pytest.mark.parametrize("seed", range(12))
def test_a_shared_budget_is_spent_in_the_best_way(seed: int) -> None:
    rng = np.random.default_rng(seed)
    survivals = [np.cumprod(rng.uniform(0.2, 1.0, n)).tolist() for n in (3, 5, 0, 2)]
    for costs, limit in product((flat_costs(), stepped_costs(), steep_costs()), (4, 7, 12)):
        stakes = [Stakes(tuple(survival)) for survival in survivals]
        lengths = share_budget(stakes, costs, 15.0, limit)
        value = sum(sum(s[:n]) for s, n in zip(survivals, lengths, strict=True))
        num_tokens = len(survivals) + sum(lengths)
        assert num_tokens <= limit
        value -= 15.0 * costs.pass_s[num_tokens]
        assert value == pytest.approx(best_lengths(survivals, costs, 15.0, limit))


def test_runs_in_the_engine_and_changes_nothing() -> None:
    defaults = GenerationDefaults(max_new_tokens=120)
    texts = []
    for accuracy in (0.0, 0.6, 1.0):
        controller = adaptive()
        engine = Engine(
            RuleVerifier(), RuleDrafter(accuracy), controller, ByteTokenizer(), defaults
        )
        texts.append([e.result.token_ids for e in engine.generate(["ab", "cd"]) if e.result])
        state = json.loads(json.dumps(controller.to_json()))
        assert state["costs"]["passes"]["sizes"]["1"][0] > 0.0
    plain = Engine(RuleVerifier(), None, FixedLength(0), ByteTokenizer(), defaults)
    assert texts == [[e.result.token_ids for e in plain.generate(["ab", "cd"]) if e.result]] * 3


def test_replay_of_a_fixed_length_counts_by_hand() -> None:
    text = trace("code", 50, 4)
    costs = stepped_costs()
    position, expected_s = 0, 0.0
    while position < 50:
        length = min(5, 50 - position - 1)
        expected_s += length * costs.draft_step_s + costs.pass_s[length + 1]
        position += min(int(text.num_matching[position]), length) + 1
    rounds = replay(text, FixedLength(5), lambda _: costs, MAX_DRAFT, no_noise)
    assert total_s(rounds) == pytest.approx(expected_s)
    assert sum(done.num_accepted + 1 for done in rounds) == 50
