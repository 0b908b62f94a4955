"""Speculative output equals plain output, whatever the drafter and the draft length."""

import pytest
from fakes import VOCAB, ByteTokenizer, RuleDrafter, RuleVerifier, rule

from draft.ngram import NgramDrafter
from specdec.controller import FixedLength
from specdec.engine import Engine
from specdec.generation import Generation
from specdec.prompts import Prompt
from specdec.requests import GenerationDefaults
from specdec.types import Drafter, DraftRun, StoppingRule


def engine(
    drafter: Drafter | None,
    draft_length: int = 4,
    defaults: GenerationDefaults | None = None,
    verifier: RuleVerifier | None = None,
) -> Engine:
    return Engine(
        verifier or RuleVerifier(),
        drafter,
        FixedLength(draft_length if drafter else 0),
        ByteTokenizer(),
        defaults or GenerationDefaults(max_new_tokens=40),
    )


def run(engine: Engine, prompt: Prompt | str = "some prompt") -> Generation:
    events = list(engine.generate([prompt]))
    result = events[-1].result
    assert result is not None
    assert "".join(event.text for event in events) == result.text
    assert sum((event.token_ids for event in events), ()) == result.token_ids
    return result


def plain_ids(prompt: str, count: int) -> list[int]:
    tokens = list(ByteTokenizer().encode(prompt, add_bos=True))
    for _ in range(count):
        tokens.append(rule(tokens))
    return tokens[-count:]


