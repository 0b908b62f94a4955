"""Instruction streams of the NPU: round trips, corrupt streams, descriptors, and their builder."""

from __future__ import annotations

import struct

import pytest

from draft.npu.shim import (
    Direction,
    ShimBd,
    StreamBuilder,
    Transfer,
    bd_register,
    parse_bd_register,
    parse_queue_register,
    parse_queue_value,
    queue_register,
    queue_value,
)
from draft.npu.txn import (
    BlockWrite,
    DdrPatch,
    Instruction,
    MaskPoll,
    MaskWrite,
    Sync,
    TxnError,
    Write32,
    decode,
    encode,
    register_address,
    split_register,
)

EVERY_KIND: tuple[Instruction, ...] = (
    BlockWrite(bd_register(1, 3), (1, 2, 3, 4, 5, 6, 7, 0xFFFFFFFF)),
    DdrPatch(bd_register(1, 3) + 4, 2, 0xFFFF0000),
    Write32(queue_register(1, Direction.MM2S, 1), queue_value(3, 2, True)),
    MaskWrite(register_address(0, 0, 0x1D200), 0xF00, 0x1F00),
    MaskPoll(register_address(3, 2, 0x32004), 0x10000, 0x10000),
    Sync(column=3, row=0, direction=0, channel=1),
)


def test_every_instruction_survives_a_round_trip() -> None:
    assert decode(encode(EVERY_KIND)) == EVERY_KIND
    assert decode(encode([])) == ()


def test_words_lie_where_the_format_has_them() -> None:
    words = struct.unpack("<20I", encode([EVERY_KIND[1], EVERY_KIND[5]]))
    assert words[:4] == (0x06030100, 0x0105, 2, 80)
    assert words[4:16] == (129, 48, 0, 0, 0, 0, bd_register(1, 3) + 4, 0, 2, 0, 0xFFFF0000, 0)
    assert words[16:] == (128, 16, 3 << 16, 1 << 8 | 1 << 16 | 1 << 24)


def test_sizes_are_those_of_the_format() -> None:
    sizes = [len(encode([instruction])) - 16 for instruction in EVERY_KIND]
    assert sizes == [16 + 4 * 8, 48, 24, 28, 28, 16]


@pytest.mark.parametrize("size", [0, 4, 15, 17])
def test_a_stream_without_a_whole_header_is_refused(size: int) -> None:
    with pytest.raises(TxnError, match=f"stream of {size} bytes"):
        decode(bytes(size))


@pytest.mark.parametrize(
    ("word", "value", "message"),
    [
        (0, 0x06040100, "begins with 0x06040100"),
        (2, 7, "6 operations says 7"),
        (3, 512, "says it has 512"),
        (3, 64, "says it has 64"),
        (4, 77, "unknown operation 77 at byte 16"),
        (7, 40, "has a size of 40 bytes|unknown operation|reserved"),
        (7, 4096, "size of 4096 bytes"),
        (18, 1, "reserved"),
    ],
)
def test_one_wrong_word_is_noticed(word: int, value: int, message: str) -> None:
    stream = bytearray(encode(EVERY_KIND))
    struct.pack_into("<I", stream, 4 * word, value)
    with pytest.raises(TxnError, match=message):
        decode(bytes(stream))


def test_a_cut_stream_is_refused_at_every_word() -> None:
    stream = encode(EVERY_KIND)
    for end in range(0, len(stream), 4):
        cut = bytearray(stream[:end])
        if end >= 16:
            struct.pack_into("<I", cut, 12, end)  # a size that agrees with the cut
        with pytest.raises(TxnError):
            decode(bytes(cut))


def test_values_beyond_a_word_are_refused() -> None:
    with pytest.raises(TxnError, match="does not fit"):
        encode([Write32(0, 1 << 32)])
    with pytest.raises(TxnError, match="does not fit"):
        encode([DdrPatch(0, 0, -1)])


def test_register_addresses_come_apart_again() -> None:
    assert split_register(register_address(3, 5, 0x1F000)) == (3, 5, 0x1F000)
    assert register_address(1, 0, 0x1D204) == 0x201D204


def test_shim_registers_are_recognised() -> None:
    for column in range(4):
        for bd in range(16):
            assert parse_bd_register(bd_register(column, bd) + 4) == (column, bd, 1)
        for direction in Direction:
            for channel in range(2):
                place = (column, direction, channel)
                assert parse_queue_register(queue_register(*place)) == place
    assert queue_register(0, Direction.S2MM, 0) == 0x1D204
    assert queue_register(0, Direction.MM2S, 1) == 0x1D21C
    assert parse_bd_register(register_address(0, 0, 0x1D200)) is None
    assert parse_bd_register(register_address(0, 2, 0x1D000)) is None
    assert parse_queue_register(register_address(0, 0, 0x1D200)) is None


