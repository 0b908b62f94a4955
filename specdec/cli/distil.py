"""`specdec distil`: train a draft that agrees with a target, and if asked the target too."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from specdec.assets import embedded_model_dir
from specdec.convert import convert
from specdec.convert.staging import check_is_free
from specdec.errors import UsageError
from specdec.fields import read_json_object

if TYPE_CHECKING:  # PyTorch comes with the extra alone
    from draft.distil.acceptance import AcceptanceRow
    from draft.distil.recipe import Recipe
    from draft.distil.session import Outcome
    from draft.distil.training import Point

_UNLIMITED = 1 << 40
_BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed} {postfix}"
_DESCRIPTION = """\
Train a draft towards the distribution of TARGET, on a corpus and on text that TARGET writes itself,
the end of it with INT4 weights and INT8 activations, and convert it to OUT. TARGET is a directory
made by `specdec convert`, or what that command reads. A run cut off goes on when repeated.
Corpus files are plain text, or JSON lines with "text" and "kind" (.jsonl), or either as .xz."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = subparsers.add_parser(
        "distil",
        help="train a draft that agrees with a target (extra `distil`)",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="TARGET", type=Path, help="model to agree with")
    parser.add_argument("out", metavar="OUT", type=Path, help="new directory for the draft")
    _add_text_options(parser)
    _add_model_options(parser)
    _add_training_options(parser)
    parser.add_argument("--json", action="store_true", help="report as one JSON object on stdout")
    parser.set_defaults(run=run)


def _add_text_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corpus", metavar="FILE", type=Path, nargs="+", required=True, help="text to train on"
    )
    parser.add_argument(
        "--heldout",
        metavar="FILE",
        type=Path,
        nargs="+",
        default=[],
        help="text to measure on (default: the last twentieth of the corpus)",
    )
    parser.add_argument(
        "--own-tokens",
        metavar="N",
        type=int,
        default=1_000_000,
        help="tokens that TARGET writes to be trained on (default: 1000000)",
    )


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape", metavar="HxL", default="192x3", help="hidden size and layers (default: 192x3)"
    )
    parser.add_argument(
        "--start", metavar="DIR", type=Path, help="converted draft to train further or deeper"
    )
    parser.add_argument(
        "--head-bits", type=int, choices=(4, 8), default=4, help="of embedding and head"
    )
    parser.add_argument(
        "--from-scratch",
        metavar="HxL",
        help="train TARGET too, a new directory of this shape, for the same budget first",
    )
    parser.add_argument(
        "--target-start", metavar="DIR", type=Path, help="with --from-scratch: train this further"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="FILE",
        type=Path,
        default=embedded_model_dir("target") / "tokenizer.model",
        help="with --from-scratch: sentencepiece model (default: the embedded pair's)",
    )


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", metavar="S", type=float, help="budget of one training")
    parser.add_argument("--steps", metavar="N", type=int, help="budget of one training")
    parser.add_argument("--rows", metavar="N", type=int, default=16, help="windows a step")
    parser.add_argument("--length", metavar="N", type=int, default=512, help="tokens a window")
    parser.add_argument(
        "--rate-scale", metavar="X", type=float, default=1.0, help="factor of the learning rates"
    )
    parser.add_argument(
        "--measure-every", metavar="N", type=int, default=200, help="steps between measurements"
    )
    parser.add_argument(
        "--prompt-length", metavar="N", type=int, default=128, help="of held-out prompts, tokens"
    )
    parser.add_argument(
        "--continuation", metavar="N", type=int, default=128, help="tokens written after a prompt"
    )
    parser.add_argument("--prompts", metavar="N", type=int, default=16, help="measured per kind")
    parser.add_argument("--seed", metavar="N", type=int, default=0)
    parser.add_argument(
        "--work", metavar="DIR", type=Path, help="states, curve and report (default: OUT-work)"
    )


def run(args: argparse.Namespace) -> int:
    """Train with a progress bar, convert; the summary goes to stderr."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError("training needs PyTorch: pip install 'specdec[distil]'")
    from draft.distil.distillation import distil
    from draft.distil.session import claim_work

    _check(args)
    recipe = _recipe(args)
    claim_work(recipe)
    report: dict[str, object] = {"out": str(args.out), "work": str(recipe.work)}
    with _Bar() as bar:
        target = _target(args, recipe, bar, report)
        outcome = distil(target, recipe, bar)
    convert(
        outcome.huggingface,
        args.out,
        head_bits=args.head_bits,
        tokenizer=target / "tokenizer.model",
    )
    report["draft"] = _described(outcome)
    text = json.dumps(report)
    (recipe.work / "report.json").write_text(text + "\n", encoding="utf-8")
    print(_summary(args.out, outcome), file=sys.stderr)
    if args.json:
        print(text)
    return 0


class _Bar:
    """A progress bar that is the trainings' listener."""

    def __enter__(self) -> _Bar:
        self._bar = tqdm(total=1.0, desc="distil", disable=None, bar_format=_BAR_FORMAT)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._bar.clear()
        print(f"specdec: {text}", file=sys.stderr)

    def progress(self, point: Point, share: float) -> None:
        """Move the bar to `share` of the budget."""
        self._bar.n = round(share, 4)
        self._bar.set_postfix_str(f"step {point.step}, loss {point.loss:.4f}")
        self._bar.refresh()


