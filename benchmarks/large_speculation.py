"""Plain against speculative decoding of an expanded model (expand.py); it knows no weights.

    python benchmarks/expand.py /dev/shm/large
    python benchmarks/large_speculation.py /dev/shm/large --draft-devices cpu vulkan \\
        --contenders 7 7:off auto

A contender is a draft length or `auto`, and a way of overlapping after a colon if not the measured
one. Greedy. Each prompt runs plain and then with each contender, so that a slow moment hits
neighbours alike. `auto` starts without knowledge of costs but for a warm-up.
Prints a table by kind of text and, as its last line, one JSON object. Fails if a speculative text
differs from the plain one. Texts that differ from the small model's own are counted, and the gap
shows how near a tie the small model's two best logits were where they part.

A row's `speedup` is the median over prompts of plain over speculative decode time, `of_ideal` the
speed-up over the tokens per pass: 1 would be a pass as cheap as a plain one and a free draft. Times
are per pass: `draft_ms` is waiting for the drafter; `hidden` is the share of drafting that nobody
waited for after a pass that ended as foreseen (`hit_rate`), `of_possible` the same of what the pass
before had time for: a long run takes longer to draft than a pass lasts.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from overlap_costs import Watch, hidden_of_possible
from switched import Switched

import specdec
from specdec.assets import embedded_model_dir
from specdec.checkpoint import open_checkpoint
from specdec.controller import AdaptiveLength, FixedLength
from specdec.costs import Costs
from specdec.gemma3.loading import from_checkpoint
from specdec.planning import Controller
from specdec.tokenizer import Tokenizer
from target.pass_sizes import BLOCK_ROWS, PASS_ROWS

PROMPTS = Path(__file__).parent / "prompts"
AUTO = "auto"
_MAX_DRAFT_LENGTH = 15  # a pass is one block of 16 rows
_WARM_UPS = 3

Results = dict[str, list[specdec.Generation]]  # of one setting, by kind of text


def controller_of(contender: str) -> Controller:
    """The controller that a contender's name stands for."""
    length, _, overlap = contender.partition(":")
    overlap = overlap or AUTO
    if length != AUTO:
        return FixedLength(int(length), overlap)
    sizes = tuple(rows for rows in PASS_ROWS if rows <= BLOCK_ROWS)
    return AdaptiveLength(Costs(BLOCK_ROWS, sizes), _MAX_DRAFT_LENGTH, overlap)


@dataclass(frozen=True, slots=True)
class Runner:
    """The command line and the prompts by kind."""

    args: argparse.Namespace
    prompts: dict[str, list[specdec.Prompt]]

    def config(self, *settings: str) -> specdec.Config:
        """The run's settings and these."""
        limit = [f"run.max_new_tokens={self.args.max_new_tokens}", "sampling.temperature=0"]
        base = specdec.with_overrides(specdec.Config(), [*limit, *self.args.set])
        return specdec.with_overrides(base, settings)

    def texts(self, config: specdec.Config) -> Results:
        """All prompts with one engine."""
        with specdec.load(config) as engine:
            return {
                kind: [one(engine, prompt) for prompt in prompts]
                for kind, prompts in self.prompts.items()
            }

    def rows(self, plain: specdec.Engine, device: str) -> Iterator[Row]:
        """Rows of one draft device as they are done: prompts plain, then with each contender."""
        contenders = self.args.contenders
        switched = Switched({name: controller_of(name) for name in contenders})
        config = self.config(f"target.model={self.args.model}", f"draft.device={device}")
        watch = Watch(None)
        with specdec.load(config, controller=switched, recorder=watch) as engine:
            for contender in contenders:
                switched.choose(contender)
                warm_up(engine)
            for kind, prompts in self.prompts.items():
                found: dict[str, list[Pair]] = {contender: [] for contender in contenders}
                for prompt in prompts:
                    base = one(plain, prompt)
                    for contender, pairs in found.items():
                        switched.choose(contender)
                        watch.way = contender
                        pairs.append((base, one(engine, prompt)))
                for contender, pairs in found.items():
                    hidden = hidden_of_possible(watch.by_kind[kind, contender])
                    line = row(engine.draft_device, kind, contender, pairs)
                    yield line | {"of_possible": round(hidden, 3)}


Pair = tuple[specdec.Generation, specdec.Generation]  # plain, speculative
Row = dict[str, str | int | float | bool]


def one(engine: specdec.Engine, prompt: specdec.Prompt) -> specdec.Generation:
    """The result of one prompt."""
    (result,) = (event.result for event in engine.generate([prompt]) if event.result)
    return result


def warm_up(engine: specdec.Engine) -> None:
    """First passes of each size may compile, and `auto` learns what passes cost."""
    for number in range(_WARM_UPS):
        text = f"import argparse\n\n\ndef main_{number}("
        one(engine, specdec.Prompt(id=f"warm-up {number}", text=text, max_new_tokens=64))


