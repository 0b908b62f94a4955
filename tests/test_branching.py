"""Drafting ahead along likely endings: what is handed over is what drafting anew would give."""

import random
import time
from collections.abc import Callable

import numpy as np
import pytest
from fakes import rule
from fuzzy_model import NUM_BRANCHES, FuzzyModel

from draft.branching import BranchingDrafter
from draft.messages import Wish
from draft.outcomes import Drafted, EndingOdds
from draft.pace import Pace
from specdec.controller import FixedStopping
from specdec.types import DraftRun, SamplingParams

GREEDY = SamplingParams()


def always() -> bool:
    return True


def for_steps(count: int) -> Callable[[], bool]:
    left = iter(range(count))
    return lambda: next(left, None) is not None


def drafter_of(model: FuzzyModel, num_slots: int = 1) -> BranchingDrafter:
    return BranchingDrafter(model, "fuzzy", num_slots, NUM_BRANCHES if num_slots == 1 else 0)


def anew(model: FuzzyModel, tokens: list[int], count: int) -> tuple[int, ...]:
    """What the model says after these tokens, token by token."""
    tokens = list(tokens)
    for _ in range(count):
        tokens.append(int(np.argmax(model.logits_after(tokens))))
    return tuple(tokens[-count:]) if count else ()


def verdict(tokens: list[int], run: DraftRun) -> list[int]:
    """What the target emits: the tokens of the run it agrees with and its own."""
    emitted: list[int] = []
    for token_id in (*run.token_ids, None):
        emitted.append(rule([*tokens, *emitted]))
        if emitted[-1] != token_id:
            break
    return emitted


@pytest.mark.parametrize("seed", range(12))
def test_a_run_is_what_drafting_anew_would_give_however_the_passes_end(seed: int) -> None:
    dice = random.Random(seed)
    model = FuzzyModel(dice.choice([0.3, 0.6, 0.9]), seed)
    drafter = drafter_of(model)
    tokens = [5, 6, 7]
    drafter.open(0, tokens, GREEDY)
    while len(tokens) < 200:
        stopping = FixedStopping(dice.randrange(8), num_endings=dice.randrange(9))
        run = drafter.take(0, len(tokens), stopping.max_length, 1.0, stopping)
        assert run.token_ids == anew(model, tokens, len(run.token_ids))
        assert len(run.token_ids) == stopping.max_length
        num_checked = dice.randint(0, len(run.token_ids))
        checked = DraftRun(run.position, run.token_ids[:num_checked])
        drafter.in_flight(0, checked)
        drafter.work_ahead(Wish(0, 7, stopping), for_steps(dice.choice([0, 1, 2, 5, 100])))
        emitted = verdict(tokens, checked)
        drafter.confirm(0, emitted)
        tokens += emitted
    drafter.close(0)


def test_a_foreseen_ending_finds_its_run_ready_and_another_does_not() -> None:
    model = FuzzyModel(0.5, seed=3)
    drafter = drafter_of(model)
    tokens, outcomes = [5, 6, 7], set()
    drafter.open(0, tokens, GREEDY)
    stopping = FixedStopping(4, num_endings=8)
    for _ in range(40):
        run = drafter.take(0, len(tokens), 4, 1.0, stopping)
        num_steps = model.num_steps
        drafter.in_flight(0, run)
        drafter.work_ahead(Wish(0, 4, stopping), always)
        emitted = verdict(tokens, run)
        drafter.confirm(0, emitted)
        tokens += emitted
        before = model.num_steps
        assert before > num_steps
        run = drafter.take(0, len(tokens), 4, 1.0, stopping)
        outcomes.add(run.work.is_hit)
        assert 1 < run.work.num_endings <= 8
        if run.work.is_hit:
            assert run.work.num_ready == 4 and model.num_steps == before
            assert run.work.ready_s > 0.0
        else:
            assert run.work.num_ready == 0 and model.num_steps > before
        assert {step.is_ahead for step in run.work.steps} <= {run.work.is_hit, True}
    assert outcomes == {True, False}


def test_no_endings_wanted_no_work_is_done() -> None:
    model = FuzzyModel(0.9)
    drafter = drafter_of(model)
    drafter.open(0, [5, 6, 7], GREEDY)
    run = drafter.take(0, 3, 4, 1.0, FixedStopping(4))
    before = model.num_steps
    drafter.in_flight(0, run)
    drafter.work_ahead(Wish(0, 4, FixedStopping(4)), always)
    assert model.num_steps == before


def test_a_chain_goes_on_from_the_run_alone() -> None:
    model = FuzzyModel(1.0)
    drafter = drafter_of(model)
    tokens = [5, 6, 7]
    drafter.open(0, tokens, GREEDY)
    stopping = FixedStopping(4, num_endings=1)
    run = drafter.take(0, 3, 4, 1.0, stopping)
    before = model.num_steps
    drafter.in_flight(0, run)
    drafter.work_ahead(Wish(0, 4, stopping), always)
    assert model.num_steps == before + 5  # the bonus token and a run of 4
    tokens += verdict(tokens, run)
    drafter.confirm(0, tokens[3:])
    run = drafter.take(0, 8, 4, 1.0, stopping)
    assert (run.work.is_hit, run.work.num_ready, run.work.num_endings) == (True, 4, 1)
    assert model.num_steps == before + 5


