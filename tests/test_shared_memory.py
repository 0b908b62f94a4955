"""The channel between two processes: order, room, and no trust in the other side."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from draft.messages import Failed, Ready, Run, decode_reply, encode_reply
from draft.shared_memory import ChannelError, Ring, join_channel, open_channel
from specdec.types import DraftRun

HEADER = 128


@given(st.lists(st.one_of(st.binary(max_size=70), st.none()), max_size=60))
@settings(deadline=None)
def test_a_ring_gives_back_what_fitted_in_order(actions: list[bytes | None]) -> None:
    ring = Ring(memoryview(bytearray(HEADER + 128)))
    held: list[bytes] = []
    for message in actions:
        if message is None:
            assert ring.read() == (held.pop(0) if held else None)
        else:
            fits = sum(4 + len(m) for m in [*held, message]) <= 128
            assert ring.write(message) == fits
            held += [message] * fits
    for message in held:
        assert ring.read() == message
    assert ring.read() is None


@given(st.binary(min_size=HEADER + 64, max_size=HEADER + 64))
def test_a_ring_of_noise_is_empty_or_an_error(noise: bytes) -> None:
    ring = Ring(memoryview(bytearray(noise)))
    try:
        message = ring.read()
    except ChannelError:
        return
    assert message is None or len(message) <= 60


@given(st.binary(max_size=60))
def test_noise_is_no_reply_or_a_harmless_one(noise: bytes) -> None:
    try:
        reply = decode_reply(noise)
    except ChannelError:
        return
    assert isinstance(reply, Ready | Failed | Run)


@pytest.mark.parametrize(
    "reply",
    [
        Ready("cpu"),
        Failed("out of memory"),
        Run(7, DraftRun(12)),
        Run(2**40, DraftRun(12, (1, 2**31 - 1, -3), (0.5, 1e300, float("inf")))),
    ],
)
def test_replies_survive_the_way(reply: Ready | Failed | Run) -> None:
    assert decode_reply(encode_reply(reply)) == reply


def test_what_is_sent_is_received_and_hanging_up_is_noticed() -> None:
    ours, theirs = open_channel()
    other = join_channel(theirs)
    assert not other.wait(0.0)
    assert ours.send(b"one") and ours.send(b"two")
    assert other.wait(None)
    assert [other.receive(), other.receive(), other.receive()] == [b"one", b"two", None]
    assert not other.wait(0.01) and not other.is_cut
    other.close()
    assert not ours.wait(None) and ours.is_cut
    assert not ours.send(b"three")
    ours.close()


def test_nobody_waits_for_a_reader_that_has_stopped() -> None:
    ours, theirs = open_channel()
    message = bytes(1 << 20)
    assert [ours.send(message) for _ in range(5)] == [True, True, True, False, False]
    small = [ours.send(b"x") for _ in range(10000)]  # the bell's socket fills up as well
    assert all(small)
    os.close(theirs.memory)
    os.close(theirs.bell)
    ours.close()
