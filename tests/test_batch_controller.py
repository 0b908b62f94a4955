"""How far sequences that share passes are drafted: what pays, and nothing on a full device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from synthetic_traces import trace

from specdec.cohorts import CohortChoice
from specdec.controller import AdaptiveLength, FixedLength
from specdec.costs import Costs, CostTable
from specdec.level import WINDOW
from specdec.planning import Controller, Turn
from specdec.rounds import PassTimes
from specdec.sharing import even_share
from specdec.traces import Trace
from specdec.types import Acceptance, DraftRun, RoundReport, SamplingParams, StoppingRule

MAX_TOKENS = 64
MAX_DRAFT = 15


def table(pass_s: Callable[[int], float], draft_s: float) -> CostTable:
    return CostTable((0.0, *(pass_s(m) for m in range(1, MAX_TOKENS + 1))), draft_s)


TABLES = {
    "memory-bound": table(lambda m: 0.1 + 0.0005 * m, 0.001),
    "full at sixteen": table(lambda m: max(0.1, 0.1 * m / 16), 0.001),
    "compute-bound": table(lambda m: 0.01 + 0.05 * m, 0.001),
    "padded": table(lambda m: next(0.1 + 0.02 * i for i in range(7) if m <= 2**i), 0.001),
    "dear draft": table(lambda m: 0.1, 0.09),
}


@dataclass
class Text:
    """One text on its way."""

    text: Trace
    position: int = 0

    @property
    def num_left(self) -> int:
        return len(self.text.margins) - self.position

    def draft(self, rule: StoppingRule) -> DraftRun:
        row = self.position
        chain = self.text.margins[row][: self.text.num_drafted[row]].tolist()
        count = 0
        while count < min(rule.max_length, len(chain)) and rule.should_continue(chain[:count]):
            count += 1
        position = self.text.prompt_length + row
        return DraftRun(position, (0,) * count, tuple(chain[:count]))


def turns(running: Sequence[Text]) -> list[Turn]:
    return [
        Turn(slot, s.text.prompt_length + s.position, min(MAX_DRAFT, s.num_left - 1))
        for slot, s in enumerate(running)
    ]


def one_pass(running: Sequence[Text], controller: Controller, costs: CostTable) -> float:
    """Seconds of a pass of all that still run."""
    plan = controller.plan(turns(running), MAX_TOKENS)
    runs = [s.draft(rule) for s, rule in zip(running, plan.rules, strict=True)]
    lengths = plan.share(runs)
    fed = len(running) + sum(lengths)
    assert fed <= MAX_TOKENS
    pass_s = costs.pass_s[fed]
    reports, elapsed_s = {}, pass_s
    for slot, (s, run, length) in enumerate(zip(running, runs, lengths, strict=True)):
        num_accepted = min(int(s.text.num_matching[s.position]), length)
        accepted = run.token_ids[:num_accepted]
        draft_s = len(run.token_ids) * costs.draft_step_s
        share_s = pass_s * (length + 1) / fed
        acceptance = Acceptance(accepted, 0, num_accepted == length)
        report = RoundReport(run, length, acceptance, (*accepted, 0), draft_s, share_s, 0.0)
        reports[slot] = report
        s.position += num_accepted + 1
        elapsed_s += draft_s
    controller.observe(reports)
    return elapsed_s


def total_s(texts: Sequence[Trace], controller: Controller, costs: CostTable) -> float:
    """Seconds until all texts are there, all side by side; the controller knows nothing before."""
    running = [Text(text) for text in texts]
    for slot in range(len(running)):
        controller.open(slot, SamplingParams())
    elapsed_s = 0.0
    while all(s.num_left > 0 for s in running):
        elapsed_s += one_pass(running, controller, costs)
    for slot in range(len(running)):
        controller.close(slot)
    done = sum(s.position for s in running)
    return elapsed_s / done  # per token: texts do not end together


def adaptive() -> AdaptiveLength:
    return AdaptiveLength(Costs(MAX_TOKENS), MAX_DRAFT)


def texts(kind: str, count: int) -> list[Trace]:
    return [trace(kind, 300, seed) for seed in range(count)]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    "count", [2, 4, *(pytest.param(count, marks=pytest.mark.slow) for count in (8, 32))]
)
@pytest.mark.parametrize("kind", ["json", "creative"])
def test_is_hardly_slower_than_plain_cold_and_less_so_warm(
    name: str, count: int, kind: str
) -> None:
    costs, controller = TABLES[name], adaptive()
    plain_s = total_s(texts(kind, count), FixedLength(0), costs)
    assert total_s(texts(kind, count), controller, costs) <= plain_s / 0.96
    assert total_s(texts(kind, count), controller, costs) <= plain_s / 0.98


@pytest.mark.parametrize(
    ("name", "count", "share"),
    [("memory-bound", 4, 0.95), ("memory-bound", 8, 0.93), ("padded", 2, 0.95), ("padded", 8, 0.9)],
)
def test_gains_nearly_what_the_best_fixed_length_gains(name: str, count: int, share: float) -> None:
    costs = TABLES[name]
    fixed_s = [total_s(texts("json", count), FixedLength(k), costs) for k in (0, 3, 5, 7, 8)]
    assert total_s(texts("json", count), adaptive(), costs) <= min(fixed_s) / share


def test_fades_out_as_the_batch_fills_the_device() -> None:
    costs = TABLES["full at sixteen"]
    gains = []
    for count in (1, 4, 8, 16):
        plain_s = total_s(texts("json", count), FixedLength(0), costs)
        gains.append(plain_s / total_s(texts("json", count), adaptive(), costs))
    assert gains[0] > gains[1] > gains[2] > 1.4
    assert 0.98 < gains[3] < 1.1


def test_two_cohorts_are_kept_where_they_are_faster_and_dropped_where_not() -> None:
    for is_concurrent, expected in ((True, 2), (False, 1)):
        choice, used = CohortChoice(), []
        for _ in range(400):
            num_cohorts = choice.num_cohorts(16)
            used.append(num_cohorts)
            draft_s, tokens = (0.3, 32) if num_cohorts == 1 else (0.15, 16)
            if is_concurrent and num_cohorts == 2:
                draft_s = 0.05  # the rest passed while the target checked the others
            choice.observe(tokens, PassTimes(draft_s, 0.1, 0.0, 0.0))
        assert max(used, key=used[100:].count) == expected
        assert used.count(3 - expected) < 80
        assert choice.num_cohorts(1) == 1


def test_two_cohorts_are_not_tried_where_drafts_take_less_than_passes() -> None:
    choice = CohortChoice()
    for _ in range(200):
        assert choice.num_cohorts(16) == 1
        choice.observe(32, PassTimes(0.05, 0.1, 0.0, 0.0))


def test_fixed_lengths_share_what_a_pass_has_room_for() -> None:
    plan = FixedLength(7).plan([Turn(slot, 10, 20) for slot in range(5)], 16)
    lengths = [rule.max_length for rule in plan.rules]
    assert lengths == [3, 2, 2, 2, 2]
    assert even_share([0, 5, 1], 4) == [0, 3, 1]
    assert even_share([2, 2], 100) == [2, 2]


def checked(position: int, num_tokens: int) -> RoundReport:
    """A run of so many tokens of which none is accepted."""
    run = DraftRun(position, (0,) * num_tokens, (1.0,) * num_tokens)
    return RoundReport(run, num_tokens, Acceptance((), 0, is_bonus=False), (0,), 0.001, 0.1, 0.0)


def known(*sizes: int) -> tuple[Costs, AdaptiveLength]:
    """Costs of passes of these sizes, and a controller of two sequences."""
    costs = Costs(MAX_TOKENS, (1, 2, 4, 8, 16, 32, 64))
    costs.restore({size: (0.1, 0.0, WINDOW) for size in sizes}, 0.0, 0.0, 0.001, 0.0)
    controller = AdaptiveLength(costs, MAX_DRAFT)
    for slot in range(2):
        controller.open(slot, SamplingParams())
    return costs, controller


def test_a_plain_round_tells_nothing_of_what_drafting_costs() -> None:
    costs = Costs(MAX_TOKENS)
    controller = AdaptiveLength(costs, MAX_DRAFT)
    controller.open(0, SamplingParams())
    for position in (10, 11):
        plan = controller.plan([Turn(0, position, MAX_DRAFT)], MAX_TOKENS)
        assert plan.rules[0].max_length == 0
        controller.observe({0: checked(position, 0)})  # to ask nobody takes a moment, too
    assert not costs.draft.is_known


def test_a_sequence_that_was_alone_may_be_checked_further_beside_others() -> None:
    costs, controller = known(1, 2)
    controller.plan([Turn(0, 10, MAX_DRAFT)], MAX_TOKENS)
    for size in (4, 4, 8, 8, 16, 16):
        costs.observe_pass(size, 10, 0.1)
    controller.plan([Turn(slot, 10, MAX_DRAFT) for slot in range(2)], MAX_TOKENS)
    controller.observe({slot: checked(10, 7) for slot in range(2)})


def test_a_size_may_be_forgotten_while_a_pass_of_it_is_under_way() -> None:
    costs, controller = known(1, 8)
    controller.plan([Turn(0, 10, MAX_DRAFT)], MAX_TOKENS)
    for _ in range(33 * WINDOW):
        costs.observe_pass(1, 10, 0.1)
    controller.plan([Turn(1, 10, MAX_DRAFT)], MAX_TOKENS)
    controller.observe({0: checked(10, 9)})