def row(draft: str, kind: str, contender: str, pairs: list[Pair]) -> Row:
    """One line of the table."""
    total, base = specdec.SpecStats(), specdec.SpecStats()
    for plain, speculative in pairs:
        base.add(plain.stats)
        total.add(speculative.stats)
    ratios = [plain.stats.decode_s / fast.stats.decode_s for plain, fast in pairs]
    speedup, passes = statistics.median(ratios), total.num_passes
    other_s = total.decode_s - total.verify_s - total.draft_s
    return {
        "draft": draft,
        "kind": kind,
        "contender": contender,
        "n": len(pairs),
        "plain_tok_s": round(base.tokens_per_s, 1),
        "tok_s": round(total.tokens_per_s, 1),
        "speedup": round(speedup, 3),
        "least": round(min(ratios), 3),
        "most": round(max(ratios), 3),
        "tok_pass": round(total.num_tokens / passes, 3),
        "of_ideal": round(speedup * passes / total.num_tokens, 3),
        "plain_ms": round(1e3 * base.decode_s / base.num_passes, 3),
        "verify_ms": round(1e3 * total.verify_s / passes, 3),
        "draft_ms": round(1e3 * total.draft_s / passes, 3),
        "other_ms": round(1e3 * other_s / passes, 3),
        "hit_rate": round(total.overlap.hit_rate, 3),
        "hidden": round(total.overlap.hidden_share, 3),
        "is_equal": all(plain.token_ids == fast.token_ids for plain, fast in pairs),
    }


def line(cells: Sequence[object]) -> str:
    """One line of the table; the first three cells are names, the kind of text the longest."""
    names = f"{cells[0]!s:<7}{cells[1]!s:<19}{cells[2]!s:<10}"
    return names + "".join(f"{cell!s:>12}" for cell in cells[3:])


class SmallModel:
    """The small model in numpy, which tells how near a tie two texts parted."""

    def __init__(self, directory: Path) -> None:
        checkpoint = open_checkpoint(directory)
        shape, bos_id = checkpoint.info.shape, checkpoint.info.bos_id
        self._tokenizer = Tokenizer.from_file(
            directory / "tokenizer.model", shape.vocab_size, bos_id
        )
        self._model = from_checkpoint(checkpoint, shape)

    def gap(self, prompt: specdec.Prompt, ours: Sequence[int], theirs: Sequence[int]) -> float:
        """By how much the logit of its own token beats the other where the texts part.

        `ours` are the small model's ids, `theirs` the other's; 0 if they agree.
        """
        parted = parting(ours, theirs)
        if parted is None:
            return 0.0
        ids = [*self._tokenizer.encode(prompt.shown_text, add_bos=True), *ours[:parted]]
        logits = self._model.feed(0, ids, 1)[0]
        self._model.truncate(0, 0)
        return float(logits[ours[parted]] - logits[theirs[parted]])


def parting(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """The first index at which two texts differ."""
    both = enumerate(zip(ours, theirs, strict=False))
    return next((index for index, (a, b) in both if a != b), None)


def partings(runner: Runner, small: Results, large: Results) -> list[dict[str, object]]:
    """Where texts part from the small model's, and the gaps of the first few."""
    found: list[dict[str, object]] = []
    model = SmallModel(runner.args.small)
    for kind, prompts in runner.prompts.items():
        for prompt, ours, theirs in zip(prompts, small[kind], large[kind], strict=True):
            index = parting(ours.token_ids, theirs.token_ids)
            if index is None:
                continue
            entry: dict[str, object] = {"id": prompt.id, "index": index}
            if len(found) < runner.args.gaps:
                entry["gap"] = round(model.gap(prompt, ours.token_ids, theirs.token_ids), 4)
            found.append(entry)
    return found


def arguments() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="a directory made by expand.py")
    parser.add_argument("--small", type=Path, default=embedded_model_dir("target"))
    parser.add_argument("--draft-devices", nargs="+", default=["cpu"])
    parser.add_argument("--contenders", nargs="+", default=["3", "7", "15", AUTO])
    parser.add_argument("--prompts-per-kind", type=int, default=4)
    kinds = sorted(path.stem for path in PROMPTS.glob("*.jsonl"))
    parser.add_argument("--kinds", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--gaps", type=int, default=8, help="partings looked at (a second each)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def main() -> int:
    """Measure and print; 1 if a speculative text differs from the plain one."""
    args = arguments()
    files = {kind: PROMPTS / f"{kind}.jsonl" for kind in args.kinds}
    count = args.prompts_per_kind
    prompts = {
        kind: [replace(p, id=f"{kind}/{p.id}") for p in list(specdec.read_prompts(path))[:count]]
        for kind, path in files.items()
    }
    runner = Runner(args, prompts)
    small = runner.texts(runner.config(f"target.model={args.small}", "speculation.mode=off"))
    rows: list[Row] = []
    plain_settings = runner.config(f"target.model={args.model}", "speculation.mode=off")
    with specdec.load(plain_settings) as plain:
        warm_up(plain)
        large = {kind: [one(plain, prompt) for prompt in prompts[kind]] for kind in prompts}
        failed = {}
        for device in args.draft_devices:
            try:
                for entry in runner.rows(plain, device):
                    if not rows:
                        print(line(list(entry)))
                    rows.append(entry)
                    print(line(list(entry.values())), flush=True)
            except specdec.SpecdecError as error:
                failed[device] = str(error)
                print(f"{device}: {error}", file=sys.stderr)
    parted = partings(runner, small, large)
    total = sum(map(len, prompts.values()))
    gaps = [entry["gap"] for entry in parted if "gap" in entry]
    print(f"{len(parted)} of {total} texts part from the small model's; gaps in logits {gaps}")
    sample = large[args.kinds[0]][0]
    what = {"target": sample.target_device, "numerics": sample.numerics_id, "label": "measured"}
    what["cpu"] = platform.processor() or platform.machine()
    document = {"benchmark": "large_speculation", **what, "failed": failed, "partings": parted}
    print(json.dumps({**document, "rows": rows}))
    return 0 if rows and all(entry["is_equal"] for entry in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
