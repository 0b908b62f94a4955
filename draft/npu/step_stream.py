"""The instruction stream of one step: which bytes go where, in which order; it runs nothing.

A step feeds up to 4 batch rows: row r is column r's. All cores multiply; column r's vector core
does the rest for row r. A phase starts transfers and waits for the data its cores make:

    norm -> qkv -> rope, attention -> o -> residual, norm -> gate, up -> GeGLU -> down -> residual
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from draft.npu.layout import (
    BATCH_ROWS,
    ELEMENT_BYTES,
    KV_PIECE_BYTES,
    NUM_COLUMNS,
    PADDED_ROWS,
    ROW_FLOATS,
    TAG_BYTES,
    TILE_BYTES,
    TILE_ROWS,
    num_row_elements,
    tiles_per_core,
)
from draft.npu.memory_map import NUM_CHANNELS, TOP_COLUMN_BYTES, MemoryMap, Product
from draft.npu.shim import Direction, ShimBd, StreamBuilder, Transfer

WEIGHTS, IO, KV = 0, 1, 2  # buffers, as address patches count them
_WORD = 4
_ELEMENT = ELEMENT_BYTES // _WORD
_TILES, _ROWS = 0, 1  # output channels of a column
_VECTOR = 1  # input channel of the vector core
_MAX_SLICES = 3  # products between two waits: 5 descriptors each, a column has 16


@dataclass(frozen=True, slots=True)
class StepForm:
    """What distinguishes the stream of a step from that of another.

    `slots` has one entry per batch row; in a chain they are one slot's consecutive tokens. Of
    each local and global layer so many tiles of keys and values are read.
    """

    slots: tuple[int, ...]
    is_chain: bool
    num_tiles: tuple[int, int]
    has_head: bool


def elements(argument: int, offset: int, count: int = 1, step: int = _ELEMENT) -> Transfer:
    """`count` elements that begin `step` words apart."""
    if step == _ELEMENT or count == 1:
        return Transfer(argument, offset, ShimBd(count * _ELEMENT))
    bd = ShimBd(count * _ELEMENT, d0_size=_ELEMENT, d1_step=step)
    return Transfer(argument, offset, bd)


def build_step(memory: MemoryMap, form: StepForm) -> bytes:
    """The stream of a step."""
    return _StepStream(memory, form).build()


class _StepStream:
    def __init__(self, memory: MemoryMap, form: StepForm) -> None:
        self._memory, self._form = memory, form
        self._weights, self._io = memory.weights, memory.io
        self._rows = range(len(form.slots))
        self._stream = StreamBuilder()

    def build(self) -> bytes:
        """All layers, then the head; without it the last layer only makes its key and value."""
        layers = self._weights.layers
        for row in self._rows:
            loads = [elements(IO, self._io.hidden + row * ELEMENT_BYTES)]
            self._norm(row, loads, layers[0].input_norm)
        self._drain()
        for index, layer in enumerate(layers):
            self._multiply([layer.qkv])
            is_last = index + 1 == len(layers)
            if is_last and not self._form.has_head:
                self._rope(index)
                break
            self._attention(index)
            self._multiply([layer.o])
            self._residual(layer.post_attention, [layer.o], layer.pre_feedforward_norm)
            self._multiply([layer.gate_up])
            self._geglu(layer.gate_up)
            self._multiply(layer.down)
            following = self._weights.final_norm if is_last else layers[index + 1].input_norm
            self._residual(layer.post_feedforward, layer.down, following)
        if self._form.has_head:
            self._head()
        return self._stream.encode()

    def _multiply(self, products: Sequence[Product]) -> None:
        """Rows of the products, slice after slice, from the activations of the rows in use."""
        order = iter(enumerate(products))
        while part := list(islice(order, _MAX_SLICES)):
            for column in range(NUM_COLUMNS):
                drains = [self._tiles(column, index, product) for index, product in part]
                self._stream.task(column, Direction.S2MM, _TILES, drains, token=True)
                self._send(column, part)
            self._drain_tiles()

    def _send(self, column: int, products: Sequence[tuple[int, Product]]) -> None:
        for channel in range(NUM_CHANNELS):
            transfers = []
            for index, product in products:
                offset = self._io.activations + index * BATCH_ROWS * ELEMENT_BYTES
                transfers.append(elements(IO, offset, len(self._rows)))
                offset = product.channel_offset(column, channel)
                transfers.append(elements(WEIGHTS, offset, product.num_elements))
            self._stream.task(column, Direction.MM2S, channel, transfers)

    def _tiles(self, column: int, index: int, product: Product) -> Transfer:
        """Joined tiles of a column into rows (4, padded_rows) of float32."""
        num_tiles = tiles_per_core(product.num_rows)
        first = PADDED_ROWS // NUM_COLUMNS * num_tiles * column
        offset = self._product_row(index, product.padded_rows, 0) + _WORD * first
        bd = ShimBd(
            num_tiles * NUM_COLUMNS * TILE_BYTES // _WORD,
            d0_size=TILE_ROWS,
            d1_size=BATCH_ROWS,
            d1_step=product.padded_rows,
            d2_step=TILE_ROWS,
        )
        return Transfer(IO, offset, bd)

    def _product_row(self, index: int, padded_rows: int, row: int) -> int:
        return self._io.products + _WORD * padded_rows * (BATCH_ROWS * index + row)

    def _drain_tiles(self) -> None:
        for column in range(NUM_COLUMNS):
            self._stream.wait(column, Direction.S2MM, _TILES)
            for channel in range(NUM_CHANNELS):
                self._stream.finish(column, Direction.MM2S, channel)

    def _head(self) -> None:
        """Every core's best; each column's 8 tiles as they come."""
        for column in range(NUM_COLUMNS):
            offset = self._io.top + column * TOP_COLUMN_BYTES
            best = Transfer(IO, offset, ShimBd(TOP_COLUMN_BYTES // _WORD))
            self._stream.task(column, Direction.S2MM, _TILES, [best], token=True)
            self._send(column, [(0, self._weights.head)])
        self._drain_tiles()

    def _vector(self, row: int, loads: list[Transfer], stores: list[Transfer]) -> None:
        """Messages for a row's vector core and where the rows it makes go."""
        self._stream.task(row, Direction.S2MM, _ROWS, stores, token=True)
        self._stream.task(row, Direction.MM2S, _VECTOR, loads)

    def _drain(self) -> None:
        for row in self._rows:
            self._stream.wait(row, Direction.S2MM, _ROWS)
            self._stream.finish(row, Direction.MM2S, _VECTOR)

    def _activation(self, row: int, index: int = 0) -> Transfer:
        offset = self._io.activations + (BATCH_ROWS * index + row) * ELEMENT_BYTES
        return elements(IO, offset)

    def _norm(self, row: int, loads: list[Transfer], norm: int) -> None:
        """Whatever `loads` do to the residual stream, then its norm as the next activations."""
        loads = [*loads, elements(WEIGHTS, norm + row * ELEMENT_BYTES)]
        self._vector(row, loads, [self._activation(row)])

    def _residual(self, start: int, products: Sequence[Product], norm: int) -> None:
        ld = products[0].padded_rows
        for row in self._rows:
            rows = self._product_row(0, ld, row) - TAG_BYTES
            parts = elements(IO, rows, len(products), BATCH_ROWS * ld)
            self._norm(row, [elements(WEIGHTS, start), parts], norm)
        self._drain()

    def _geglu(self, gate_up: Product) -> None:
        for row in self._rows:
            loads, stores = [], []
            for index, part in enumerate(self._weights.geglu):
                first = self._product_row(0, gate_up.padded_rows, row) + 2 * _WORD * part.first
                count = num_row_elements(2 * part.size)
                loads.append(elements(WEIGHTS, part.offset + row * ELEMENT_BYTES))
                loads.append(elements(IO, first - TAG_BYTES, count, ROW_FLOATS))
                stores.append(self._activation(row, index))
            self._vector(row, loads, stores)
        self._drain()

    def _rope(self, layer: int) -> None:
        """Only keys and values."""
        for row in self._rows:
            self._vector(row, self._rope_loads(layer, row), [self._kv_row(layer, row)])
        self._drain()

    def _attention(self, layer: int) -> None:
        if self._form.is_chain and len(self._rows) > 1:
            self._rope(layer)  # later tokens of a chain attend to earlier ones
            for row in self._rows:
                loads = self._earlier(layer, row) + self._attend_loads(layer, row)
                self._vector(row, loads, [self._activation(row)])
        else:
            for row in self._rows:
                loads = self._rope_loads(layer, row) + self._attend_loads(layer, row)
                self._vector(row, loads, [self._kv_row(layer, row), self._activation(row)])
        self._drain()

    def _kv_row(self, layer: int, row: int) -> Transfer:
        return elements(IO, self._io.kv_row(row, layer))

    def _earlier(self, layer: int, row: int) -> list[Transfer]:
        if row == 0:
            return []
        step = (self._io.kv_row(1, 0) - self._io.kv_row(0, 0)) // _WORD
        return [elements(IO, self._io.kv_row(0, layer), row, step)]

    def _rope_loads(self, layer: int, row: int) -> list[Transfer]:
        shape, place = self._memory.shape, self._weights.layers[layer]
        position = BATCH_ROWS * self._memory.kv.kind(layer) + row
        heads = self._product_row(0, place.qkv.padded_rows, row) - TAG_BYTES
        count = num_row_elements(shape.query_size + 2 * shape.kv_size)
        return [
            elements(IO, self._io.positions + position * ELEMENT_BYTES),
            elements(WEIGHTS, place.rope),
            elements(IO, heads, count, ROW_FLOATS),
        ]

    def _attend_loads(self, layer: int, row: int) -> list[Transfer]:
        kv = self._memory.kv
        num_tiles = self._form.num_tiles[kv.kind(layer)]
        tiles = kv.layer(self._form.slots[row], layer) - TAG_BYTES
        num_pieces = num_tiles * kv.tile_bytes // KV_PIECE_BYTES
        return [
            elements(WEIGHTS, self._weights.attend[num_tiles]),
            elements(KV, tiles, num_pieces, KV_PIECE_BYTES // _WORD),
            elements(WEIGHTS, self._weights.finish + row * ELEMENT_BYTES),
        ]


def build_echo(memory: MemoryMap) -> bytes:
    """A stream that sends the first element of each buffer through a core and back."""
    stream = StreamBuilder()
    for argument in (WEIGHTS, IO, KV):
        stores = [elements(IO, memory.io.echoes + argument * ELEMENT_BYTES)]
        stream.task(0, Direction.S2MM, _ROWS, stores, token=True)
        loads = [elements(argument, 0), elements(IO, memory.io.store)]
        stream.task(0, Direction.MM2S, _VECTOR, loads)
        stream.wait(0, Direction.S2MM, _ROWS)
        stream.finish(0, Direction.MM2S, _VECTOR)
    return stream.encode()
