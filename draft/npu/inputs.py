"""What the host writes before a step: embedding rows and positions; it knows no stream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from draft.npu.kv_cache import Bytes, KvCache, element_rows
from draft.npu.layout import (
    BATCH_ROWS,
    ELEMENT_BYTES,
    ROW_FLOATS,
    TAG_BYTES,
    Operation,
    Target,
    element,
    tag,
)
from draft.npu.memory_map import MemoryMap
from draft.npu.session import Buffer
from specdec.gemma3.rope import Rope
from specdec.weights import QuantizedMatrix

_WORD = 4
_VISIBLE = 4  # word of a POSITION tag: first visible place, count, ring size


class StepInputs:
    """The io buffer's inputs: tags written once, payloads before every step."""

    def __init__(self, memory: MemoryMap, buffer: Buffer, embedding: QuantizedMatrix) -> None:
        shape, io = memory.shape, memory.io
        self._shape, self._buffer, self._embedding = shape, buffer, embedding
        self._ropes = (
            Rope(shape.head_dim, shape.rope_theta_local, 1.0),
            Rope(shape.head_dim, shape.rope_theta_global, shape.rope_scaling_factor),
        )
        load = element(tag(Operation.LOAD_HIDDEN, Target.SECOND, 1, (shape.hidden_size,)))
        here = element(tag(Operation.POSITION, Target.SECOND, 1, (shape.head_dim,)))
        store = element(tag(Operation.STORE_HIDDEN, Target.SECOND, 1, (ROW_FLOATS,)))
        self._hidden = self._rows(io.hidden, BATCH_ROWS)
        self._positions = self._rows(io.positions, 2 * BATCH_ROWS)
        self._hidden[:], self._positions[:] = load, here
        self._rows(io.store, 1)[:] = store
        self._size = io.positions + 2 * BATCH_ROWS * ELEMENT_BYTES

    def _rows(self, offset: int, count: int) -> Bytes:
        return element_rows(self._buffer.host[offset : offset + count * ELEMENT_BYTES])

    def write(self, row: int, token_id: int, position: int, length: int, cache: KvCache) -> None:
        """A token at `position`, of whose slot `length` tokens are cached."""
        embedded = self._embedding.rows(np.array([token_id]))[0]
        hidden = embedded * np.sqrt(np.float32(self._shape.hidden_size))
        self._hidden[row, TAG_BYTES : TAG_BYTES + _WORD * len(hidden)] = hidden.view(np.uint8)
        for kind, rope in enumerate(self._ropes):
            words = self._positions[BATCH_ROWS * kind + row].view(np.int32)
            words[_VISIBLE : _VISIBLE + 3] = cache.visible(kind, position, length)
            table = np.concatenate(rope.tables(position, 1), axis=1)[0]
            start = TAG_BYTES // _WORD
            words[start : start + len(table)] = table.view(np.int32)

    def upload(self) -> None:
        """Let the device see them."""
        self._buffer.upload(0, self._size)


def write_echo(memory: MemoryMap, buffers: Sequence[Buffer]) -> Bytes:
    """Give each buffer a first element of its own to send; all of them (3, E)."""
    words = tag(Operation.LOAD_HIDDEN, Target.SECOND, 1, (ROW_FLOATS,))
    sent = []
    for index, buffer in enumerate(buffers):
        payload = np.arange(ROW_FLOATS, dtype=np.float32) + np.float32(1 + index * ROW_FLOATS)
        sent.append(element(words, payload.tobytes()))
        buffer.host[:ELEMENT_BYTES] = sent[-1]
    io = buffers[1]
    io.upload(0, memory.io.inputs_bytes)
    for buffer in (buffers[0], buffers[2]):
        buffer.upload(0, ELEMENT_BYTES)
    return np.stack(sent)
