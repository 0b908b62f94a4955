"""The target model on a Vulkan device: a Verifier; it knows no drafts and no acceptance."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack

from specdec.gemma3.loading import MatrixSource
from specdec.gemma3.shape import Gemma3Shape
from specdec.types import FloatArray, SamplingParams, Segment
from specdec.weights import Bits
from target.kvcache import KvCache
from target.memory_needs import MemoryNeeds, check_memory, memory_needs
from target.operators import Operators
from target.packing import PackedModel, Progress, WeightMap
from target.pass_sizes import BLOCK_ROWS, prefill_passes, prefill_rows_for
from target.plan import Head, Plan
from target.sizes import KvFormat, RunSizes, fit_rows
from target.step import StepBuffer, cut_into_passes
from target.tuned_products import tuning_for
from target.tuning import Tuning
from target.vulkan import Device

_log = logging.getLogger(__name__)


class VulkanVerifier:
    """Implements specdec.types.Verifier on a device that it owns and gives back at `release`."""

    def __init__(
        self, device: Device, sizes: RunSizes, tuning: Tuning, source: MatrixSource, load: Progress
    ) -> None:
        """Use `open_verifier`; on an error everything, the device included, is given back."""
        self._device = device
        self._sizes = sizes
        self._tuning = tuning
        self._sampling: dict[int, SamplingParams] = {}
        self._log_probs: dict[int, tuple[float, ...]] = {}  # of the last pass, by slot
        with ExitStack() as held:
            held.callback(device.release)
            weights = WeightMap(sizes, device)
            self._needs = memory_needs(device, weights)
            check_memory(device, self._needs)
            _log.info("%s takes %s", device.info.name, self._needs)
            model = PackedModel(device, weights, source, load)
            held.callback(model.release)
            self._cache = KvCache(device, sizes)
            held.callback(self._cache.release)
            self._step = StepBuffer(device, sizes)
            held.callback(self._step.release)
            operators = Operators(device, sizes, tuning)
            held.callback(operators.release)
            self._plan = Plan(operators, model, self._cache, self._step)
            held.callback(self._plan.release)
            for rows in sizes.pass_sizes:
                self._record(rows, Head.CHOOSE)
            for rows in sizes.prefill_sizes:
                self._record(rows, Head.NONE)
            self._held = held.pop_all()

    @property
    def device(self) -> str:
        """Name of the Vulkan device."""
        return self._device.info.name

    @property
    def numerics_id(self) -> str:
        """Names everything that fixes the order of float operations on this device."""
        return f"{self._tuning.numerics_id} kv={self._sizes.kv}"

    @property
    def context_length(self) -> int:
        """Most tokens a slot can hold."""
        return self._sizes.context_length

    @property
    def max_pass_tokens(self) -> int:
        """Most tokens that one pass can take, all segments together."""
        return self._sizes.pass_rows

    @property
    def pass_sizes(self) -> tuple[int, ...]:
        """Sizes that passes are padded up to."""
        return self._sizes.pass_sizes

    @property
    def memory(self) -> MemoryNeeds:
        """Bytes in use on the device, by part."""
        return self._needs

    @property
    def messages(self) -> list[str]:
        """What the validation layer said so far; empty without validation."""
        return self._device.messages

    def open(self, slot: int, sampling: SamplingParams) -> None:
        """Start an empty sequence in `slot`."""
        self._cache.open(slot)
        self._sampling[slot] = sampling
        head = _head_for([sampling])
        for rows in self._sizes.pass_sizes:
            self._record(rows, head)

    def length(self, slot: int) -> int:
        """Number of tokens the slot holds; 0 for a closed one."""
        return self._cache.length(slot)

    def prefill(self, *segments: Segment) -> None:
        """Feed prompt tokens of one or several slots without choosing, in full passes."""
        count = sum(len(segment.token_ids) for segment in segments)
        counts = prefill_passes(count, self._sizes.prefill_rows)
        for part in cut_into_passes(segments, counts):
            self._feed(part, Head.NONE)

    def verify(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        """Feed every segment in one pass; for each, the target's token after each fed token."""
        head = _head_for([self._sampling[segment.slot] for segment in segments])
        if head is not Head.CHOOSE:
            self._step.write_sampling(segments, self._sampling)
        self._feed(segments, head)
        row = 0
        for segment in segments:
            count = len(segment.token_ids)
            if self._sampling[segment.slot].log_probs:
                self._log_probs[segment.slot] = self._step.chosen_log_probs(row, count)
            row += count
        ids = iter(self._step.chosen_ids(row))
        return [tuple(next(ids) for _ in segment.token_ids) for segment in segments]

    def log_probs(self, slot: int) -> tuple[float, ...]:
        """Log-probability of each token that the last pass chose for `slot`, if asked for."""
        return self._log_probs.get(slot, ())

    def logits(self, segments: Sequence[Segment]) -> FloatArray:
        """Feed segments in one pass; logits (rows, V) of all their tokens, in order."""
        self._feed(segments, Head.LOGITS)
        return self._plan.logits(sum(len(segment.token_ids) for segment in segments))

    def profile_ms(self, segments: Sequence[Segment]) -> dict[str, float]:
        """Milliseconds by operation of one greedy pass, the most first; the slots keep nothing."""
        rows = sum(len(segment.token_ids) for segment in segments)
        group_rows = self._step.write(segments, rows)
        return self._plan.profile_ms(rows, group_rows, Head.CHOOSE)

    def _record(self, rows: int, head: Head) -> None:
        """Prepare the pass of one segment; those of several are recorded when they first come."""
        self._plan.record(rows, self._sizes.group_rows([rows]), head)

    def _feed(self, segments: Sequence[Segment], head: Head) -> None:
        count = sum(len(segment.token_ids) for segment in segments)
        for segment in segments:
            held = self._cache.length(segment.slot)
            assert segment.position == held, f"position {segment.position}, slot holds {held}"
            self._cache.append(segment.slot, len(segment.token_ids))
        options = self._sizes.prefill_sizes if head is Head.NONE else self._sizes.pass_sizes
        assert count <= options[-1], "too many tokens for one pass"
        rows = next(rows for rows in options if rows >= count)
        group_rows = self._step.write(segments, rows)
        self._plan.run(rows, group_rows, head)

    def truncate(self, slot: int, length: int) -> None:
        """Forget what the slot holds beyond `length`; CutTooDeepError where rings lack it."""
        self._cache.truncate(slot, length)

    def copy_prefix(self, source: int, slot: int, length: int) -> None:
        """Let the empty `slot` hold `source`'s first `length` tokens, as though fed with them."""
        self._cache.copy_prefix(source, slot, length)

    def close(self, slot: int) -> None:
        """Free the slot."""
        self._cache.close(slot)
        self._sampling.pop(slot, None)
        self._log_probs.pop(slot, None)

    def release(self) -> None:
        """Give back the device and all memory; safe to call twice."""
        self._held.close()


