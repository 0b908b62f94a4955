"""`specdec compare`: plain decoding against speculation, with a table, JSON and an HTML report."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from specdec.checkpoint import open_checkpoint
from specdec.cli.cancelling import cancelled_by_sigint
from specdec.cli.loading import loading_bar
from specdec.compare.contenders import Contender, contenders_of
from specdec.compare.measure import Entrant, Run, open_entrants, run_all, warm_up
from specdec.compare.page import page
from specdec.compare.prompt_sets import (
    PromptSets,
    chosen,
    layers,
    prompts_of_file,
    shipped_prompts,
)
from specdec.compare.result import Comparison, summarize
from specdec.compare.table import table
from specdec.compare.to_json import to_json
from specdec.config import Config, read_config, with_overrides
from specdec.errors import UsageError
from specdec.load.models import model_dir, open_tokenizer
from specdec.prompts import Prompt

# option: its default, and its default with --full
_SIZES = {
    "prompts_per_kind": (6, 24),
    "repeats": (3, 5),
    "max_new_tokens": (48, 96),
    "seconds": (100.0, 0.0),
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "compare", help="measure speculation against plain decoding", description=__doc__
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="SETTINGS",
        help='one more configuration: "section.key=value ..." or a TOML file; repeatable',
    )
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="JSON lines with a `kind`")
    parser.add_argument("--kinds", default="", metavar="A,B", help="only these kinds of text")
    parser.add_argument(
        "--prompts-per-kind", type=int, metavar="N", help="default: 6, with --full 24"
    )
    parser.add_argument("--repeats", type=int, metavar="N", help="default: 3, with --full 5")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="default: 48, full: 96")
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        help="start nothing that would end later, loading included; 0: no limit (default: 100, "
        "with --full 0)",
    )
    parser.add_argument("--full", action="store_true", help="120 pairs of every kind; many minutes")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("comparison"),
        metavar="STEM",
        help="write STEM.json and STEM.html (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the JSON instead of the table")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, TOML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. draft.device=ngram"
    )


def run(args: argparse.Namespace) -> int:
    """Compare as asked; 1 if any output differs from plain decoding's."""
    _fill_sizes(args)
    base = with_overrides(read_config(args.config) if args.config else Config(), args.set)
    contenders = contenders_of(base, args.against, args.max_new_tokens)
    sets = _prompt_sets(args)
    if not args.output.parent.is_dir():
        raise UsageError(f"--output {str(args.output)!r}: no such directory; make it first")
    comparison = _compare(args, contenders, sets)
    plan: dict[str, object] = {name: getattr(args, name) for name in _SIZES}
    result = to_json(comparison, plan | {"target": base.target.model, "draft": base.draft.model})
    text = json.dumps(result, ensure_ascii=False)
    for ending, content in ((".json", f"{text}\n"), (".html", page(result))):
        path = args.output.with_name(args.output.name + ending)
        path.write_text(content, encoding="utf-8")
        print(f"specdec: wrote {path}", file=sys.stderr)
    print(table(comparison), file=sys.stderr if args.json else sys.stdout)
    if args.json:
        print(text)
    return 1 if comparison.differences else 0


def _fill_sizes(args: argparse.Namespace) -> None:
    """Defaults of what --full makes bigger, and their bounds."""
    for name, sizes in _SIZES.items():
        if getattr(args, name) is None:
            setattr(args, name, sizes[args.full])
        value, least = getattr(args, name), 0 if name == "seconds" else 1
        if not value >= least:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} is {value}; legal: {least} and more")


def _prompt_sets(args: argparse.Namespace) -> PromptSets:
    sets = prompts_of_file(args.prompts) if args.prompts else shipped_prompts()
    kinds = [kind.strip() for kind in args.kinds.split(",") if kind.strip()]
    return chosen(sets, kinds, args.prompts_per_kind)


def _compare(
    args: argparse.Namespace, contenders: Sequence[Contender], sets: PromptSets
) -> Comparison:
    """Open everything, run until the plan or the time is through, and sum up."""
    plan, start = layers(sets, args.repeats), time.perf_counter()
    with ExitStack() as held:
        with loading_bar() as show_loaded:
            entrants = open_entrants(contenders, held, show_loaded)
        with cancelled_by_sigint(*(entrant.engine for entrant in entrants)):
            warm_up(entrants, plan[0][0])
            left_s = args.seconds - (time.perf_counter() - start)
            runs = _runs(entrants, plan, left_s if args.seconds else float("inf"))
        if not runs:
            raise KeyboardInterrupt  # before the first layer was through
        target = open_checkpoint(model_dir(contenders[0].config.target.model, "target"))
        return summarize(entrants, runs, open_tokenizer(target))


def _runs(
    entrants: Sequence[Entrant], plan: Sequence[Sequence[Prompt]], budget_s: float
) -> list[Run]:
    """All runs, with a progress bar; Ctrl-C leaves those that are through."""
    runs: list[Run] = []
    with tqdm(total=sum(map(len, plan)), unit="prompt", desc="comparing", disable=None) as bar:
        for layer_runs in run_all(entrants, plan, budget_s):
            runs += layer_runs
            bar.update(len(layer_runs) // len(entrants))
    return runs
