"""Beginnings that prompts share are kept and copied, and nothing else is."""

from __future__ import annotations

import pytest
from fakes import RuleVerifier

from specdec import load
from specdec.config import Config, with_overrides
from specdec.prefixes import PromptStart, SharedPrefixes
from specdec.prompts import Prompt
from specdec.types import SamplingParams, Segment

SYSTEM = tuple(range(100, 160))
OTHER = tuple(range(300, 350))
KEPT_SLOT = 8


@pytest.fixture
def verifier() -> RuleVerifier:
    return RuleVerifier()


def feed(
    verifier: RuleVerifier, prefixes: SharedPrefixes, prompt_ids: tuple[int, ...], slot: int = 0
) -> PromptStart:
    """What an engine does with a prompt; its slot must hold all but the last token afterwards."""
    verifier.open(slot, SamplingParams())
    start = prefixes.begin(slot, prompt_ids)
    assert len(verifier.cache[slot]) == start.num_held
    position = start.num_held
    if start.keep_at:
        verifier.prefill(Segment(slot, position, prompt_ids[position : start.keep_at]))
        prefixes.keep(slot, prompt_ids[: start.keep_at])
        position = start.keep_at
    verifier.prefill(Segment(slot, position, prompt_ids[position:-1]))
    assert tuple(verifier.cache[slot]) == prompt_ids[:-1]
    return start


def test_the_third_prompt_that_begins_alike_is_kept_and_the_fourth_copied(
    verifier: RuleVerifier,
) -> None:
    prefixes = SharedPrefixes(verifier, [KEPT_SLOT])
    starts = [feed(verifier, prefixes, (*SYSTEM, 1 + i, 2, 3)) for i in range(6)]
    assert starts[:3] == [PromptStart(0, 0), PromptStart(0, 0), PromptStart(0, 60)]
    assert starts[3:] == [PromptStart(60, 0)] * 3
    assert tuple(verifier.cache[KEPT_SLOT]) == SYSTEM


def test_prompts_without_anything_in_common_are_fed_as_they_are(verifier: RuleVerifier) -> None:
    prefixes = SharedPrefixes(verifier, [KEPT_SLOT])
    for i in range(20):
        prompt = tuple(range(1000 * i, 1000 * i + 100))
        assert feed(verifier, prefixes, prompt) == PromptStart(0, 0)
    assert KEPT_SLOT not in verifier.cache


def test_two_equal_prompts_do_not_drive_out_what_many_share(verifier: RuleVerifier) -> None:
    prefixes = SharedPrefixes(verifier, [KEPT_SLOT])
    for i in range(4):
        feed(verifier, prefixes, (*SYSTEM, *range(i, i + 90)))
    twice = (*SYSTEM, *range(7, 97))
    assert [feed(verifier, prefixes, twice) for _ in range(2)] == [PromptStart(60, 0)] * 2
    assert tuple(verifier.cache[KEPT_SLOT]) == SYSTEM


def test_the_prefix_longest_unused_makes_room(verifier: RuleVerifier) -> None:
    prefixes = SharedPrefixes(verifier, [KEPT_SLOT])
    for beginning in (SYSTEM, OTHER):
        for i in range(4):
            last = feed(verifier, prefixes, (*beginning, 1 + i, 2))
        assert last.num_held == len(beginning)
    assert feed(verifier, prefixes, (*SYSTEM, 9, 9)).num_held == 0


def test_the_longest_kept_prefix_is_taken(verifier: RuleVerifier) -> None:
    prefixes = SharedPrefixes(verifier, [KEPT_SLOT, KEPT_SLOT + 1])
    for i in range(4):
        feed(verifier, prefixes, (*SYSTEM, 1 + i, 2))
    longer = (*SYSTEM, *OTHER)
    starts = [feed(verifier, prefixes, (*longer, 1 + i, 2)) for i in range(4)]
    assert starts[2:] == [PromptStart(60, 110), PromptStart(110, 0)]
    assert feed(verifier, prefixes, (*SYSTEM, 50, 60)).num_held == 60


def test_the_last_token_of_a_prompt_is_never_held(verifier: RuleVerifier) -> None:
    prefixes = SharedPrefixes(verifier, [KEPT_SLOT])
    starts = [feed(verifier, prefixes, SYSTEM) for _ in range(4)]
    assert starts[-1] == PromptStart(59, 0)
    assert feed(verifier, prefixes, SYSTEM[:40]).num_held == 0


def test_a_short_beginning_is_not_worth_a_copy(verifier: RuleVerifier) -> None:
    prefixes = SharedPrefixes(verifier, [KEPT_SLOT])
    for i in range(6):
        assert feed(verifier, prefixes, (*SYSTEM[:31], 1 + i, 2)) == PromptStart(0, 0)


def test_a_prefix_kept_meanwhile_is_not_kept_twice(verifier: RuleVerifier) -> None:
    prefixes = SharedPrefixes(verifier, [KEPT_SLOT, KEPT_SLOT + 1])
    for i in range(2):
        feed(verifier, prefixes, (*SYSTEM, 1 + i))
    for slot in (0, 1):
        verifier.open(slot, SamplingParams())
        assert prefixes.begin(slot, (*SYSTEM, 5 + slot)) == PromptStart(0, 60)
        verifier.prefill(Segment(slot, 0, SYSTEM))
    for slot in (0, 1):
        prefixes.keep(slot, SYSTEM)
    assert KEPT_SLOT not in verifier.cache and KEPT_SLOT + 1 in verifier.cache


def test_without_slots_nothing_is_remembered(verifier: RuleVerifier) -> None:
    prefixes = SharedPrefixes(verifier, [])
    for i in range(6):
        assert feed(verifier, prefixes, (*SYSTEM, 1 + i, 2)) == PromptStart(0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["auto", "reference"])
def test_the_embedded_target_writes_the_same_with_and_without_shared_beginnings(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    keep = SharedPrefixes.keep
    monkeypatch.setattr(SharedPrefixes, "keep", lambda *args: kept.append(args) or keep(*args))
    beginning = "def area(width: float, height: float):\n    return width * height\n\n\n" * 2
    asked = [Prompt(id=str(n), text=f"{beginning}def name_{n}(") for n in range(6)]

    def texts(**run: int) -> dict[str, str]:
        settings = {"max_new_tokens": 6, "context_length": 256, **run}
        overrides = [f"run.{key}={value}" for key, value in settings.items()]
        chosen = [f"target.device={device}", "draft.device=off", "sampling.temperature=0.8"]
        with load(with_overrides(Config(), [*overrides, *chosen])) as engine:
            events = list(engine.generate(asked))
        return {event.result.id: event.result.text for event in events if event.result}

    alone = texts()
    assert texts(batch_size=3, shared_prefixes=0) == alone and not kept
    assert texts(batch_size=3, shared_prefixes=2) == alone and kept
