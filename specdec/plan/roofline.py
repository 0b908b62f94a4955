"""Seconds of passes and draft steps from bytes, operations and dispatches; it runs nothing.

A pass reads the weights and its sequences' caches once and multiplies every weight with every
token: T = max(bytes / read rate, operations / arithmetic rate) + dispatches. An upper bound of
speed where kernels do not overlap the two well.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from specdec.gemma3.shape import Gemma3Shape
from specdec.model_bytes import kv_bytes, kv_read_bytes, num_weights, weight_bytes
from specdec.plan.machines import PlanMachine
from specdec.weights import Bits

PASS_SIZES = (1, 2, 4, 8, 16, 32, 64)  # what passes are padded to
DRAFT_HEAD_TOKENS = 32768  # a draft gives logits for the most frequent tokens only
_LAYER_DISPATCHES, _OTHER_DISPATCHES = 9, 5


@dataclass(frozen=True, slots=True)
class Workload:
    """A target model and the state its passes find."""

    model: str
    shape: Gemma3Shape
    head_bits: Bits
    kv: str = "fp16"
    depth: int = 1024  # tokens before the pass

    @property
    def weights_bytes(self) -> int:
        """Read once by every pass."""
        return weight_bytes(self.shape, self.head_bits)

    @property
    def kv_read_bytes(self) -> int:
        """Read by every pass for each of its sequences."""
        return kv_read_bytes(self.shape, self.depth, self.kv)

    @property
    def kv_held_bytes(self) -> int:
        """Memory that each sequence takes."""
        return kv_bytes(self.shape, self.depth, 1, self.kv)


@dataclass(frozen=True, slots=True)
class PassCost:
    """One pass, modelled."""

    num_tokens: int
    moved_bytes: int
    num_operations: int
    memory_s: float
    arithmetic_s: float
    dispatch_s: float

    @property
    def total_s(self) -> float:
        """The larger of reading and computing, and the dispatches."""
        return max(self.memory_s, self.arithmetic_s) + self.dispatch_s

    @property
    def limit(self) -> str:
        """What decides its time."""
        return "memory" if self.memory_s >= self.arithmetic_s else "arithmetic"


def pass_cost(
    machine: PlanMachine, workload: Workload, num_tokens: int, num_sequences: int = 1
) -> PassCost:
    """A pass of `num_tokens` in all, padded as the target pads it."""
    rows = padded(num_tokens)
    moved = workload.weights_bytes + num_sequences * workload.kv_read_bytes
    operations = 2 * rows * num_weights(workload.shape)
    dispatches = _LAYER_DISPATCHES * workload.shape.num_layers + _OTHER_DISPATCHES
    return PassCost(
        num_tokens,
        moved,
        operations,
        moved / machine.value("read_gb_s") / 1e9,
        operations / machine.value("int8_tops") / 1e12,
        dispatches * machine.value("dispatch_us") / 1e6,
    )


def padded(num_tokens: int) -> int:
    """The pass size that so many tokens run in; beyond the largest, their number."""
    index = bisect_left(PASS_SIZES, num_tokens)
    return PASS_SIZES[index] if index < len(PASS_SIZES) else num_tokens


def scaled_to_measured(
    modelled: Mapping[int, float], measured: Mapping[int, float]
) -> dict[int, float]:
    """Modelled seconds by size times measured / modelled, that ratio on a line in log2(size).

    At measured sizes the result is the measurement; beyond them the nearest ratio holds.
    """
    sizes = sorted(measured)
    ratios = [measured[size] / modelled[size] for size in sizes]
    return {
        size: value * float(np.interp(np.log2(size), np.log2(sizes), ratios))
        for size, value in modelled.items()
    }


@dataclass(frozen=True, slots=True)
class DraftStep:
    """One step of a draft model on a device."""

    device: str
    moved_bytes: int
    step_s: float
    rows: int  # sequences (or branches) that one step serves


def draft_step(machine: PlanMachine, shape: Gemma3Shape, device: str) -> DraftStep:
    """A step with the head cut to the most frequent tokens; reading, then what comes on top."""
    vocab = min(shape.vocab_size, DRAFT_HEAD_TOKENS)
    moved = weight_bytes(replace(shape, vocab_size=vocab), 8)
    read_s = moved / machine.value(f"{device}_gb_s") / 1e9
    rows = 4 if device == "npu" else 1  # the array multiplies four rows for the bytes of one
    return DraftStep(device, moved, read_s + machine.value(f"{device}_step_ms") / 1e3, rows)
