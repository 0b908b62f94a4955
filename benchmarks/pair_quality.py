"""A pair of models on held-out text: bits per byte, loops, acceptance, code that parses.

    python benchmarks/pair_quality.py --heldout FILE [--target DIR --draft DIR] [--corpus FILE]

Needs the extra `distil`. Everything is computed in the devices' arithmetic (INT4 weights, INT8
activations) in PyTorch. zlib is given each document by itself; the n-gram model (order 6, bytes,
Witten-Bell) is trained on `--corpus` and cut to the target's size in bytes.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import sys
import textwrap
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece
import torch
from ngram import bits_per_byte as ngram_bits

from draft.distil.acceptance import measure, target_continuations
from draft.distil.corpus import Document, read_documents
from draft.distil.generation import continue_texts
from draft.distil.heldout import bits_per_byte, prompts
from draft.distil.model import Gemma3
from draft.distil.texts import HeldoutText
from draft.distil.weights import load_checkpoint
from specdec.assets import embedded_model_dir
from specdec.checkpoint import open_checkpoint

FUNCTION_PROMPT, MAX_FUNCTION = 128, 160  # tokens given and written
PROMPT, CONTINUATION = 192, 192  # tokens


def main() -> int:
    args = arguments()
    torch.set_grad_enabled(False)
    documents = limited(read_documents([args.heldout]), args.bytes)
    report: dict[str, object] = {"bytes_per_kind": args.bytes, "zlib": zlib_bits(documents)}
    if args.corpus:
        limit = int(args.corpus_bytes)
        report["ngram"] = ngram_bits(read_documents([args.corpus]), limit, documents)
    for role, directory in (("target", args.target), ("draft", args.draft)):
        model = opened(directory)
        texts = encoded(directory, documents)
        report[role] = bits_per_byte(model, texts, 2, args.window, True)
        report[f"{role}, activations in float"] = bits_per_byte(model, texts, 2, args.window, False)
        print(role, report[role], file=sys.stderr)
    if args.functions:
        report["functions"] = parsing(args.target, documents, args.functions)
    if args.prompts:
        report["acceptance"] = acceptance(args, documents)
    print(json.dumps(report))
    return 0


def encoded(directory: Path, documents: Sequence[Document]) -> list[HeldoutText]:
    """The documents in a model's own vocabulary."""
    tokenizer = pieces(directory)
    return [
        HeldoutText(d.kind, tuple(tokenizer.encode(d.text)), len(d.text.encode()))
        for d in documents
    ]


def acceptance(args: argparse.Namespace, documents: Sequence[Document]) -> list[dict[str, object]]:
    """Agreement of draft and target, greedy and at temperature 0.7, in text free of loops."""
    starts = prompts(encoded(args.target, documents), 2, PROMPT, CONTINUATION, args.prompts)
    written = target_continuations(
        opened(args.target), starts, CONTINUATION, (0.0, 0.7), (1,), False
    )
    return [dataclasses.asdict(row) for row in measure(opened(args.draft), written, True)]


def pieces(directory: Path) -> sentencepiece.SentencePieceProcessor:
    """A converted model's tokenizer."""
    return sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, help="to train the n-gram model on")
    parser.add_argument("--corpus-bytes", type=int, default=24_000_000)
    parser.add_argument("--target", type=Path, default=embedded_model_dir("target"))
    parser.add_argument("--draft", type=Path, default=embedded_model_dir("draft"))
    parser.add_argument("--bytes", type=int, default=60_000, help="of each kind")
    parser.add_argument("--window", type=int, default=1500, help="tokens seen at a time")
    parser.add_argument("--prompts", type=int, default=48, help="of each kind; 0: no acceptance")
    parser.add_argument("--functions", type=int, default=60)
    return parser.parse_args()


def opened(directory: Path) -> Gemma3:
    """A converted model as a PyTorch module."""
    return load_checkpoint(open_checkpoint(directory), torch.float32)


def limited(documents: Iterable[Document], num_bytes: int) -> list[Document]:
    """The first documents of each kind, about `num_bytes` in all, none cut."""
    sizes: dict[str, int] = defaultdict(int)
    kept = []
    for document in documents:
        if sizes[document.kind] < num_bytes:
            sizes[document.kind] += len(document.text.encode())
            kept.append(document)
    return kept


def zlib_bits(documents: Sequence[Document]) -> dict[str, float]:
    """Bits per byte of every document compressed by itself at level 9."""
    packed: dict[str, int] = defaultdict(int)
    whole: dict[str, int] = defaultdict(int)
    for document in documents:
        data = document.text.encode()
        packed[document.kind] += len(zlib.compress(data, 9))
        whole[document.kind] += len(data)
    return {kind: round(8 * packed[kind] / whole[kind], 4) for kind in whole}


def parsing(target: Path, documents: Sequence[Document], count: int) -> dict[str, int]:
    """How many greedy completions of held-out functions (signature and docstring given) parse."""
    model, tokenizer = opened(target), pieces(target)
    starts = [start for d in documents if d.kind == "code" for start in function_starts(d.text)]
    rows, functions = [], []
    for prompt, function in starts:
        ids = tokenizer.encode(prompt)
        if len(tokenizer.encode(function)) < FUNCTION_PROMPT <= len(ids):
            rows.append([2, *ids[1 - FUNCTION_PROMPT :]])
            functions.append(function)
    step = max(1, len(rows) // count)
    ids = torch.tensor(rows[::step][:count])
    written = continue_texts(model, ids, MAX_FUNCTION, torch.zeros(len(ids)), 0, False)
    counts = {"functions": len(ids), "parsed": 0, "ended": 0, "ended_and_parsed": 0}
    for function, row in zip(functions[::step], written.tolist(), strict=False):
        text, is_whole = first_function(function, tokenizer.decode(row[FUNCTION_PROMPT:]))
        counts["parsed"] += parses(text)
        counts["ended"] += is_whole
        counts["ended_and_parsed"] += is_whole and parses(text)
    return counts


def function_starts(source: str) -> list[tuple[str, str]]:
    """The text up to the end of each function's docstring, and the function's own part of it."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return []
    lines = source.splitlines(keepends=True)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) and len(node.body) > 1:
            end = node.body[0].end_lineno or 0
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
            function = "".join(lines[first:end])
            context = "".join(lines[max(0, first - 30) : first])
            if len(function) < 1500:
                found.append((context + function, function))
    return found


def first_function(start: str, body: str) -> tuple[str, bool]:
    """The function up to its first line that is indented less, or its last whole line."""
    indent = len(start) - len(start.lstrip(" "))
    kept: list[str] = []
    for line in body.splitlines(keepends=True):
        if line.strip() and len(line) - len(line.lstrip(" ")) <= indent and line[0] not in ")]}":
            return start + "".join(kept), True
        kept.append(line)
    return start + "".join(kept[:-1]), False


def parses(text: str) -> bool:
    """Whether Python accepts it, cut back to whole statements where it was cut off."""
    try:
        ast.parse(textwrap.dedent(text))
    except (SyntaxError, ValueError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
