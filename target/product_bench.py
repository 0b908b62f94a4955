"""Times a model's matrix products on a device and compares their bits; it chooses nothing."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from specdec.gemma3.loading import MatrixSource
from specdec.gemma3.shape import GROUP, Gemma3Shape
from specdec.weights import TILE_ROWS, Bits, matrix_sizes
from target.operators import Operators
from target.packing import PackedMatrix, PackedModel, WeightMap
from target.pass_sizes import BLOCK_ROWS
from target.product_space import Product
from target.sizes import RunSizes
from target.tuning import GemmTuning, Tuning
from target.vulkan import Device, Job, MemoryKind, Recorder, Region, Transfer

_CACHED_BYTES = 128 << 20  # as many weights as no cache holds, if the model has them
_MOST_LAYERS = 8
_LEAST_JOB_S = 0.003
_CONTEXT_LENGTH = 64
_SETTLING_S = 0.15  # a GPU that idled while shaders were compiled needs 0.1 s to raise its clock
_SETTLED = 1.1  # of the least time seen

Result = NDArray[np.uint8]


class TimedProduct:
    """A product under certain settings, recorded once over several layers' matrices."""

    def __init__(self, operators: Operators, job: Job, num_runs: int, result: Result) -> None:
        self._operators = operators
        self._job = job
        self._num_runs = num_runs  # of the product in one replay
        self.result = result  # its output's bits for the first matrix
        self._least_s = 0.0  # of all replays; 0.0: none yet

    def run_s(self) -> float:
        """Seconds of one product, from one replay."""
        start = time.perf_counter()
        self._job.run()
        elapsed_s = (time.perf_counter() - start) / self._num_runs
        self._least_s = min(self._least_s or elapsed_s, elapsed_s)
        return elapsed_s

    def settle(self) -> None:
        """Replay until the device is as fast as it was seen to be, for a moment at most."""
        usual_s, until_s = _SETTLED * self._least_s, time.perf_counter() + _SETTLING_S
        while self.run_s() > usual_s and time.perf_counter() < until_s:
            pass

    def release(self) -> None:
        """Free the recording."""
        self._job.release()
        self._operators.release()


