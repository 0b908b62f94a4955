"""A draft on the CPU whose steps take as long as another device's would: times are emulated."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from draft.branching import BranchingDrafter
from draft.cpu import CpuModel, CpuSettings
from specdec.checkpoint import open_checkpoint
from specdec.head_tokens import read_head_tokens
from specdec.types import FloatArray

NUM_ROWS = 8


class PacedModel(CpuModel):
    """No step is faster than `step_s`, however many rows (up to 4) it feeds."""

    max_rows = 4
    step_s = 0.0

    def feed(self, slot: int, token_ids: Sequence[int], num_logits: int) -> FloatArray:
        """As the CPU's, and then asleep."""
        start = time.perf_counter()
        logits = super().feed(slot, token_ids, num_logits)
        self._sleep(start)
        return logits

    def feed_each(self, first_slot: int, token_ids: Sequence[int]) -> FloatArray:
        """As the CPU's, and then asleep."""
        start = time.perf_counter()
        logits = super().feed_each(first_slot, token_ids)
        self._sleep(start)
        return logits

    def _sleep(self, start: float) -> None:
        time.sleep(max(0.0, self.step_s - (time.perf_counter() - start)))


@dataclass(frozen=True, slots=True)
class PacedDraft:
    """A picklable recipe of a drafter on a paced model."""

    directory: Path
    context_length: int
    step_s: float
    num_threads: int = 1

    def model(self) -> PacedModel:
        """Open the model."""
        checkpoint = open_checkpoint(self.directory)
        shape = checkpoint.info.shape
        settings = CpuSettings(self.context_length, NUM_ROWS, self.num_threads)
        head_tokens = read_head_tokens(self.directory, shape.vocab_size)
        model = PacedModel(shape, checkpoint, settings, head_tokens)
        model.step_s = self.step_s
        return model

    def __call__(self) -> BranchingDrafter:
        """Open the model and draft with it."""
        name = "cpu" if not self.step_s else f"cpu, {self.step_s * 1e3:g} ms a step (emulated)"
        return BranchingDrafter(self.model(), name, num_branches=NUM_ROWS - 1)
