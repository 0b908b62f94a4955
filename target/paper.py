"""A pass on paper: its dispatches and compiled programs, without device memory; it runs nothing.

For devices that exist only as a compiler (RADV's null hardware): what a plan would record is
listed, with regions that have no memory behind them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from specdec.weights import matrix_sizes
from target.kvcache import KvCache
from target.operators import Grid, Operators
from target.packing import PackedMatrix, PackedModel, PackedPart, WeightMap
from target.plan import Head, Plan
from target.programs import Constants, Program
from target.sizes import RunSizes
from target.step import AttentionWork, StepBuffer
from target.tuning import Tuning
from target.vulkan import Buffer, Device, Pipeline, Recorder, Region

_NOTHING = Region(Buffer(None, None, 0, "paper", None), 0, 0)


@dataclass(frozen=True, slots=True)
class PaperDispatch:
    """One dispatch of a pass; `groups` is None where the grid is read at replay."""

    program: Program
    groups: Grid | None
    push: tuple[int, ...]  # words


class PaperPasses:
    """Lists passes of a model that is never loaded; programs are compiled on the device."""

    def __init__(self, device: Device, sizes: RunSizes, tuning: Tuning) -> None:
        self._sizes = sizes
        self._operators = _PaperOperators(device, sizes, tuning)
        weights = WeightMap(sizes, device)
        self.weights_bytes = weights.total_bytes
        self._plan = _PaperPlan(
            self._operators, _PaperModel(weights), _PaperCache(sizes), _PaperStep()
        )

    def dispatches(self, rows: int, head: Head) -> list[PaperDispatch]:
        """The dispatches of a pass over one segment, in order."""
        recorder = _PaperRecorder()
        group_rows = self._sizes.group_rows([rows])
        self._plan.write(recorder, rows, group_rows, head, lambda _: None)
        return recorder.dispatches

    def settings(self, program: Program) -> Mapping[str, int | float]:
        """Defines and specialization constants of a program."""
        return self._operators.settings[program]

    def release(self) -> None:
        """Destroy the programs."""
        self._operators.release()


class _PaperOperators(Operators):
    """Operators that bind nothing and remember what each program was made with."""

    def __init__(self, device: Device, sizes: RunSizes, tuning: Tuning) -> None:
        super().__init__(device, sizes, tuning)
        self.settings: dict[Program, dict[str, int | float]] = {}

    def _program(
        self,
        name: str,
        defines: Mapping[str, int],
        constants: Constants,
        subgroup_size: int = 0,
    ) -> Program:
        program = super()._program(name, defines, constants, subgroup_size)
        given = {str(key): value for key, value in constants.items()}
        self.settings[program] = {**defines, **given}
        return program

    def _bind(self, program: Program, regions: Sequence[Region]) -> object:
        assert len(regions) == program.num_bindings, program.label
        return None


class _PaperModel(PackedModel):
    def __init__(self, weights: WeightMap) -> None:
        self.sizes = weights.sizes
        shapes = matrix_sizes(weights.sizes.shape)
        self.matrices = {
            name: PackedMatrix(
                name,
                weights.bits(name),
                *shapes[name],
                tuple(PackedPart(extent, _NOTHING, _NOTHING) for extent in extents),
            )
            for name, extents in weights.matrices.items()
        }
        self.vectors = dict.fromkeys(weights.vectors, _NOTHING)


class _PaperCache(KvCache):
    def __init__(self, sizes: RunSizes) -> None:
        self.keys = [_NOTHING] * sizes.shape.num_layers
        self.values = self.keys


class _PaperWork(AttentionWork):
    def __init__(self) -> None:
        self.grid = self.entries = _NOTHING


class _PaperStep(StepBuffer):
    def __init__(self) -> None:
        self.rows = self.sampling = self.ids = self.log_probs = _NOTHING
        self.local = self.everything = _PaperWork()


class _PaperPlan(Plan):
    def __init__(
        self, operators: Operators, model: PackedModel, cache: KvCache, step: StepBuffer
    ) -> None:
        self._operators = operators
        self._model = model
        self._cache = cache
        self._step = step
        self._sizes = operators.sizes
        self._scratch = dict.fromkeys(self._sizes.scratch_bytes(), _NOTHING)


class _PaperRecorder(Recorder):
    def __init__(self) -> None:
        self.dispatches: list[PaperDispatch] = []

    def dispatch(self, pipeline: Pipeline, descriptors: object, groups: Grid, push: bytes) -> None:
        self._list(pipeline, groups, push)

    def dispatch_indirect(
        self, pipeline: Pipeline, descriptors: object, groups: Region, push: bytes
    ) -> None:
        self._list(pipeline, None, push)

    def _list(self, pipeline: Pipeline, groups: Grid | None, push: bytes) -> None:
        assert isinstance(pipeline, Program)
        words = struct.unpack(f"<{len(push) // 4}I", push)
        self.dispatches.append(PaperDispatch(pipeline, groups, words))

    def barrier(self) -> None:
        pass