def _check(args: argparse.Namespace) -> None:
    """UsageError for numbers that make no sense together."""
    if args.seconds is None and args.steps is None:
        raise UsageError("no budget: give --seconds or --steps")
    least = {
        "--seconds": (args.seconds, 1),
        "--steps": (args.steps, 1),
        "--rows": (args.rows, 2),
        "--length": (args.length, 32),
        "--own-tokens": (args.own_tokens, 0),
        "--measure-every": (args.measure_every, 1),
        "--prompt-length": (args.prompt_length, 2),
        "--continuation": (args.continuation, 1),
        "--prompts": (args.prompts, 1),
        "--seed": (args.seed, 0),
    }
    for option, (value, minimum) in least.items():
        if value is not None and value < minimum:
            raise UsageError(f"{option} is {value}: at least {minimum} is needed")
    if args.rate_scale <= 0:
        raise UsageError(f"--rate-scale is {args.rate_scale}: a factor above 0 is needed")
    check_is_free(args.out)


def _recipe(args: argparse.Namespace) -> Recipe:
    from draft.distil.recipe import Budget, Recipe

    return Recipe(
        work=args.work or args.out.parent / f"{args.out.name}-work",
        corpus=tuple(args.corpus),
        heldout=tuple(args.heldout),
        sizes=args.shape,
        start=args.start,
        head_bits=args.head_bits,
        budget=Budget(args.steps or _UNLIMITED, args.seconds or float(_UNLIMITED)),
        num_rows=args.rows,
        window_length=args.length,
        own_tokens=args.own_tokens,
        rate_scale=args.rate_scale,
        measure_every=args.measure_every,
        prompt_length=args.prompt_length,
        continuation=args.continuation,
        num_prompts=args.prompts,
        seed=args.seed,
    )


def _target(args: argparse.Namespace, recipe: Recipe, bar: _Bar, report: dict[str, object]) -> Path:
    """The converted target: trained, imported, or as it was given."""
    target: Path = args.target
    if args.from_scratch is not None:
        from draft.distil.target_training import train_target

        is_done = (recipe.work / "target_hf").exists() and (target / "config.json").exists()
        if not is_done:
            check_is_free(target)
            outcome = train_target(
                args.tokenizer, args.from_scratch, args.target_start, recipe, bar
            )
            convert(outcome.huggingface, target, head_bits=args.head_bits, tokenizer=args.tokenizer)
            report["target"] = _described(outcome)
        return target
    if target.is_dir() and (target / "tokenizer.model").exists() and _is_converted(target):
        return target
    imported = recipe.work / "target"
    if not imported.exists():
        bar.note(f"importing {target}")
        convert(target, imported)
    return imported


def _is_converted(directory: Path) -> bool:
    config = directory / "config.json"
    return config.is_file() and "format_version" in read_json_object(config)


def _described(outcome: Outcome) -> dict[str, object]:
    """What the report says of one training."""
    described = dataclasses.asdict(outcome)
    return described | {"huggingface": str(outcome.huggingface)}


def _summary(out: Path, outcome: Outcome) -> str:
    last = outcome.history[-1]  # a budget has room for one step at least
    lines = [
        f"{out}: {outcome.num_parameters / 1e6:.2f} M parameters, {last.num_tokens / 1e6:.2f} M "
        f"tokens in {last.elapsed_s:.0f} s, loss {last.loss:.4f}, bits per byte "
        + ", ".join(f"{kind} {value}" for kind, value in outcome.bits_per_byte.items()),
        f"{'kind':12}{'temperature':>12}{'tokens':>8}{'tokens per pass at K = 4':>26}{'7':>7}"
        f"{'untrained 7':>13}",
    ]
    lines += [
        _row(before, after) for before, after in zip(outcome.before, outcome.after, strict=True)
    ]
    return "\n".join(lines)


def _row(before: AcceptanceRow, after: AcceptanceRow) -> str:
    four, seven = after.tokens_per_pass[3], after.tokens_per_pass[6]
    return (
        f"{after.kind:12}{after.temperature:12}{after.num_tokens:8}{four:26.2f}{seven:7.2f}"
        f"{before.tokens_per_pass[6]:13.2f}"
    )
