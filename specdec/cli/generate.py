"""`specdec generate`: text from one prompt, or a JSON line per prompt of a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from specdec.chat import ChatMessage
from specdec.cli.cancelling import cancelled_by_sigint
from specdec.cli.loading import loading_bar
from specdec.cli.running import FileRun, run_on_cluster, run_to_file
from specdec.config import Config, read_config, with_overrides, with_value
from specdec.engine import Engine
from specdec.errors import SpecdecError, UsageError
from specdec.generation import Event, Generation
from specdec.load import load
from specdec.planning import RoundRecorder
from specdec.prompts import Prompt, read_prompts
from specdec.recorders import Recorders
from specdec.report import summary
from specdec.stats import SpecStats
from specdec.timeline import TimelineRecorder
from specdec.tokenizer import decode_utf8
from specdec.traces import JsonlRecorder

# option -> the config key it sets
_OPTIONS = {
    "max_new_tokens": "run.max_new_tokens",
    "target": "target.model",
    "device": "target.device",
    "draft": "draft.model",
    "draft_device": "draft.device",
    "mode": "speculation.mode",
    "draft_length": "speculation.draft_length",
    "temperature": "sampling.temperature",
    "seed": "sampling.seed",
    "batch_size": "run.batch_size",
    "output": "run.output",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "generate", help="generate text speculatively", description=__doc__
    )
    parser.set_defaults(run=run)
    parser.add_argument("prompt", nargs="?", help="the prompt; - reads it from standard input")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a JSON object per line")
    parser.add_argument(
        "--output", metavar="FILE", help="append results here; the same command again goes on"
    )
    parser.add_argument("--chat", action="store_true", help="wrap the prompt as a user's turn")
    parser.add_argument("--json", action="store_true", help="print a JSON object per prompt")
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before TEXT"
    )
    parser.add_argument(
        "--stop-token-id", action="append", default=[], type=int, metavar="ID", help="end after ID"
    )
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="write every round (JSONL), for replay"
    )
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="write a timeline for Perfetto (JSON)"
    )
    _add_settings(parser)
    _add_cluster(parser)


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    """Declare what a run over several machines takes."""
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="run on a Ray cluster (local: on this machine's)"
    )
    parser.add_argument(
        "--ray-workers", type=int, default=0, metavar="N", help="default: one a GPU or machine"
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Declare what sets a config key."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, TOML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. sampling.top_k=40"
    )
    parser.add_argument("--max-new-tokens", type=int, metavar="N")
    parser.add_argument("--batch-size", type=int, metavar="N", help="prompts that run at once")
    parser.add_argument("--target", metavar="MODEL", help="a converted model's directory")
    parser.add_argument("--device", help="a Vulkan device by name or index, auto or reference")
    parser.add_argument("--draft", metavar="MODEL", help="a converted model's directory")
    parser.add_argument(
        "--draft-device",
        metavar="NAME",
        help="auto, npu, npu-emulated, cpu, vulkan, reference, ngram or off",
    )
    parser.add_argument("--mode", help="auto, fixed or off (plain decoding)")
    parser.add_argument("--draft-length", type=int, metavar="K")
    parser.add_argument("--temperature", type=float, metavar="T")
    parser.add_argument("--seed", type=int)


def run(args: argparse.Namespace) -> int:
    """Generate as asked; 1 if any prompt failed."""
    config = _config(args)
    if "" in args.stop:
        raise UsageError("--stop is empty; give at least one character")
    if args.ray and not config.run.output:
        raise UsageError("--ray goes with --output FILE")
    if args.ray:
        return run_on_cluster(_file_run(args, config), args.ray, args.ray_workers)
    if config.run.output:
        return run_to_file(_file_run(args, config), lambda: _engine(args, config))
    prompts = _prompts(args)
    with _engine(args, config) as engine, cancelled_by_sigint(engine):
        is_mixed = len(prompts) > 1 and config.run.batch_size > 1
        show = _show_json if args.json else _show_whole if is_mixed else _show_text
        results = list(_results(engine, prompts, show))
    failed = [result for result in results if result.finish_reason == "error"]
    _report(results, failed)
    if len(prompts) == 1 and failed:
        raise SpecdecError(failed[0].error)
    return 1 if failed else 0


def _engine(args: argparse.Namespace, config: Config) -> Engine:
    """The engine, with a bar while it loads."""
    with loading_bar() as show_loaded:
        return load(
            config,
            stop_strings=tuple(args.stop),
            stop_token_ids=frozenset(args.stop_token_id),
            recorder=Recorders(_recorders(args)),
            progress=show_loaded,
        )


def _file_run(args: argparse.Namespace, config: Config) -> FileRun:
    """What to run into the output file."""
    if not args.prompts or args.prompt is not None or args.chat:
        raise UsageError("--output goes with --prompts FILE, and with no other prompt")
    stop_token_ids = sorted(set(args.stop_token_id))
    return FileRun(args.prompts, config, tuple(args.stop), tuple(stop_token_ids), args.json)


def _config(args: argparse.Namespace) -> Config:
    """File first, then --set, then the options."""
    config = read_config(args.config) if args.config else Config()
    config = with_overrides(config, args.set)
    for option, name in _OPTIONS.items():
        value = getattr(args, option)
        if value is not None:
            config = with_value(config, name, value)
    return config


def _recorders(args: argparse.Namespace) -> list[RoundRecorder]:
    recorders: list[RoundRecorder] = []
    if args.record:
        recorders.append(JsonlRecorder(args.record))
    if args.trace:
        recorders.append(TimelineRecorder(args.trace))
    return recorders


def _prompts(args: argparse.Namespace) -> list[Prompt]:
    if (args.prompt is None) == (args.prompts is None):
        raise UsageError("give either a prompt (- for standard input) or --prompts FILE")
    if args.prompts:
        if args.chat:
            raise UsageError("--chat goes with one prompt; a prompts file uses `messages`")
        return list(read_prompts(args.prompts))
    text = args.prompt
    if text == "-":
        text = decode_utf8(sys.stdin.buffer.read(), "standard input")
    if not text:
        raise UsageError("the prompt is empty; give at least one character")
    if args.chat:
        return [Prompt(id="0", messages=(ChatMessage("user", text),))]
    return [Prompt(id="0", text=text)]


def _results(
    engine: Engine, prompts: list[Prompt], show: Callable[[Event], None]
) -> Iterator[Generation]:
    for event in engine.generate(prompts):
        show(event)
        if event.result:
            yield event.result


def _show_text(event: Event) -> None:
    """Stream text to stdout; a newline ends each prompt's."""
    failed = event.result is not None and event.result.finish_reason == "error"
    ending = "\n" if event.result and not failed else ""
    print(event.text, end=ending, flush=True)


def _show_whole(event: Event) -> None:
    """A prompt's whole text once it is there: several run at once."""
    if event.result and event.result.finish_reason != "error":
        print(event.result.text, flush=True)


def _show_json(event: Event) -> None:
    if event.result:
        print(json.dumps(event.result.to_json(), ensure_ascii=False), flush=True)


def _report(results: list[Generation], failed: list[Generation]) -> None:
    """Statistics and failures, to stderr."""
    total = SpecStats()
    for result in results:
        total.add(result.stats)
    if len(results) > len(failed):
        print(summary(results[-1], total), file=sys.stderr)
    if len(results) > 1:
        for result in failed:
            print(f"specdec: {result.error}", file=sys.stderr)
