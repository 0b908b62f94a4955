"""How weights, activations and keys lie in the elements that stream through the array.

It packs numbers into bytes and back; it knows no model, no buffers and no device. The same layout
is written down for the cores in kernels/aie2/message.h and beside the GEMV in gemv_w4a8.cc.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from draft.npu.arithmetic import split_float16, to_bfloat16
from specdec.gemma3.shape import GROUP
from specdec.types import FloatArray

Bytes = NDArray[np.uint8]

TAG_BYTES = 64
PAYLOAD_BYTES = 2560
ELEMENT_BYTES = TAG_BYTES + PAYLOAD_BYTES
ROW_FLOATS = PAYLOAD_BYTES // 4  # float values per element of a row
BLOCK_BYTES = 160
BLOCKS_PER_ELEMENT = 16
TILE_ROWS = 8  # output rows per tile
BATCH_ROWS = 4
TILE_BYTES = 4 * BATCH_ROWS * TILE_ROWS
NUM_COLUMNS = 4
CORES_PER_COLUMN = 4
CORES_PER_CHANNEL = 2
MAX_COLUMNS = 2048  # K of one product; a longer K is cut in slices
KV_POSITIONS = 16  # positions per tile of keys and values
KV_PIECE_BYTES = 2048  # bytes of such a tile per element
NUM_CORES = NUM_COLUMNS * CORES_PER_COLUMN
PADDED_ROWS = NUM_CORES * TILE_ROWS  # rows are padded to a multiple of it


class Operation(IntEnum):
    """What a message does."""

    SET_ROW = 1
    WEIGHTS = 2
    LOAD_HIDDEN = 3
    NORM_QUANTIZE = 4
    POSITION = 5
    ROPE = 6
    ATTEND = 7
    FINISH = 8
    RESIDUAL = 9
    GEGLU = 10
    STORE_HIDDEN = 11
    KV_ROW = 12


class Target(IntEnum):
    """Which core of a channel's pair a message is for."""

    FIRST = 1
    SECOND = 2  # on channel 1: the column's vector core
    BOTH = 3


