"""Where everything lies in the three buffers of the array; it knows sizes, no contents.

weights   echo, constant messages (norms, starts of messages), matrices; written once
io        echo, messages from the host; activations and products between phases; results
kv        echo, then per slot the tiles of keys and values: rings of local layers, then global ones

Every buffer begins with an element that the echo test sends through the array. Rows and tiles are
read by descriptors that start 64 bytes early and run past the end: hence the gaps.
"""

from __future__ import annotations

from dataclasses import dataclass

from draft.npu.layout import (
    BATCH_ROWS,
    ELEMENT_BYTES,
    KV_POSITIONS,
    MAX_COLUMNS,
    NUM_COLUMNS,
    PADDED_ROWS,
    TAG_BYTES,
    TILE_BYTES,
    num_weight_elements,
    tiles_per_core,
)
from specdec.gemma3.shape import Gemma3Shape

NUM_CHANNELS = 2  # of each direction, per column
TOP_COLUMN_BYTES = 8 * TILE_BYTES  # the head's best: values of 4 cores, then their ids
RING_SLACK = 64  # tokens by which a slot can be cut without losing what a window still sees
_PAGE = 4096


def round_up(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def tile_bucket(num_tiles: int, most: int) -> int:
    """Tiles to read so that at least `num_tiles` are: few different numbers, few streams."""
    power = 1 << max(0, num_tiles - 1).bit_length()
    three_quarters = power * 3 // 4
    return min(three_quarters if num_tiles <= three_quarters else power, most)


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix of num_rows x num_columns, or a slice of one along K, in the weights buffer."""

    name: str
    offset: int
    num_rows: int
    num_columns: int
    first_column: int = 0

    @property
    def num_elements(self) -> int:
        """Elements per channel."""
        return num_weight_elements(self.num_rows, self.num_columns)

    @property
    def padded_rows(self) -> int:
        """Floats of a row of what it makes."""
        return PADDED_ROWS * tiles_per_core(self.num_rows)

    @property
    def num_bytes(self) -> int:
        """Bytes in the weights buffer."""
        return NUM_COLUMNS * NUM_CHANNELS * self.num_elements * ELEMENT_BYTES

    def channel_offset(self, column: int, channel: int) -> int:
        """Where a channel's elements begin."""
        index = NUM_CHANNELS * column + channel
        return self.offset + index * self.num_elements * ELEMENT_BYTES


@dataclass(frozen=True, slots=True)
class GegluSlice:
    """Part of the feed-forward width that fits one product's K; `offset` of 4 message starts."""

    offset: int
    first: int
    size: int


@dataclass(frozen=True, slots=True)
class LayerMap:
    """A layer's constants; norms are 4 messages, one per batch row."""

    input_norm: int
    pre_feedforward_norm: int
    rope: int
    post_attention: int
    post_feedforward: int
    qkv: Product
    o: Product
    gate_up: Product
    down: tuple[Product, ...]


class _Cursor:
    def __init__(self) -> None:
        self.offset = ELEMENT_BYTES  # the echo element

    def take(self, num_bytes: int) -> int:
        start = self.offset
        self.offset = round_up(start + num_bytes, TAG_BYTES)
        return start

    def elements(self, count: int = 1) -> int:
        return self.take(count * ELEMENT_BYTES)

    def product(self, name: str, num_rows: int, num_columns: int, first: int = 0) -> Product:
        place = Product(name, self.offset, num_rows, num_columns, first)
        self.take(place.num_bytes)
        return place


def _slices(size: int) -> list[tuple[int, int]]:
    """Starts and sizes of slices of K that fit a product."""
    starts = range(0, size, MAX_COLUMNS)
    return [(start, min(MAX_COLUMNS, size - start)) for start in starts]


class WeightsMap:
    """The weights buffer."""

    def __init__(self, shape: Gemma3Shape, num_head_rows: int, most_tiles: tuple[int, int]) -> None:
        cursor = _Cursor()
        self.finish = cursor.elements(BATCH_ROWS)
        self.geglu = tuple(
            GegluSlice(cursor.elements(BATCH_ROWS), *part)
            for part in _slices(shape.intermediate_size)
        )
        buckets = {tile_bucket(count, most) for most in most_tiles for count in range(1, most + 1)}
        self.attend = {count: cursor.elements() for count in sorted(buckets)}
        self.layers = tuple(_layer(cursor, shape, index) for index in range(shape.num_layers))
        self.final_norm = cursor.elements(BATCH_ROWS)
        self.head = cursor.product("embed", num_head_rows, shape.hidden_size)
        self.num_bytes = cursor.offset


def _layer(cursor: _Cursor, shape: Gemma3Shape, index: int) -> LayerMap:
    hidden, ffn, name = shape.hidden_size, shape.intermediate_size, f"layers.{index}"
    return LayerMap(
        input_norm=cursor.elements(BATCH_ROWS),
        pre_feedforward_norm=cursor.elements(BATCH_ROWS),
        rope=cursor.elements(),
        post_attention=cursor.elements(),
        post_feedforward=cursor.elements(),
        qkv=cursor.product(f"{name}.qkv", shape.query_size + 2 * shape.kv_size, hidden),
        o=cursor.product(f"{name}.o", hidden, shape.query_size),
        gate_up=cursor.product(f"{name}.gate_up", 2 * ffn, hidden),
        down=tuple(
            cursor.product(f"{name}.down", hidden, size, start) for start, size in _slices(ffn)
        ),
    )


class IoMap:
    """The io buffer: `inputs` are written by the host, `outputs` read by it."""

    def __init__(self, shape: Gemma3Shape, num_slices: int) -> None:
        cursor = _Cursor()
        self.store = cursor.elements()
        self.hidden = cursor.elements(BATCH_ROWS)
        self.positions = cursor.elements(2 * BATCH_ROWS)  # local layers', then global ones'
        self.inputs_bytes = round_up(cursor.offset, _PAGE)
        cursor.offset = self.inputs_bytes
        self.activations = cursor.elements(num_slices * BATCH_ROWS)
        cursor.take(TAG_BYTES)
        rows = max(
            round_up(shape.query_size + 2 * shape.kv_size, PADDED_ROWS),
            round_up(2 * shape.intermediate_size, PADDED_ROWS),
            num_slices * round_up(shape.hidden_size, PADDED_ROWS),
        )
        self.products = cursor.take(4 * BATCH_ROWS * rows)
        cursor.elements()  # a read of the last row runs past its end
        self.outputs = round_up(cursor.offset, _PAGE)
        cursor.offset = self.outputs
        self.echoes = cursor.elements(3)
        self.top = cursor.take(NUM_COLUMNS * TOP_COLUMN_BYTES)
        self.kv_rows = cursor.elements(BATCH_ROWS * shape.num_layers)  # [row][layer]
        self.num_bytes = round_up(cursor.offset, _PAGE)
        self._num_layers = shape.num_layers

    def kv_row(self, row: int, layer: int) -> int:
        """Where a batch row's new key and value of a layer go."""
        return self.kv_rows + (row * self._num_layers + layer) * ELEMENT_BYTES


class KvMap:
    """The kv buffer: `num_slots` caches, each the rings of the local layers, then the global."""

    def __init__(self, shape: Gemma3Shape, context_length: int, num_slots: int) -> None:
        everything = round_up(context_length, KV_POSITIONS)
        ring = round_up(shape.sliding_window + RING_SLACK, KV_POSITIONS)
        self.ring_slots = (min(ring, everything), everything)  # of local, of global layers
        self.tile_bytes = 4 * KV_POSITIONS * shape.head_dim
        counts = (shape.num_layers - sum(shape.is_global_layer), sum(shape.is_global_layer))
        self.num_layers = counts
        self.region_bytes = tuple(
            count * slots // KV_POSITIONS * self.tile_bytes
            for count, slots in zip(counts, self.ring_slots, strict=True)
        )
        self.start = ELEMENT_BYTES
        self.slot_bytes = sum(self.region_bytes)
        self.num_bytes = round_up(self.start + num_slots * self.slot_bytes + ELEMENT_BYTES, _PAGE)
        self._kind = tuple(map(int, shape.is_global_layer))

    def kind(self, layer: int) -> int:
        """0 for a local layer, 1 for a global one."""
        return self._kind[layer]

    def num_tiles(self, kind: int) -> int:
        """Tiles of a layer."""
        return self.ring_slots[kind] // KV_POSITIONS

    def region(self, slot: int, kind: int) -> int:
        """Where a slot's layers of a kind begin."""
        return self.start + slot * self.slot_bytes + kind * self.region_bytes[0]

    def layer(self, slot: int, layer: int) -> int:
        """Where a layer's tiles begin."""
        kind = self._kind[layer]
        index = self._kind[:layer].count(kind)
        return self.region(slot, kind) + index * self.num_tiles(kind) * self.tile_bytes


class MemoryMap:
    """All three buffers for a model of a shape."""

    def __init__(
        self, shape: Gemma3Shape, num_head_rows: int, context_length: int, num_slots: int
    ) -> None:
        self.shape = shape
        self.kv = KvMap(shape, context_length, num_slots)
        most_tiles = (self.kv.num_tiles(0), self.kv.num_tiles(1))
        self.weights = WeightsMap(shape, num_head_rows, most_tiles)
        self.io = IoMap(shape, len(self.weights.geglu))
