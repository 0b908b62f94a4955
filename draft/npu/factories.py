"""Picklable recipes of drafters on the NPU, so that a worker process can build its own.

They load nothing until they are called. pyxrt holds the interpreter's lock while it waits, so the
NPU belongs in a process of its own; the emulated one lives there too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from draft.branching import BranchingDrafter
from draft.npu.build import ArrayBuild
from draft.npu.emulated.latency import LatencyModel
from draft.npu.emulated.machine import Faults, Machine
from draft.npu.layout import BATCH_ROWS
from draft.npu.surface import Xrt
from specdec.checkpoint import open_checkpoint
from specdec.head_tokens import read_head_tokens


@dataclass(frozen=True, slots=True)
class NpuDraft:
    """A converted model on the NPU."""

    directory: Path
    context_length: int
    num_slots: int = 1

    def __call__(self) -> BranchingDrafter:
        """Open the device and the model; DeviceError names what is missing and the remedy."""
        from draft.npu.build import find_build
        from draft.npu.probing import open_pyxrt

        xrt = open_pyxrt()
        return _drafter(self, xrt, find_build(), "npu")


@dataclass(frozen=True, slots=True)
class EmulatedNpuDraft:
    """A converted model on the emulated array; with a latency model, runs have modelled times."""

    directory: Path
    context_length: int
    num_slots: int = 1
    latency: LatencyModel | None = None
    faults: Faults = field(default_factory=Faults)

    def __call__(self) -> BranchingDrafter:
        """Open the model; DeviceError where there is no C++ compiler."""
        from draft.npu.build import emulated_build
        from draft.npu.emulated.xrt import EmulatedXrt
        from draft.npu.host_kernels import load

        machine = Machine(load(), self.latency, self.faults)
        return _drafter(self, cast(Xrt, EmulatedXrt(machine)), emulated_build(), "npu-emulated")


def _drafter(
    recipe: NpuDraft | EmulatedNpuDraft, xrt: Xrt, build: ArrayBuild, device: str
) -> BranchingDrafter:
    from draft.npu.model import NpuModel, NpuSettings
    from draft.npu.session import Session

    checkpoint = open_checkpoint(recipe.directory)
    shape = checkpoint.info.shape
    num_branches = BATCH_ROWS - 1 if recipe.num_slots == 1 else 0
    num_rows = recipe.num_slots + num_branches
    settings = NpuSettings(recipe.context_length, num_rows)
    head_tokens = read_head_tokens(recipe.directory, shape.vocab_size)
    model = NpuModel(Session(xrt, build), shape, checkpoint, settings, head_tokens)
    return BranchingDrafter(model, device, recipe.num_slots, num_branches)
