"""Record the draft chains along real text, for benchmarks/replay.py.

    python benchmarks/record_traces.py --out benchmarks/traces/embedded.npz
    python benchmarks/record_traces.py --set draft.device=ngram --out ngram.npz

Every prompt runs once per temperature. At each position of the target's text the draft makes its
whole chain, none of which is checked, so the text is plain decoding's. The record (JSON lines, with
times) stays beside the traces as FILE.jsonl unless it is asked away.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path

import specdec
from specdec.traces import FullChain, JsonlRecorder, read_record, save_traces

PROMPTS = Path(__file__).parent / "prompts"


def requests(kinds: list[str], per_kind: int, temperatures: list[float]) -> list[specdec.Prompt]:
    """Prompts of all kinds in turn, so that a record cut short is still a mix."""
    by_kind = [
        [
            replace(prompt, id=f"{kind}/{prompt.id}/{temperature:g}", temperature=temperature)
            for prompt in itertools.islice(
                specdec.read_prompts(PROMPTS / f"{kind}.jsonl"), per_kind
            )
            for temperature in temperatures
        ]
        for kind in kinds
    ]
    return [prompt for row in itertools.zip_longest(*by_kind) for prompt in row if prompt]


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="traces, npz")
    parser.add_argument("--kinds", default="code,documentation,prose,copy_edit")
    parser.add_argument("--prompts-per-kind", type=int, default=20)
    parser.add_argument("--temperatures", default="0,0.7")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--keep-record", action="store_true", help="keep FILE.jsonl, with times")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    config = specdec.with_overrides(
        specdec.Config(), [f"run.max_new_tokens={args.max_new_tokens}", *args.set]
    )
    temperatures = [float(text) for text in args.temperatures.split(",")]
    prompts = requests(args.kinds.split(","), args.prompts_per_kind, temperatures)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    record = args.out.with_suffix(".jsonl")
    controller = FullChain(config.speculation.max_draft_length)
    start = time.perf_counter()
    with specdec.load(config, controller=controller, recorder=JsonlRecorder(record)) as engine:
        results = (event.result for event in engine.generate(prompts) if event.result)
        for count, result in enumerate(results, start=1):
            elapsed_s = time.perf_counter() - start
            print(f"{count}/{len(prompts)} {result.id} {elapsed_s:.0f} s", file=sys.stderr)
    traces = read_record(record)
    save_traces(args.out, traces)
    if not args.keep_record:
        record.unlink()
    print(f"{len(traces)} traces, {args.out.stat().st_size} bytes: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