def test_the_context_is_never_overrun() -> None:
    model = FuzzyModel(1.0, context_length=12)
    drafter = drafter_of(model)
    tokens = [5, 6, 7]
    drafter.open(0, tokens, GREEDY)
    stopping = FixedStopping(4, num_endings=8)
    while len(tokens) < 12:
        run = drafter.take(0, len(tokens), 4, 1.0, stopping)
        assert len(run.token_ids) == min(4, 12 - len(tokens))
        drafter.in_flight(0, run)
        drafter.work_ahead(Wish(0, 4, stopping), always)
        emitted = verdict(tokens, run)[: 12 - len(tokens)]
        drafter.confirm(0, emitted)
        tokens += emitted


def test_sequences_prepared_together_share_their_steps() -> None:
    model = FuzzyModel(0.8)
    drafter = drafter_of(model, num_slots=6)
    texts = {slot: [3 + slot, 9, 4, *range(slot)] for slot in (0, 1, 2, 3, 5)}
    for slot, tokens in texts.items():
        drafter.open(slot, tokens, GREEDY)
    drafter.draft_each([Wish(slot, 5, FixedStopping(5)) for slot in texts], always)
    shared = model.num_steps
    for slot, tokens in texts.items():
        run = drafter.take(slot, len(tokens), 5, 1.0, FixedStopping(5))
        assert run.token_ids == anew(model, tokens, 5)
    assert model.num_steps == shared == 4 + 5 + 5  # prompts; four together; the fifth


def test_rows_whose_runs_were_accepted_whole_catch_up_in_one_step() -> None:
    model = FuzzyModel(1.0)
    drafter = drafter_of(model, num_slots=4)
    texts = {slot: [3 + slot, 9, 4] for slot in range(4)}
    for slot, tokens in texts.items():
        drafter.open(slot, tokens, GREEDY)
    num_confirmed = 0
    for next_confirmed in (3, 3, 2, 1):  # of a run of two and the token after it
        wishes = [Wish(slot, 2, FixedStopping(2)) for slot in texts]
        before = model.num_steps
        drafter.draft_each(wishes, always)
        if num_confirmed:
            assert model.num_steps == before + 2 + (num_confirmed == 3)
        num_confirmed = next_confirmed
        for slot, tokens in texts.items():
            run = drafter.take(slot, len(tokens), 2, 1.0, FixedStopping(2))
            assert run.token_ids == anew(model, tokens, 2)
            confirmed = anew(model, tokens, 3)[:num_confirmed]
            drafter.confirm(slot, confirmed)
            tokens.extend(confirmed)


def test_endings_are_ranked_by_what_the_margins_and_the_verdicts_say() -> None:
    odds = EndingOdds()
    run = [Drafted(10, 6.0, (11, 12)), Drafted(20, 0.1, (21, 22)), Drafted(30, 1.0, (31,))]
    assert next(odds.rank(run, 2, GREEDY)) == (1, 21)
    assert {accepted for accepted, _ in odds.rank(run, 2, GREEDY)} >= {1, 2}
    assert {accepted for accepted, _ in odds.rank(run, 1, GREEDY)} <= {0, 1}
    for _ in range(200):  # the first token is rejected, whatever its margin, for its third choice
        odds.learn(run, [12], GREEDY)
    assert next(odds.rank(run, 2, GREEDY)) == (0, 12)
    sampled = odds.rank(run, 2, SamplingParams(temperature=1.0))
    assert next(sampled) == (1, 21)  # sampling with noise has a law of its own


def test_steps_for_unlikely_endings_do_not_hold_up_the_verdict() -> None:
    pace = Pace()
    assert pace.is_in_time(0, 4, 10.0)  # nothing is known yet
    for start_s in range(6):
        pace.begin_pass(0, 7, start_s)
        pace.end_pass(0, start_s + 0.1)
        pace.observe_step(4, 0.03)
    pace.begin_pass(0, 7, 10.0)
    assert pace.is_in_time(0, 4, 10.06) and not pace.is_in_time(0, 4, 10.08)
    pace.begin_pass(0, 3, 10.0)
    assert pace.is_in_time(0, 4, 10.08)  # passes of another size were never seen


def overshoot_s(patched: pytest.MonkeyPatch) -> float:
    """By how much steps of 10 ms outlast passes of 55 ms, in all; one group takes 50."""
    now = [0.0]

    def take_time() -> None:
        now[0] += 0.01

    patched.setattr(time, "perf_counter", lambda: now[0])
    drafter = drafter_of(FuzzyModel(0.5, seed=3, before_step=take_time))
    tokens, stopping, late_s = [5, 6, 7], FixedStopping(4, num_endings=8), 0.0
    drafter.open(0, tokens, GREEDY)
    for _ in range(40):
        run = drafter.take(0, len(tokens), 4, 1.0, stopping)
        drafter.in_flight(0, run)
        verdict_at = now[0] + 0.055
        drafter.work_ahead(Wish(0, 4, stopping), lambda end=verdict_at: now[0] < end)
        late_s += max(0.0, now[0] - verdict_at)
        now[0] = max(now[0], verdict_at)
        emitted = verdict(tokens, run)
        drafter.confirm(0, emitted)
        tokens += emitted
    return late_s


def test_a_second_group_is_not_begun_where_the_pass_has_no_time_for_it() -> None:
    with pytest.MonkeyPatch.context() as patched:
        careful_s = overshoot_s(patched)
        patched.setattr(Pace, "is_in_time", lambda *facts: True)
        assert careful_s < 0.5 * overshoot_s(patched)
