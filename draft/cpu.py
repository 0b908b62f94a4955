"""A Gemma 3 language model on ONNX Runtime's CPU kernels; it knows no drafting and no sampling.

Keys and values lie in arrays made once, as long as the context; the kernels write into them in
place and read as many tokens as they are told, so cutting a slot is setting a number. Untouched
pages of the arrays take no memory. A slot is a row of the arrays: adjacent slots can be fed one
token each in one step, and `copy_slot` makes a branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from draft.cpu_graph import HeadTokens, build_graph
from draft.onnx_writer import Graph
from specdec.gemma3.loading import MatrixSource
from specdec.gemma3.shape import Gemma3Shape
from specdec.types import FloatArray

_MAX_TOKENS = 128  # tokens of one step while a prompt is fed
_MAX_ROWS = 8
_KEPT_TOKENS = 16  # steps of up to so many tokens keep their buffers for the next time


@dataclass(frozen=True, slots=True)
class CpuSettings:
    """How much of the machine the model takes.

    `num_slots` sequences (or branches) are held at once. Threads that spin answer faster and burn
    their core between the steps.
    """

    context_length: int
    num_slots: int = 1
    num_threads: int = 2
    is_spinning: bool = False


class CpuModel:
    """A LanguageModel; slots are 0 .. num_slots - 1."""

    def __init__(
        self,
        shape: Gemma3Shape,
        source: MatrixSource,
        settings: CpuSettings,
        head_tokens: HeadTokens | None = None,
    ) -> None:
        assert settings.context_length <= shape.context_length
        self._shape = shape
        self._context_length = settings.context_length
        self._head_tokens = head_tokens
        graph = build_graph(shape, source, settings.context_length, head_tokens)
        self._session = _open_session(graph, settings)
        self._num_head_tokens = shape.vocab_size if head_tokens is None else len(head_tokens)
        self._caches = _make_caches(shape, settings)
        self._lengths = [0] * settings.num_slots
        self._steps: dict[tuple[int, int, int, int], _Step] = {}

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
        """Most adjacent slots of one step: beyond these a further one saves nothing."""
        return _MAX_ROWS

    def length(self, slot: int) -> int:
        """Number of tokens the slot holds; 0 for a slot never fed."""
        return self._lengths[slot]

    def feed(self, slot: int, token_ids: Sequence[int], num_logits: int) -> FloatArray:
        """Append tokens; float32 logits (num_logits, V) after each of the last `num_logits`.

        Tokens outside a cut head have logit -inf.
        """
        assert 0 <= num_logits <= len(token_ids)
        assert self._lengths[slot] + len(token_ids) <= self._context_length, "slot overflows"
        logits = np.empty((num_logits, self._num_head_tokens), np.float32)
        first_wanted = len(token_ids) - num_logits
        for start in range(0, len(token_ids), _MAX_TOKENS):
            part = token_ids[start : start + _MAX_TOKENS]
            num_wanted = min(len(part), max(0, start + len(part) - first_wanted))
            step = self._step(slot, 1, len(part), max(num_wanted, 1))
            step.token_ids[0] = part
            self._run(slot, step)
            if num_wanted:
                done = start + len(part) - num_wanted - first_wanted
                logits[done : done + num_wanted] = step.logits[0]
        return self._over_vocabulary(logits)

    def feed_each(self, first_slot: int, token_ids: Sequence[int]) -> FloatArray:
        """Append one token to each of len(token_ids) adjacent slots: logits (B, V)."""
        step = self._step(first_slot, len(token_ids), 1, 1)
        step.token_ids[:, 0] = token_ids
        self._run(first_slot, step)
        return self._over_vocabulary(step.logits[:, 0].copy())

    def truncate(self, slot: int, length: int) -> None:
        """Forget everything the slot holds beyond its first `length` tokens."""
        assert 0 <= length <= self._lengths[slot], "a slot is cut to a length it has"
        self._lengths[slot] = length

    def copy_slot(self, source: int, slot: int, position: int = 0) -> None:
        """Make `slot` hold what `source` holds; they agree already before `position`."""
        length = self._lengths[source]
        for cache in self._caches.values():
            cache[slot, :, position:length] = cache[source, :, position:length]
        self._lengths[slot] = length

    def _run(self, first_slot: int, step: _Step) -> None:
        """Feed the step's tokens into its slots."""
        num_slots, num_tokens = step.token_ids.shape
        for slot in range(first_slot, first_slot + num_slots):
            self._lengths[slot] += num_tokens
        lengths = self._lengths[first_slot : first_slot + num_slots]
        step.last_index[:] = lengths
        step.last_index -= 1
        step.total_length[...] = max(lengths)
        self._session.run_with_iobinding(step.binding)

    def _step(self, first_slot: int, num_slots: int, num_tokens: int, num_logits: int) -> _Step:
        """Buffers for a step of this form."""
        key = (first_slot, num_slots, num_tokens, num_logits)
        if key in self._steps:
            return self._steps[key]
        stop = first_slot + num_slots
        caches = {name: cache[first_slot:stop] for name, cache in self._caches.items()}
        logits = np.zeros((num_slots, num_logits, self._num_head_tokens), np.float32)
        step = _Step(self._session, caches, num_tokens, logits)
        if num_tokens <= _KEPT_TOKENS:
            self._steps[key] = step
        return step

    def _over_vocabulary(self, logits: FloatArray) -> FloatArray:
        """Logits (n, V) from logits (n, N) of the head's tokens."""
        if self._head_tokens is None:
            return logits
        spread = np.full((len(logits), self.vocab_size), -np.inf, np.float32)
        spread[:, self._head_tokens] = logits
        return spread


class _Step:
    """Inputs and outputs of a step of one form, bound to the session once."""

    def __init__(
        self,
        session: ort.InferenceSession,
        caches: dict[str, FloatArray],
        num_tokens: int,
        logits: FloatArray,
    ) -> None:
        num_slots, num_logits, _ = logits.shape
        self.token_ids = np.zeros((num_slots, num_tokens), np.int64)
        self.last_index = np.zeros(num_slots, np.int32)
        self.total_length = np.zeros((), np.int32)
        self.logits = logits
        self.binding = session.io_binding()
        self._wanted = np.arange(num_tokens - num_logits, num_tokens)
        self._bind("token_ids", self.token_ids)
        self._bind("last_index", self.last_index)
        self._bind("total_length", self.total_length)
        self._bind("wanted", self._wanted)
        self._bind("logits", self.logits, is_output=True)
        for name, cache in caches.items():
            self._bind(name, cache)
            self._bind(f"new_{name}", cache, is_output=True)

    def _bind(self, name: str, array: NDArray[np.generic], is_output: bool = False) -> None:
        """Let the session read or write `array` itself."""
        value = ort.OrtValue.ortvalue_from_numpy(array)
        if is_output:
            self.binding.bind_ortvalue_output(name, value)
        else:
            self.binding.bind_ortvalue_input(name, value)


def _open_session(graph: Graph, settings: CpuSettings) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    spinning = "1" if settings.is_spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in graph.weights.values()]
    options.add_external_initializers(list(graph.weights), values)
    return ort.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])


def _make_caches(shape: Gemma3Shape, settings: CpuSettings) -> dict[str, FloatArray]:
    """Zeroed keys and values of every layer, by the names of the graph's inputs."""
    size = (settings.num_slots, shape.num_kv_heads, settings.context_length, shape.head_dim)
    return {
        f"{part}_{layer}": np.zeros(size, np.float32)
        for layer in range(shape.num_layers)
        for part in ("key", "value")
    }
