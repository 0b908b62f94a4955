"""A pass of the model as one recorded command buffer per size; it feeds and decides nothing.

    embed, norm | per layer: qkv, q/k norm + RoPE + KV, attention, merge, o, residual + norm,
    gate_up + GeGLU, down, residual + norm | head, choose or sample, log-probabilities

A replay reads what varies (ids, slots, positions, grids) from the step buffer; it allocates
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from itertools import pairwise

import numpy as np

from specdec.types import FloatArray
from specdec.weights import TILE_ROWS
from target.kvcache import KvCache
from target.operators import Operators
from target.packing import PackedModel
from target.rope import rope_table
from target.step import StepBuffer
from target.vulkan import Buffer, Job, MemoryKind, Recorder, Region, Transfer
from target.vulkan.arena import Arena


class Head(Enum):
    """What a pass computes after its last layer."""

    NONE = "none"  # prefill
    CHOOSE = "choose"  # the greedy choice after every row
    SAMPLE = "sample"  # the choice after every row by its slot's sampling parameters
    SCORE = "score"  # the same with the log-probability of each choice
    LOGITS = "logits"  # all logits, read back: for drafting and for tests


class Plan:
    """Recorded passes of one model over one cache."""

    def __init__(
        self, operators: Operators, model: PackedModel, cache: KvCache, step: StepBuffer
    ) -> None:
        self._operators = operators
        self._model = model
        self._cache = cache
        self._step = step
        self._sizes = operators.sizes
        self._device = operators.device
        self._jobs: dict[tuple[int, int, Head], Job] = {}
        self._logits: Buffer | None = None
        wanted = self._sizes.scratch_bytes()
        self._arena = Arena(self._device.memory, list(wanted.values()), "scratch")
        self._scratch = dict(zip(wanted, self._arena.regions, strict=True))
        self._fill_tables()

    def _fill_tables(self) -> None:
        shape, length = self._sizes.shape, self._sizes.context_length
        transfer = Transfer(self._device)
        for name, theta, factor in (
            ("rope_local", shape.rope_theta_local, 1.0),
            ("rope_global", shape.rope_theta_global, shape.rope_scaling_factor),
        ):
            table = rope_table(shape.head_dim, theta, factor, length)
            transfer.write(self._scratch[name], table)
        transfer.flush()

    def record(self, rows: int, group_rows: int, head: Head) -> Job:
        """The job for a pass of `rows`, recorded when first asked for.

        `group_rows` of them at most share one read of the cache (RunSizes.group_rows).
        """
        key = (rows, group_rows, head)
        if key not in self._jobs:
            recorder = Recorder(self._device, f"pass of {rows} rows, head {head.value}")
            self.write(recorder, rows, group_rows, head, lambda _: None)
            self._jobs[key] = recorder.finish()
        return self._jobs[key]

    def run(self, rows: int, group_rows: int, head: Head) -> None:
        """Replay a pass over what the step buffer says."""
        self.record(rows, group_rows, head).run()

    def logits(self, rows: int) -> FloatArray:
        """Logits (rows, V) of the last pass with Head.LOGITS; a copy."""
        assert self._logits is not None and self._logits.view is not None
        table = self._logits.view.view(np.float32).reshape(self._sizes.pass_rows, -1)
        return table[:rows, : self._sizes.shape.vocab_size].copy()

    def profile_ms(self, rows: int, group_rows: int, head: Head) -> dict[str, float]:
        """Milliseconds by operation of a pass over what the step buffer says, the most first."""
        names: list[str] = []
        recorder = Recorder(self._device, "profile", 16 * (self._sizes.shape.num_layers + 1))

        def mark(name: str) -> None:
            names.append(name)
            recorder.timestamp(len(names))

        recorder.timestamp(0)
        self.write(recorder, rows, group_rows, head, mark)
        job = recorder.finish()
        job.run()
        times_s = job.timestamps_s(len(names) + 1)
        job.release()
        sums: dict[str, float] = {}
        for name, (start, end) in zip(names, pairwise(times_s), strict=False):
            sums[name] = sums.get(name, 0.0) + (end - start) * 1e3
        ordered = sorted(sums.items(), key=lambda item: -item[1])
        return {name: round(value, 4) for name, value in ordered}

    def write(
        self,
        recorder: Recorder,
        rows: int,
        group_rows: int,
        head: Head,
        mark: Callable[[str], None],
    ) -> None:
        """Append a whole pass; `mark` is called with the name of each operation after it."""
        operators, scratch, model = self._operators, self._scratch, self._model
        hidden = self._pair("hidden")
        rows_in, x = self._step.rows, scratch["x"]
        operators.embed(recorder, rows, rows_in, model.matrices["embed"], x)
        recorder.barrier()
        operators.norm_quantize(recorder, rows, x, model.vector(0, "input_norm"), hidden)
        recorder.barrier()
        mark("embed")
        for layer in range(self._sizes.shape.num_layers):
            self._attention(recorder, rows, group_rows, layer, mark)
            self._feed_forward(recorder, rows, layer, mark)
        self._head(recorder, rows, head, mark)

    def _head(self, recorder: Recorder, rows: int, head: Head, mark: Callable[[str], None]) -> None:
        """What follows the last layer."""
        operators, scratch, step = self._operators, self._scratch, self._step
        matrix, hidden = self._model.matrices["embed"], self._pair("hidden")
        if head is Head.CHOOSE:
            best = (scratch["best_values"], scratch["best_ids"])
            count = operators.argmax(recorder, rows, matrix, hidden, best)
            recorder.barrier()
            mark("head")
            operators.choose(recorder, rows, count, best, step.ids)
            mark("choose")
        elif head in (Head.SAMPLE, Head.SCORE):
            operators.matmul(recorder, rows, matrix, hidden, scratch["logits"])
            recorder.barrier()
            mark("logits")
            regions = [step.rows, step.sampling, scratch["logits"], step.ids]
            operators.sample(recorder, rows, regions)
            mark("sample")
            if head is Head.SCORE:
                recorder.barrier()
                regions = [step.rows, scratch["logits"], step.ids, step.log_probs]
                operators.log_prob(recorder, rows, regions)
                mark("log_prob")
        elif head is Head.LOGITS:
            operators.matmul(recorder, rows, matrix, hidden, self._logits_region())
            mark("logits")

    def _pair(self, name: str) -> tuple[Region, Region]:
        """Quantised activations: values and scales."""
        return self._scratch[f"{name}_values"], self._scratch[f"{name}_scales"]

    def _logits_region(self) -> Region:
        if self._logits is None:
            padded = -(-self._sizes.shape.vocab_size // TILE_ROWS) * TILE_ROWS
            size = 4 * self._sizes.pass_rows * padded
            self._logits = self._device.memory.allocate(size, MemoryKind.READBACK, "logits")
        return self._logits.whole

    def _attention(
        self,
        recorder: Recorder,
        rows: int,
        group_rows: int,
        layer: int,
        mark: Callable[[str], None],
    ) -> None:
        """Attention of a layer, added to x; ends with the quantised input of its second half."""
        operators, scratch, model, step = self._operators, self._scratch, self._model, self._step
        is_global = self._sizes.window(layer) == 0
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        partials = scratch["partials"], scratch["summaries"]
        factors = model.vector(layer, "q_norm"), model.vector(layer, "k_norm")
        rope = scratch["rope_global" if is_global else "rope_local"]
        y, q = scratch["y"], scratch["q"]
        qkv, o = model.matrix(layer, "qkv"), model.matrix(layer, "o")
        operators.matmul(recorder, rows, qkv, self._pair("hidden"), y)
        recorder.barrier()
        mark("qkv")
        regions = [step.rows, y, *factors, rope, q, keys, values]
        operators.qk_norm_rope(recorder, rows, layer, regions)
        recorder.barrier()
        mark("qk_norm_rope")
        work = step.everything if is_global else step.local
        regions = [step.rows, q, keys, values, *partials, work.entries]
        operators.attention(recorder, group_rows, layer, work.grid, regions)
        recorder.barrier()
        mark("attention")
        regions = [step.rows, *partials, *self._pair("mixed")]
        operators.attention_merge(recorder, rows, layer, regions)
        recorder.barrier()
        mark("merge")
        operators.matmul(recorder, rows, o, self._pair("mixed"), y)
        recorder.barrier()
        mark("o")
        self._residual(recorder, rows, layer, "post_attention_norm", "pre_feedforward_norm")
        mark("norm")

    def _feed_forward(
        self, recorder: Recorder, rows: int, layer: int, mark: Callable[[str], None]
    ) -> None:
        """The gated half of a layer, added to x; ends with the next layer's quantised input."""
        operators, model = self._operators, self._model
        inner = self._pair("inner")
        gate_up, down = model.matrix(layer, "gate_up"), model.matrix(layer, "down")
        operators.geglu(recorder, rows, gate_up, self._pair("hidden"), inner)
        recorder.barrier()
        mark("gate_up")
        operators.matmul(recorder, rows, down, inner, self._scratch["y"])
        recorder.barrier()
        mark("down")
        self._residual(recorder, rows, layer, "post_feedforward_norm", "")
        mark("norm")

    def _residual(self, recorder: Recorder, rows: int, layer: int, post: str, after: str) -> None:
        """Add the normed y to x and quantise x normed with `after`, or for what follows."""
        model, scratch = self._model, self._scratch
        is_last = layer + 1 == self._sizes.shape.num_layers
        if after:
            factor = model.vector(layer, after)
        elif is_last:
            factor = model.vectors["final_norm"]
        else:
            factor = model.vector(layer + 1, "input_norm")
        factors = model.vector(layer, post), factor
        self._operators.residual_norm_quantize(
            recorder, rows, scratch["x"], scratch["y"], factors, self._pair("hidden")
        )
        recorder.barrier()

    def release(self) -> None:
        """Free jobs and scratch."""
        for job in self._jobs.values():
            job.release()
        self._jobs.clear()
        self._arena.release()
        if self._logits is not None:
            self._device.memory.free(self._logits)
            self._logits = None
