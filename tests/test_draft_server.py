"""What a draft worker does between the messages, seen in one process."""

import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from fakes import RuleDrafter, rule

from draft.messages import Confirm, Open, Prepare, Run, Take, Wish, decode_reply, encode_command
from draft.server import DraftServer, OwnerGoneError
from draft.shared_memory import Channel, join_channel, open_channel
from specdec.types import DraftRun, SamplingParams, StoppingRule

GREEDY = SamplingParams()


class CountingDrafter(RuleDrafter):
    """Asks its stopping rule before each token, with falling confidences 10, 9, 8, ...

    Like a model's cache it must be told (by a confirmation) to forget what it drafted.
    """

    def __init__(self) -> None:
        super().__init__(1.0)
        self.num_drafted = 0
        self.step_s = 0.0
        self.is_clean = {0: True, 1: True}
        self.together: list[list[int]] = []  # slots that were to be drafted at once

    def draft_each(self, wishes: Sequence[Wish], goes_on: Callable[[], bool]) -> None:
        assert goes_on()
        self.together.append(sorted(wish.slot for wish in wishes))

    def confirm(self, slot: int, token_ids: Sequence[int]) -> None:
        super().confirm(slot, token_ids)
        self.is_clean[slot] = True

    def take(
        self,
        slot: int,
        position: int,
        max_length: int,
        timeout_s: float,
        stopping: StoppingRule | None = None,
    ) -> DraftRun:
        tokens, confidences = list(self.tokens[slot]), list[float]()
        assert position == len(tokens) and self.is_clean[slot]
        self.is_clean[slot] = False
        while len(confidences) < max_length:
            if stopping is not None and not stopping.should_continue(confidences):
                break
            time.sleep(self.step_s)
            tokens.append(rule(tokens))
            confidences.append(10.0 - len(confidences))
            self.num_drafted += 1
        return DraftRun(position, tuple(tokens[position:]), tuple(confidences))


class StopBelow:
    """Ends a run whose last confidence is below a limit."""

    max_length = 15
    patience_s = 1.0
    num_endings = 0

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def should_continue(self, confidences: Sequence[float]) -> bool:
        return not confidences or confidences[-1] >= self.limit

    def num_to_check(self, run: DraftRun) -> int:
        return len(run.token_ids)


class Served:
    """A server in a thread, spoken to as its owner does."""

    def __init__(self, *told: Open | Prepare | Take) -> None:
        self.drafter = CountingDrafter()
        self.channel, theirs = open_channel()
        other = join_channel(theirs)
        for command in told:  # before it begins to listen
            self.tell(command)
        server = DraftServer(self.drafter, other)
        self.thread = threading.Thread(target=self._serve, args=(server, other))
        self.thread.start()

    def _serve(self, server: DraftServer, other: Channel) -> None:
        try:
            server.serve()
        except OwnerGoneError:
            other.close()

    def tell(self, command: Open | Confirm | Prepare | Take) -> None:
        assert self.channel.send(encode_command(command))

    def take(self, position: int, stopping: StoppingRule, slot: int = 0) -> DraftRun:
        self.tell(Take(slot, position, position, 15, stopping))
        return self.run_of(position)

    def run_of(self, request_id: int) -> DraftRun:
        while (message := self.channel.receive()) is None:
            assert self.channel.wait(10.0)
        reply = decode_reply(message)
        assert isinstance(reply, Run) and reply.request_id == request_id
        return reply.run

    def wait_until_drafted(self, count: int) -> None:
        deadline = time.monotonic() + 10.0
        while self.drafter.num_drafted < count:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.02)
        assert self.drafter.num_drafted == count

    def close(self) -> None:
        self.channel.close()
        self.thread.join()


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served()
    yield server
    server.close()


def continuation(tokens: Sequence[int], count: int) -> tuple[int, ...]:
    tokens = list(tokens)
    for _ in range(count):
        tokens.append(rule(tokens))
    return tuple(tokens[-count:])


def test_the_prompt_is_fed_before_a_run_is_asked_for(served: Served) -> None:
    served.tell(Open(0, (5, 6, 7), GREEDY))
    served.wait_until_drafted(1)
    assert served.take(3, StopBelow(7.0)).token_ids == continuation([5, 6, 7], 5)
    served.wait_until_drafted(5)


