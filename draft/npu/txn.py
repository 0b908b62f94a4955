"""Instruction streams of the NPU in the TXN format: read, written, and checked.

A stream is a 16-byte header and operations on registers of the array. It knows how words are laid
out; what the registers do to bytes is the array's business, buffers are the runtime's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from specdec.errors import DeviceError

MAGIC = 0x06030100  # 6 rows, device generation 3, format 0.1
FLAGS = 0x0105  # 1 row of memory tiles, 5 columns
HEADER_BYTES = 16

_WRITE, _BLOCK_WRITE, _MASK_WRITE, _MASK_POLL, _SYNC, _DDR_PATCH = 0, 1, 3, 4, 128, 129
_U32 = 1 << 32


class TxnError(DeviceError):
    """An instruction stream is corrupt or asks for what the format cannot say."""


@dataclass(frozen=True, slots=True)
class Write32:
    """Write one word to a register."""

    register: int
    value: int


@dataclass(frozen=True, slots=True)
class BlockWrite:
    """Write consecutive words from a register on."""

    register: int
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MaskWrite:
    """Write the bits of a register that are set in `mask`."""

    register: int
    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class MaskPoll:
    """Wait until a register's bits under `mask` equal `value`."""

    register: int
    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class Sync:
    """Wait for a task-complete token of a DMA channel; direction 0 is S2MM, 1 MM2S."""

    column: int
    row: int
    direction: int
    channel: int
    num_columns: int = 1
    num_rows: int = 1


@dataclass(frozen=True, slots=True)
class DdrPatch:
    """Put the device address of buffer `argument` (0 is bo0) plus `offset` bytes into a BD."""

    register: int
    argument: int
    offset: int


Instruction = Write32 | BlockWrite | MaskWrite | MaskPoll | Sync | DdrPatch


def register_address(column: int, row: int, offset: int) -> int:
    """Address of a tile's register in the array."""
    return column << 25 | row << 20 | offset


def split_register(register: int) -> tuple[int, int, int]:
    """Column, row and offset of a register address."""
    return register >> 25, register >> 20 & 31, register & 0xFFFFF


def encode(instructions: Iterable[Instruction]) -> bytes:
    """The stream of these instructions, header included."""
    parts = [_words(instruction) for instruction in instructions]
    total = HEADER_BYTES + 4 * sum(map(len, parts))
    words = [MAGIC, FLAGS, len(parts), total, *(word for part in parts for word in part)]
    if wrong := [word for word in words if not 0 <= word < _U32]:
        raise TxnError(f"{wrong[0]} does not fit a 32-bit word of an instruction stream")
    return struct.pack(f"<{len(words)}I", *words)


def _words(instruction: Instruction) -> list[int]:
    match instruction:
        case Write32(register, value):
            return [_WRITE, 0, register, 0, value, 24]
        case BlockWrite(register, values):
            return [_BLOCK_WRITE, 0, register, 16 + 4 * len(values), *values]
        case MaskWrite(register, value, mask):
            return [_MASK_WRITE, 0, register, 0, value, mask, 28]
        case MaskPoll(register, value, mask):
            return [_MASK_POLL, 0, register, 0, value, mask, 28]
        case Sync(column, row, direction, channel, num_columns, num_rows):
            place = direction | row << 8 | column << 16
            return [_SYNC, 16, place, num_rows << 8 | num_columns << 16 | channel << 24]
        case DdrPatch(register, argument, offset):
            return [_DDR_PATCH, 48, 0, 0, 0, 0, register, 0, argument, 0, offset, 0]


def decode(stream: bytes) -> tuple[Instruction, ...]:
    """The instructions of a stream; TxnError says where it is corrupt."""
    if len(stream) < HEADER_BYTES or len(stream) % 4:
        raise TxnError(f"instruction stream of {len(stream)} bytes: need 16 or more, in words of 4")
    words = struct.unpack(f"<{len(stream) // 4}I", stream)
    if words[0] != MAGIC:
        raise TxnError(f"instruction stream begins with {words[0]:#010x}, not {MAGIC:#010x}")
    if words[3] != len(stream):
        raise TxnError(f"instruction stream of {len(stream)} bytes says it has {words[3]}")
    instructions = []
    place = HEADER_BYTES // 4
    while place < len(words):
        instruction, place = _parse(words, place)
        instructions.append(instruction)
    if len(instructions) != words[2]:
        raise TxnError(f"instruction stream of {len(instructions)} operations says {words[2]}")
    return tuple(instructions)


_SIZES = {_WRITE: 6, _MASK_WRITE: 7, _MASK_POLL: 7, _SYNC: 4, _DDR_PATCH: 12}  # words
_ZEROS = {  # words that must be 0
    _WRITE: (1, 3),
    _BLOCK_WRITE: (1,),
    _MASK_WRITE: (1, 3),
    _MASK_POLL: (1, 3),
    _SYNC: (),
    _DDR_PATCH: (2, 3, 4, 5, 7, 9, 11),
}
_SIZE_WORD = {_WRITE: 5, _BLOCK_WRITE: 3, _MASK_WRITE: 6, _MASK_POLL: 6, _SYNC: 1, _DDR_PATCH: 1}


def _parse(words: tuple[int, ...], place: int) -> tuple[Instruction, int]:
    """The instruction at `place` and the place after it."""
    code = words[place]
    if code not in _SIZE_WORD:
        raise TxnError(f"unknown operation {code} at byte {4 * place} of an instruction stream")
    left = len(words) - place
    size_place = _SIZE_WORD[code]
    if size_place >= left:
        raise TxnError(f"operation {code} at byte {4 * place} is cut off")
    size = words[place + size_place]
    num_words = _SIZES.get(code, size // 4)
    if size != 4 * num_words or num_words > left or num_words <= size_place:
        raise TxnError(f"operation {code} at byte {4 * place} has a size of {size} bytes")
    part = words[place : place + num_words]
    if any(part[zero] for zero in _ZEROS[code]):
        raise TxnError(f"operation {code} at byte {4 * place} has bits set that are reserved")
    return _build(code, part), place + num_words


def _build(code: int, part: tuple[int, ...]) -> Instruction:
    match code:
        case 0:
            return Write32(part[2], part[4])
        case 1:
            return BlockWrite(part[2], part[4:])
        case 3:
            return MaskWrite(part[2], part[4], part[5])
        case 4:
            return MaskPoll(part[2], part[4], part[5])
        case 128:
            place, extent = part[2], part[3]
            column, row = place >> 16 & 255, place >> 8 & 255
            sync = Sync(
                column, row, place & 255, extent >> 24, extent >> 16 & 255, extent >> 8 & 255
            )
            if place >> 24 or extent & 255 or sync.direction > 1:
                raise TxnError(f"wait with words {place:#x}, {extent:#x} names no DMA channel")
            return sync
        case _:
            return DdrPatch(part[6], part[8], part[10])