def _head_for(samplings: Sequence[SamplingParams]) -> Head:
    """The least head that serves them all; greedy choices are the same from each."""
    if any(sampling.log_probs for sampling in samplings):
        return Head.SCORE
    if any(sampling.temperature > 0.0 for sampling in samplings):
        return Head.SAMPLE
    return Head.CHOOSE


def open_verifier(
    source: MatrixSource,
    shape: Gemma3Shape,
    head_bits: Bits,
    device: Device,
    *,
    context_length: int,
    num_slots: int = 1,
    max_pass_tokens: int = BLOCK_ROWS,
    kv: KvFormat = "fp16",
    load: Progress = lambda _done_bytes, _total_bytes: None,
    tuning: Tuning | None = None,
) -> VulkanVerifier:
    """Load a model onto a device, which the verifier then owns.

    `max_pass_tokens` is one of PASS_ROWS; where bindings are too small for it, passes are smaller.
    `load` hears the bytes loaded and in all. DeviceError says what is needed and available where
    the device has too little memory; nothing has been loaded then.
    """
    tuning = tuning or tuning_for(device.info)
    sizes = RunSizes(
        shape,
        head_bits,
        context_length,
        num_slots,
        prefill_rows_for(context_length, tuning.prefill_rows),
        tuning.attention_chunk,
        tuning.attention_rows,
        kv,
        max_pass_tokens,
        tuning.attention_pass_rows,
    )
    sizes = fit_rows(sizes, device.memory.binding_limit_bytes)
    return VulkanVerifier(device, sizes, tuning, source, load)
