"""Shim DMA: buffer descriptors, task queues, and a builder of instruction streams from transfers.

It knows the registers of one shim tile (row 0) and their limits; what is transferred and why is
the caller's business.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

from draft.npu.txn import (
    BlockWrite,
    DdrPatch,
    Instruction,
    Sync,
    TxnError,
    Write32,
    encode,
    register_address,
    split_register,
)

NUM_BDS = 16
BD_WORDS = 8
QUEUE_DEPTH = 4  # tasks a channel holds; more would be lost
MAX_STEP = 1 << 20  # words
MAX_WRAP = 1023
MAX_REPEAT = 255
_BD_BASE, _BD_STRIDE, _ADDRESS_WORD = 0x1D000, 0x20, 1
_QUEUES = {0x1D204: (0, 0), 0x1D20C: (0, 1), 0x1D214: (1, 0), 0x1D21C: (1, 1)}
_BURST = 2 << 30  # 256 bytes
_CACHE = 2 << 24  # lets the network on chip merge requests


class Direction(IntEnum):
    """Of a DMA channel, seen from the array."""

    S2MM = 0  # array to memory
    MM2S = 1  # memory to array


@dataclass(frozen=True, slots=True)
class ShimBd:
    """A buffer descriptor; sizes and steps in 32-bit words, sizes 0 where a dimension is open."""

    length: int  # words per run
    d0_size: int = 0
    d0_step: int = 1
    d1_size: int = 0
    d1_step: int = 1
    d2_step: int = 1
    iteration_size: int = 1
    iteration_step: int = 1
    next_bd: int | None = None

    def words(self) -> tuple[int, ...]:
        """The eight words of the descriptor, its address left to a patch."""
        self._check()
        chain = 0 if self.next_bd is None else self.next_bd << 27 | 1 << 26
        return (
            self.length,
            0,
            0,
            self.d0_size << 20 | self.d0_step - 1,
            _BURST | self.d1_size << 20 | self.d1_step - 1,
            _CACHE | self.d2_step - 1,
            self.iteration_size - 1 << 20 | self.iteration_step - 1,
            chain | 1 << 25,
        )

    def _check(self) -> None:
        steps = (self.d0_step, self.d1_step, self.d2_step, self.iteration_step)
        legal = (
            0 < self.length < 1 << 32
            and all(0 <= size <= MAX_WRAP for size in (self.d0_size, self.d1_size))
            and all(1 <= step <= MAX_STEP for step in steps)
            and 1 <= self.iteration_size <= 64
            and (self.next_bd is None or 0 <= self.next_bd < NUM_BDS)
        )
        if not legal:
            raise TxnError(
                f"{self} is not a shim descriptor: sizes at most {MAX_WRAP}, "
                f"steps 1 .. {MAX_STEP}, iterations at most 64, descriptors 0 .. {NUM_BDS - 1}"
            )

    @classmethod
    def parse(cls, words: tuple[int, ...]) -> ShimBd:
        """The descriptor in eight words; TxnError if it is invalid or uses what we never use."""
        if len(words) != BD_WORDS or not words[7] >> 25 & 1:
            raise TxnError(f"descriptor words {[hex(word) for word in words]} are not a valid BD")
        if words[2] >> 16 or words[7] & 0x1FFFFFF or words[7] >> 31:
            raise TxnError("descriptor with packets, locks or out-of-order ids: not used here")
        return cls(
            length=words[0],
            d0_size=words[3] >> 20 & MAX_WRAP,
            d0_step=(words[3] & 0xFFFFF) + 1,
            d1_size=words[4] >> 20 & MAX_WRAP,
            d1_step=(words[4] & 0xFFFFF) + 1,
            d2_step=(words[5] & 0xFFFFF) + 1,
            iteration_size=(words[6] >> 20 & 63) + 1,
            iteration_step=(words[6] & 0xFFFFF) + 1,
            next_bd=words[7] >> 27 & 15 if words[7] >> 26 & 1 else None,
        )


def bd_register(column: int, bd: int) -> int:
    """Address of a descriptor's first word."""
    return register_address(column, 0, _BD_BASE + _BD_STRIDE * bd)


def parse_bd_register(register: int) -> tuple[int, int, int] | None:
    """Column, descriptor and word of a register, or None if it is not one of a shim BD."""
    column, row, offset = split_register(register)
    if row != 0 or not _BD_BASE <= offset < _BD_BASE + NUM_BDS * _BD_STRIDE:
        return None
    bd, place = divmod(offset - _BD_BASE, _BD_STRIDE)
    return column, bd, place // 4


