"""A stand-in for the IRON names our designs use: it records what a design declares.

Nothing is compiled. Workers' bodies run once, with kernels' calls checked against their signatures
and objects against what a fifo holds. It knows no budgets (write_manifest.py) and no contents.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


class DesignError(Exception):
    """A design contradicts itself or asks more of a tile than it has."""


@dataclass(frozen=True)
class Tile:
    """A tile's place: row 0 shim, 1 memory, 2 to 5 cores."""

    col: int
    row: int

    @property
    def kind(self) -> str:
        """`shim`, `memory` or `core`."""
        return {0: "shim", 1: "memory"}.get(self.row, "core")


def size_bytes(array_type: Any) -> int:
    """Bytes of np.ndarray[(n,), np.dtype[t]]."""
    shape, dtype = array_type.__args__
    return int(np.prod(shape)) * np.dtype(dtype.__args__[0]).itemsize


@dataclass(eq=False)
class Element:
    """An acquired object of a fifo, or a word of a buffer."""

    obj_type: Any


@dataclass(eq=False)
class ObjectFifo:
    """A stream of objects from one producer to its consumers."""

    obj_type: Any
    depth: int = 2
    name: str = ""
    producer: Handle | None = None
    consumers: list[Handle] = field(default_factory=list)
    joined_from: list[ObjectFifo] = field(default_factory=list)

    def prod(self) -> Handle:
        """The producer's end; always the same."""
        if self.producer is None:
            self.producer = Handle(self, True)
        return self.producer

    def cons(self) -> Handle:
        """A new consumer's end."""
        self.consumers.append(Handle(self, False))
        return self.consumers[-1]


@dataclass(eq=False)
class Handle:
    """An end of a fifo, placed on a tile by what uses it."""

    fifo: ObjectFifo
    is_producer: bool
    tile: Tile | None = None
    held: int = 0

    def acquire(self, count: int) -> Element:
        """Take an object; a worker may hold as many as the fifo is deep."""
        self.held += count
        if self.held > self.fifo.depth:
            raise DesignError(f"{self.fifo.name}: {self.held} objects held of {self.fifo.depth}")
        return Element(self.fifo.obj_type)

    def release(self, count: int) -> None:
        """Give an object back."""
        self.held -= count
        if self.held < 0:
            raise DesignError(f"{self.fifo.name}: released an object that was not held")

    def join(
        self,
        offsets: Sequence[int],
        placement: Tile,
        obj_types: Sequence[Any],
        names: Sequence[str],
    ) -> list[ObjectFifo]:
        """Fifos whose objects stand side by side in this one's, put together on a memory tile."""
        self.tile = placement
        parts = [ObjectFifo(t, self.fifo.depth, n) for t, n in zip(obj_types, names, strict=True)]
        ends = [0]
        for part in parts:
            part.cons().tile = placement
            ends.append(ends[-1] + size_bytes(part.obj_type))
        if [4 * offset for offset in offsets] != ends[:-1]:
            raise DesignError(f"{self.fifo.name}: offsets {list(offsets)} leave gaps or overlap")
        if ends[-1] != size_bytes(self.fifo.obj_type):
            raise DesignError(f"{self.fifo.name}: its parts have {ends[-1]} bytes in all")
        self.fifo.joined_from = parts
        return parts


@dataclass(eq=False)
class Buffer:
    """Memory of a core that stays."""

    type: Any
    initial_value: Any = None
    name: str = ""

    def __post_init__(self) -> None:
        if self.initial_value is None or self.initial_value.nbytes != size_bytes(self.type):
            raise DesignError(f"{self.name} begins with whatever its memory holds: give it zeros")

    def __getitem__(self, index: int) -> Element:
        return Element(np.int32)


@dataclass(eq=False)
class Kernel:
    """A function of a program; calls are checked against its signature."""

    name: str
    bin_name: str
    arg_types: Sequence[Any]

    def __call__(self, *arguments: Any) -> None:
        """Check the arguments of a call."""
        given = [
            argument.obj_type
            if isinstance(argument, Element)
            else argument.type
            if isinstance(argument, Buffer)
            else np.int32
            for argument in arguments
        ]
        if [str(t) for t in given] != [str(t) for t in self.arg_types]:
            raise DesignError(f"{self.name} is called with {given}, it takes {self.arg_types}")


