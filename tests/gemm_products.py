"""The matrix product shaders as functions of numpy arrays, and cases to feed them; no test."""

from dataclasses import dataclass, field

import numpy as np
from activation_rows import from_blocks, padded, to_blocks
from numpy.typing import NDArray
from vulkan_harness import Bench

from specdec.gemma3.shape import GROUP
from specdec.weights import TILE_ROWS, Bits, QuantizedMatrix, pack
from target.programs import Program
from target.vulkan import Device

F32 = np.float32
MAX_ROWS = 16
LARGEST: dict[Bits, int] = {4: 8, 8: 127}
NO_ID = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Variant:
    """How a product is computed; only `slices` may change its bits."""

    integer_dot: bool
    block: int = MAX_ROWS  # M
    tiles: int = 2
    width: int = 0  # 0: the shader's own
    unroll: int = 1
    slices: int = 1
    panel: bool = False  # needs a width
    stand_in: bool = False  # for cooperative matrices

    def defines(self, bits: Bits) -> dict[str, int]:
        if self.panel:
            return {"BITS": bits, "INTEGER_DOT": 3} | ({"STAND_IN": 1} if self.stand_in else {})
        return {"BITS": bits, "INTEGER_DOT": int(self.integer_dot)}

    def constants(self) -> dict[str, int]:
        chosen = {"M": self.block, "SLICES": self.slices, "TILES": self.tiles}
        if self.width:
            chosen["WIDTH"] = self.width
        return chosen | ({"UNROLL": self.unroll} if self.integer_dot else {})

    def grid(self, num_rows: int, tiles: int) -> tuple[int, int]:
        clusters = 1 if self.integer_dot or not self.width else self.width // 8
        return -(-num_rows // self.block), -(-tiles // (self.tiles * clusters))


@dataclass(frozen=True, slots=True)
class Case:
    """A weight matrix and quantised activations for it."""

    matrix: QuantizedMatrix
    values: NDArray[np.int8]  # (rows, K)
    factors: NDArray[F32]  # (rows, K / 32)

    @property
    def tiles(self) -> int:
        return len(self.matrix.scales)

    def block(self, start: int, stop: int) -> "Case":
        return Case(self.matrix, self.values[start:stop], self.factors[start:stop])

    def exact(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The product and the sum of the magnitudes of its groups, float64 (rows, N)."""
        shape = (-1, self.matrix.num_columns // GROUP, GROUP)
        w = self.matrix.values().astype(np.float64).reshape(shape)
        a = self.values.astype(np.float64).reshape(shape)
        scaled_w = w * self.matrix.row_scales().astype(np.float64)[..., None]
        scaled_a = a * self.factors.astype(np.float64)[..., None]
        groups = np.einsum("ngk,mgk->mng", scaled_w, scaled_a)
        return groups.sum(2), np.abs(groups).sum(2)


def random_case(bits: Bits, num_rows: int, num_columns: int, seed: int = 0) -> Case:
    """Weights and activations over their whole range; one zero and one extreme token."""
    rng = np.random.default_rng([seed, bits, num_rows, num_columns])
    low, high = -LARGEST[bits], LARGEST[bits] - (bits == 4)
    weights = rng.integers(low, high, (num_rows, num_columns), np.int8, endpoint=True)
    weights[num_rows // 2] = low
    weights[num_rows // 3] = high
    scales = rng.uniform(-0.02, 0.02, (num_rows, num_columns // GROUP)).astype(np.float16)
    values = rng.integers(-127, 127, (MAX_ROWS, num_columns), np.int8, endpoint=True)
    factors = rng.uniform(0, 0.05, (MAX_ROWS, num_columns // GROUP)).astype(F32)
    values[5], factors[5] = 0, 0
    values[2] = 127
    values[3] = -127
    values[4] = np.where(weights[num_rows // 2] * rng.choice([-1, 1]) < 0, -127, 127)
    return Case(pack(bits, weights, scales), values, factors)


@dataclass(frozen=True, slots=True)
class Products:
    """The shaders on a device; a pipeline is built once, as shapes are push constants."""

    device: Device
    programs: dict[object, Program] = field(default_factory=dict)

    def plain(self, case: Case, variant: Variant) -> NDArray[F32]:
        """float32 (rows, N)."""
        width = case.tiles * TILE_ROWS
        (y,) = self.run("gemm", case, variant, [(len(case.values), width)], [0, width])
        return y.view(F32)[:, : case.matrix.num_rows]

    def geglu(self, case: Case, variant: Variant) -> tuple[NDArray[np.int8], NDArray[F32]]:
        """Quantised activations (rows, N / 2) and their factors (rows, N / 64)."""
        num_rows, groups = len(case.values), case.tiles // 2
        shapes = [(padded(num_rows), groups * 8), (padded(num_rows), groups)]
        found = self.run("gemm_geglu", case, variant, shapes, [0, groups])
        values, factors = (from_blocks(blocks, num_rows, groups) for blocks in found)
        return values.view(np.int8), factors.view(F32)

    def argmax(
        self, case: Case, variant: Variant, first_row: int = 0, partials: int = 0
    ) -> tuple[NDArray[F32], NDArray[np.uint32]]:
        """Best values and ids (rows, partials)."""
        partials = partials or -(-case.tiles // variant.tiles)
        shapes = [(len(case.values), partials)] * 2
        arguments = [first_row, partials, case.matrix.num_rows]
        values, ids = self.run("gemm_argmax", case, variant, shapes, arguments)
        return values.view(F32), ids

    def run(
        self,
        name: str,
        case: Case,
        variant: Variant,
        outputs: list[tuple[int, int]],
        arguments: list[int],
    ) -> list[NDArray[np.uint32]]:
        """One dispatch; outputs as words. A word nobody writes stays 0xFFFFFFFF."""
        key = (name, case.matrix.bits, variant)
        if key not in self.programs:
            defines = variant.defines(case.matrix.bits)
            lanes = 32 if variant.panel and not variant.stand_in else 0
            self.programs[key] = Program(self.device, name, defines, variant.constants(), lanes)
        groups = case.matrix.num_columns // GROUP
        rows = to_blocks(case.values, groups), to_blocks(case.factors, groups)
        inputs = (case.matrix.packed, case.matrix.scales, *rows)
        with Bench(self.device) as bench:
            sheets = [bench.upload(np.full(shape, NO_ID, np.uint32)) for shape in outputs]
            regions = [*(bench.upload(array) for array in inputs), *sheets]
            push = [groups, case.tiles, *arguments]
            grid = variant.grid(len(case.values), case.tiles)
            bench.dispatch(self.programs[key], regions, grid, push)
            bench.run()
            pairs = zip(sheets, outputs, strict=True)
            return [bench.download(sheet, np.uint32).reshape(shape) for sheet, shape in pairs]