def queue_register(column: int, direction: Direction, channel: int) -> int:
    """Address of a channel's task queue."""
    return register_address(column, 0, 0x1D204 + 0x10 * direction + 8 * channel)


def parse_queue_register(register: int) -> tuple[int, Direction, int] | None:
    """Column, direction and channel of a task queue, or None for other registers."""
    column, row, offset = split_register(register)
    if row != 0 or offset not in _QUEUES:
        return None
    direction, channel = _QUEUES[offset]
    return column, Direction(direction), channel


def queue_value(bd: int, repeat: int = 0, token: bool = False) -> int:
    """A task: run the chain from `bd` on 1 + `repeat` times, then issue a token if asked."""
    if not (0 <= bd < NUM_BDS and 0 <= repeat <= MAX_REPEAT):
        raise TxnError(f"task with descriptor {bd}, repeat {repeat}: at most 15 and {MAX_REPEAT}")
    return int(token) << 31 | repeat << 16 | bd


def parse_queue_value(value: int) -> tuple[int, int, bool]:
    """First descriptor, repeat count and whether a token is issued."""
    return value & 15, value >> 16 & 255, bool(value >> 31)


@dataclass(frozen=True, slots=True)
class Transfer:
    """Words of a buffer that one descriptor moves; `argument` 0 is bo0, `offset` in bytes."""

    argument: int
    offset: int
    bd: ShimBd


@dataclass(slots=True)
class _Task:
    bds: tuple[int, ...]
    token: bool


@dataclass(slots=True)
class StreamBuilder:
    """Writes instructions for tasks and waits; it hands out descriptors and refuses overflow."""

    _instructions: list[Instruction] = field(default_factory=list)
    _free: dict[int, list[int]] = field(default_factory=dict)
    _tasks: dict[tuple[int, Direction, int], deque[_Task]] = field(default_factory=dict)

    def task(
        self,
        column: int,
        direction: Direction,
        channel: int,
        transfers: list[Transfer],
        token: bool = False,
        repeat: int = 0,
    ) -> None:
        """Queue a chain of transfers on a channel."""
        free = self._free.setdefault(column, list(range(NUM_BDS)))
        tasks = self._tasks.setdefault((column, direction, channel), deque())
        if len(transfers) > len(free) or len(tasks) >= QUEUE_DEPTH:
            raise TxnError(
                f"column {column} {direction.name} {channel}: {len(transfers)} descriptors wanted, "
                f"{len(free)} free; {len(tasks)} of {QUEUE_DEPTH} tasks queued: wait first"
            )
        bds = tuple(free[: len(transfers)])
        del free[: len(transfers)]
        tasks.append(_Task(bds, token))
        for place, transfer in enumerate(transfers):
            following = bds[place + 1] if place + 1 < len(bds) else None
            self._write_bd(column, bds[place], transfer, following)
        queue = queue_register(column, direction, channel)
        self._instructions.append(Write32(queue, queue_value(bds[0], repeat, token)))

    def _write_bd(self, column: int, bd: int, transfer: Transfer, following: int | None) -> None:
        first = bd_register(column, bd)
        words = list(transfer.bd.words())
        if following is not None:
            words[7] |= following << 27 | 1 << 26
        self._instructions.append(BlockWrite(first, tuple(words)))
        self._instructions.append(
            DdrPatch(first + 4 * _ADDRESS_WORD, transfer.argument, transfer.offset)
        )

    def wait(self, column: int, direction: Direction, channel: int) -> None:
        """Wait for the oldest token of a channel; its tasks up to that one give their BDs back."""
        tasks = self._tasks.get((column, direction, channel), deque())
        if not any(task.token for task in tasks):
            raise TxnError(f"column {column} {direction.name} {channel}: no token will come")
        while True:
            task = tasks.popleft()
            self._free[column].extend(task.bds)
            if task.token:
                break
        self._instructions.append(Sync(column, 0, int(direction), channel))

    def finish(self, column: int, direction: Direction, channel: int) -> None:
        """Give back a channel's BDs without a wait: one on what its data made implies it."""
        for task in self._tasks.pop((column, direction, channel), ()):
            self._free[column].extend(task.bds)

    def encode(self) -> bytes:
        """The stream; TxnError if something that was started is not waited for or finished."""
        if left := [key for key, tasks in self._tasks.items() if tasks]:
            column, direction, channel = left[0]
            raise TxnError(
                f"column {column} {direction.name} {channel}: tasks are never waited for"
            )
        return encode(self._instructions)