def test_after_a_run_was_judged_the_next_is_drafted_by_the_last_rule(served: Served) -> None:
    served.tell(Open(0, (5, 6, 7), GREEDY))
    served.take(3, StopBelow(7.0))
    served.tell(Confirm(0, (8, 9)))
    served.wait_until_drafted(5 + 5)
    tokens = [5, 6, 7, 8, 9]
    assert served.take(5, StopBelow(7.0)).token_ids == continuation(tokens, 5)  # it was ready
    served.wait_until_drafted(5 + 5)


@pytest.mark.parametrize(("limit", "length"), [(9.0, 5), (7.0, 5), (5.0, 7)])
def test_a_run_drafted_unasked_grows_as_its_own_rule_says_and_is_handed_over_whole(
    served: Served, limit: float, length: int
) -> None:
    served.tell(Open(0, (5, 6, 7), GREEDY))
    served.take(3, StopBelow(7.0))
    served.tell(Confirm(0, (8, 9)))
    served.wait_until_drafted(10)
    assert served.take(5, StopBelow(limit)).token_ids == continuation([5, 6, 7, 8, 9], length)
    served.wait_until_drafted(max(10, 5 + length))


def test_after_a_round_that_drafted_nothing_nothing_is_drafted_unasked(served: Served) -> None:
    served.tell(Open(0, (5, 6, 7), GREEDY))
    served.wait_until_drafted(1)
    served.tell(Confirm(0, (8,)))
    served.tell(Confirm(0, (9,)))
    time.sleep(0.05)
    served.wait_until_drafted(1)
    assert served.take(5, StopBelow(10.0)).token_ids == continuation([5, 6, 7, 8, 9], 2)


def test_sequences_do_not_disturb_each_other(served: Served) -> None:
    served.tell(Open(0, (5, 6, 7), GREEDY))
    served.tell(Open(1, (9, 8), GREEDY))
    assert served.take(3, StopBelow(7.0), 0).token_ids == continuation([5, 6, 7], 5)
    assert served.take(2, StopBelow(8.0), 1).token_ids == continuation([9, 8], 4)
    served.tell(Confirm(0, (1,)))
    served.tell(Confirm(1, (2,)))
    assert served.take(3, StopBelow(8.0), 1).token_ids == continuation([9, 8, 2], 4)
    assert served.take(4, StopBelow(6.0), 0).token_ids == continuation([5, 6, 7, 1], 6)


def test_of_several_sequences_none_is_drafted_unasked(served: Served) -> None:
    for slot in (0, 1):
        served.tell(Open(slot, (5, 6, 7), GREEDY))
    served.take(3, StopBelow(7.0), 0)
    served.tell(Confirm(0, (8,)))
    time.sleep(0.05)
    num_drafted = served.drafter.num_drafted
    assert 5 <= num_drafted <= 6  # the first prompt may have been read before the second came
    assert served.take(4, StopBelow(9.0), 0).token_ids == continuation([5, 6, 7, 8], 3)


def test_a_run_that_nobody_waits_for_any_more_ends_within_a_step(served: Served) -> None:
    served.drafter.step_s = 0.02
    served.tell(Open(0, (5, 6, 7), GREEDY))
    served.tell(Take(0, 1, 3, 15, StopBelow(-10.0)))
    served.tell(Confirm(0, (8,)))  # its owner has gone on without it
    assert len(served.run_of(1).token_ids) < 15
    run = served.take(4, StopBelow(9.0))
    assert run.token_ids == continuation([5, 6, 7, 8], 3)
    assert served.drafter.num_drafted < 15


def test_commands_can_be_pickled() -> None:
    take = Take(0, 1, 2, 3, StopBelow(1.0))
    copy = pickle.loads(encode_command(take))
    assert (copy.request_id, copy.stopping.limit) == (1, 1.0)


def test_what_was_prepared_is_drafted_together_with_what_is_waited_for() -> None:
    served = Served(
        *(Open(slot, (5, 6, 7), GREEDY) for slot in (0, 1, 2)),
        *(Prepare(3, Wish(slot, 4, StopBelow(7.0))) for slot in (0, 2)),
        Take(0, 3, 3, 15, StopBelow(7.0)),
    )
    assert served.run_of(3).token_ids == continuation([5, 6, 7], 5)
    assert served.drafter.together[0] == [0, 2]
    served.close()
