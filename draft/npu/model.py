"""A Gemma 3 language model on the array, real or emulated; it knows no drafting and no sampling.

The host looks up embedding rows, gives every row its position, and files the keys and values that
come back; everything else is one instruction stream per step. Up to 4 rows cost the weights' bytes
once: consecutive tokens of a slot (`feed`), or a token of each of several slots (`feed_each`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from draft.npu.inputs import StepInputs, write_echo
from draft.npu.kv_cache import KvCache
from draft.npu.layout import BATCH_ROWS, ELEMENT_BYTES, NUM_COLUMNS, TAG_BYTES
from draft.npu.memory_map import TOP_COLUMN_BYTES, MemoryMap
from draft.npu.packing import Packer, check_shape
from draft.npu.session import Program, Session
from draft.npu.step_stream import StepForm, build_echo, build_step
from specdec.errors import DeviceError
from specdec.gemma3.loading import MatrixSource
from specdec.gemma3.shape import Gemma3Shape
from specdec.types import FloatArray

_TIMEOUT_MS = 2000  # of a step: a thousand times what it takes
_KEPT_PROGRAMS = 48  # instructions share 64 MiB of the device's own memory

HeadTokens = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class NpuSettings:
    """How much the model holds: `num_slots` sequences or branches of up to `context_length`."""

    context_length: int
    num_slots: int = 1


class NpuModel:
    """A LanguageModel; slots are 0 .. num_slots - 1."""

    def __init__(
        self,
        session: Session,
        shape: Gemma3Shape,
        source: MatrixSource,
        settings: NpuSettings,
        head_tokens: HeadTokens | None = None,
    ) -> None:
        check_shape(shape)
        self._shape, self._session = shape, session
        self._context_length = min(settings.context_length, shape.context_length)
        self._head_tokens = head_tokens
        num_head_rows = shape.vocab_size if head_tokens is None else len(head_tokens)
        self._map = MemoryMap(shape, num_head_rows, self._context_length, settings.num_slots)
        sizes = (self._map.weights.num_bytes, self._map.io.num_bytes, self._map.kv.num_bytes)
        self._buffers = [session.buffer(index, size) for index, size in enumerate(sizes)]
        weights, io, kv = self._buffers
        io_map = self._map.io
        self._inputs = StepInputs(
            self._map, io.part(0, io_map.inputs_bytes), source.matrix("embed")
        )
        self._outputs = io.part(io_map.outputs, io_map.num_bytes - io_map.outputs)
        self._programs: OrderedDict[StepForm, Program] = OrderedDict()
        self._echo()
        Packer(self._map, source, weights.host).pack(head_tokens)
        weights.upload()
        self._cache = KvCache(shape, self._map.kv, kv, settings.num_slots)

    @property
    def vocab_size(self) -> int:
        """V: number of logits per token."""
        return self._shape.vocab_size

    @property
    def context_length(self) -> int:
        """Most tokens a slot can hold."""
        return self._context_length

    @property
    def max_rows(self) -> int:
        """Most adjacent slots of one step."""
        return BATCH_ROWS

    def length(self, slot: int) -> int:
        """Number of tokens the slot holds; 0 for a slot never fed."""
        return len(self._cache.token_ids[slot])

    def feed(self, slot: int, token_ids: Sequence[int], num_logits: int) -> FloatArray:
        """Append tokens; float32 logits (num_logits, V) after each of the last `num_logits`.

        Logits are those of every core's 8 best tokens; the others' are -inf.
        """
        assert 0 <= num_logits <= len(token_ids)
        assert self.length(slot) + len(token_ids) <= self._context_length, "slot overflows"
        found = []
        for start in range(0, len(token_ids), BATCH_ROWS):
            part = token_ids[start : start + BATCH_ROWS]
            num_wanted = min(len(part), max(0, start + len(part) - len(token_ids) + num_logits))
            self._step([slot] * len(part), part, is_chain=True, has_head=num_wanted > 0)
            if num_wanted:
                found.append(self._logits(range(len(part) - num_wanted, len(part))))
        return np.concatenate(found) if found else np.empty((0, self.vocab_size), np.float32)

    def feed_each(self, first_slot: int, token_ids: Sequence[int]) -> FloatArray:
        """Append one token to each of up to 4 adjacent slots: logits (B, V)."""
        assert 0 < len(token_ids) <= BATCH_ROWS
        slots = range(first_slot, first_slot + len(token_ids))
        self._step(slots, token_ids, is_chain=False, has_head=True)
        return self._logits(range(len(token_ids)))

    def truncate(self, slot: int, length: int) -> None:
        """Forget everything the slot holds beyond its first `length` tokens."""
        assert 0 <= length <= self.length(slot), "a slot is cut to a length it has"
        if lost := self._cache.truncate(slot, length):
            self.feed(slot, lost, num_logits=0)

    def copy_slot(self, source: int, slot: int, position: int = 0) -> None:
        """Make `slot` hold what `source` holds; they agree already before `position`."""
        self._cache.copy(source, slot, position)

    def _step(
        self, slots: Sequence[int], token_ids: Sequence[int], is_chain: bool, has_head: bool
    ) -> None:
        """Feed one token per row and file its keys and values."""
        lengths = [self.length(slot) for slot in slots]
        for row, (token_id, length) in enumerate(zip(token_ids, lengths, strict=True)):
            position = length + row if is_chain else length
            self._inputs.write(row, token_id, position, length, self._cache)
        self._inputs.upload()
        form = StepForm(tuple(slots), is_chain, self._cache.num_tiles(lengths), has_head)
        self._session.run(self._program(form), _TIMEOUT_MS)
        io = self._map.io
        first = io.kv_rows - io.outputs
        num_layers = self._shape.num_layers
        last = first + len(slots) * num_layers * ELEMENT_BYTES
        self._outputs.download(0, last)
        rows = self._outputs.host[first:last].reshape(len(slots), num_layers, ELEMENT_BYTES)
        for slot, token_id, made in zip(slots, token_ids, rows, strict=True):
            self._cache.append(slot, token_id, made)

    def _program(self, form: StepForm) -> Program:
        """The step's stream on the device, made when it is first needed."""
        if form not in self._programs:
            stream = build_step(self._map, form)
            self._programs[form] = self._session.program(stream, self._buffers)
            if len(self._programs) > _KEPT_PROGRAMS:
                self._programs.popitem(last=False)
        self._programs.move_to_end(form)
        return self._programs[form]

    def _logits(self, rows: Sequence[int]) -> FloatArray:
        """Logits (n, V) of the last step's rows, from what the head's cores kept."""
        start = self._map.io.top - self._map.io.outputs
        kept = self._outputs.host[start : start + NUM_COLUMNS * TOP_COLUMN_BYTES]
        tiles = kept.view(np.float32).reshape(NUM_COLUMNS, 2, -1, BATCH_ROWS, 8)
        logits = np.full((len(rows), self.vocab_size), -np.inf, np.float32)
        for place, row in enumerate(rows):
            values = tiles[:, 0, :, row].reshape(-1)
            ids = tiles[:, 1, :, row].reshape(-1).view(np.int32)
            is_token = ids >= 0  # a core may have had fewer than 8
            ids = ids[is_token]
            token_ids = ids if self._head_tokens is None else self._head_tokens[ids]
            logits[place, token_ids] = values[is_token]
        return logits

    def _echo(self) -> None:
        """Send an element of every buffer through a core: what silicon would not report."""
        sent = write_echo(self._map, self._buffers)
        self._session.run(self._session.program(build_echo(self._map), self._buffers), _TIMEOUT_MS)
        start = self._map.io.echoes - self._map.io.outputs
        size = len(sent) * ELEMENT_BYTES
        self._outputs.download(start, size)
        heard = self._outputs.host[start : start + size].reshape(len(sent), -1)
        for name, want, got in zip(("weights", "io", "kv"), sent, heard, strict=True):
            if not np.array_equal(want[TAG_BYTES:], got[TAG_BYTES:]):
                raise DeviceError(
                    f"NPU: a run completed without moving the {name} buffer's bytes (wrong memory "
                    "group, address or sync; see dmesg for IO_PAGE_FAULT): update the driver, or "
                    "choose another draft.device"
                )
