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
from specdec.load.models import target_sha256
from specdec.report import summary
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
        with _drained_by_sigint(engine) as interrupts:
            _generate(run, engine, _header(asked, engine), num_lines, interrupts)
        _report(run, asked, engine)
    if interrupts.count:
        print("specdec: interrupted; the same command goes on from here", file=sys.stderr)
        return _INTERRUPTED
    return 1 if run.totals.num_rejected else 0


def _generate(
    run: Run, engine: Engine, header: Header, num_lines: int | None, interrupts: _Interrupts
) -> None:
    """Run until the end or the second Ctrl-C."""
    with tqdm(total=num_lines, unit="prompt", desc="generate", disable=None) as bar:
        events = run.generate(engine, header)
        for event in events:
            if interrupts.count > 1:
                break
            totals = run.totals
            done = totals.num_finished + totals.num_finished_before + totals.num_rejected
            bar.initial = totals.num_finished_before
            if done > bar.n:
                bar.update(done - bar.n)
            if event.result:
                bar.set_postfix_str(_rates(totals), refresh=False)
        events.close()


def _rates(totals: RunTotals) -> str:
    rates = f"{totals.tokens_per_s:.0f} tokens/s"
    if totals.stats.num_draft_tokens:
        rates += f", {totals.stats.acceptance_rate:.0%} accepted"
    return rates


def _header(asked: FileRun, engine: Engine) -> Header:
    """All that the texts of the run follow from."""
    config = asked.config
    return {
        "target_sha256": target_sha256(config),
        "numerics_id": engine.numerics_id,
        "context_length": engine.context_length,
        "max_new_tokens": config.run.max_new_tokens,
        "sampling": asdict(config.sampling),
        "stop_strings": list(asked.stop_strings),
        "stop_token_ids": list(asked.stop_token_ids),
    }


def _report(run: Run, asked: FileRun, engine: Engine) -> None:
    """What has come of the run, to stderr, and for machines to stdout."""
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
        devices = {"target_device": engine.target_device, "draft_device": engine.draft_device}
        files = {"output": str(run.output), "rejects": str(run.rejects)}
        print(json.dumps({**files, **devices, **totals.to_json()}), flush=True)


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
