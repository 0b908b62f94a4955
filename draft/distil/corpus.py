"""Text files as documents, documents as token ids, ids as windows to train on; no model.

A corpus file holds plain text (one document) or, named .jsonl or .jl, an object a line with the
document under "text" or "t", perhaps its kind under "kind" or "k"; either may be an .xz file.
"""

from __future__ import annotations

import json
import lzma
import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import sentencepiece
import torch
from numpy.typing import NDArray
from torch import Tensor

from specdec.errors import UsageError

_GROUP = 200  # documents encoded at a time
_MAX_PROCESSES = 32


@dataclass(frozen=True, slots=True)
class Document:
    """One text and what kind of text it is ("text" where its file does not say)."""

    text: str
    kind: str


def read_documents(paths: Iterable[Path]) -> Iterator[Document]:
    """Every document of the files, in order; UsageError names the file and what is wrong."""
    for path in paths:
        try:
            with _open(path) as file:
                yield from _documents(path, file)
        except OSError as error:
            raise UsageError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
        except (lzma.LZMAError, EOFError) as error:
            raise UsageError(f"{path}: is no whole .xz file: make it again") from error


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", lzma.open(path)) if path.suffix == ".xz" else path.open("rb")


def _documents(path: Path, file: BinaryIO) -> Iterator[Document]:
    suffixes = [suffix for suffix in path.suffixes if suffix != ".xz"]
    if not suffixes or suffixes[-1] not in (".jsonl", ".jl"):
        yield Document(_decode(file.read(), str(path)), "text")
        return
    for number, line in enumerate(file, 1):
        where = f"{path}, line {number}"
        try:
            fields = json.loads(_decode(line, where))
        except json.JSONDecodeError as error:
            raise UsageError(f"{where}: is no JSON object: write one a line") from error
        text = fields.get("text", fields.get("t")) if isinstance(fields, dict) else None
        if not isinstance(text, str):
            raise UsageError(f'{where}: has no "text": give every document one')
        yield Document(text, str(fields.get("kind", fields.get("k", "text"))))


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: is not UTF-8 (byte {error.start}): convert it") from error


def encode_documents(
    documents: Iterable[Document], tokenizer: bytes, bos_id: int, eos_id: int, num_processes: int
) -> NDArray[np.int32]:
    """All documents as one row of ids (N,), each between `bos_id` and `eos_id`."""
    encode = partial(_encode, bos_id=bos_id, eos_id=eos_id)
    groups = _grouped(document.text for document in documents)
    if num_processes <= 1:
        _start(tokenizer)
        parts = [encode(group) for group in groups]
    else:
        context = multiprocessing.get_context("spawn")
        with context.Pool(min(num_processes, _MAX_PROCESSES), _start, (tokenizer,)) as pool:
            parts = list(pool.imap(encode, groups))
    if not parts:
        raise UsageError("the corpus holds no document: name files with text")
    return np.concatenate(parts)


_processors: list[sentencepiece.SentencePieceProcessor] = []  # one a process


def _start(tokenizer: bytes) -> None:
    _processors[:] = [sentencepiece.SentencePieceProcessor(model_proto=tokenizer)]


def _encode(texts: list[str], bos_id: int, eos_id: int) -> NDArray[np.int32]:
    ids: list[int] = []
    for text in texts:
        ids += [bos_id, *_processors[0].encode(text), eos_id]
    return np.array(ids, np.int32)


def _grouped(texts: Iterator[str]) -> Iterator[list[str]]:
    while group := list(islice(texts, _GROUP)):
        yield group


class Windows:
    """Random windows of one long row of ids, each once per pass over it; a function of the seed."""

    def __init__(
        self, ids: NDArray[np.int32], length: int, seed: int, device: torch.device
    ) -> None:
        self.num_windows = (len(ids) - 1) // length
        if self.num_windows < 1:
            raise UsageError(f"the corpus has {len(ids)} tokens: {length + 1} are needed, add text")
        self._ids = torch.from_numpy(ids).to(device)
        self._length, self._seed = length, seed
        self._pass_index, self._starts = -1, np.empty(0, np.int64)

    def rows(self, first: int, count: int) -> Tensor:
        """Windows `first` .. `first` + `count` - 1 of an endless row: ids (count, length + 1)."""
        starts = torch.from_numpy(np.array([self._start(first + row) for row in range(count)]))
        places = torch.arange(self._length + 1, device=self._ids.device)
        return self._ids[starts.to(self._ids.device)[:, None] + places].long()

    def _start(self, index: int) -> int:
        pass_index, place = divmod(index, self.num_windows)
        if pass_index != self._pass_index:
            random = np.random.default_rng((self._seed, pass_index))
            slack = (len(self._ids) - 1) % self._length
            shift = int(random.integers(slack + 1))
            self._starts = random.permutation(self.num_windows) * self._length + shift
            self._pass_index = pass_index
        return int(self._starts[place])
