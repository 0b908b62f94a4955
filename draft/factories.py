"""Picklable recipes of drafters, so that a worker process can build its own; they load nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from draft.branching import BranchingDrafter
from draft.reference import ModelDrafter
from specdec.checkpoint import open_checkpoint
from specdec.errors import DeviceError
from specdec.gemma3.loading import from_checkpoint
from specdec.head_tokens import read_head_tokens

_NUM_BRANCHES = 7  # of a sequence that has the model for itself


@dataclass(frozen=True, slots=True)
class ReferenceDraft:
    """A converted model on the numpy reference."""

    directory: Path
    context_length: int

    def __call__(self) -> ModelDrafter:
        """Open the model."""
        checkpoint = open_checkpoint(self.directory)
        shape = replace(checkpoint.info.shape, context_length=self.context_length)
        return ModelDrafter(from_checkpoint(checkpoint, shape), "reference")


@dataclass(frozen=True, slots=True)
class CpuDraft:
    """A converted model on ONNX Runtime, with the head that its conversion chose."""

    directory: Path
    context_length: int
    num_slots: int = 1
    num_threads: int = 2

    def __call__(self) -> BranchingDrafter:
        """Open the model; DeviceError where ONNX Runtime is not installed."""
        try:
            from draft.cpu import CpuModel, CpuSettings
        except ImportError as error:
            raise DeviceError(
                f"draft.device = cpu needs the package {error.name}: "
                "pip install 'specdec[cpu]', or choose another draft.device"
            ) from error
        checkpoint = open_checkpoint(self.directory)
        shape = checkpoint.info.shape
        num_branches = _NUM_BRANCHES if self.num_slots == 1 else 0
        num_rows = self.num_slots + num_branches
        settings = CpuSettings(self.context_length, num_rows, self.num_threads)
        head_tokens = read_head_tokens(self.directory, shape.vocab_size)
        model = CpuModel(shape, checkpoint, settings, head_tokens)
        return BranchingDrafter(model, "cpu", self.num_slots, num_branches)
