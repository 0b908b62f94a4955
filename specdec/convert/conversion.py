"""The conversion itself: a source model to a directory, in pieces of bounded size.

Peak memory is a few pieces per thread, whatever the size of the model: tensors are read, quantised,
packed and written some rows at a time, and the output does not depend on the number of threads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from specdec.checkpoint import (
    CONFIG_NAME,
    ModelInfo,
    info_to_json,
    stored_tensors,
)
from specdec.convert.gguf_model import read_gguf
from specdec.convert.head_choice import choose_head_tokens
from specdec.convert.huggingface import read_huggingface
from specdec.convert.matrices import OutputMatrix, output_matrices
from specdec.convert.report import ConversionReport, LossSum, class_losses, count_exact
from specdec.convert.shards import ShardWriter
from specdec.convert.source import SourceModel
from specdec.convert.staging import check_is_free, staged_directory, write_synced
from specdec.errors import ModelError
from specdec.head_tokens import FILE_NAME, head_tokens_bytes
from specdec.tokenizer import Tokenizer
from specdec.weights import TILE_ROWS, Bits, pack, vector_sizes

_PIECE_WEIGHTS = 1 << 20
_HASH_BYTES = 4 << 20
_MAX_THREADS = 16

Progress = Callable[[int, int], None]  # weights done, weights in all


def convert(
    source: Path,
    out: Path,
    *,
    head_bits: Bits = 8,
    tokenizer: Path | None = None,
    head_texts: Iterable[str] = (),
    progress: Progress = lambda done, total: None,
) -> ConversionReport:
    """Import the model at `source`, a Hugging Face directory or a GGUF file, into `out`.

    `tokenizer` names a sentencepiece model for sources without one. `head_texts` are like what the
    model will write: as a draft it gives logits for their most frequent tokens alone (default: a
    list for Gemma 3's vocabulary; a small vocabulary is kept whole). ModelError says in one line
    what is wrong with a source; then, or when killed, no directory `out` comes to be.
    """
    start_s = time.monotonic()
    check_is_free(out)
    try:
        model = _read_source(source)
        vocabulary = _tokenizer_bytes(model, source, tokenizer)
        origin, shape = str(tokenizer or source), model.shape
        pieces = Tokenizer(vocabulary, origin, shape.vocab_size, model.bos_id)
        head_tokens = choose_head_tokens(pieces, head_texts)
        files = {"tokenizer.model": vocabulary}
        if head_tokens is not None:
            files[FILE_NAME] = head_tokens_bytes(head_tokens)
        report = _write(model, out, head_bits, files, progress)
    except OSError as error:
        raise ModelError(
            f"{error.filename or out}: {error.strerror or error}: check permissions and disk space"
        ) from error
    return dataclasses.replace(report, elapsed_s=time.monotonic() - start_s)


def _write(
    model: SourceModel,
    out: Path,
    head_bits: Bits,
    files: Mapping[str, bytes],
    progress: Progress,
) -> ConversionReport:
    """Write the directory, config.json last; `files` go beside the shards."""
    with staged_directory(out) as staging:
        losses, info, size_bytes = _write_model(model, staging, head_bits, progress)
        for name, content in files.items():
            write_synced(staging / name, content)
        write_synced(staging / CONFIG_NAME, info_to_json(info).encode())
    return ConversionReport(
        out=str(out),
        source_kind=model.kind,
        source_name=info.source_name,
        source_sha256=info.source_sha256,
        shape=model.shape,
        head_bits=head_bits,
        size_bytes=size_bytes,
        elapsed_s=0.0,
        losses=class_losses(losses),
        num_exact_tensors=count_exact(model, head_bits),
        skipped_tensors=model.skipped_tensors,
    )


def _read_source(source: Path) -> SourceModel:
    """The importer by what `source` is."""
    if source.is_dir():
        return read_huggingface(source)
    if not source.exists():
        raise ModelError(f"{source}: no such file or directory: name a model to convert")
    if source.suffix == ".safetensors":
        raise ModelError(f"{source}: is one file of a model: name its directory")
    if source.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
        raise ModelError(
            f"{source}: pickled weights can run code and are never loaded: "
            "get the model as safetensors or GGUF"
        )
    return read_gguf(source)


def _tokenizer_bytes(model: SourceModel, source: Path, tokenizer: Path | None) -> bytes:
    if tokenizer is not None:
        return tokenizer.read_bytes()
    if model.tokenizer is None:
        raise ModelError(
            f"{source}: has no tokenizer.model: name a sentencepiece model with --tokenizer"
        )
    return model.tokenizer


def _write_model(
    model: SourceModel, staging: Path, head_bits: Bits, progress: Progress
) -> tuple[dict[str, LossSum], ModelInfo, int]:
    """Fill the shards; returns the losses by tensor class, the info and the shards' size."""
    stored = stored_tensors(model.shape, head_bits)
    with ShardWriter(staging, stored) as writer, ThreadPoolExecutor(_num_threads()) as pool:
        is_stopped = threading.Event()
        sha256 = pool.submit(_source_sha256, model, is_stopped)
        try:
            losses = _write_matrices(model, writer, head_bits, pool, progress)
            for name in vector_sizes(model.shape):
                writer.write(name, 0, model.tensors[name].read_vector() + model.norm_offset)
            writer.sync()
            info = _model_info(model, head_bits, sha256.result())
        finally:
            is_stopped.set()
            pool.shutdown(cancel_futures=True)
    return losses, info, writer.size_bytes


def _write_matrices(
    model: SourceModel,
    writer: ShardWriter,
    head_bits: Bits,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> dict[str, LossSum]:
    """Quantise, pack and write every matrix; at most two pieces a thread are under way."""
    matrices = list(output_matrices(model, head_bits))
    total = sum(matrix.num_rows * matrix.num_columns for matrix in matrices)
    done = 0
    losses: dict[str, LossSum] = {}
    running: deque[tuple[OutputMatrix, Future[LossSum]]] = deque()
    pieces = ((matrix, *rows) for matrix in matrices for rows in _pieces(matrix))
    for matrix, start, stop in pieces:
        running.append((matrix, pool.submit(_write_piece, writer, matrix, start, stop)))
        while len(running) >= 2 * _num_threads():
            done += _collect(running, losses)
            progress(done, total)
    while running:
        done += _collect(running, losses)
        progress(done, total)
    return losses


def _collect(
    running: deque[tuple[OutputMatrix, Future[LossSum]]], losses: dict[str, LossSum]
) -> int:
    """Wait for the oldest piece; its losses are summed in order, so sums are reproducible."""
    matrix, future = running.popleft()
    loss = future.result()
    key = matrix.tensor_class
    losses[key] = losses[key] + loss if key in losses else loss
    return loss.num_weights


def _pieces(matrix: OutputMatrix) -> Iterator[tuple[int, int]]:
    """Row ranges of about `_PIECE_WEIGHTS`, each starting at an even tile."""
    step = max(1, _PIECE_WEIGHTS // (2 * TILE_ROWS * matrix.num_columns)) * 2 * TILE_ROWS
    for start in range(0, matrix.num_rows, step):
        yield start, min(start + step, matrix.num_rows)


def _write_piece(writer: ShardWriter, matrix: OutputMatrix, start: int, stop: int) -> LossSum:
    rows = matrix.source.rows(start, stop, matrix.bits)
    packed = pack(matrix.bits, rows.values, rows.scales)
    tile_index = start // TILE_ROWS
    # tiles come first in both layouts: a piece is contiguous
    for name, array in ((f"int{matrix.bits}", packed.packed), ("scales", packed.scales)):
        writer.write(f"{matrix.name}.{name}", tile_index * array[0].nbytes, array)
    num_weights = (stop - start) * matrix.num_columns
    return LossSum(matrix.bits, num_weights, rows.squared_error, rows.squared_norm)


def _model_info(model: SourceModel, head_bits: Bits, sha256: str) -> ModelInfo:
    return ModelInfo(
        shape=model.shape,
        bos_id=model.bos_id,
        eos_ids=model.eos_ids,
        source_name=model.name,
        source_sha256=sha256,
        head_bits=head_bits,
        chat_template=model.chat_template,
    )


def _source_sha256(model: SourceModel, is_stopped: threading.Event) -> str:
    """The hash of a single source file; for several, the hash of their names and hashes."""
    digests = [(path.name, _file_sha256(path, is_stopped)) for path in model.files]
    if len(digests) == 1:
        return digests[0][1]
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def _file_sha256(path: Path, is_stopped: threading.Event) -> str:
    """The hash of a file; of no use if stopped, when the conversion has failed."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while not is_stopped.is_set() and (chunk := file.read(_HASH_BYTES)):
            digest.update(chunk)
    return digest.hexdigest()


def _num_threads() -> int:
    return min(len(os.sched_getaffinity(0)), _MAX_THREADS)
