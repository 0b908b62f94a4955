"""`specdec plan`: what this machine, or a named one, can reach with a target and a draft."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from specdec.config import Config, read_config, with_overrides
from specdec.errors import UsageError
from specdec.gemma3.named import NAMED_SHAPES
from specdec.load.probes import shape_of
from specdec.load.timing import time_pair
from specdec.plan.acceptance import (
    AcceptanceModel,
    ConstantAcceptance,
    TraceAcceptance,
    read_traces,
    shipped_traces,
)
from specdec.plan.costs import PlanCosts, measured_costs, modelled_costs, read_costs
from specdec.plan.machines import PlanMachine, machine_names, named_machine
from specdec.plan.plan import Plan, make_plan
from specdec.plan.roofline import Workload, draft_step
from specdec.plan.text import plan_text
from specdec.weights import Bits

_DEFAULT_GOALS = (11.0, 81.0)


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "plan", help="predict what a machine can reach, labelled by evidence", description=__doc__
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--machine", default="this", help=f"this, or one of {', '.join(machine_names())}"
    )
    parser.add_argument(
        "--target", metavar="MODEL", help="a converted model's directory, or e.g. gemma-3-27b"
    )
    parser.add_argument("--draft", metavar="MODEL", help="the same of the draft")
    parser.add_argument("--draft-device", metavar="NAME", help="npu or cpu of a named machine")
    parser.add_argument("--head-bits", type=int, choices=(4, 8), help="of a published target")
    parser.add_argument("--depth", type=int, default=1024, help="tokens before a pass (1024)")
    parser.add_argument(
        "--acceptance", type=float, metavar="A", help="probability that a draft token is accepted"
    )
    parser.add_argument(
        "--traces", type=Path, action="append", default=[], metavar="FILE", help="recorded chains"
    )
    parser.add_argument("--costs", type=Path, metavar="FILE", help="measured costs of the pair")
    parser.add_argument(
        "--hit-rate",
        type=float,
        default=0.8,
        help="with --acceptance: passes that end as branches foresaw (0.8)",
    )
    parser.add_argument(
        "--goal", type=float, action="append", default=[], metavar="N", help="tokens/s to judge"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, TOML")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")


def run(args: argparse.Namespace) -> int:
    """Plan and print."""
    _check(args)
    config = _config(args)
    acceptance = _acceptance(args)
    workload = _workload(args, config)
    machine = None if args.machine == "this" else named_machine(args.machine)
    costs = _costs(args, config, machine, workload)
    if args.costs:
        machine = None
    goals = args.goal or _DEFAULT_GOALS
    plan = make_plan(machine, workload, costs, acceptance, args.hit_rate, goals)
    print(json.dumps(_json(plan)) if args.json else plan_text(plan, workload, costs))
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.acceptance is not None and args.traces:
        raise UsageError("give either --acceptance or --traces")
    for name, value, high in (
        ("acceptance", args.acceptance, 0.999),
        ("hit-rate", args.hit_rate, 1),
    ):
        if value is not None and not 0.0 <= value <= high:
            raise UsageError(f"--{name} is {value:g}; legal: 0 to {high:g}")
    if args.depth < 1:
        raise UsageError(f"--depth is {args.depth}; legal: 1 or more")
    if any(goal <= 0 for goal in args.goal):
        raise UsageError("--goal must be above 0 tokens per second")


def _config(args: argparse.Namespace) -> Config:
    """The settings; a named machine is planned for the published 27B and its 270M draft."""
    config = read_config(args.config) if args.config else Config()
    if args.machine != "this" and not args.costs and not args.config:
        config = with_overrides(config, ["target.model=gemma-3-27b", "draft.model=gemma-3-270m"])
    named = [("target.model", args.target), ("draft.model", args.draft)]
    config = with_overrides(config, args.set)
    return with_overrides(config, [f"{key}={json.dumps(value)}" for key, value in named if value])


def _acceptance(args: argparse.Namespace) -> AcceptanceModel:
    if args.acceptance is not None:
        return ConstantAcceptance(args.acceptance)
    if args.traces:
        names = ", ".join(path.name for path in args.traces)
        return TraceAcceptance(tuple(read_traces(args.traces)), f"replay of {names}")
    source = "replay of greedy traces of the embedded pair; another pair's will differ"
    return TraceAcceptance(tuple(shipped_traces()), source)


def _workload(args: argparse.Namespace, config: Config) -> Workload:
    name = config.target.model
    shape, head_bits = shape_of(name, "target")
    bits: Bits = args.head_bits if args.head_bits and name in NAMED_SHAPES else head_bits
    depth = min(args.depth, shape.context_length)
    return Workload(name, shape, bits, config.run.kv, depth)


def _costs(
    args: argparse.Namespace, config: Config, machine: PlanMachine | None, workload: Workload
) -> PlanCosts:
    """Given, measured now, or modelled."""
    if args.costs:
        return read_costs(args.costs)
    if machine is None:
        if workload.model in NAMED_SHAPES:
            raise UsageError(
                f"{workload.model} has no files to time on this machine: convert it and give its "
                f"directory, or name a machine: {', '.join(machine_names())}"
            )
        pair = time_pair(config)
        return measured_costs(
            pair.costs, pair.draft_device, f"timed now on {pair.target_device}, the least of some"
        )
    devices = machine.draft_devices()
    device = args.draft_device or devices[0]
    if device not in devices:
        raise UsageError(f"{machine.name} has no {device!r}; legal: {', '.join(devices)}")
    draft_shape, _ = shape_of(config.draft.model, "draft")
    return modelled_costs(machine, workload, draft_step(machine, draft_shape, device))


def _json(plan: Plan) -> dict[str, object]:
    """The plan with a label on every computed part."""
    return {**asdict(plan), "label": "modelled from the figures"}
