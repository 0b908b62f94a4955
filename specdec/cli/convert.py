"""`specdec convert`: import a model into a directory that specdec runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from tqdm import tqdm

from specdec.convert import ConversionReport, convert
from specdec.errors import UsageError
from specdec.tokenizer import decode_utf8

_DESCRIPTION = """\
Import a Gemma 3 model: INT4 in groups of 32, the embedding (which is also the head) INT8 or INT4.
SOURCE is a Hugging Face directory with safetensors (Gemma3ForCausalLM, or the text part of
Gemma3ForConditionalGeneration) or a GGUF file (F32, F16, BF16, Q8_0, Q5_0, Q4_0, Q4_K, Q6_K)."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = subparsers.add_parser(
        "convert",
        help="import a Gemma 3 model from Hugging Face or GGUF",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", type=Path, help="directory or GGUF file")
    parser.add_argument("out", metavar="OUT", type=Path, help="new directory to write")
    parser.add_argument(
        "--head-bits",
        type=int,
        choices=(4, 8),
        default=8,
        help="bits per weight of embedding and head (default: 8)",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        type=Path,
        help="sentencepiece model, for a source without tokenizer.model",
    )
    parser.add_argument(
        "--head-text",
        metavar="FILE",
        type=Path,
        help="text like what will be written: as a draft, the model gives logits for the 32768 "
        "tokens most frequent in it (default: a list for Gemma 3's vocabulary)",
    )
    parser.add_argument("--json", action="store_true", help="report as one JSON object on stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert with a progress bar; the summary goes to stderr."""
    with tqdm(unit="weight", unit_scale=True, desc="convert", disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = convert(
            args.source,
            args.out,
            head_bits=args.head_bits,
            tokenizer=args.tokenizer,
            head_texts=_texts(args.head_text),
            progress=show,
        )
    print(_summary(report), file=sys.stderr)
    if args.json:
        print(json.dumps(dataclasses.asdict(report)))
    return 0


def _texts(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return [decode_utf8(path.read_bytes(), str(path))]
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}") from error


def _summary(report: ConversionReport) -> str:
    num_weights = sum(loss.num_weights for loss in report.losses)
    lines = [
        f"{report.out}: {num_weights / 1e6:.1f} M weights, {report.size_bytes / 1e6:.1f} MB, "
        f"from {report.source_kind} {report.source_name!r} in {report.elapsed_s:.1f} s",
        f"{'matrices':10}{'bits':>5}{'weights':>12}{'relative error':>16}",
    ]
    for loss in report.losses:
        lines.append(
            f"{loss.tensor_class:10}{loss.bits:5}{loss.num_weights:12}{loss.relative_error:16.5f}"
        )
    if report.num_exact_tensors:
        lines.append(f"{report.num_exact_tensors} matrices were taken over bit for bit")
    if report.skipped_tensors:
        first = report.skipped_tensors[0]
        lines.append(
            f"{len(report.skipped_tensors)} tensors that are not the text model's were skipped, "
            f"the first {first!r}"
        )
    return "\n".join(lines)
