"""`make bench`: the standard set in a few minutes, a row of history, and what changed since.

    python benchmarks/bench.py [--accept] [--set draft.device=ngram]

Measures the embedded pair: target passes by size and prefill, then plain, `auto` and fixed-length
speculation by kind of text. Appends to results/history.jsonl and compares with the last row of the
same machine; a figure that got worse beyond noise is marked and makes the exit code 1. On a busy
machine figures are noise: the row says so and nothing is judged.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from bench_history import Figure, Row, append, is_worse, read_rows, reference, table

HERE = Path(__file__).parent
MODEL = HERE.parent / "specdec" / "models" / "embedded" / "target"
DRAFT_LENGTH = 7
FIXED = f"draft_length={DRAFT_LENGTH}"  # the name that `compare` gives it
_DEVIATIONS = 2.563  # between the 10th and the 90th percentile of a normal distribution
_MEDIAN_95 = 1.96 * 1.2533  # half the 95 % interval of a median, in deviations over sqrt(n)


def output_of(command: list[str]) -> dict[str, object]:
    """The last line of a command's stdout, a JSON object; its stderr goes to ours."""
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])} failed; nothing was recorded")
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def pass_figures(target: dict) -> dict[str, Figure]:
    """Milliseconds of a pass by its number of tokens, and prefill."""
    figures = {}
    for size, times in target["passes"].items():
        spread = (times["p90_ms"] - times["p10_ms"]) / _DEVIATIONS
        half = _MEDIAN_95 * spread / target["n"] ** 0.5
        middle = times["median_ms"]
        figures[f"pass of {size}, ms"] = Figure(middle, middle - half, middle + half, "ms", False)
    return figures


def compare_figures(result: dict) -> dict[str, Figure]:
    """Plain speed, what speculation makes of it, and tokens per pass, by kind of text."""
    figures = {}
    for kind, rows in result["kinds"].items():
        for row in rows:
            name, shown = row["contender"], row["ratio"] or row["tokens_per_s"]
            unit = "x plain" if row["ratio"] else "tokens/s"
            bounds = (shown[key] or shown["value"] for key in ("low", "high"))
            figures[f"{kind}, {name}, {unit}"] = Figure(shown["value"], *bounds, unit, True)
            if name == FIXED:  # the same passes every time
                count = row["stats"]["tokens_per_pass"]
                key = f"{kind}, {name}, tokens per pass"
                figures[key] = Figure(count, count, count, "tokens", True)
    return figures


def measured(args: argparse.Namespace) -> Row:
    """Run the standard set."""
    load_before = os.getloadavg()[0]
    command = [str(HERE / "bench_target.py"), "--model", str(MODEL), "--device", args.device]
    print("measuring passes of the target", file=sys.stderr)
    target = output_of([*command, "--repeat", "30"])
    settings = [f"--set={text}" for text in [f"target.device={args.device}", *args.set]]
    size = ["--prompts-per-kind", "6", "--repeats", "2", "--seconds", "0"]
    with tempfile.TemporaryDirectory() as scratch:
        where = ["--output", str(Path(scratch) / "comparison"), "--json"]
        length = ["--against", f"speculation.draft_length={DRAFT_LENGTH}"]
        command = ["-m", "specdec", "compare", *settings, *size, *length, *where]
        comparison = output_of(command)
    return Row(
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(),
        machine={
            "processor": str(comparison["processor"]),
            "target_device": str(comparison["target_device"]),
            "settings": " ".join(args.set),
        },
        driver=str(target["driver"]),
        load_before=round(load_before, 2),
        is_busy=load_before > 0.5 * (os.cpu_count() or 1),
        is_accepted=args.accept,
        figures=pass_figures(target) | compare_figures(comparison),
        worse=(),
    )


def commit() -> str:
    """The checkout's commit, marked if there are changes."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def main() -> int:
    """Measure, compare, append; 1 if something got worse."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="auto", help="the target's Vulkan device")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--accept", action="store_true", help="compare with this row from now on, worse or not"
    )
    parser.add_argument("--history", type=Path, default=HERE / "results" / "history.jsonl")
    args = parser.parse_args()
    rows = read_rows(args.history)
    row = measured(args)
    before = reference(rows, row.machine)
    worse = [
        name
        for name, figure in row.figures.items()
        if before and name in before.figures and is_worse(figure, before.figures[name])
    ]
    if row.is_busy:
        worse = []
    row = Row(**{**vars(row), "worse": worse})
    append(args.history, row)
    print(table(row.figures, before), "", sep="\n")
    print(verdict(row, before))
    return 1 if worse and not args.accept else 0


def verdict(row: Row, before: Row | None) -> str:
    """What to make of the row, in a line."""
    machine = ", ".join(filter(None, row.machine.values()))
    if row.is_busy:
        return f"{machine}: busy (load {row.load_before}), nothing judged; measure again when idle"
    if not before:
        return (
            f"{machine}: the first row of this machine ({row.fingerprint}); nothing to compare with"
        )
    since = f"since {before.finished_at} ({before.commit})"
    if row.worse:
        return f"{machine}: WORSE {since}: {'; '.join(row.worse)}"
    return f"{machine}: no figure is worse {since}"


if __name__ == "__main__":
    sys.exit(main())
