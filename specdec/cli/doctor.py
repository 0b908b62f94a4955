"""`specdec doctor`: what is here, what will be used and why, what is missing and the remedy."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from specdec.config import Config, read_config, with_overrides
from specdec.diagnosis import Diagnosis, chosen_gpu, diagnose
from specdec.load.probes import model_need, probe_machine
from specdec.machine import Machine

_MARKS = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "doctor", help="check this machine for a run, with remedies", description=__doc__
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, TOML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. run.kv=int8"
    )
    parser.add_argument(
        "--target", metavar="MODEL", help="a converted model's directory, or e.g. gemma-3-27b"
    )
    parser.add_argument(
        "--quick", action="store_true", help="do not measure how fast memory is copied"
    )


def run(args: argparse.Namespace) -> int:
    """Look, judge, print; 1 if the configured run cannot start."""
    config = read_config(args.config) if args.config else Config()
    overrides = [*args.set, f"target.model={json.dumps(args.target)}"] if args.target else args.set
    config = with_overrides(config, overrides)
    need = model_need(config)  # first: what is asked for may be impossible anywhere
    machine = probe_machine(measure=not args.quick)
    gpu = chosen_gpu(machine.gpus, config.target.device)
    if gpu is not None:
        need = model_need(config, gpu.prefill_rows)
    diagnosis = diagnose(machine, need, config)
    if args.json:
        report = {
            "machine": asdict(machine),
            "need": {**asdict(need), "total_bytes": need.total_bytes},
            **asdict(diagnosis),
            "can_run": diagnosis.can_run,
        }
        print(json.dumps(report))
    else:
        print(_text(machine, diagnosis))
    if not diagnosis.can_run:
        print("specdec: this run cannot start as configured, see PROBLEM", file=sys.stderr)
    return 0 if diagnosis.can_run else 1


def _text(machine: Machine, diagnosis: Diagnosis) -> str:
    host = machine.host
    gib = 1 << 30
    locked = "unlimited"
    if host.locked_limit_bytes is not None:
        locked = f"{host.locked_limit_bytes / (1 << 20):.0f} MiB"
    lines = [
        f"{host.processor} cores, {host.memory_bytes / gib:.1f} GiB of memory "
        f"({host.available_bytes / gib:.1f} available, {locked} lockable), Linux {host.kernel}, "
        f"Python {host.python}",
    ]
    if host.copy_gb_s is not None:
        lines.append(f"CPU copies {host.copy_gb_s:.1f} GB/s read + written (measured)")
    for gpu in machine.gpus:
        if gpu.copy_gb_s is not None:
            lines.append(f"{gpu.name} copies {gpu.copy_gb_s:.1f} GB/s read + written (measured)")
    lines.append("")
    for finding in diagnosis.findings:
        lines.append(f"{_MARKS[finding.level]}  {finding.subject}: {finding.text}")
        if finding.remedy:
            lines.append(f"         -> {finding.remedy}")
    lines += ["", f"target: {diagnosis.target}", f"draft:  {diagnosis.draft}"]
    return "\n".join(lines)