@pytest.mark.parametrize("draft_length", [0, 1, 2, 4, 8, 15])
@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.8, 1.0])
def test_speculative_output_equals_plain_output(draft_length: int, accuracy: float) -> None:
    result = run(engine(RuleDrafter(accuracy), draft_length))
    assert list(result.token_ids) == plain_ids("some prompt", 40)
    stats = result.stats
    assert stats.num_passes + stats.num_accepted_tokens == stats.num_tokens == 40
    if accuracy == 1.0:
        assert stats.num_accepted_tokens == stats.num_draft_tokens
        assert stats.num_passes == -(-40 // (draft_length + 1))
    if accuracy == 0.0:
        assert stats.num_accepted_tokens <= 5  # the odd random hit


@pytest.mark.parametrize("max_new_tokens", [1, 2, 5, 6, 39])
def test_never_emits_or_drafts_more_than_asked(max_new_tokens: int) -> None:
    drafter = RuleDrafter(1.0)
    result = run(engine(drafter, 5, GenerationDefaults(max_new_tokens=max_new_tokens)))
    assert list(result.token_ids) == plain_ids("some prompt", max_new_tokens)
    assert result.finish_reason == "length"
    assert drafter.longest_asked <= max(0, max_new_tokens - 1)


def test_context_is_filled_to_the_last_position_and_never_overrun() -> None:
    verifier = RuleVerifier(context_length=20)
    result = run(engine(RuleDrafter(1.0), 7, verifier=verifier), "0123456789")
    assert len(result.token_ids) == 20 - 11
    assert result.finish_reason == "length"


def test_one_token_prompt() -> None:
    result = run(engine(RuleDrafter(0.9)), Prompt(id="x", text="a"))
    assert list(result.token_ids) == plain_ids("a", 40)


@pytest.mark.parametrize("draft_length", [0, 3, 15])
def test_stop_string_inside_an_accepted_run_cuts_there(draft_length: int) -> None:
    whole = run(engine(None)).text
    stop = whole[11:14]
    defaults = GenerationDefaults(max_new_tokens=40, stop_strings=("zzzz", stop))
    result = run(engine(RuleDrafter(1.0), draft_length, defaults))
    assert result.text == whole[: whole.index(stop)]
    assert result.finish_reason == "stop"
    assert len(result.token_ids) == whole.index(stop) + len(stop)


@pytest.mark.parametrize("reason", ["eos", "stop"])
@pytest.mark.parametrize("draft_length", [0, 3, 15])
def test_final_token_ids_end_a_sequence(reason: str, draft_length: int) -> None:
    ids = plain_ids("some prompt", 40)
    last = ids[17]
    final = frozenset({last})
    defaults = GenerationDefaults(
        max_new_tokens=40,
        eos_ids=final if reason == "eos" else frozenset(),
        stop_token_ids=final if reason == "stop" else frozenset(),
    )
    result = run(engine(RuleDrafter(1.0), draft_length, defaults))
    assert list(result.token_ids) == ids[: ids.index(last) + 1]
    assert result.finish_reason == reason
    assert len(result.text) == len(result.token_ids) - 1  # the final token shows no text


def test_wrong_position_and_ids_outside_the_vocabulary_are_dropped() -> None:
    class Confused(RuleDrafter):
        def take(
            self,
            slot: int,
            position: int,
            max_length: int,
            timeout_s: float,
            stopping: StoppingRule | None = None,
        ) -> DraftRun:
            if position % 2:
                return DraftRun(position - 1, (3, 4))
            return DraftRun(position, (rule(self.tokens[slot]), VOCAB, -1)[:max_length])

    result = run(engine(Confused(1.0)))
    assert list(result.token_ids) == plain_ids("some prompt", 40)
    assert result.stats.num_accepted_tokens > 0


def test_a_run_longer_than_asked_is_cut() -> None:
    class Eager(RuleDrafter):
        def take(
            self,
            slot: int,
            position: int,
            max_length: int,
            timeout_s: float,
            stopping: StoppingRule | None = None,
        ) -> DraftRun:
            return super().take(slot, position, max_length + 30, timeout_s)

    result = run(engine(Eager(1.0)))
    assert list(result.token_ids) == plain_ids("some prompt", 40)


def test_ngram_drafts_loops_and_changes_nothing() -> None:
    def looping(tokens: list[int]) -> int:
        return 2 + (tokens[-1] + 1) % 7

    verifier = RuleVerifier(looping)
    defaults = GenerationDefaults(max_new_tokens=60)
    with_draft = run(engine(NgramDrafter(), 8, defaults, verifier), "ab")
    without = run(engine(None, 0, defaults, RuleVerifier(looping)), "ab")
    assert with_draft.token_ids == without.token_ids
    assert with_draft.stats.num_passes < 25


def test_cancelling_keeps_what_was_confirmed() -> None:
    cancelled = engine(RuleDrafter(1.0))
    events = []
    for event in cancelled.generate(["some prompt", "another"]):
        events.append(event)
        cancelled.cancel()
    first, second = (event.result for event in events if event.result)
    assert first.finish_reason == second.finish_reason == "cancelled"
    assert list(first.token_ids) == plain_ids("some prompt", 5)
    assert second.token_ids == ()


def test_a_prompt_that_cannot_run_does_not_stop_the_others() -> None:
    verifier = RuleVerifier(context_length=20)
    prompts = [
        Prompt(id="long", text="x" * 50),
        Prompt(id="none", text=""),
        Prompt(id="ok", text="a"),
    ]
    results = [e.result for e in engine(None, verifier=verifier).generate(prompts) if e.result]
    assert [r.finish_reason for r in results] == ["error", "error", "length"]
    assert "'long' has 51 tokens; the context holds 20" in results[0].error
    assert "'none' is empty" in results[1].error


def test_slots_and_devices_are_freed_however_a_run_ends() -> None:
    verifier, drafter = RuleVerifier(), RuleDrafter(1.0)
    with engine(drafter, verifier=verifier) as running:
        for _ in running.generate(["some prompt"]):
            break
    assert not verifier.cache and not drafter.tokens and verifier.is_released


def test_prompts_own_settings_win() -> None:
    prompt = Prompt(id="x", text="a", max_new_tokens=3, seed=9, temperature=0.5)
    result = run(engine(None), prompt)
    assert len(result.token_ids) == 3
    assert result.seed == 9


def test_a_requests_seed_depends_on_run_seed_and_id_alone() -> None:
    seeds = {r.id: r.seed for e in engine(None).generate(["a", "b"]) if (r := e.result)}
    alone = run(engine(None), Prompt(id="1", text="b"))
    assert seeds["0"] != seeds["1"] == alone.seed