def tag(
    operation: Operation, target: Target, num_elements: int, parameters: Sequence[int | float] = ()
) -> NDArray[np.int32]:
    """The 16 words that begin a message; float parameters are stored as their bits."""
    words = np.zeros(TAG_BYTES // 4, np.int32)
    words[:3] = operation, target, num_elements
    for place, value in enumerate(parameters, 3):
        words[place] = np.float32(value).view(np.int32) if isinstance(value, float) else value
    return words


def element(words: NDArray[np.int32], payload: bytes = b"") -> Bytes:
    """One element: a tag, then the payload, padded with zeros."""
    assert len(payload) <= PAYLOAD_BYTES, "a payload fits its element"
    data = np.zeros(ELEMENT_BYTES, np.uint8)
    data[:TAG_BYTES] = words.view(np.uint8)
    data[TAG_BYTES : TAG_BYTES + len(payload)] = np.frombuffer(payload, np.uint8)
    return data


def num_row_elements(num_floats: int) -> int:
    """Elements that carry a float row."""
    return -(-num_floats // ROW_FLOATS)


def tiles_per_core(num_rows: int) -> int:
    """T: output tiles that each of the 16 cores makes."""
    return -(-num_rows // PADDED_ROWS)


def num_weight_elements(num_rows: int, num_columns: int) -> int:
    """Elements per channel of a matrix of num_rows x num_columns."""
    blocks = tiles_per_core(num_rows) * (num_columns // GROUP)
    return CORES_PER_CHANNEL * -(-blocks // BLOCKS_PER_ELEMENT)


def pack_weights(
    values: NDArray[np.int8], scales: NDArray[np.float16], keep_best: bool = False
) -> Bytes:
    """Messages of a matrix (N, K), K <= 2048, with scales (N, K/32): (column, channel, n, E).

    With `keep_best` cores keep their 8 best rows and their ids instead of sending every product.
    """
    num_rows, num_columns = values.shape
    assert num_columns % GROUP == 0 and num_columns <= MAX_COLUMNS
    num_groups, num_tiles = num_columns // GROUP, tiles_per_core(num_rows)
    blocks = _blocks(values, scales, num_tiles)  # (column, core, T * G, 160)
    num_elements = num_weight_elements(num_rows, num_columns)
    per_core = num_elements // CORES_PER_CHANNEL
    padded = np.zeros(
        (NUM_COLUMNS, CORES_PER_COLUMN, per_core * BLOCKS_PER_ELEMENT, BLOCK_BYTES), np.uint8
    )
    padded[:, :, : num_tiles * num_groups] = blocks
    # cores of a pair take turns: (column, channel, second, element, ...) to (..., element, second)
    payloads = padded.reshape(NUM_COLUMNS, 2, CORES_PER_CHANNEL, per_core, -1).swapaxes(2, 3)
    messages = np.zeros((NUM_COLUMNS, 2, num_elements, ELEMENT_BYTES), np.uint8)
    messages[..., TAG_BYTES:] = payloads.reshape(NUM_COLUMNS, 2, num_elements, PAYLOAD_BYTES)
    for column in range(NUM_COLUMNS):
        for channel in range(2):
            first_row = TILE_ROWS * (column * num_tiles * CORES_PER_COLUMN + 2 * channel)
            parameters = (num_groups, num_tiles, int(keep_best), first_row, num_rows)
            words = tag(Operation.WEIGHTS, Target.BOTH, num_elements, parameters)
            messages[column, channel, 0, :TAG_BYTES] = words.view(np.uint8)
    return messages


def _blocks(values: NDArray[np.int8], scales: NDArray[np.float16], num_tiles: int) -> Bytes:
    """Blocks in each core's order, (column, core, T * G, 160): tiles deal rows i-major, core-minor.

    Tile i of core r in column c holds rows 8 t .. 8 t + 7 with t = (c T + i) 4 + r.
    """
    num_rows, num_columns = values.shape
    num_groups = num_columns // GROUP
    padding = PADDED_ROWS * num_tiles - num_rows
    dealt = (NUM_COLUMNS, num_tiles, CORES_PER_COLUMN, TILE_ROWS)
    rows = np.pad(values, ((0, padding), (0, 0))).reshape(*dealt, num_groups, GROUP)
    # (c, i, r, n, g, k) to (c, r, i, g, k, n): k-major 16 x 8 blocks, low nibble the even row
    ordered = rows.transpose(0, 2, 1, 4, 5, 3)
    nibbles = ordered.view(np.uint8) & np.uint8(15)
    packed = nibbles[..., 0::2] | nibbles[..., 1::2] << 4
    grouped = np.pad(scales, ((0, padding), (0, 0))).reshape(*dealt, num_groups)
    high, low = split_float16(grouped.transpose(0, 2, 1, 4, 3))
    blocks = np.empty((*packed.shape[:4], BLOCK_BYTES), np.uint8)
    blocks[..., :128] = packed.reshape(*packed.shape[:4], 128)
    blocks[..., 128:144] = np.ascontiguousarray(high).view(np.uint8)
    blocks[..., 144:] = np.ascontiguousarray(low).view(np.uint8)
    return blocks.reshape(NUM_COLUMNS, CORES_PER_COLUMN, num_tiles * num_groups, BLOCK_BYTES)


def set_row(row: int, values: NDArray[np.int8], scales: FloatArray) -> Bytes:
    """The message of one row of activations, int8 (K,) with scales (K/32,)."""
    high = to_bfloat16(scales)
    low = to_bfloat16(scales - (high.astype(np.uint32) << 16).view(np.float32))
    payload = values.tobytes() + high.tobytes() + low.tobytes()
    return element(tag(Operation.SET_ROW, Target.BOTH, 1, (row, len(values))), payload)


def read_set_row(data: Bytes) -> tuple[int, NDArray[np.int8], FloatArray]:
    """Row number, values and scales of a SET_ROW element."""
    words = data[:TAG_BYTES].view(np.int32)
    assert words[0] == Operation.SET_ROW
    size, payload = int(words[4]), data[TAG_BYTES:]
    high, low = payload[size : size + size // 8].view(np.uint16).reshape(2, -1).astype(np.uint32)
    scales = (high << 16).view(np.float32) + (low << 16).view(np.float32)
    return int(words[3]), payload[:size].view(np.int8), scales


def num_kv_pieces(head_dim: int) -> int:
    """Elements that carry one tile of 16 positions."""
    return 4 * KV_POSITIONS * head_dim // KV_PIECE_BYTES


def kv_tile_shape(head_dim: int) -> tuple[int, int]:
    """Shape of one tile in uint16: keys, then values."""
    return 2, KV_POSITIONS * head_dim


def read_kv_row(data: Bytes) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Key and value, bf16 bits (d,) each, of a KV_ROW element."""
    words = data[:TAG_BYTES].view(np.int32)
    assert words[0] == Operation.KV_ROW
    size = int(words[3])
    pair = data[TAG_BYTES : TAG_BYTES + 4 * size].view(np.uint16)
    return pair[:size], pair[size:]


def store_kv(
    tiles: NDArray[np.uint16], slot: int, key: NDArray[np.uint16], value: NDArray[np.uint16]
) -> None:
    """Write one position into a cache of tiles (number, 2, 16 d)."""
    size = len(key)
    index, place = divmod(slot, KV_POSITIONS)
    keys = tiles[index, 0].reshape(4, size // 8, 8, 4)  # [position/4][d/8][8][position%4]
    keys[place // 4, :, :, place % 4] = key.reshape(-1, 8)
    values = tiles[index, 1].reshape(size // 4, 2, 8, 4)  # [d/4][position/8][position%8][4]
    values[:, place // 8, place % 8] = value.reshape(-1, 4)
