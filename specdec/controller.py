"""How many tokens to draft and to check; it knows acceptances and costs, no model, no device."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from specdec.calibration import Calibrator
from specdec.costs import Costs, CostTable
from specdec.outlook import Outlook
from specdec.overlap import OFF, OverlapChoice
from specdec.pacing import RunningRate
from specdec.planning import PassPlan, Turn
from specdec.probing import Allowance, Probing, probe_interval
from specdec.sharing import even_share
from specdec.slot_state import SlotState
from specdec.stopping import AdaptivePlan, AdaptiveStopping, FixedPlan, FixedStopping
from specdec.together import Rule, Together
from specdec.types import DraftRun, RoundReport, SamplingParams

_NUM_POSITIONS = 4  # with odds of their own; the last holds from there on
_IDLE = FixedStopping(0)
_SETTLED, _COSTS_KEPT = 100, 4  # after so many rounds a table of costs serves so many


class FixedLength:
    """The same draft length for every run; 0 is plain decoding."""

    def __init__(self, draft_length: int, overlap: str = "off") -> None:
        """`overlap` is a key of overlap.MODES."""
        self._draft_length = draft_length
        self._overlap = OverlapChoice(overlap)

    @property
    def mode(self) -> str:
        """`off` when nothing is ever drafted, else `fixed`."""
        return "fixed" if self._draft_length else "off"

    def open(self, slot: int, sampling: SamplingParams) -> None:
        """Every sequence is treated alike."""

    def plan(self, turns: Sequence[Turn], max_tokens: int) -> FixedPlan:
        """The fixed length, wherever a sequence stands; what the pass has room for, shared."""
        wanted = [min(self._draft_length, turn.longest) for turn in turns]
        lengths = even_share(wanted, max_tokens - len(turns))
        num_endings = _num_endings(self._overlap, turns)
        return FixedPlan(tuple(FixedStopping(length, num_endings) for length in lengths))

    def observe(self, reports: Mapping[int, RoundReport]) -> None:
        """Learn how to overlap."""
        _observe_overlap(self._overlap, reports)

    def close(self, slot: int) -> None:
        """Nothing is kept."""


class AdaptiveLength:
    """Drafts and checks what pays, at measured costs and calibrated odds; may stop drafting.

    Costs come from the rounds themselves, odds from the target's verdicts. The rate that seconds
    are charged at is that of the last rounds of the sequences in the pass: tokens saved in one text
    cannot be spent in another. A pass of many sequences costs each what its tokens add, so drafting
    fades out as the batch fills the device. Where drafting does not pay, single rounds find out
    whether it would again; what these may cost is bounded, and so is what a start with wrong odds
    may.
    """

    def __init__(self, costs: Costs, max_draft_length: int, overlap: str = "off") -> None:
        """`overlap` is a key of overlap.MODES."""
        self._overlap = OverlapChoice(overlap)
        self._costs = costs
        self._max_draft_length = max_draft_length
        self._calibrators: dict[bool, Calibrator] = {}  # by whether sampling is greedy
        self._outlooks: dict[bool, Outlook] = {}
        self._slots: dict[int, SlotState] = {}
        self._last_rate = RunningRate()
        self._allowance = Allowance()
        self._num_rounds = 0
        self._together = Together(max_draft_length)
        self._table: CostTable | None = None  # that plans are made with
        self._table_age = 0  # in rounds

    @property
    def mode(self) -> str:
        """The name of this mode in results."""
        return "auto"

    def open(self, slot: int, sampling: SamplingParams) -> None:
        """Start from what the sequences before have taught."""
        is_greedy = sampling.temperature == 0.0
        calibrator = self._calibrators.setdefault(is_greedy, Calibrator(_NUM_POSITIONS))
        last = self._outlooks.get(is_greedy) or Outlook(self._max_draft_length)
        outlook = self._outlooks[is_greedy] = last.for_new_text()
        scale = 1.0 if is_greedy else sampling.temperature
        self._table = None  # another text, another context
        rate = self._last_rate.carried()
        self._slots[slot] = SlotState(calibrator, outlook, scale, rate, Probing())

    def plan(self, turns: Sequence[Turn], max_tokens: int) -> PassPlan:
        """The plan of one pass; fixed lengths of 0 where drafting does not pay."""
        num_sequences = len(turns)
        costs = self._cost_table(turns)
        for turn in turns:
            state = self._slots[turn.slot]
            state.is_asked, state.costs = False, None
        if costs is None or self._costs.is_plain_due(num_sequences):
            # a plain pass tells what all else is compared with
            return FixedPlan((_IDLE,) * num_sequences)
        own_rates = sum(self._slots[turn.slot].rate.tokens_per_s for turn in turns)
        plain_s = costs.pass_s[num_sequences] + costs.other_s
        rate = max(num_sequences / plain_s, own_rates)  # plain decoding can always be had
        most = min(max_tokens, len(costs.pass_s) - 1)
        states = [self._slots[turn.slot] for turn in turns]
        rules: list[Rule] = []
        if num_sequences == 1:
            rules.append(self._rule_alone(turns[0], costs, rate))
        else:
            costs = replace(costs, pass_s=costs.pass_s[: most + 1])
            left_s = self._allowance.left_s(costs)
            rules += self._together.rules(turns, states, costs, rate, left_s)
        for state, rule in zip(states, rules, strict=True):
            state.is_asked = rule.max_length > 0
        return AdaptivePlan(tuple(rules), costs, rate, most)

    def _rule_alone(self, turn: Turn, costs: CostTable, rate: float) -> AdaptiveStopping:
        """The rule for a sequence that has the pass for itself."""
        state = self._slots[turn.slot]
        state.costs = costs
        longest = min(turn.longest, self._max_draft_length, costs.longest_run)
        length = self._allowance.longest_run(costs, longest)
        num_endings = self._overlap.num_endings
        rule = state.prospect(length).rule(length, costs, rate, num_endings)
        waited_share = self._overlap.waited_share if num_endings != OFF else 1.0
        expected = rule
        if waited_share != 1.0:
            expected = replace(rule, costs=costs.with_draft_share(waited_share))
        if length > 0 and not expected.should_continue(()):
            # a first probe costs more than drafting does: the drafter has a prompt to catch up with
            is_second = state.has_drafted and not self._costs.draft.is_known
            is_probe = is_second or state.probing.is_due(probe_interval(costs.price(1, 1)))
            rule = replace(rule, min_length=is_probe, max_length=length * is_probe)
        return rule

    def _cost_table(self, turns: Sequence[Turn]) -> CostTable | None:
        """Costs now, or as they were a few rounds ago, for tables take time.

        One sequence alone is told the latest until much is known; its rounds are few and short.
        """
        kept, is_settled = self._table, self._num_rounds >= _SETTLED or len(turns) > 1
        is_young = is_settled and self._table_age < _COSTS_KEPT
        if kept is None or kept.num_sequences != len(turns) or not is_young:
            kept = self._costs.table(_mean_position(turns), len(turns))
            self._table, self._table_age = kept, 0
        self._table_age += 1
        return kept

    def observe(self, reports: Mapping[int, RoundReport]) -> None:
        """Learn costs and odds from a finished pass."""
        self._num_rounds += 1
        rounds = reports.values()
        verify_s = sum(report.verify_s for report in rounds)
        other_s = sum(report.other_s for report in rounds)
        elapsed_s = verify_s + other_s + sum(report.draft_s for report in rounds)
        num_tokens = sum(report.num_checked + 1 for report in rounds)
        position = _mean_position([report.run for report in rounds])
        if self._table is not None and num_tokens >= len(self._table.pass_s):
            self._table = None  # another cohort's, made since: so large a pass is forgotten in it
        if len(reports) > 1:
            is_asked = any(self._slots[slot].is_asked for slot in reports)
            self._together.observe(rounds, is_asked, self._table)
        self._account(rounds, num_tokens, verify_s)
        self._costs.observe_pass(num_tokens, position, verify_s)
        self._costs.observe_other(other_s)
        if all(self._slots[slot].is_asked for slot in reports):
            _observe_overlap(self._overlap, reports)
        self._learn_draft_cost(reports)
        for slot, report in reports.items():
            state = self._slots[slot]
            state.observe(report, elapsed_s)

    def _account(self, rounds: Collection[RoundReport], num_tokens: int, verify_s: float) -> None:
        """Charge a pass to the allowance, before its time is learned from."""
        table = self._table
        if table is None or table.num_sequences != len(rounds):
            return
        # a table hopes the best of sizes never tried, and of many sequences' there are many
        is_hope = len(rounds) > 1 and not self._costs.passes.is_known(num_tokens)
        self._allowance.observe(rounds, table, verify_s if is_hope else table.pass_s[num_tokens])
        if is_hope:
            self._table = None

    def _learn_draft_cost(self, reports: Mapping[int, RoundReport]) -> None:
        """Learn from the tokens that were waited for; runs that were too late were dear, too."""
        asked = [(self._slots[slot], report.run) for slot, report in reports.items()]
        asked = [(state, run) for state, run in asked if state.is_asked]
        draft_s, step_s = sum(r.draft_s for r in reports.values()), self._costs.draft.step_s
        waited_for = [len(run.token_ids) - run.work.num_ready for _, run in asked]
        unread = [run.position for state, run in asked if not state.is_read]
        if unread and len(reports) > 1:
            self._costs.observe_reading(sum(unread), waited_for, draft_s)
        elif max(waited_for, default=0) > 0:
            if all(state.has_drafted for state, run in asked if run.token_ids):
                self._costs.observe_draft([count for count in waited_for if count > 0], draft_s)
        elif asked and draft_s > step_s and not any(run.token_ids for _, run in asked):
            self._costs.observe_draft([1], draft_s)

    def close(self, slot: int) -> None:
        """Keep the sequence's rate for the next to start from."""
        state = self._slots.pop(slot, None)
        if state is not None:
            self._last_rate = state.rate

    def to_json(self) -> dict[str, object]:
        """Everything learned, as numbers."""
        odds = {
            "greedy" if is_greedy else "sampled": {
                **calibrator.to_json(),
                "margins": self._outlooks[is_greedy].to_json(),
            }
            for is_greedy, calibrator in self._calibrators.items()
        }
        return {"mode": self.mode, "odds": odds, "costs": self._costs.to_json()}


def _mean_position(places: Sequence[Turn] | Sequence[DraftRun]) -> int:
    """Where the sequences of a pass stand on average."""
    return sum(place.position for place in places) // len(places)


def _num_endings(overlap: OverlapChoice, turns: Sequence[Turn]) -> int:
    """Work ahead for one sequence alone: beside others, the drafter has these to work for."""
    return overlap.num_endings if len(turns) == 1 else OFF


def _observe_overlap(overlap: OverlapChoice, reports: Mapping[int, RoundReport]) -> None:
    """Learn from a sequence that was alone."""
    if len(reports) == 1:
        overlap.observe(*reports.values())