@dataclass(eq=False)
class Worker:
    """The program of a core."""

    core_fn: Callable[..., None]
    fn_args: list[Any]
    placement: Tile
    stack_size: int = 1024

    def __post_init__(self) -> None:
        for handle in self.handles:
            handle.tile = self.placement
        binaries = {argument.bin_name for argument in self.fn_args if isinstance(argument, Kernel)}
        if len(binaries) != 1:
            raise DesignError(
                f"a worker links one program, {self.placement} has {sorted(binaries)}"
            )
        self.binary = binaries.pop()

    @property
    def handles(self) -> list[Handle]:
        """Its ends of fifos."""
        return [argument for argument in self.fn_args if isinstance(argument, Handle)]

    @property
    def buffer_bytes(self) -> int:
        """Bytes of its buffers."""
        return sum(size_bytes(arg.type) for arg in self.fn_args if isinstance(arg, Buffer))


@dataclass(eq=False)
class Runtime:
    """The host's side: which fifos meet which shim tile."""

    workers: list[Worker] = field(default_factory=list)
    transfers: list[tuple[Handle, Tile]] = field(default_factory=list)
    arguments: tuple[Any, ...] = ()

    def fifos(self) -> list[ObjectFifo]:
        """Every fifo: those at the shim in the order of the sequence, then the parts of joins."""
        ordered = [handle.fifo for handle, _ in self.transfers]
        return ordered + [part for fifo in ordered for part in fifo.joined_from]

    @contextlib.contextmanager
    def sequence(self, *types: Any) -> Iterator[tuple[Any, ...]]:
        """The buffers of a run."""
        self.arguments = types
        yield types

    def start(self, *workers: Worker) -> None:
        """The workers of the configuration."""
        self.workers += workers

    def fill(self, handle: Handle, source: Any, placement: Tile) -> None:
        """Bytes from a buffer into the array."""
        self._place(handle, True, placement)

    def drain(self, handle: Handle, dest: Any, placement: Tile, wait: bool = False) -> None:
        """Bytes from the array into a buffer."""
        self._place(handle, False, placement)

    def _place(self, handle: Handle, is_producer: bool, tile: Tile) -> None:
        if handle.is_producer != is_producer or tile.kind != "shim":
            raise DesignError(f"{handle.fifo.name}: fill producers and drain consumers on a shim")
        handle.tile = tile
        self.transfers.append((handle, tile))


class NPU1:
    """Four columns of Phoenix or Hawk Point."""

    name = "npu1"
    columns = 4


class SequentialPlacer:
    """Our designs place everything themselves."""


@dataclass(eq=False)
class Program:
    """A design; resolving it runs every worker's body once and returns itself."""

    device: NPU1
    runtime: Runtime

    def resolve_program(self, placer: SequentialPlacer) -> Program:
        """Check that bodies give back what they take."""
        for worker in self.runtime.workers:
            worker.core_fn(*worker.fn_args)
            for handle in worker.handles:
                if handle.held:
                    raise DesignError(f"{worker.placement} keeps an object of {handle.fifo.name}")
        return self


def range_(count: Element | int) -> range:
    """Loops whose count is only known on the device are run once."""
    return range(count) if isinstance(count, int) else range(1)


STAND_INS = {
    "aie": (),
    "aie.iron": (Buffer, Kernel, ObjectFifo, Program, Runtime, Worker),
    "aie.iron.controlflow": (range_,),
    "aie.iron.device": (NPU1, Tile),
    "aie.iron.placers": (SequentialPlacer,),
}


def load_design(path: Path) -> types.ModuleType:
    """Import a design with the stand-ins in place of IRON."""
    saved = {name: sys.modules.get(name) for name in STAND_INS}
    try:
        for name, members in STAND_INS.items():
            module = types.ModuleType(name)
            for member in members:
                setattr(module, member.__name__, member)
            sys.modules[name] = module
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        design = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(design)
        return design
    finally:
        for name, previous in saved.items():
            if previous is None:
                del sys.modules[name]
            else:
                sys.modules[name] = previous
