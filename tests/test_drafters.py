"""Drafters in this process: what they propose, and that their caches follow what was confirmed."""

from collections.abc import Sequence

import numpy as np
from fakes import VOCAB, rule

from draft.ngram import NgramDrafter
from draft.reference import ModelDrafter
from specdec.types import DraftRun, FloatArray, SamplingParams

GREEDY = SamplingParams()


class RuleModel:
    """A language model that is sure of the rule; it keeps what it was fed."""

    vocab_size = VOCAB
    context_length = 64

    def __init__(self) -> None:
        self.cache: dict[int, list[int]] = {}
        self.num_fed = 0

    def length(self, slot: int) -> int:
        return len(self.cache.get(slot, []))

    def feed(self, slot: int, token_ids: list[int], num_logits: int) -> FloatArray:
        cache = self.cache.setdefault(slot, [])
        logits = np.zeros((len(token_ids), VOCAB), np.float32)
        for i, token_id in enumerate(token_ids):
            cache.append(token_id)
            logits[i, rule(cache)] = 3.0
        self.num_fed += len(token_ids)
        return logits[len(token_ids) - num_logits :]

    def truncate(self, slot: int, length: int) -> None:
        del self.cache.setdefault(slot, [])[length:]


def continuation(tokens: list[int], count: int) -> tuple[int, ...]:
    tokens = list(tokens)
    for _ in range(count):
        tokens.append(rule(tokens))
    return tuple(tokens[-count:])


def test_model_drafts_its_own_continuation_with_margins() -> None:
    drafter = ModelDrafter(RuleModel(), "fake")
    drafter.open(0, [5, 6, 7], GREEDY)
    run = drafter.take(0, 3, 4, 1.0)
    assert run.position == 3
    assert run.token_ids == continuation([5, 6, 7], 4)
    assert run.confidences == (3.0,) * 4


def test_model_cache_keeps_only_what_the_target_confirmed() -> None:
    model = RuleModel()
    drafter = ModelDrafter(model, "fake")
    drafter.open(0, [5, 6, 7], GREEDY)
    a, b, _, _ = drafter.take(0, 3, 4, 1.0).token_ids
    confirmed = [5, 6, 7, a, b, 90]  # the third draft token was rejected, 90 replaces it
    drafter.confirm(0, confirmed[3:])
    assert model.cache[0] == confirmed[:5]
    fed_before = model.num_fed
    assert drafter.take(0, 6, 2, 1.0).token_ids == continuation(confirmed, 2)
    assert model.num_fed - fed_before == 2  # the replacement and one draft token, nothing again


def test_model_catches_up_after_full_acceptance_and_after_runs_it_did_not_make() -> None:
    model = RuleModel()
    drafter = ModelDrafter(model, "fake")
    drafter.open(0, [5], GREEDY)
    run = drafter.take(0, 1, 3, 1.0)
    tokens = [5, *run.token_ids, *continuation([5, *run.token_ids], 1)]
    drafter.confirm(0, tokens[1:])
    tokens += [8, 9]
    drafter.confirm(0, [8, 9])
    assert drafter.take(0, len(tokens), 2, 1.0).token_ids == continuation(tokens, 2)
    assert model.cache[0][: len(tokens)] == tokens


def test_model_drafts_on_when_a_token_beyond_the_checked_ones_comes_true() -> None:
    model = RuleModel()
    drafter = ModelDrafter(model, "fake")
    drafter.open(0, [5, 6, 7], GREEDY)
    tokens = [5, 6, 7, *drafter.take(0, 3, 4, 1.0).token_ids]
    drafter.confirm(0, tokens[3:5])  # two were fed and came true, the others were not judged
    assert drafter.take(0, 5, 2, 1.0).token_ids == continuation(tokens[:5], 2)
    assert model.cache[0][:5] == tokens[:5]


class StopAfter:
    """A rule that ends a run once a confidence falls below 5."""

    max_length = 8

    def should_continue(self, confidences: Sequence[float]) -> bool:
        return len(confidences) < self.max_length and min(confidences, default=9.0) >= 5.0

    def num_to_check(self, run: DraftRun) -> int:
        return len(run.token_ids)


def test_model_asks_the_stopping_rule_before_every_token() -> None:
    drafter = ModelDrafter(RuleModel(), "fake")
    drafter.open(0, [5, 6, 7], GREEDY)
    assert len(drafter.take(0, 3, 8, 1.0, StopAfter()).token_ids) == 1


def test_model_stops_drafting_where_its_context_ends() -> None:
    drafter = ModelDrafter(RuleModel(), "fake")
    drafter.open(0, [3] * 62, GREEDY)
    assert len(drafter.take(0, 62, 8, 1.0).token_ids) == 2
    drafter.confirm(0, [4] * 10)
    assert drafter.take(0, 72, 8, 1.0).token_ids == ()


def test_reopening_a_slot_starts_afresh() -> None:
    drafter = ModelDrafter(RuleModel(), "fake")
    for prompt in ([5, 6], [9, 8, 7]):
        drafter.open(0, prompt, GREEDY)
        assert drafter.take(0, len(prompt), 2, 1.0).token_ids == continuation(prompt, 2)
        drafter.close(0)


def test_ngram_copies_what_followed_the_longest_match() -> None:
    drafter = NgramDrafter()
    drafter.open(0, [1, 2, 3, 4, 5, 9, 3, 4, 6, 7, 2, 3, 4], GREEDY)
    assert drafter.take(0, 13, 3, 1.0).token_ids == (5, 9, 3)  # 2 3 4 beats the later 3 4


def test_ngram_goes_round_in_a_loop() -> None:
    drafter = NgramDrafter()
    drafter.open(0, [8, 1, 2, 1, 2], GREEDY)
    assert drafter.take(0, 5, 6, 1.0).token_ids == (1, 2, 1, 2, 1, 2)


def test_ngram_has_nothing_to_say_about_new_text() -> None:
    drafter = NgramDrafter()
    drafter.open(0, [1], GREEDY)
    assert drafter.take(0, 1, 4, 1.0).token_ids == ()
    drafter.confirm(0, [2, 3, 4])
    assert drafter.take(0, 4, 4, 1.0).token_ids == ()
