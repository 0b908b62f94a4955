"""What importing costs in quality: perplexity of a converted model against its source's weights.

    python benchmarks/perplexity.py gemma3-270m.gguf converted/

The text is our own: benchmarks/prompts, each kind joined to one text and cut to --tokens tokens.
First the source's weights in float32; then one class of matrices at a time in the converted form;
then all of them, and all in the W4A8 arithmetic that devices compute. Prints a table and, as its
last line, one JSON object. Knows the numpy model alone, so figures are the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from specdec.checkpoint import Checkpoint, open_checkpoint
from specdec.convert.dequantized import DequantizedSource
from specdec.convert.gguf_model import read_gguf
from specdec.convert.quantize import quantize_int4
from specdec.gemma3.arithmetic import W4A8, Float32, Linear
from specdec.gemma3.loading import build
from specdec.gemma3.reference import Gemma3Reference
from specdec.tokenizer import Tokenizer
from specdec.types import FloatArray
from specdec.weights import QuantizedMatrix, pack

PROMPTS = Path(__file__).parent / "prompts"
KINDS = ("code", "documentation", "prose", "question_answering")
CLASSES = ("qkv", "o", "gate_up", "down", "embed")
TOKENS_PER_FEED = 32

Variant = tuple[str, Callable[[str], Linear], type[np.floating]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a GGUF file")
    parser.add_argument("converted", type=Path, help="what `specdec convert` made of it")
    parser.add_argument("--tokens", type=int, default=640, help="of each kind of text")
    args = parser.parse_args()
    source = DequantizedSource(read_gguf(args.source))
    checkpoint = open_checkpoint(args.converted)
    texts = read_texts(checkpoint, args.tokens)
    rows: dict[str, float] = {}
    for name, linear, cache_dtype in variants(source, checkpoint):
        weights = build(checkpoint.info.shape, linear, source.vector, cache_dtype)
        rows[name] = perplexity(Gemma3Reference(weights), texts)
        report(rows)
    num_tokens = sum(len(text) - 1 for text in texts)
    print(json.dumps({"source": args.source.name, "num_tokens": num_tokens, "perplexity": rows}))


def variants(source: DequantizedSource, checkpoint: Checkpoint) -> Iterator[Variant]:
    """Name, matrices and type of the cache of every model measured; the first is the source's."""

    def mixed(converted: tuple[str, ...]) -> Callable[[str], Linear]:
        def linear(name: str) -> Linear:
            if name.rpartition(".")[2] in converted:
                return Float32(checkpoint.matrix(name).dequantize())
            return Float32(source.matrix(name))

        return linear

    def int4_embedding(name: str) -> Linear:
        matrix = source.matrix(name)
        return Float32(int4(matrix).dequantize() if name == "embed" else matrix)

    yield "source weights, float32", mixed(()), np.float32
    for tensor_class in CLASSES:
        bits = checkpoint.info.head_bits if tensor_class == "embed" else 4
        yield f"{tensor_class} INT{bits}", mixed((tensor_class,)), np.float32
    yield "embed INT4 in place of it", int4_embedding, np.float32
    yield "all weights converted", mixed(CLASSES), np.float32
    yield "all, W4A8, float16 cache", lambda name: W4A8(checkpoint.matrix(name)), np.float16


def read_texts(checkpoint: Checkpoint, num_tokens: int) -> list[list[int]]:
    """One sequence of ids per kind of text."""
    info = checkpoint.info
    path = checkpoint.directory / "tokenizer.model"
    tokenizer = Tokenizer.from_file(path, info.shape.vocab_size, info.bos_id)
    texts = []
    for kind in KINDS:
        lines = (PROMPTS / f"{kind}.jsonl").read_text().splitlines()
        text = "\n\n".join(json.loads(line)["prompt"] for line in lines)
        texts.append(list(tokenizer.encode(text, add_bos=True))[:num_tokens])
    return texts


def perplexity(model: Gemma3Reference, texts: list[list[int]]) -> float:
    """exp of the mean negative log likelihood of every token after the first of each text."""
    losses = []
    for text in texts:
        model.truncate(0, 0)
        for start in range(0, len(text) - 1, TOKENS_PER_FEED):
            fed = text[start : min(start + TOKENS_PER_FEED, len(text) - 1)]
            logits = model.feed(0, fed, len(fed))
            next_ids = text[start + 1 : start + 1 + len(fed)]
            losses.append(negative_log_likelihood(logits, next_ids))
    return math.exp(np.concatenate(losses).mean())


def negative_log_likelihood(logits: FloatArray, next_ids: list[int]) -> FloatArray:
    peak = logits.max(axis=1)
    total = np.exp(logits - peak[:, None]).sum(axis=1, dtype=np.float64)
    return peak + np.log(total) - logits[np.arange(len(next_ids)), next_ids]


def int4(matrix: FloatArray) -> QuantizedMatrix:
    return pack(4, *quantize_int4(matrix))


def report(rows: dict[str, float]) -> None:
    """The newest row, against the first."""
    name, value = list(rows.items())[-1]
    loss = value / next(iter(rows.values())) - 1
    print(f"{name:28} {value:9.4f} {loss:+8.2%}", flush=True)


if __name__ == "__main__":
    main()
