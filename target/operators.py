"""The operations of a pass as dispatches: which shader, which bindings, which grid.

It knows each shader's interface (its header in shaders/) and nothing of their order in a model.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping, Sequence

from specdec.gemma3.shape import GROUP
from specdec.weights import TILE_ROWS
from target.packing import PackedMatrix
from target.programs import Program
from target.sizes import RunSizes
from target.tuning import FORMS, GemmTuning, Tuning, runnable
from target.vulkan import DescriptorPool, Device, Recorder, Region

Grid = tuple[int, int, int]
_log = logging.getLogger(__name__)


class Operators:
    """Programs and descriptor sets, made when first used and kept; appends to a recorder."""

    def __init__(self, device: Device, sizes: RunSizes, tuning: Tuning) -> None:
        self.device = device
        self.sizes = sizes
        self.tuning = tuning
        self._pool = DescriptorPool(device)
        self._programs: dict[tuple[object, ...], Program] = {}
        self._sets: dict[tuple[object, ...], object] = {}
        wants_matrices = any(gemm.form in ("matrix", "panel") for gemm in tuning.products.values())
        if wants_matrices and not device.info.has_cooperative_matrix:
            _log.warning("%s lacks cooperative matrices; using integer dots", device.info.name)

    def embed(
        self, recorder: Recorder, rows: int, step: Region, matrix: PackedMatrix, x: Region
    ) -> None:
        """x = embedding of each row's token, times the square root of the hidden size."""
        hidden = self.sizes.shape.hidden_size
        program = self._program("embed", {"BITS": matrix.bits}, {"HIDDEN": hidden})
        grid = (-(-hidden // GROUP // 64) or 1, rows, 1)
        for part in matrix.parts:
            first, count = part.extent.first_row, part.extent.num_tiles * TILE_ROWS
            push = struct.pack("<IIf", first, count, float(hidden) ** 0.5)
            self._dispatch(recorder, program, [step, part.packed, part.scales, x], grid, push)

    def norm_quantize(
        self, recorder: Recorder, rows: int, x: Region, factor: Region, out: Sequence[Region]
    ) -> None:
        """Out = quantised RMS norm of x."""
        program = self._program("norm_quantize", {}, self._norm_constants())
        self._dispatch(recorder, program, [x, factor, *out], (rows, 1, 1))

    def residual_norm_quantize(
        self,
        recorder: Recorder,
        rows: int,
        x: Region,
        y: Region,
        factors: tuple[Region, Region],
        out: Sequence[Region],
    ) -> None:
        """x += norm of y; out = quantised norm of x."""
        program = self._program("residual_norm_quantize", {}, self._norm_constants())
        self._dispatch(recorder, program, [x, y, *factors, *out], (rows, 1, 1))

    def _norm_constants(self) -> dict[str | int, int | float]:
        shape = self.sizes.shape
        return {
            "HIDDEN": shape.hidden_size,
            "EPS": shape.rms_norm_eps,
            "THREADS": self.tuning.norm_threads,
        }

    def qk_norm_rope(
        self, recorder: Recorder, rows: int, layer: int, regions: Sequence[Region]
    ) -> None:
        """Queries ready for attention, keys and values into the cache.

        Regions: step, qkv, q factor, k factor, rope, queries, keys, values.
        """
        shape = self.sizes.shape
        constants: dict[str | int, int | float] = {
            **self._head_constants(),
            "EPS": shape.rms_norm_eps,
            "QUERY_SCALE": float(shape.query_pre_attn_scalar**-0.5),
        }
        program = self._program("qk_norm_rope", self._kv_defines(), constants)
        grid = (shape.num_heads + 2 * shape.num_kv_heads, rows, 1)
        push = struct.pack("<I", self.sizes.ring(layer))
        self._dispatch(recorder, program, regions, grid, push)

    def attention(
        self,
        recorder: Recorder,
        group_rows: int,
        layer: int,
        grid: Region,
        regions: Sequence[Region],
    ) -> None:
        """Partial sums over chunks of keys, of up to `group_rows` rows at once.

        Regions: step, queries, keys, values, partials (2), work list.
        """
        constants = self._head_constants()
        constants["CHUNK"] = self.tuning.attention_chunk
        constants["ROWS"] = group_rows
        constants["SHUFFLE"] = self.tuning.attention_shuffle
        program = self._program("attention", self._kv_defines(), constants)
        window = self.sizes.window(layer)
        push = struct.pack("<III", self.sizes.ring(layer), window, self.sizes.max_chunks(window))
        recorder.dispatch_indirect(program, self._bind(program, regions), grid, push)

    def attention_merge(
        self, recorder: Recorder, rows: int, layer: int, regions: Sequence[Region]
    ) -> None:
        """Quantised attention output. Regions: step, partials (2), output (2)."""
        shape, window = self.sizes.shape, self.sizes.window(layer)
        constants: dict[str | int, int | float] = {
            "HEAD_DIM": shape.head_dim,
            "NUM_HEADS": shape.num_heads,
            "CHUNK": self.tuning.attention_chunk,
        }
        program = self._program("attention_merge", {}, constants)
        push = struct.pack("<II", window, self.sizes.max_chunks(window))
        self._dispatch(recorder, program, regions, (shape.num_heads, rows, 1), push)

    def _kv_defines(self) -> dict[str, int]:
        return {"KV_INT8": int(self.sizes.kv == "int8")}

    def _head_constants(self) -> dict[str | int, int | float]:
        shape = self.sizes.shape
        return {
            "HEAD_DIM": shape.head_dim,
            "NUM_HEADS": shape.num_heads,
            "NUM_KV_HEADS": shape.num_kv_heads,
        }

    def matmul(
        self,
        recorder: Recorder,
        rows: int,
        matrix: PackedMatrix,
        activations: Sequence[Region],
        y: Region,
    ) -> None:
        """y [rows][padded rows of the matrix] = matrix times activations."""
        stride = -(-matrix.num_rows // TILE_ROWS) * TILE_ROWS
        self._product(recorder, rows, "gemm", matrix, stride, [*activations], [y])

    def geglu(
        self,
        recorder: Recorder,
        rows: int,
        matrix: PackedMatrix,
        activations: Sequence[Region],
        out: Sequence[Region],
    ) -> None:
        """Out = quantised gelu(gate) x up; the matrix must fit one binding."""
        assert len(matrix.parts) == 1, "gate_up is larger than a binding"
        assert self._gemm_tuning(rows, matrix).tiles % 2 == 0, "a gate tile goes with its up tile"
        stride = matrix.num_rows // 2 // GROUP
        self._product(recorder, rows, "gemm_geglu", matrix, stride, [*activations], [*out])

    def argmax(
        self,
        recorder: Recorder,
        rows: int,
        matrix: PackedMatrix,
        activations: Sequence[Region],
        best: Sequence[Region],
    ) -> int:
        """Largest logit and its id per block of tiles; returns the number of these per row."""
        num_tiles = -(-matrix.num_rows // TILE_ROWS)
        stride = -(-num_tiles // self._gemm_tuning(rows, matrix).tiles)
        self._product(recorder, rows, "gemm_argmax", matrix, stride, [*activations], [*best])
        return stride

    def _product(
        self,
        recorder: Recorder,
        rows: int,
        name: str,
        matrix: PackedMatrix,
        stride: int,
        activations: list[Region],
        out: list[Region],
    ) -> None:
        """One dispatch per part of the matrix; they write different columns, so need no barrier."""
        tuning = runnable(self._gemm_tuning(rows, matrix), self.device.info)
        form = tuning.form
        constants: dict[str | int, int | float] = {
            "M": min(rows, tuning.block),
            "SLICES": tuning.slices,
            "TILES": tuning.tiles,
        }
        if form != "matrix":
            constants["WIDTH"] = tuning.width
        if form != "lanes":
            constants["UNROLL"] = tuning.unroll
        defines = {"BITS": matrix.bits, "INTEGER_DOT": FORMS.index(form)}
        program = self._program(name, defines, constants, tuning.subgroup)
        # a workgroup owns TILES tiles, or as many for each 8 of its lanes
        group_tiles = tuning.tiles * (tuning.width // 8 if form == "lanes" else 1)
        for part in matrix.parts:
            extent = part.extent
            sizes = matrix.num_columns // GROUP, extent.num_tiles, extent.first_row
            push = struct.pack("<5I", *sizes, stride, extent.num_rows)
            grid = (-(-rows // tuning.block), -(-extent.num_tiles // group_tiles), 1)
            regions = [part.packed, part.scales, *activations, *out]
            self._dispatch(recorder, program, regions, grid, push)

    def _gemm_tuning(self, rows: int, matrix: PackedMatrix) -> GemmTuning:
        """Settings of a product: the head's, or those of the layers' matrix."""
        kind = "head" if matrix.name == "embed" else matrix.name.rpartition(".")[2]
        return self.tuning.gemm(kind, rows)

    def choose(
        self, recorder: Recorder, rows: int, num_partials: int, best: Sequence[Region], ids: Region
    ) -> None:
        """Ids = the id of each row's largest logit."""
        program = self._program("choose", {}, {})
        push = struct.pack("<I", num_partials)
        self._dispatch(recorder, program, [*best, ids], (rows, 1, 1), push)

    def sample(self, recorder: Recorder, rows: int, regions: Sequence[Region]) -> None:
        """Ids = each row's token by its sampling parameters.

        Regions: step, parameters, logits [rows][padded vocabulary], ids.
        """
        vocab = self.sizes.shape.vocab_size
        push = struct.pack("<II", vocab, -(-vocab // TILE_ROWS) * TILE_ROWS)
        self._dispatch(recorder, self._program("sample", {}, {}), regions, (rows, 1, 1), push)

    def log_prob(self, recorder: Recorder, rows: int, regions: Sequence[Region]) -> None:
        """Log-probability of each row's id under the softmax of its logits.

        Regions: step, logits [rows][padded vocabulary], ids, log-probabilities.
        """
        vocab = self.sizes.shape.vocab_size
        push = struct.pack("<II", vocab, -(-vocab // TILE_ROWS) * TILE_ROWS)
        self._dispatch(recorder, self._program("log_prob", {}, {}), regions, (rows, 1, 1), push)

    def _program(
        self,
        name: str,
        defines: Mapping[str, int],
        constants: Mapping[str | int, int | float],
        subgroup_size: int = 0,
    ) -> Program:
        key = (name, *sorted(defines.items()), *constants.items(), subgroup_size)
        if key not in self._programs:
            self._programs[key] = Program(self.device, name, defines, constants, subgroup_size)
        return self._programs[key]

    def _bind(self, program: Program, regions: Sequence[Region]) -> object:
        key = (program.num_bindings, *regions)  # sets of equal layouts serve every program
        if key not in self._sets:
            self._sets[key] = self._pool.bind(program, regions)
        return self._sets[key]

    def _dispatch(
        self,
        recorder: Recorder,
        program: Program,
        regions: Sequence[Region],
        grid: Grid,
        push: bytes = b"",
    ) -> None:
        recorder.dispatch(program, self._bind(program, regions), grid, push)

    def release(self) -> None:
        """Destroy programs and sets; no recorded job may run afterwards."""
        self._pool.release()
        for program in self._programs.values():
            program.release()
        self._programs.clear()
        self._sets.clear()
