"""Costs and traces of rounds that were run, so that the simulator can be held against them."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

import numpy as np

from draft.choice import rank_near_best
from specdec.costs import CostTable
from specdec.endings import NUM_OTHERS
from specdec.planning import RoundRecorder
from specdec.simulator import OverlapCosts
from specdec.traces import JsonlRecorder, Trace, read_record
from specdec.types import FloatArray, LanguageModel, RoundReport, SamplingParams

Rounds = Mapping[str, Sequence[RoundReport]]  # by way of overlapping


class Watch:
    """A RoundRecorder that keeps the rounds of every way, and records the texts of one."""

    def __init__(self, timeline: RoundRecorder | None) -> None:
        self.way = ""
        self.rounds: dict[str, list[RoundReport]] = defaultdict(list)
        self.by_kind: dict[tuple[str, str], list[RoundReport]] = defaultdict(list)  # and way
        self._kinds: dict[int, str] = {}  # by slot
        self.prompts: dict[str, tuple[int, ...]] = {}
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name) / "record.jsonl"
        self._of_way: dict[str, RoundRecorder] = {"record": JsonlRecorder(self._path)}
        if timeline:
            self._of_way["branch"] = timeline

    def open(
        self, slot: int, request_id: str, prompt_ids: Sequence[int], sampling: SamplingParams
    ) -> None:
        """A request starts."""
        self._kinds[slot] = request_id.partition("/")[0]
        self.prompts[request_id] = tuple(prompt_ids)
        if self.way in self._of_way:
            self._of_way[self.way].open(slot, request_id, prompt_ids, sampling)

    def observe(self, slot: int, report: RoundReport) -> None:
        """Keep a round."""
        self.rounds[self.way].append(report)
        self.by_kind[self._kinds[slot], self.way].append(report)
        if self.way in self._of_way:
            self._of_way[self.way].observe(slot, report)

    def close(self, slot: int) -> None:
        """The request has ended."""
        if self.way in self._of_way:
            self._of_way[self.way].close(slot)

    def release(self) -> None:
        """Close what was written."""
        for recorder in self._of_way.values():
            recorder.release()

    def recorded(self) -> list[Trace]:
        """What was recorded; once."""
        traces = read_record(self._path)
        self._folder.cleanup()
        return traces

    def traces(self, texts: Mapping[str, Sequence[int]], model: LanguageModel) -> list[Trace]:
        """What was recorded, with the rank of every token among the draft's choices."""
        return [
            replace(
                trace,
                ranks=_ranks(model, self.prompts[trace.request_id], texts[trace.request_id]),
            )
            for trace in self.recorded()
        ]


def hidden_of_possible(rounds: Sequence[RoundReport]) -> float:
    """Of the drafting that the pass before had time for, on hits: the part nobody waited for.

    A run that takes longer to draft than a pass lasts cannot be hidden whole.
    """
    hidden_s = possible_s = 0.0
    for before, report in pairwise(rounds):
        work = report.run.work
        if work.num_endings and work.is_hit:
            hidden_s += work.ready_s
            possible_s += min(work.ready_s + report.draft_s, before.verify_s)
    return hidden_s / possible_s if possible_s else 0.0


def overlap_costs(rounds: Rounds, draft_length: int) -> OverlapCosts:
    """Costs of rounds of one draft length, without overlap and with branches.

    What a run takes is a sum, hold-ups included: costs are means, and medians of passes, which say
    how sizes compare, are raised alike so that their sum is that of the rounds.
    """
    alone = [report for report in rounds["off"] if len(report.run.token_ids) == draft_length]
    step_s = _step_s(alone, lambda rows: rows == 1, is_ahead=False)
    fixed_s = max(0.0, fmean(r.draft_s for r in alone) - draft_length * step_s)
    sizes = _pass_sizes(rounds["off"])
    pass_s = [0.0] + [
        sizes[min((size for size in sizes if size >= m), default=max(sizes))]
        for m in range(1, draft_length + 2)
    ]
    table = CostTable(tuple(pass_s), step_s, fixed_s, fmean(r.other_s for r in rounds["off"]))
    beside = [r for r in rounds["branch"] if len(r.run.token_ids) == draft_length]
    one_s = _step_s(rounds["chain"], lambda rows: rows == 1, is_ahead=True)
    four_s = _step_s(beside, lambda rows: rows == 4, is_ahead=True)
    busy_s = fmean(sum(s.end_s - s.start_s for s in r.run.work.steps if s.is_ahead) for r in beside)
    slower_s = fmean(r.verify_s for r in beside) - sizes[draft_length + 1]
    return OverlapCosts(
        table,
        row_s=max(0.0, (four_s - one_s) / 3.0),
        pass_slowdown=max(0.0, slower_s / busy_s) if busy_s else 0.0,
        step_slowdown=max(0.0, one_s / step_s - 1.0),
    )


def _pass_sizes(reports: Sequence[RoundReport]) -> dict[int, float]:
    """Seconds of a pass by its tokens, where some were measured."""
    by_size: dict[int, list[float]] = defaultdict(list)
    for report in reports:
        by_size[report.num_checked + 1].append(report.verify_s)
    known = {size: times for size, times in by_size.items() if len(times) > 2}
    medians = {size: median(times) for size, times in known.items()}
    expected_s = sum(medians[size] * len(times) for size, times in known.items())
    raised = sum(map(sum, known.values())) / expected_s
    return {size: raised * value for size, value in medians.items()}


def _step_s(
    reports: Sequence[RoundReport], is_counted: Callable[[int], bool], is_ahead: bool
) -> float:
    """The mean step of a kind."""
    return fmean(
        step.end_s - step.start_s
        for report in reports
        for step in report.run.work.steps
        if step.is_ahead == is_ahead and is_counted(step.num_rows)
    )


def _ranks(
    model: LanguageModel, prompt_ids: Sequence[int], text: Sequence[int]
) -> np.typing.NDArray[np.uint8]:
    """0 where the draft's first choice after the true text is the true token, and so on."""
    model.truncate(0, 0)
    whole = [*prompt_ids, *text]
    logits: FloatArray = model.feed(0, whole[:-1], len(text))
    ranks = []
    for row, token_id in zip(logits, text, strict=True):
        order, _ = rank_near_best(row, 0, SamplingParams(), 1 + NUM_OTHERS)
        ranks.append(order.index(token_id) if token_id in order else NUM_OTHERS + 1)
    return np.array(ranks, np.uint8)
