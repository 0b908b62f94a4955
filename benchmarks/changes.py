"""What the adaptive controller loses after a change, and at its start; on recorded traces."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from policies import adaptive, informed, run

from specdec.costs import CostTable
from specdec.replay import ReplayedRound
from specdec.traces import Trace

SETTLING_PASSES = 50
NUM_TEXTS = 12  # that a recovery is measured on
NUM_BEFORE = 20  # texts of another kind that come before these
NUM_DRAWS = 6  # of these texts and of what precedes them; one draw alone wavers by 3 %
START_ROUNDS, NUM_STARTS = 100, 20


def hopeless(trace: Trace, seed: int) -> Trace:
    """The same margins, with a draft that is right one time in ten whatever they say."""
    rng = np.random.default_rng(seed)
    hits = rng.geometric(0.9, len(trace.num_matching)) - 1
    return replace(trace, num_matching=np.minimum(hits, trace.num_drafted).astype(np.uint8))


def seconds_from(rounds: Sequence[ReplayedRound], num_tokens: int) -> float:
    """Seconds spent beyond the first tokens; a round that straddles the limit counts in part."""
    total, position = 0.0, 0
    for done in rounds:
        length = done.num_accepted + 1
        position += length
        total += done.elapsed_s * min(max(position - num_tokens, 0), length) / length
    return total


def recovery(
    before: Sequence[Trace],
    after: Sequence[Trace],
    costs_before: CostTable,
    costs_after: CostTable,
    seed: int,
) -> float:
    """Speed on texts beyond the first settling passes, over that of one that knew it all."""
    switched, settled = adaptive(), adaptive()
    texts, others = after[-NUM_TEXTS:], after[:-NUM_TEXTS]
    run(before, switched, costs_before, 3 * seed)
    run(others, settled, costs_after, 3 * seed + 1)
    mine, its = (
        [done for rounds in run(texts, each, costs_after, 3 * seed + 2) for done in rounds]
        for each in (switched, settled)
    )
    num_settling = sum(done.num_accepted + 1 for done in mine[:SETTLING_PASSES])
    return seconds_from(its, num_settling) / seconds_from(mine, num_settling)


def drawn(traces: Sequence[Trace], seed: int) -> list[Trace]:
    """All of them in a random order."""
    return random.Random(seed).sample(list(traces), len(traces))


def slower(costs: CostTable) -> CostTable:
    """The same with passes that take 1.4 times as long."""
    return replace(costs, pass_s=tuple(1.4 * x for x in costs.pass_s))


def switch(before: Sequence[Trace], after: Sequence[Trace], costs: CostTable) -> float:
    """The mean recovery from one kind of text to another."""
    return float(
        np.mean(
            [
                recovery(
                    drawn(before, seed)[:NUM_BEFORE], drawn(after, seed + 9), costs, costs, seed
                )
                for seed in range(NUM_DRAWS)
            ]
        )
    )


def clock(traces: Sequence[Trace], before: CostTable, after: CostTable) -> float:
    """The mean recovery from one speed of the machine to another."""
    values = []
    for seed in range(NUM_DRAWS):
        mixed = drawn(traces, seed)
        half = len(mixed) // 2
        values.append(recovery(mixed[:half], mixed[half:], before, after, seed))
    return float(np.mean(values))


def recoveries(traces: Sequence[Trace], costs: CostTable) -> dict[str, float]:
    """How well it does beyond 50 passes after a switch of task, and after one of the clock."""
    kinds = sorted({trace.kind for trace in traces})
    by_kind = {kind: [trace for trace in traces if trace.kind == kind] for kind in kinds}
    switches = [switch(by_kind[a], by_kind[b], costs) for a in kinds for b in kinds if a != b]
    return {
        "task_switch_mean": float(np.mean(switches)),
        "task_switch_worst": min(switches),
        "clock_1.4x": clock(traces, costs, slower(costs)),
        "clock_back": clock(traces, slower(costs), costs),
    }


def starts(traces: Sequence[Trace], costs: CostTable) -> dict[str, float]:
    """First hundred rounds over plain decoding, of a controller that has timed a moment."""
    ratios = []
    for seed in range(NUM_STARTS):
        texts = run(drawn(traces, seed)[:4], informed(costs), costs, seed)
        rounds = [done for text in texts for done in text][:START_ROUNDS]
        num_tokens = sum(done.num_accepted + 1 for done in rounds)
        ratios.append(num_tokens * costs.plain_s / sum(done.elapsed_s for done in rounds))
    return {"mean": float(np.mean(ratios)), "least": min(ratios)}
