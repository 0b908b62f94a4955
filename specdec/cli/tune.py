"""`specdec tune`: find the fastest draft length, drafter and mode for this machine and pair."""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path

from specdec.cli.loading import loading_bar
from specdec.cli.tune_kernels import run_kernels
from specdec.compare.prompt_sets import PromptSets, chosen, layers, prompts_of_file, shipped_prompts
from specdec.config import Config, read_config, with_overrides, with_value
from specdec.errors import UsageError
from specdec.load.machine_name import machine_name
from specdec.tune.bench import Bench
from specdec.tune.choice import Choice, choose
from specdec.tune.curve import curve_svg
from specdec.tune.halving import Clock, Halving, Trial, affordable_tokens
from specdec.tune.settings import DEFAULT_LENGTHS, settings_of
from specdec.tune.table import table, verdict
from specdec.tune.toml_file import Evidence, config_text


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "tune", help="find the fastest settings for this machine and pair", description=__doc__
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--budget", type=float, default=120.0, metavar="S", help="seconds to measure (120)"
    )
    parser.add_argument(
        "--draft-lengths",
        default=",".join(map(str, DEFAULT_LENGTHS)),
        metavar="K,K",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--draft-devices", default="", metavar="A,B", help="default: the configured, or cpu,ngram"
    )
    parser.add_argument(
        "--batch-sizes", default="", metavar="N,N", help="prompts at once; default: one by one"
    )
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="JSON lines with a `kind`")
    parser.add_argument("--kinds", default="", metavar="A,B", help="only these kinds of text")
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="per prompt (as the budget allows, to 48)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("tuned.toml"), metavar="FILE", help="(tuned.toml)"
    )
    parser.add_argument("--json", action="store_true", help="print all measurements as JSON")
    parser.add_argument(
        "--kernels",
        action="store_true",
        help="tune the shaders' settings for the target's device instead; bits stay the same",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings to start from, TOML")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")


def run(args: argparse.Namespace) -> int:
    """Search, show, write the configuration and a curve per drafter."""
    if not args.budget > 0:
        raise UsageError(f"--budget is {args.budget:g}; legal: seconds above 0")
    if args.kernels:
        return run_kernels(args)
    base = with_overrides(read_config(args.config) if args.config else Config(), args.set)
    drafters = _drafters(args, base)
    batch_sizes = _numbers(args.batch_sizes or "1", "--batch-sizes", "run.batch_size")
    lengths = _numbers(args.draft_lengths, "--draft-lengths", "speculation.draft_length")
    settings = settings_of(drafters, [length for length in lengths if length], batch_sizes)
    sets = _sets(args)
    prompts = [prompt for layer in layers(sets, 1) for prompt in layer]
    if not args.output.parent.is_dir():
        raise UsageError(f"--output {str(args.output)!r}: no such directory; make it first")
    with ExitStack() as held:
        with loading_bar() as show_loaded:
            bench = Bench(base, settings, prompts, held, show_loaded)
        num_tokens = args.max_new_tokens or affordable_tokens(
            args.budget, bench.warm_up(), len(settings), len(sets)
        )
        bench.shorten(num_tokens)
        start = time.perf_counter()
        clock = Clock(args.budget, lambda: time.perf_counter() - start)
        search = Halving(settings, bench.measure, bench.num_units, clock)
        live = _LiveTable()
        search.run(live.show)
        live.end(search.trials)
        machine = machine_name(bench.target_device)
    choice = choose(search.trials)
    evidence = Evidence(machine, _today(), args.budget, list(sets), num_tokens)
    _write(args.output, config_text(base, choice, search.trials, evidence))
    for drafter, size in product(drafters, batch_sizes):
        title = f"{drafter} drafts, {size} at once: {machine}"
        name = f"{args.output.stem}-{drafter}{f'-{size}' * (len(batch_sizes) > 1)}.svg"
        picture = curve_svg(search.trials, drafter, size, list(sets), title)
        _write(args.output.with_name(name), picture)
    _report(args, choice, search.trials, machine)
    return 0


def _numbers(text: str, option: str, key: str) -> list[int]:
    """Numbers between commas, each legal for a config key, ascending."""
    try:
        numbers = sorted({int(number) for number in text.split(",")})
    except ValueError as error:
        raise UsageError(f"{option} is {text!r}; expected numbers like 1,2,4,8") from error
    for number in numbers:
        with_value(Config(), key, number)  # checks the bounds
    return numbers


def _drafters(args: argparse.Namespace, config: Config) -> list[str]:
    """As asked; else the configured one; else a model where it runs best, and copying."""
    named = [name.strip() for name in args.draft_devices.split(",") if name.strip()]
    for name in named:
        with_value(config, "draft.device", name)
        if name in ("off", "auto"):
            raise UsageError(f"--draft-devices: {name!r} is no drafter; name some, as cpu,ngram")
    if named:
        return list(dict.fromkeys(named))
    if config.draft.device not in ("auto", "off"):
        return [config.draft.device]
    has_onnx = importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx")
    return ["cpu" if has_onnx else "reference", "ngram"]


def _sets(args: argparse.Namespace) -> PromptSets:
    sets = prompts_of_file(args.prompts) if args.prompts else shipped_prompts()
    kinds = [kind.strip() for kind in args.kinds.split(",") if kind.strip()]
    return chosen(sets, kinds, max(map(len, sets.values())))


class _LiveTable:
    """Rewrites itself in place on a terminal; elsewhere a line per change of rung."""

    def __init__(self) -> None:
        self._num_lines = 0
        self._rung = 0
        self._is_terminal = sys.stderr.isatty()

    def show(self, trials: Sequence[Trial]) -> None:
        """What is known of the settings that are still in."""
        if self._is_terminal:
            self._rewrite(table(trials))
        elif trials[0].rung != self._rung:
            self._rung = trials[0].rung
            names = ", ".join(trial.setting.name for trial in trials)
            print(f"specdec: rung {self._rung}: {names}", file=sys.stderr, flush=True)

    def end(self, trials: Sequence[Trial]) -> None:
        """All settings."""
        self._rewrite(table(trials))

    def _rewrite(self, lines: Sequence[str]) -> None:
        back = f"\x1b[{self._num_lines}F\x1b[J" if self._num_lines else ""
        print(back + "\n".join(lines), file=sys.stderr, flush=True)
        self._num_lines = len(lines) if self._is_terminal else 0


def _today() -> str:
    return datetime.date.today().isoformat()


def _write(path: Path, text: str) -> None:
    """UsageError where the file cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror}") from error
    print(f"specdec: wrote {path}", file=sys.stderr)


def _report(
    args: argparse.Namespace, choice: Choice, trials: Sequence[Trial], machine: str
) -> None:
    """The verdict for people, or everything for machines."""
    print("\n".join(verdict(choice)), file=sys.stderr if args.json else sys.stdout)
    if args.json:
        rows = [
            {
                "setting": trial.setting.name,
                "rung": trial.rung,
                "num_prompts": len(trial.samples),
                "tokens_per_s": round(trial.tokens_per_s, 3),
                "by_kind": {
                    kind: round(trial.tokens_per_s_of(kind), 3)
                    for kind in sorted({sample.kind for sample in trial.samples})
                },
            }
            for trial in trials
        ]
        report = {"machine": machine, "label": "measured", "best": choice.best.setting.name}
        print(json.dumps(report | {"adaptive_wins": choice.adaptive_wins, "settings": rows}))
