"""Many prompts at once: each line of output is what its prompt gives alone and plain."""

import gc
import logging
import random
import tracemalloc
from collections.abc import Iterator

import pytest
from batch_fakes import PLAIN, SeededVerifier, engine, prompts, results, what
from fakes import RuleDrafter, RuleVerifier

from draft.ngram import NgramDrafter
from specdec.controller import AdaptiveLength, FixedLength
from specdec.costs import Costs
from specdec.planning import Controller
from specdec.prompts import Prompt
from specdec.requests import Order
from specdec.types import Drafter


def drafter(name: str) -> tuple[Drafter | None, Controller]:
    if name == "plain":
        return None, FixedLength(0)
    if name == "ngram":
        return NgramDrafter(), FixedLength(5)
    accuracy = {"right": 1.0, "wrong": 0.0}.get(name, 0.6)
    auto = AdaptiveLength(Costs(64), 15)
    return RuleDrafter(accuracy), auto if name == "auto" else FixedLength(7)


@pytest.mark.parametrize("batch_size", [1, 4, 16, 64])
@pytest.mark.parametrize("name", ["plain", "ngram", "right", "wrong", "half", "auto"])
@pytest.mark.parametrize("order", ["arrival", "longest"])
def test_each_result_is_what_the_prompt_gives_alone_and_plain(
    batch_size: int, name: str, order: Order
) -> None:
    verifier = SeededVerifier()
    asked = prompts(60)
    random.Random(batch_size).shuffle(asked)
    running = engine(*drafter(name), batch_size, verifier, order)
    assert what(results(running.generate(asked))) == PLAIN
    assert verifier.most_open == min(batch_size, 60) and not verifier.cache


def test_counts_and_times_of_sequences_add_up_to_the_run() -> None:
    verifier = SeededVerifier()
    found = results(engine(RuleDrafter(0.8), None, 8, verifier).generate(prompts(40)))
    stats = [r.stats for r in found.values()]
    fed = sum(s.num_passes + s.num_draft_tokens for s in stats)
    assert fed == sum(count for kind, count in verifier.calls if kind == "verify")
    for s in stats:
        assert s.num_tokens <= s.num_passes + s.num_accepted_tokens
        assert 0.0 < s.verify_s + s.draft_s <= s.decode_s


def test_no_more_than_a_part_of_a_prompt_is_fed_between_two_passes() -> None:
    verifier = SeededVerifier(context_length=3000)
    asked = [Prompt(id="short", text="x")]
    asked += [Prompt(id=f"long{n}", text="y" * 2000) for n in range(2)]
    found = results(engine(None, None, 3, verifier).generate(asked))
    assert {r.finish_reason for r in found.values()} <= {"length", "eos"}
    between = 0
    first_pass = next(i for i, (kind, _) in enumerate(verifier.calls) if kind == "verify")
    for kind, count in verifier.calls[first_pass:]:
        between = between + count if kind == "prefill" else 0
        assert between <= 256


def test_a_prompt_that_is_alone_is_fed_in_larger_parts() -> None:
    verifier = SeededVerifier(context_length=3000)
    list(engine(None, None, 3, verifier).generate([Prompt(id="long", text="y" * 1200)]))
    assert [count for kind, count in verifier.calls if kind == "prefill"] == [512, 512, 176]


def test_short_prompts_that_join_together_are_fed_together() -> None:
    verifier = SeededVerifier()
    asked = [Prompt(id=str(n), text="x" * (5 + n)) for n in range(8)]
    list(engine(None, None, 8, verifier).generate(asked))
    assert [count for kind, count in verifier.calls if kind == "prefill"] == [
        sum(5 + n for n in range(8))
    ]


