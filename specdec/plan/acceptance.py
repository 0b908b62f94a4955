"""How often drafts are accepted, by kind of text: from traces or a given rate; it times nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from specdec.assets import asset_dir
from specdec.controller import AdaptiveLength, FixedLength
from specdec.costs import Costs, CostTable
from specdec.errors import UsageError
from specdec.level import WINDOW
from specdec.plan.figures import Label
from specdec.planning import Controller
from specdec.replay import ReplayedRound, replay
from specdec.simulator import OverlapCosts, simulate
from specdec.traces import Trace, load_traces

MAX_DRAFT = 15
_LEARNED_SIZES = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Text made at some draft length, or by the adaptive controller."""

    tokens_per_pass: float
    tokens_per_s: float
    draft_share: float  # of the time: waiting for drafts


@dataclass(frozen=True, slots=True)
class Overlapped:
    """Text made while the draft works ahead for the likely endings of each pass."""

    tokens_per_s: float
    hit_rate: float  # passes that ended in an ending worked for


class AcceptanceModel(Protocol):
    """Answers for one machine's costs what each way of drafting yields."""

    @property
    def label(self) -> Label:
        """Of the acceptance itself."""

    @property
    def source(self) -> str:
        """Where it comes from."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of text it tells apart."""

    def fixed(self, kind: str, draft_length: int, costs: CostTable) -> Outcome:
        """Every run as long as `draft_length`."""

    def adaptive(self, costs: CostTable) -> Mapping[str, Outcome]:
        """`speculation.mode = auto` by kind; empty where this cannot be told."""

    def overlapped(self, costs: OverlapCosts) -> Mapping[str, Overlapped]:
        """The same with branches drafted during passes; empty where this cannot be told."""


@dataclass(frozen=True, slots=True)
class ConstantAcceptance:
    """Each draft token is accepted with the same probability, whatever came before.

    E(a, k) = (1 - a^(k+1)) / (1 - a) tokens a pass (Leviathan et al. 2022, arXiv 2211.17192).
    """

    rate: float
    label: Label = "assumed"
    source: str = "given by --acceptance"
    kinds: tuple[str, ...] = ("all",)

    def fixed(self, kind: str, draft_length: int, costs: CostTable) -> Outcome:
        """In closed form."""
        tokens = sum(self.rate**j for j in range(draft_length + 1))
        round_s = costs.round_s(draft_length, draft_length)
        return Outcome(tokens, tokens / round_s, costs.draft_s(draft_length) / round_s)

    def adaptive(self, costs: CostTable) -> Mapping[str, Outcome]:
        """With no margin to go by, the best fixed length is all there is."""
        return {}

    def overlapped(self, costs: OverlapCosts) -> Mapping[str, Overlapped]:
        """Which endings are likely is not known: a closed form with an assumed hit rate serves."""
        return {}


@dataclass(frozen=True, slots=True)
class TraceAcceptance:
    """Recorded runs, replayed exactly."""

    traces: tuple[Trace, ...]
    source: str
    label: Label = "measured"
    _passes: dict[tuple[str, int], tuple[int, list[ReplayedRound]]] = field(default_factory=dict)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of the recorded texts."""
        return tuple(sorted({trace.kind for trace in self.traces}))

    def fixed(self, kind: str, draft_length: int, costs: CostTable) -> Outcome:
        """What is accepted at a fixed length does not depend on costs: replayed once, then kept."""
        key = (kind, draft_length)
        if key not in self._passes:
            own = [trace for trace in self.traces if trace.kind == kind]
            controller = FixedLength(draft_length)
            made = [done for trace in own for done in self._replayed(trace, controller, costs)]
            self._passes[key] = sum(len(trace.margins) for trace in own), made
        num_tokens, rounds = self._passes[key]
        return _outcome(num_tokens, rounds, costs)

    def adaptive(self, costs: CostTable) -> Mapping[str, Outcome]:
        """One controller that meets the texts as they were recorded, its costs kept from before."""
        controller = AdaptiveLength(_known(costs), MAX_DRAFT)
        tokens: Counter[str] = Counter()
        rounds: dict[str, list[ReplayedRound]] = {kind: [] for kind in self.kinds}
        for trace in self.traces:
            rounds[trace.kind] += self._replayed(trace, controller, costs)
            tokens[trace.kind] += len(trace.margins)
        return {kind: _outcome(tokens[kind], done, costs) for kind, done in rounds.items()}

    def overlapped(self, costs: OverlapCosts) -> Mapping[str, Overlapped]:
        """Simulated event by event, one controller for all texts."""
        controller = AdaptiveLength(_known(costs.table), MAX_DRAFT, "branch")
        longest = min(MAX_DRAFT, costs.table.longest_run)
        found = {}
        for kind in self.kinds:
            own = [trace for trace in self.traces if trace.kind == kind]
            done = simulate(own, costs, controller, longest)
            found[kind] = Overlapped(done.tokens_per_s, done.overlap.hit_rate)
        return found

    def _replayed(
        self, trace: Trace, controller: Controller, costs: CostTable
    ) -> list[ReplayedRound]:
        longest = min(MAX_DRAFT, costs.longest_run)
        return replay(trace, controller, lambda _: costs, longest)


def _outcome(num_tokens: int, rounds: Sequence[ReplayedRound], costs: CostTable) -> Outcome:
    """What rounds that made so many tokens come to."""
    elapsed_s = sum(costs.round_s(done.num_drafted, done.num_checked) for done in rounds)
    draft_s = sum(costs.draft_s(done.num_drafted) for done in rounds)
    return Outcome(num_tokens / len(rounds), num_tokens / elapsed_s, draft_s / elapsed_s)


def _known(costs: CostTable) -> Costs:
    """Costs as an earlier run on the same machine has left them, and the sizes it pads passes to.

    A size that costs less than the next one is one of these.
    """
    pass_s = costs.pass_s
    rises = (size for size in range(2, len(pass_s) - 1) if pass_s[size] < pass_s[size + 1])
    learned = Costs(MAX_DRAFT + 1, (1, *rises, len(pass_s) - 1))
    sizes = [size for size in _LEARNED_SIZES if size < len(pass_s)]
    learned.restore(
        {size: (costs.pass_s[size], 0.0, WINDOW) for size in sizes},
        slope_s=0.0,
        draft_fixed_s=costs.draft_fixed_s,
        draft_step_s=costs.draft_step_s,
        other_s=costs.other_s,
    )
    return learned


def shipped_traces() -> list[Trace]:
    """Greedy traces of the embedded pair."""
    return _greedy(load_traces(asset_dir("benchmarks/traces") / "embedded.npz"))


def read_traces(paths: Sequence[Path]) -> list[Trace]:
    """Greedy traces of files made by benchmarks/record_traces.py."""
    traces: list[Trace] = []
    for path in paths:
        try:
            traces += load_traces(path)
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"cannot read traces {str(path)!r}: {error}") from error
    greedy = _greedy(traces)
    if not greedy:
        raise UsageError("the traces hold no greedy text: record some at temperature 0")
    return greedy


def _greedy(traces: Sequence[Trace]) -> list[Trace]:
    return [trace for trace in traces if trace.temperature == 0.0]
