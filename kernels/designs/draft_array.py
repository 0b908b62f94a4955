"""The array configuration of the draft model on npu1, in IRON: one dataflow for every shape.

    shim(c) MM2S h  in_l3_l1_c_h        elements, broadcast to cores (c, 2 + 2h) and (c, 3 + 2h)
    cores (c, 2..5) tiles_l1_l2_c_r     tiles of the products, joined in the memory tile of c
    memory tile(c)  tiles_l2_l3_c       to shim(c) S2MM 0
    core (c, 5)     rows_l1_l3_c        elements of the vector core, to shim(c) S2MM 1

Run-time parameters travel in the elements' tags, so the cores need no registers from the host. It
knows no model. write_manifest.py runs it without a compiler; run by itself it prints MLIR.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from aie.iron import Buffer, Kernel, ObjectFifo, Program, Runtime, Worker
from aie.iron.controlflow import range_
from aie.iron.device import NPU1, Tile
from aie.iron.placers import SequentialPlacer

if TYPE_CHECKING:
    from aie.iron.dataflow import ObjectFifoHandle

NUM_COLUMNS = 4
FIRST_ROW = 2  # of the cores
CORES_PER_COLUMN = 4
VECTOR_ROW = 5
ELEMENT_WORDS = 656
TILE_WORDS = 32
GEMV_MEMORY_WORDS = 18944 // 4  # struct gemv_memory
VECTOR_MEMORY_WORDS = 21696 // 4  # struct vector_memory
STACK_BYTES = 3072

# What the programs are linked from, kernels/aie2/*.cc.
PROGRAMS = {
    "gemv_core.o": ("gemv_core", "gemv_w4a8", "head_top_k"),
    "vector_core.o": (
        *("gemv_core", "gemv_w4a8", "head_top_k", "vector_core", "rms_norm_quantize"),
        *("rope", "attention_decode", "geglu_quantize", "residual_add"),
    ),
}
# The buffers of a run, in the kernel's order from argument 3 on, and their sizes in words while
# compiling: streams address them by patches, so the sizes bind nothing.
ARGUMENTS = {"weights": 1 << 20, "io": 1 << 20, "kv": 1 << 20}


def words(count: int, dtype: type[np.generic] = np.int32) -> Any:
    """Type of a one-dimensional buffer."""
    return np.ndarray[(count,), np.dtype[dtype]]


element_type = words(ELEMENT_WORDS)
tile_type = words(TILE_WORDS, np.float32)
gemv_memory_type = words(GEMV_MEMORY_WORDS)
vector_memory_type = words(VECTOR_MEMORY_WORDS)


def memory_buffer(array_type: Any, name: str) -> Buffer:
    """Memory that a program keeps; zeros mean that no message has begun."""
    (count,) = array_type.__args__[0]
    return Buffer(array_type, initial_value=np.zeros(count, np.int32), name=name)


def gemv_kernels(binary: str) -> tuple[Kernel, Kernel]:
    """Step and emit of the products, from the program `binary`."""
    return (
        Kernel("gemv_core_step", binary, [element_type, gemv_memory_type, np.int32]),
        Kernel("gemv_core_emit", binary, [gemv_memory_type, tile_type]),
    )


def gemv_body(
    elements: ObjectFifoHandle,
    tiles: ObjectFifoHandle,
    memory: Buffer,
    step: Kernel,
    emit: Kernel,
    second: int,
) -> None:
    """Take an element, then send the tiles it has finished: word 0 of the memory counts them."""
    element = elements.acquire(1)
    step(element, memory, second)
    for _ in range_(memory[0]):
        tile = tiles.acquire(1)
        emit(memory, tile)
        tiles.release(1)
    elements.release(1)


def vector_body(
    elements: ObjectFifoHandle,
    tiles: ObjectFifoHandle,
    rows: ObjectFifoHandle,
    memory: Buffer,
    vector_memory: Buffer,
    step: Kernel,
    emit: Kernel,
    vector_step: Kernel,
    vector_emit: Kernel,
    second: int,
) -> None:
    """The same for the products, and for everything between them."""
    element = elements.acquire(1)
    step(element, memory, second)
    for _ in range_(memory[0]):
        tile = tiles.acquire(1)
        emit(memory, tile)
        tiles.release(1)
    vector_step(element, vector_memory, second)
    for _ in range_(vector_memory[0]):
        row = rows.acquire(1)
        vector_emit(vector_memory, row)
        rows.release(1)
    elements.release(1)


def gemv_worker(column: int, row: int, elements: ObjectFifo, tiles: ObjectFifo) -> Worker:
    """A core that multiplies."""
    memory = memory_buffer(gemv_memory_type, f"gemv_memory_{column}_{row}")
    second = (row - FIRST_ROW) % 2
    arguments = [elements.cons(), tiles.prod(), memory, *gemv_kernels("gemv_core.o"), second]
    tile = Tile(column, row)
    return Worker(gemv_body, arguments, placement=tile, stack_size=STACK_BYTES)


def vector_worker(
    column: int, row: int, elements: ObjectFifo, tiles: ObjectFifo, rows: ObjectFifo
) -> Worker:
    """A core that also does what stands between the products."""
    memory = memory_buffer(gemv_memory_type, f"gemv_memory_{column}_{row}")
    vector_memory = memory_buffer(vector_memory_type, f"vector_memory_{column}_{row}")
    binary = "vector_core.o"
    vector_kernels = (
        Kernel("vector_core_step", binary, [element_type, vector_memory_type, np.int32]),
        Kernel("vector_core_emit", binary, [vector_memory_type, element_type]),
    )
    arguments = [elements.cons(), tiles.prod(), rows.prod(), memory, vector_memory]
    arguments += [*gemv_kernels(binary), *vector_kernels, (row - FIRST_ROW) % 2]
    tile = Tile(column, row)
    return Worker(vector_body, arguments, placement=tile, stack_size=STACK_BYTES)


def column_workers(
    column: int, inputs: list[ObjectFifo], joined: ObjectFifo, rows: ObjectFifo
) -> list[Worker]:
    """The four cores of a column and the memory tile that joins their tiles."""
    tiles = joined.prod().join(
        [TILE_WORDS * place for place in range(CORES_PER_COLUMN)],
        placement=Tile(column, 1),
        obj_types=[tile_type] * CORES_PER_COLUMN,
        names=[f"tiles_l1_l2_{column}_{FIRST_ROW + place}" for place in range(CORES_PER_COLUMN)],
    )
    workers = []
    for place in range(CORES_PER_COLUMN):
        row, elements = FIRST_ROW + place, inputs[place // 2]
        if row == VECTOR_ROW:
            workers.append(vector_worker(column, row, elements, tiles[place], rows))
        else:
            workers.append(gemv_worker(column, row, elements, tiles[place]))
    return workers


def draft_array() -> Any:
    """The module: all fifos and workers, and a sequence that names every shim channel once."""
    inputs, joined, rows, workers = [], [], [], []
    for column in range(NUM_COLUMNS):
        inputs += [
            ObjectFifo(element_type, name=f"in_l3_l1_{column}_{channel}", depth=2)
            for channel in range(2)
        ]
        joined_type = words(TILE_WORDS * CORES_PER_COLUMN, np.float32)
        joined.append(ObjectFifo(joined_type, name=f"tiles_l2_l3_{column}", depth=2))
        rows.append(ObjectFifo(element_type, name=f"rows_l1_l3_{column}", depth=2))
        workers += column_workers(column, inputs[-2:], joined[-1], rows[-1])
    runtime = Runtime()
    with runtime.sequence(*(words(size) for size in ARGUMENTS.values())) as (weights, io, _):
        runtime.start(*workers)
        for place, fifo in enumerate(inputs):
            runtime.fill(fifo.prod(), weights, placement=Tile(place // 2, 0))
        for column in range(NUM_COLUMNS):
            shim = Tile(column, 0)
            runtime.drain(joined[column].cons(), io, placement=shim, wait=True)
            runtime.drain(rows[column].cons(), io, placement=shim, wait=True)
    return Program(NPU1(), runtime).resolve_program(SequentialPlacer())


if __name__ == "__main__":
    print(draft_array())