def test_tasks_come_apart_again() -> None:
    assert parse_queue_value(queue_value(15, 255, True)) == (15, 255, True)
    for bd, repeat in ((16, 0), (0, 256), (-1, 0)):
        with pytest.raises(TxnError, match="at most 15 and 255"):
            queue_value(bd, repeat)


@pytest.mark.parametrize(
    "bd",
    [
        ShimBd(1),
        ShimBd(656 * 7, d0_size=656, d1_step=640),
        ShimBd(1 << 20, 8, 1, 4, 32768, 8),
        ShimBd(64, 1023, 1 << 20, 1023, 1 << 20, 1 << 20, 64, 1 << 20, 15),
    ],
)
def test_descriptors_survive_a_round_trip(bd: ShimBd) -> None:
    assert ShimBd.parse(bd.words()) == bd


@pytest.mark.parametrize(
    "bd",
    [
        ShimBd(0),
        ShimBd(1, d0_size=1024),
        ShimBd(1, d0_step=0),
        ShimBd(1, d1_step=(1 << 20) + 1),
        ShimBd(1, iteration_size=65),
        ShimBd(1, next_bd=16),
    ],
)
def test_descriptors_beyond_the_registers_are_refused(bd: ShimBd) -> None:
    with pytest.raises(TxnError, match="is not a shim descriptor"):
        bd.words()


def test_descriptors_with_locks_or_packets_are_not_ours() -> None:
    words = list(ShimBd(8).words())
    for place, bits in ((7, 1 << 12), (2, 1 << 30)):
        changed = [*words]
        changed[place] |= bits
        with pytest.raises(TxnError, match="packets, locks"):
            ShimBd.parse(tuple(changed))
    with pytest.raises(TxnError, match="not a valid BD"):
        ShimBd.parse((8, 0, 0, 0, 0, 0, 0, 0))


def transfers(count: int) -> list[Transfer]:
    return [Transfer(place % 3, 64 * place, ShimBd(16)) for place in range(count)]


def test_a_task_is_a_chain_of_descriptors_and_one_push() -> None:
    builder = StreamBuilder()
    builder.task(2, Direction.S2MM, 1, transfers(2), token=True)
    builder.wait(2, Direction.S2MM, 1)
    stream = decode(builder.encode())
    chain = ShimBd(16, next_bd=1).words()
    assert stream == (
        BlockWrite(bd_register(2, 0), chain),
        DdrPatch(bd_register(2, 0) + 4, 0, 0),
        BlockWrite(bd_register(2, 1), ShimBd(16).words()),
        DdrPatch(bd_register(2, 1) + 4, 1, 64),
        Write32(queue_register(2, Direction.S2MM, 1), queue_value(0, 0, True)),
        Sync(2, 0, 0, 1),
    )


def test_the_builder_never_reuses_a_descriptor_that_may_run() -> None:
    builder = StreamBuilder()
    builder.task(0, Direction.MM2S, 0, transfers(10))
    with pytest.raises(TxnError, match="7 descriptors wanted, 6 free"):
        builder.task(0, Direction.MM2S, 1, transfers(7))
    builder.task(1, Direction.MM2S, 1, transfers(7))  # another shim tile has its own
    builder.finish(0, Direction.MM2S, 0)
    builder.task(0, Direction.MM2S, 1, transfers(16))
    builder.finish(0, Direction.MM2S, 1)
    builder.finish(1, Direction.MM2S, 1)
    assert decode(builder.encode())


def test_the_builder_never_overflows_a_task_queue() -> None:
    builder = StreamBuilder()
    for _ in range(4):
        builder.task(0, Direction.S2MM, 0, transfers(1), token=True)
    with pytest.raises(TxnError, match="4 of 4 tasks queued"):
        builder.task(0, Direction.S2MM, 0, transfers(1))
    builder.wait(0, Direction.S2MM, 0)
    builder.task(0, Direction.S2MM, 0, transfers(1), token=True)


def test_the_builder_refuses_waits_that_would_hang_and_work_nobody_waits_for() -> None:
    builder = StreamBuilder()
    with pytest.raises(TxnError, match="no token will come"):
        builder.wait(0, Direction.S2MM, 0)
    builder.task(0, Direction.S2MM, 0, transfers(1))
    with pytest.raises(TxnError, match="no token will come"):
        builder.wait(0, Direction.S2MM, 0)
    with pytest.raises(TxnError, match="never waited for"):
        builder.encode()