@pytest.mark.parametrize("shared_prefixes", [0, 1, 3])
def test_prompts_that_begin_alike_feed_their_beginning_a_few_times(shared_prefixes: int) -> None:
    beginning = "Answer in one word, and say why. " * 9
    asked = [
        Prompt(id=f"s{n}", text=beginning + chr(40 + n) * (1 + n % 7), max_new_tokens=8)
        for n in range(40)
    ]
    plain = what({p.id: results(engine().generate([p]))[p.id] for p in asked})
    verifier = SeededVerifier()
    running = engine(RuleDrafter(0.6), None, 8, verifier, shared_prefixes=shared_prefixes)
    assert (
        what(results(running.generate(asked[:20]))) | what(results(running.generate(asked[20:])))
        == plain
    )
    fed = sum(count for kind, count in verifier.calls if kind == "prefill")
    times = 3 if shared_prefixes else 40
    assert times * len(beginning) <= fed < times * len(beginning) + 40 * 8


def test_a_batch_larger_than_a_pass_is_cut_to_it_with_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    verifier = SeededVerifier(max_pass_tokens=16)
    with caplog.at_level(logging.WARNING):
        running = engine(RuleDrafter(0.7), None, 64, verifier)
    assert "run.batch_size is 64; a pass on fake takes 16 tokens, so 16 prompts" in caplog.text
    assert what(results(running.generate(prompts(60)))) == PLAIN
    assert verifier.most_open == 16


def test_the_longest_go_first_where_that_is_asked_for() -> None:
    asked = [Prompt(id=str(n), text="x" * n, max_new_tokens=3) for n in (5, 40, 1, 200, 30)]
    running = engine(order="longest")
    ids = [event.request_id for event in running.generate(asked) if event.result]
    assert ids == ["200", "40", "30", "5", "1"]


def test_prompts_are_read_no_further_ahead_than_needed() -> None:
    read = []

    def source() -> Iterator[Prompt]:
        for number in range(1000):
            read.append(number)
            yield Prompt(id=str(number), text="ab", max_new_tokens=4)

    for event in engine(batch_size=4).generate(source()):
        if event.result:
            break
    assert len(read) <= 5


def test_what_cannot_run_does_not_stop_the_others() -> None:
    asked = prompts(20)
    asked[3:3] = [Prompt(id="empty", text=""), Prompt(id="endless", text="x" * 600)]
    found = what(results(engine(RuleDrafter(0.5), None, 4).generate(asked)))
    assert found.pop("empty")[2] == found.pop("endless")[2] == "error"
    assert found == {name: PLAIN[name] for name in found}
    assert len(found) == 20


def test_cancelling_ends_all_and_keeps_what_was_confirmed() -> None:
    running = engine(batch_size=4)
    events = running.generate(prompts(12))
    seen = [next(events) for _ in range(4)]
    running.cancel()
    found = {event.request_id: event.result for event in [*seen, *events] if event.result}
    assert len(found) == 12
    cancelled = [r for r in found.values() if r.finish_reason == "cancelled"]
    assert len(cancelled) >= 8
    for result in cancelled:
        assert result.token_ids == PLAIN[result.id][1][: len(result.token_ids)]


def test_draining_finishes_what_runs_and_starts_no_more() -> None:
    running = engine(batch_size=4)
    events = running.generate(prompts(40))
    seen = [next(events)]
    running.drain()
    found = [event.result for event in [*seen, *events] if event.result]
    assert len(found) == 4
    assert all(PLAIN[r.id][1] == r.token_ids for r in found)


def test_slots_are_freed_when_the_caller_walks_away() -> None:
    verifier, drafts = SeededVerifier(), RuleDrafter(1.0)
    for event in engine(drafts, None, 8, verifier).generate(prompts(20)):
        if event.result:
            break
    assert not verifier.cache and not drafts.tokens


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_prompts() -> None:
    source = (Prompt(id=str(n), text="ab", max_new_tokens=2) for n in range(10_000))
    events = engine(batch_size=16, verifier=RuleVerifier()).generate(source)
    for _ in range(2000):
        next(events)
    tracemalloc.start()
    try:
        assert sum(1 for event in events if event.result) > 8000
        gc.collect()  # lets go of tuples that the interpreter keeps for later, too
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 50_000
