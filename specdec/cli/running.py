"""`specdec generate --output`: a run over a file of prompts, as people and machines see it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from specdec.config import Config
from specdec.engine import Engine
from specdec.load import context_length_of
from specdec.load.models import target_sha256
from specdec.report import summary
from specdec.runs.cluster import ClusterJob, generate_on_cluster
from specdec.runs.header import Header
from specdec.runs.prompt_stream import count_lines
from specdec.runs.run import Run, RunTotals

_INTERRUPTED = 130
_STDERR = 2
_DRAINING = b"\nspecdec: finishing the prompts that run; Ctrl-C again abandons them\n"


@dataclass(frozen=True, slots=True)
class FileRun:
    """What to run, and how to tell of it."""

    prompts: Path
    config: Config
    stop_strings: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    is_json: bool


@dataclass(slots=True)
class _Interrupts:
    """How often Ctrl-C was pressed."""

    count: int = 0


def run_to_file(asked: FileRun, open_engine: Callable[[], Engine]) -> int:
    """Run; 0 if every prompt is finished, 1 if some cannot run, 130 if interrupted."""
    num_lines = count_lines(asked.prompts)
    output = Path(asked.config.run.output)
    with closing(Run(asked.prompts, output)) as run, open_engine() as engine:
        header = _header(asked, engine.numerics_id, engine.context_length)
        with (
            _drained_by_sigint(engine) as interrupts,
            _bar(num_lines, run) as show,
            closing(run.generate(engine, header)) as events,
        ):
            for _ in events:
                show()
                if interrupts.count > 1:
                    break
    return _report(run, asked, bool(interrupts.count))


def run_on_cluster(asked: FileRun, address: str, num_workers: int) -> int:
    """Run on a Ray cluster; exit codes as above. Ctrl-C gives up the parts that run."""
    num_lines = count_lines(asked.prompts)
    context_length = context_length_of(asked.config)
    job = ClusterJob(
        address, num_workers, asked.config, asked.stop_strings, frozenset(asked.stop_token_ids)
    )
    is_interrupted = False
    with closing(Run(asked.prompts, Path(asked.config.run.output))) as run:
        results = run.generate_elsewhere(
            lambda prompts: generate_on_cluster(job, prompts),
            lambda numerics_id: _header(asked, numerics_id, context_length),
        )
        try:
            with _bar(num_lines, run) as show, closing(results):
                for _ in results:
                    show()
        except KeyboardInterrupt:
            is_interrupted = True
    return _report(run, asked, is_interrupted)


@contextmanager
def _bar(num_lines: int | None, run: Run) -> Iterator[Callable[[], None]]:
    """A progress bar, and what brings it up to date."""
    totals = run.totals
    with tqdm(total=num_lines, unit="prompt", desc="generate", disable=None) as bar:

        def show() -> None:
            done = totals.num_finished + totals.num_finished_before + totals.num_rejected
            bar.initial = totals.num_finished_before
            if done > bar.n:
                bar.set_postfix_str(_rates(totals), refresh=False)
                bar.update(done - bar.n)

        yield show


def _rates(totals: RunTotals) -> str:
    rates = f"{totals.tokens_per_s:.0f} tokens/s"
    if totals.stats.num_draft_tokens:
        rates += f", {totals.stats.acceptance_rate:.0%} accepted"
    return rates


def _header(asked: FileRun, numerics_id: str, context_length: int) -> Header:
    """All that the texts of the run follow from."""
    config = asked.config
    return {
        "target_sha256": target_sha256(config),
        "numerics_id": numerics_id,
        "context_length": context_length,
        "max_new_tokens": config.run.max_new_tokens,
        "sampling": asdict(config.sampling),
        "stop_strings": list(asked.stop_strings),
        "stop_token_ids": list(asked.stop_token_ids),
    }


def _report(run: Run, asked: FileRun, is_interrupted: bool) -> int:
    """What has come of the run, to stderr, and for machines to stdout; the exit code."""
    totals = run.totals
    if totals.last:
        print(summary(totals.last, totals.stats), file=sys.stderr)
    print(
        f"{totals.num_finished} prompts finished, {totals.num_finished_before} before; "
        f"{totals.num_tokens} tokens in {totals.elapsed_s:.2f} s, {totals.tokens_per_s:.1f} "
        "tokens/s with prefill and all",
        file=sys.stderr,
    )
    if totals.num_rejected:
        print(
            f"specdec: {totals.num_rejected} lines cannot run; {run.rejects} says why",
            file=sys.stderr,
        )
    if asked.is_json:
        files = {"output": str(run.output), "rejects": str(run.rejects)}
        print(json.dumps({**files, **totals.to_json()}), flush=True)
    if is_interrupted:
        print("specdec: interrupted; the same command goes on from here", file=sys.stderr)
        return _INTERRUPTED
    return 1 if totals.num_rejected else 0


@contextmanager
def _drained_by_sigint(engine: Engine) -> Iterator[_Interrupts]:
    """The first Ctrl-C finishes what runs, the second gives it up, the third ends the process."""
    interrupts = _Interrupts()

    def interrupt(signum: int, frame: FrameType | None) -> None:
        interrupts.count += 1
        engine.drain()
        if interrupts.count == 1:
            os.write(_STDERR, _DRAINING)  # print may not be entered twice
        else:
            signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, previous)
