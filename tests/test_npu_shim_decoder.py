"""Streams as steps: what they move before each wait, and what no shim would take."""

import pytest
from npu_rig import echo_stream

from draft.npu.emulated.latency import phases
from draft.npu.emulated.shim_decoder import StreamError, decode_stream
from draft.npu.layout import ELEMENT_BYTES
from draft.npu.shim import Direction, ShimBd, bd_register, queue_register, queue_value
from draft.npu.txn import BlockWrite, DdrPatch, Instruction, MaskPoll, Sync, Write32, encode


def test_phases_end_where_the_stream_waits() -> None:
    (phase,) = phases(decode_stream(echo_stream(), 4))
    assert (phase.read_bytes, phase.busiest_bytes) == (2 * ELEMENT_BYTES,) * 2
    assert phase.num_waits == 1


def bd(number: int, next_bd: int | None = None) -> list[Instruction]:
    words = ShimBd(656, next_bd=next_bd).words()
    register = bd_register(0, number)
    return [BlockWrite(register, words), DdrPatch(register + 4, 0, 0)]


def start(number: int) -> Write32:
    return Write32(queue_register(0, Direction.MM2S, 1), queue_value(number))


@pytest.mark.parametrize(
    ("instructions", "reason"),
    [
        ([*bd(0), start(0), *bd(0)], "changes while it is in use"),
        ([*bd(0), *[start(0)] * 5], "more than 4 tasks"),
        ([start(3)], "never written"),
        ([bd(0)[0], start(0)], "has no address"),
        ([*bd(0, 1), *bd(1, 0), start(0)], "form a ring"),
        ([Write32(0x32000, 1)], "only the shim's DMA"),
        ([BlockWrite(bd_register(4, 0), (0,) * 8)], "the array has 4"),
        ([DdrPatch(bd_register(0, 0), 0, 0)], "no descriptor's address"),
        ([MaskPoll(0x1D220, 0, 1)], "not emulated"),
        ([Sync(0, 1, 0, 0)], "only tokens of the shim"),
    ],
)
def test_streams_that_silicon_would_choke_on_are_refused(
    instructions: list[Instruction], reason: str
) -> None:
    with pytest.raises(StreamError, match=reason):
        decode_stream(encode(instructions), 4)
