"""Beside other sequences a drafter hears of one only when a run of it is wanted."""

import pytest
from batch_fakes import PLAIN, SeededVerifier, engine, prompts, results, what
from fakes import RuleDrafter

from specdec.late_opening import _MOST_TRIES, FADED_ROUNDS, LateOpening
from specdec.types import DraftRun, SamplingParams, StoppingRule

GREEDY = SamplingParams()


class ReadingDrafter(RuleDrafter):
    """Perfect; answers nothing until it has read what it was told at first."""

    def __init__(self, num_late: int = 0) -> None:
        super().__init__(1.0)
        self.num_late = num_late
        self.waits: list[float] = []
        self.prepared: list[int] = []
        self.opened: list[int] = []

    def open(self, slot: int, prompt_ids: object, sampling: SamplingParams) -> None:
        assert isinstance(prompt_ids, tuple)
        self.opened.append(slot)
        super().open(slot, prompt_ids, sampling)

    def take(
        self,
        slot: int,
        position: int,
        max_length: int,
        timeout_s: float,
        stopping: StoppingRule | None = None,
    ) -> DraftRun:
        self.waits.append(timeout_s)
        if len(self.waits) <= self.num_late:
            return DraftRun(position)
        return super().take(slot, position, max_length, timeout_s, stopping)

    def prepare(
        self, slot: int, position: int, max_length: int, stopping: StoppingRule | None = None
    ) -> None:
        self.prepared.append(slot)


def test_a_drafter_hears_of_a_sequence_with_its_first_run_and_of_all_that_was_emitted() -> None:
    drafter = ReadingDrafter()
    late = LateOpening(drafter)
    late.open(0, [5, 6, 7], GREEDY)
    late.open(1, [8, 9], GREEDY)
    late.confirm(0, [10, 11])
    late.in_flight(0, DraftRun(5))
    late.prepare(0, 5, 4)
    assert not drafter.tokens and not drafter.prepared
    assert late.take(0, 5, 4, 1.0).token_ids
    assert drafter.tokens == {0: [5, 6, 7, 10, 11]} and drafter.waits == [0.0]
    late.confirm(0, [12])
    late.prepare(0, 6, 4)
    assert late.take(0, 6, 4, 1.0).token_ids
    assert drafter.prepared == [0] and drafter.waits == [0.0, 1.0]
    late.close(0)
    late.close(1)
    assert not drafter.tokens


def test_a_sequence_that_is_not_drafted_for_any_more_is_forgotten_until_it_is() -> None:
    drafter = ReadingDrafter()
    late = LateOpening(drafter)
    late.open(0, [5, 6, 7], GREEDY)
    late.take(0, 3, 4, 1.0)
    for _ in range(FADED_ROUNDS + 1):
        assert 0 in drafter.tokens
        late.confirm(0, [8])
    assert not drafter.tokens
    late.confirm(0, [8])
    assert late.take(0, 3 + FADED_ROUNDS + 2, 4, 1.0).token_ids
    assert len(drafter.tokens[0]) == 3 + FADED_ROUNDS + 2


def test_while_a_drafter_reads_one_text_it_is_told_of_no_other() -> None:
    drafter = ReadingDrafter(num_late=3)
    late = LateOpening(drafter)
    for slot in range(3):
        late.open(slot, [5, 6, 7], GREEDY)
    for _ in range(3):
        assert not any(late.take(slot, 3, 4, 1.0).token_ids for slot in (0, 1))
    assert drafter.opened == [0]
    assert all(late.take(slot, 3, 4, 1.0).token_ids for slot in (0, 1, 2))
    assert drafter.opened == [0, 1, 2]


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_drafter_that_never_answers_for_one_is_told_of_the_others(is_closed: bool) -> None:
    drafter = ReadingDrafter(num_late=1 if is_closed else _MOST_TRIES)
    late = LateOpening(drafter)
    for slot in range(2):
        late.open(slot, [5, 6, 7], GREEDY)
    for _ in range(drafter.num_late):
        assert not late.take(0, 3, 4, 1.0).token_ids
    if is_closed:
        late.close(0)
    assert late.take(1, 3, 4, 1.0).token_ids


@pytest.mark.parametrize("batch_size", [2, 5])
def test_texts_are_those_of_plain_decoding_however_late_a_drafter_is(batch_size: int) -> None:
    drafter = ReadingDrafter(num_late=20)
    running = engine(drafter, None, batch_size, SeededVerifier())
    asked = prompts(60)
    assert what(results(running.generate(asked))) == PLAIN
    assert len(drafter.opened) > 20 and not drafter.tokens
