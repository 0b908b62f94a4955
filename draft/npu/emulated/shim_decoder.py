"""Instruction streams as steps of the emulated array; it knows registers, not bytes.

Registers are modelled where the shim's DMA has them: descriptors, task queues, tokens. Anything
else in a stream is an error here, for nobody could say what it would do.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from draft.npu.host_kernels import READ, STEP_DTYPE, WAIT, WRITE, extent
from draft.npu.shim import (
    BD_WORDS,
    NUM_BDS,
    QUEUE_DEPTH,
    Direction,
    ShimBd,
    parse_bd_register,
    parse_queue_register,
    parse_queue_value,
)
from draft.npu.txn import BlockWrite, DdrPatch, Instruction, Sync, Write32, decode

_WORD = 4
_ADDRESS_WORD = 1  # of a descriptor, and the register that a patch names
_NO_ARGUMENT = -1

Channel = tuple[int, Direction, int]  # column, direction, number


class StreamError(RuntimeError):
    """A stream does what the shim forbids, or what is not emulated."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """Steps whose addresses are still relative to the buffers they are in.

    `arguments` (n,) is the buffer of each step, -1 for waits; `offsets` and `ends` (n,) are the
    first byte it touches and the one after the last.
    """

    steps: NDArray[np.void]
    arguments: NDArray[np.int64]
    offsets: NDArray[np.int64]
    ends: NDArray[np.int64]


@dataclass(slots=True)
class _Bd:
    words: list[int] = field(default_factory=lambda: [0] * BD_WORDS)
    argument: int = _NO_ARGUMENT
    offset: int = 0
    users: set[Channel] = field(default_factory=set)  # channels with a task that may still need it


def decode_stream(stream: bytes, num_columns: int) -> Decoded:
    """Decode; TxnError for a corrupt stream, StreamError for one that silicon would choke on."""
    return _Decoder(num_columns).decode(decode(stream))


class _Decoder:
    def __init__(self, num_columns: int) -> None:
        self._num_columns = num_columns
        self._bds: dict[tuple[int, int], _Bd] = {}
        self._queued: dict[Channel, int] = {}
        self._steps: list[tuple[int, ...]] = []
        self._places: list[tuple[int, int]] = []  # argument, offset

    def decode(self, instructions: tuple[Instruction, ...]) -> Decoded:
        for instruction in instructions:
            match instruction:
                case Write32(register, value):
                    self._write(register, value)
                case BlockWrite(register, values):
                    for index, value in enumerate(values):
                        self._write(register + _WORD * index, value)
                case DdrPatch(register, argument, offset):
                    self._patch(register, argument, offset)
                case Sync():
                    self._sync(instruction)
                case _:
                    raise StreamError(f"{instruction}: not emulated")
        return self._finished()

    def _write(self, register: int, value: int) -> None:
        if place := parse_bd_register(register):
            column, number, word = place
            bd = self._bd(column, number)
            bd.words[word] = value
            if word == _ADDRESS_WORD:
                bd.argument = _NO_ARGUMENT
        elif channel := parse_queue_register(register):
            self._start(channel, *parse_queue_value(value))
        else:
            raise StreamError(f"register {register:#x}: only the shim's DMA is emulated")

    def _bd(self, column: int, number: int) -> _Bd:
        """A descriptor that is about to change."""
        self._check_column(column)
        bd = self._bds.setdefault((column, number), _Bd())
        if bd.users:
            raise StreamError(f"descriptor {number} of column {column} changes while it is in use")
        return bd

    def _check_column(self, column: int) -> None:
        if column >= self._num_columns:
            raise StreamError(f"column {column}: the array has {self._num_columns}")

    def _patch(self, register: int, argument: int, offset: int) -> None:
        place = parse_bd_register(register)
        if place is None or place[2] != _ADDRESS_WORD:
            raise StreamError(f"address patch of register {register:#x}: no descriptor's address")
        bd = self._bd(*place[:2])
        bd.argument, bd.offset = argument, offset

    def _start(self, channel: Channel, first: int, repeat: int, has_token: bool) -> None:
        """A task: a chain of descriptors; the token belongs to the last."""
        column, direction, number = channel
        self._check_column(column)
        self._queued[channel] = self._queued.get(channel, 0) + 1
        if self._queued[channel] > QUEUE_DEPTH:
            raise StreamError(
                f"column {column} {direction.name} {number}: more than {QUEUE_DEPTH} tasks queued"
            )
        chain = [first]
        while (following := self._parsed(column, chain[-1]).next_bd) is not None:
            if following in chain:
                raise StreamError(f"descriptors {chain} of column {column} form a ring")
            chain.append(following)
        if repeat and len(chain) > 1:
            raise StreamError("a repeated chain of descriptors is not emulated")
        for number_in_chain in chain:
            is_last = number_in_chain == chain[-1]
            self._transfer(channel, number_in_chain, repeat, has_token and is_last)

    def _parsed(self, column: int, number: int) -> ShimBd:
        if (column, number) not in self._bds:
            raise StreamError(f"descriptor {number} of column {column} was never written")
        return ShimBd.parse(tuple(self._bds[column, number].words))

    def _transfer(self, channel: Channel, number: int, repeat: int, has_token: bool) -> None:
        column, direction, channel_number = channel
        bd, parsed = self._bds[column, number], self._parsed(column, number)
        if bd.argument == _NO_ARGUMENT:
            raise StreamError(f"descriptor {number} of column {column} has no address")
        bd.users.add(channel)
        kind = READ if direction is Direction.MM2S else WRITE
        shape = (parsed.length, parsed.d0_size, parsed.d0_step, parsed.d1_size, parsed.d1_step)
        iteration = (parsed.d2_step, parsed.iteration_size, parsed.iteration_step)
        self._steps.append(
            (kind, column, channel_number, repeat, 0, *shape, *iteration, 0, int(has_token))
        )
        self._places.append((bd.argument, bd.offset))

    def _sync(self, sync: Sync) -> None:
        """Waits for tokens: what came before on these channels is done.

        Data that has come out of a column has gone in: its inputs count as done too. The device
        proves that only to whoever knows the dataflow.
        """
        if sync.row != 0 or sync.num_rows != 1:
            raise StreamError(f"{sync}: only tokens of the shim are emulated")
        for column in range(sync.column, sync.column + sync.num_columns):
            self._check_column(column)
            waited = (column, Direction(sync.direction), sync.channel)
            for channel in list(self._queued):
                if channel == waited or channel[:2] == (column, Direction.MM2S):
                    self._finish(channel)
            self._steps.append((WAIT, column, sync.channel, *(0,) * 10, sync.direction, 0))
            self._places.append((_NO_ARGUMENT, 0))

    def _finish(self, channel: Channel) -> None:
        self._queued[channel] = 0
        for number in range(NUM_BDS):
            if bd := self._bds.get((channel[0], number)):
                bd.users.discard(channel)

    def _finished(self) -> Decoded:
        steps = np.array(self._steps, STEP_DTYPE)
        arguments, offsets = np.array(self._places, np.int64).reshape(-1, 2).T.copy()
        sizes = [0 if step["kind"] == WAIT else _WORD * extent(step) for step in steps]
        return Decoded(steps, arguments, offsets, offsets + np.array(sizes, np.int64))
