"""The kernels compiled for this machine, and the array they run in; it knows no model.

Compiled on first use into the user's cache, keyed by sources, compiler, flags and processor. One
native call runs a whole decoded instruction stream; the GIL is released meanwhile.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from draft.npu.manifest import Manifest
from specdec.assets import asset_dir, user_cache_dir
from specdec.errors import DeviceError

COMPILERS = ("g++", "clang++")
FLAGS = ("-std=c++20", "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-w")
_COMPILE_TIMEOUT_S = 300

READ, WRITE, WAIT = 0, 1, 2  # kinds of step: memory to array, array to memory, wait for a token

STEP_DTYPE = np.dtype(
    [
        *((name, "<i4") for name in ("kind", "column", "channel", "repeat")),
        ("address", "<u8"),  # of the first word
        # in 32-bit words; d0_size 0 is a linear transfer of `length` words
        *((name, "<i4") for name in ("length", "d0_size", "d0_step", "d1_size", "d1_step")),
        *((name, "<i4") for name in ("d2_step", "iteration_size", "iteration_step")),
        ("direction", "<i4"),  # of a wait: 0 array to memory, 1 memory to array
        ("token", "<i4"),  # 1: the task issues a token when it is done
    ]
)


class HostStallError(Exception):
    """A wait that can never end: the array has made less than the stream asks for."""

    def __init__(self, step: int) -> None:
        super().__init__(f"step {step} waits for data that no core will send")
        self.step = step


def find_compiler() -> str | None:
    """Path of a C++ compiler, or None."""
    return next(filter(None, map(shutil.which, COMPILERS)), None)


def load() -> HostKernels:
    """The kernels, compiled if this is their first use; DeviceError says what is missing."""
    compiler = find_compiler()
    if compiler is None:
        raise DeviceError(
            f"found no C++ compiler ({' or '.join(COMPILERS)}): the emulated NPU compiles its "
            "kernels on first use; install one (apt install g++)"
        )
    sources = asset_dir("kernels")
    path = user_cache_dir(os.environ) / f"npu-kernels-{_key(sources, compiler)}.so"
    if not path.exists():
        _compile(compiler, sources / "host" / "library.cc", path)
    return HostKernels(ctypes.CDLL(str(path)))


def source_hashes(sources: Path) -> dict[str, str]:
    """SHA-256 of every kernel and host source, by path below kernels/."""
    files = [file for part in ("aie2", "host") for file in (sources / part).rglob("*.*")]
    return {
        file.relative_to(sources).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(files)
        if file.suffix in (".cc", ".h", ".hpp")
    }


def _key(sources: Path, compiler: str) -> str:
    """What the compiled file depends on; -march=native makes the processor part of it."""
    status = os.stat(compiler)
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    processor = next((line for line in lines if line.startswith("flags")), "")
    parts = (source_hashes(sources), FLAGS, compiler, status.st_size, status.st_mtime_ns, processor)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _compile(compiler: str, source: Path, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            output = Path(folder) / path.name
            command = [compiler, *FLAGS, f"-I{source.parent}", str(source), "-o", str(output)]
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S
            )
            os.replace(output, path)  # whole or not at all, also with several processes
    except subprocess.CalledProcessError as error:
        first = next((line for line in error.stderr.splitlines() if "error" in line), "no message")
        raise DeviceError(
            f"{compiler} cannot compile the NPU kernels: {first}; "
            "g++ 12 or clang++ 16 and newer can"
        ) from None
    except subprocess.TimeoutExpired:
        raise DeviceError(
            f"{compiler} took over {_COMPILE_TIMEOUT_S} s to compile the NPU kernels; try again"
        ) from None
    except OSError as error:
        raise DeviceError(
            f"cannot write compiled kernels to {path.parent}: {error.strerror}; "
            "make it writable or set XDG_CACHE_HOME to a folder that is"
        ) from None


@dataclass(frozen=True, slots=True)
class HostKernels:
    """The compiled kernels."""

    library: ctypes.CDLL

    def call(self, name: str, *arguments: NDArray[Any] | int | float) -> int:
        """Call one kernel by name: arrays go as pointers, the rest as int32 or float."""
        return int(self.library[name](*map(_to_c, arguments)))

    def dot_product(self) -> str:
        """What multiplies int8 by int4: `AVX-512 VNNI`, `AVX2` or `portable`."""
        probe = self.library.probe_dot_product
        probe.restype = ctypes.c_char_p
        found: bytes = probe()
        return found.decode()

    def array(self, manifest: Manifest) -> HostArray:
        """An array with the dataflow of a manifest, all memories zero."""
        return HostArray(self.library, manifest)


def _to_c(value: NDArray[Any] | int | float) -> ctypes.c_void_p | ctypes.c_int32 | ctypes.c_float:
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return ctypes.c_void_p(value.ctypes.data)
    return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int32(value)


class HostArray:
    """The emulated array: shim transfers in, kernels, shim transfers out."""

    def __init__(self, library: ctypes.CDLL, manifest: Manifest) -> None:
        self._library = library
        self._manifest = manifest
        library.array_create.restype = ctypes.c_void_p
        self._handle: ctypes.c_void_p | None = None
        self.reset()

    def reset(self) -> None:
        """Begin again with zeroed memories and empty streams, as after loading an xclbin."""
        self.close()
        manifest, library = self._manifest, self._library
        handle = ctypes.c_void_p(library.array_create(manifest.num_columns))
        numbers = {
            core.tile: library.array_add_core(handle, core.is_vector, core.is_second)
            for core in manifest.cores
        }
        for channel in manifest.inputs:
            for tile in channel.cores:
                library.array_connect_input(handle, channel.column, channel.channel, numbers[tile])
        for channel in manifest.outputs:
            for tile in channel.cores:
                library.array_connect_output(
                    handle, channel.column, channel.channel, numbers[tile], channel.is_rows
                )
        self._handle = handle

    def execute(self, steps: NDArray[np.void]) -> None:
        """Run steps (STEP_DTYPE) in order; HostStallError where the device would wait for ever.

        Addresses are trusted: check them with `extent` when a stream is decoded.
        """
        assert steps.dtype == STEP_DTYPE and steps.flags.c_contiguous
        stalled = self._library.array_execute(
            self._handle, ctypes.c_void_p(steps.ctypes.data), len(steps)
        )
        if stalled >= 0:
            raise HostStallError(stalled)

    def close(self) -> None:
        """Free the array."""
        if self._handle is not None:
            self._library.array_destroy(self._handle)
            self._handle = None


def extent(step: np.void) -> int:
    """Words from a step's address to the end of what it touches."""
    length, d0_size, d1_size = (int(step[name]) for name in ("length", "d0_size", "d1_size"))

    def offset(index: int) -> int:
        if not d0_size:
            return index
        row, in_row = divmod(index, d0_size)
        plane, in_plane = divmod(row, d1_size) if d1_size else (0, row)
        place = plane * int(step["d2_step"]) + in_plane * int(step["d1_step"])
        return place + in_row * int(step["d0_step"])

    ends = {length - 1}  # the furthest word ends a row, a plane, or the transfer
    if d0_size:
        ends.add(length // d0_size * d0_size - 1)
        ends.add(length // (d0_size * max(d1_size, 1)) * d0_size * max(d1_size, 1) - 1)
    runs = min(int(step["repeat"]) + 1, max(1, int(step["iteration_size"])))
    return max(map(offset, ends)) + (runs - 1) * int(step["iteration_step"]) + 1