class ProductBench:
    """A few layers of a model on a device, random activations; the device is the caller's."""

    def __init__(
        self,
        device: Device,
        source: MatrixSource,
        shape: Gemma3Shape,
        head_bits: Bits,
        tuning: Tuning,
    ) -> None:
        self._device = device
        self._tuning = tuning
        shape = replace(shape, is_global_layer=shape.is_global_layer[: _num_layers(shape)])
        self._sizes = RunSizes(
            shape,
            head_bits,
            _CONTEXT_LENGTH,
            1,
            BLOCK_ROWS,
            tuning.attention_chunk,
            tuning.attention_rows,
        )
        with ExitStack() as held:
            weights = WeightMap(self._sizes, device)
            self._model = PackedModel(device, weights, source, lambda done, total: None)
            held.callback(self._model.release)
            self._transfer = Transfer(device)
            self._buffers: list[Region] = []
            widest = max(columns for _, columns in matrix_sizes(shape).values())
            rng = np.random.default_rng(0)
            values = rng.integers(-127, 128, BLOCK_ROWS * widest, np.int8)
            factors = rng.uniform(0.0, 0.05, BLOCK_ROWS * widest // GROUP).astype(np.float32)
            self._activations = (self._filled(values), self._filled(factors))
            tallest = max(rows for rows, _ in matrix_sizes(shape).values())
            words = 4 * BLOCK_ROWS * (tallest + TILE_ROWS)
            self._outputs = (self._empty(words), self._empty(words))
            self._held = held.pop_all()

    def prepare(self, product: Product, settings: GemmTuning) -> TimedProduct:
        """Compile, run once for the bits, and record enough repeats for a steady time."""
        products = {**self._tuning.products, (product.matrix, product.rows): settings}
        operators = Operators(self._device, self._sizes, replace(self._tuning, products=products))
        matrices = self._matrices(product.matrix)
        job = self._recorded(operators, product, matrices[:1])
        for output in self._outputs:
            self._transfer.write(output, np.zeros(output.size_bytes, np.uint8))
        self._transfer.flush()
        job.run()
        result = self._result(product, settings, matrices[0])
        start = time.perf_counter()
        job.run()
        elapsed_s = time.perf_counter() - start
        job.release()
        repeats = max(1, round(_LEAST_JOB_S / elapsed_s / len(matrices)))
        job = self._recorded(operators, product, matrices * repeats)
        return TimedProduct(operators, job, len(matrices) * repeats, result)

    def release(self) -> None:
        """Free weights and buffers."""
        for region in self._buffers:
            self._device.memory.free(region.buffer)
        self._buffers.clear()
        self._held.close()

    def _matrices(self, name: str) -> list[PackedMatrix]:
        if name == "head":
            return [self._model.matrices["embed"]]
        return [self._model.matrix(i, name) for i in range(self._sizes.shape.num_layers)]

    def _recorded(self, operators: Operators, product: Product, over: list[PackedMatrix]) -> Job:
        recorder = Recorder(self._device, str(product))
        for matrix in over:
            if product.matrix == "head":
                operators.argmax(recorder, product.rows, matrix, self._activations, self._outputs)
            elif product.matrix == "gate_up":
                operators.geglu(recorder, product.rows, matrix, self._activations, self._outputs)
            else:
                output = self._outputs[0]
                operators.matmul(recorder, product.rows, matrix, self._activations, output)
            recorder.barrier()
        return recorder.finish()

    def _result(self, product: Product, settings: GemmTuning, matrix: PackedMatrix) -> Result:
        """What must not depend on the settings."""
        values, ids = (self._transfer.read(output) for output in self._outputs)
        if product.matrix != "head":
            return np.concatenate([values, ids])
        # the best of each block of tiles: how many there are depends on the settings
        num_tiles = -(-matrix.num_rows // TILE_ROWS)
        count = -(-num_tiles // settings.tiles)
        best = values.view(np.float32)[: product.rows * count].reshape(product.rows, count)
        chosen = ids.view(np.uint32)[: product.rows * count].reshape(product.rows, count)
        largest = best.max(axis=1)
        lowest = np.where(best == largest[:, None], chosen, np.uint32(0xFFFFFFFF)).min(axis=1)
        return np.concatenate([largest.view(np.uint8), lowest.view(np.uint8)])

    def _filled(self, values: NDArray[np.generic]) -> Region:
        region = self._empty(values.nbytes)
        self._transfer.write(region, values)
        self._transfer.flush()
        return region

    def _empty(self, size_bytes: int) -> Region:
        alignment = self._device.memory.alignment
        size_bytes = -(-size_bytes // alignment) * alignment
        buffer = self._device.memory.allocate(size_bytes, MemoryKind.DEVICE, "product bench")
        self._buffers.append(buffer.whole)
        return buffer.whole


def speedup(current: TimedProduct, other: TimedProduct, num_pairs: int) -> float:
    """How many times as fast the other is, at least: by medians and by minima, in turn.

    Both, because a busy machine spoils medians now and then, and minima are single samples.
    """
    current.settle()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(num_pairs):
        times[0].append(current.run_s())
        times[1].append(other.run_s())
    medians = statistics.median(times[0]) / statistics.median(times[1])
    return min(medians, min(times[0]) / min(times[1]))


def _num_layers(shape: Gemma3Shape) -> int:
    """So many that every kind of matrix exceeds the caches, if the model is as large as that."""
    sizes = matrix_sizes(shape)
    smallest = min(
        rows * columns // 2 for name, (rows, columns) in sizes.items() if name != "embed"
    )
    return min(shape.num_layers, _MOST_LAYERS, max(1, -(-_CACHED_BYTES // smallest)))
