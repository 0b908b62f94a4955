"""How many tokens to draft and to check; it knows acceptances and costs, no model, no device."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from specdec.calibration import Calibration, Calibrator
from specdec.costs import Costs, CostTable
from specdec.outlook import Outlook
from specdec.overlap import OFF, OverlapChoice
from specdec.pacing import RunningRate
from specdec.planning import PassPlan, Turn
from specdec.probing import Allowance, Probing, SharedProbing
from specdec.stopping import AdaptivePlan, AdaptiveStopping, FixedPlan, FixedStopping, even_share
from specdec.types import DraftRun, RoundReport, SamplingParams

_NUM_POSITIONS = 4  # with odds of their own; the last holds from there on
_BIAS_GAIN, _BIAS_LEAK = 0.15, 0.02  # of a sequence's own bias, per verdict
_EXPLORED_TOKENS = 2  # drafted to find out what drafting costs
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


@dataclass(slots=True)
class _Slot:
    """What is kept of one running sequence."""

    calibrator: Calibrator
    outlook: Outlook
    margin_scale: float
    rate: RunningRate
    probing: Probing
    calibration: Calibration  # that the last plan was made with
    costs: CostTable | None = None  # of the last plan, as they are to this sequence
    num_checked: int = 0  # in the last round
    is_asked: bool = False  # the drafter, this round
    own_bias: float = 0.0  # by how much this text is easier than others, in logits
    has_drafted: bool = False  # in the last round, so the drafter is not behind

    def learn(self, confidence: float, index: int, is_hit: bool) -> None:
        """One verdict of the target, for all sequences and for this one."""
        error = self.calibrator.observe(confidence, self.margin_scale, index, is_hit, self.own_bias)
        self.own_bias = (1 - _BIAS_LEAK) * self.own_bias + _BIAS_GAIN * error


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
        self._slots: dict[int, _Slot] = {}
        self._last_rate = RunningRate()
        self._allowance = Allowance()
        self._probing = SharedProbing()
        self._num_rounds = 0
        self._num_resting = 0  # passes of several to come that no rules are made for
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
        self._slots[slot] = _Slot(
            calibrator,
            outlook,
            scale,
            self._last_rate.carried(),
            Probing(),
            calibrator.snapshot(scale),
        )

    def plan(self, turns: Sequence[Turn], max_tokens: int) -> PassPlan:
        """The plan of one pass; fixed lengths of 0 where drafting does not pay."""
        num_sequences = len(turns)
        costs = self._cost_table(turns)
        if costs is None or self._costs.is_plain_due(num_sequences):
            for turn in turns:
                self._slots[turn.slot].is_asked = False
            # a plain pass tells what all else is compared with
            return FixedPlan((FixedStopping(0),) * num_sequences)
        own_rates = sum(self._slots[turn.slot].rate.tokens_per_s for turn in turns)
        plain_s = costs.pass_s[num_sequences] + costs.other_s
        rate = max(num_sequences / plain_s, own_rates)  # plain decoding can always be had
        num_checked = sum(self._slots[turn.slot].num_checked for turn in turns)
        explorer = self._explorer(turns, costs, rate)
        rules: list[AdaptiveStopping | FixedStopping] = []
        num_spent = 0.0
        for turn in turns:
            state = self._slots[turn.slot]
            if explorer not in (None, turn.slot):
                state.is_asked = False
                rules.append(_IDLE)
                continue
            state.costs = costs.beside(num_sequences - 1 + num_checked - state.num_checked)
            longest = turn.longest if explorer is None else min(turn.longest, _EXPLORED_TOKENS)
            longest = min(longest, self._max_draft_length, state.costs.longest_run)
            length = self._allowance.longest_run(state.costs, longest, num_spent)
            rule = self._rule(state, length, rate, _num_endings(self._overlap, turns))
            num_spent += state.costs.price(rule.max_length, rule.max_length) / num_sequences
            rules.append(rule)
        if explorer is None and num_sequences > 1 and not any(rule.max_length for rule in rules):
            self._num_resting = _COSTS_KEPT  # odds change by drafting alone: time to save
        return AdaptivePlan(tuple(rules), costs, rate, min(max_tokens, len(costs.pass_s) - 1))

    def _explorer(self, turns: Sequence[Turn], costs: CostTable, rate: float) -> int | None:
        """The slot that alone of several may draft: to learn a cost, or where nothing pays.

        No token is worth more than one: where each takes longer, odds need not be asked. Nor need
        they where they have just been asked in vain.
        """
        if len(turns) == 1:
            return None
        self._num_resting = max(self._num_resting - 1, 0)
        can_pay = costs.least_token_s < 1.0 / rate and self._num_resting == 0
        if self._costs.draft.is_known and can_pay:
            return None
        states = [(self._slots[turn.slot], turn.slot) for turn in turns]
        begun = (slot for state, slot in states if state.has_drafted or state.is_asked)
        return next(begun, turns[self._num_rounds % len(turns)].slot)

    def _rule(self, state: _Slot, length: int, rate: float, num_endings: int) -> AdaptiveStopping:
        """The rule for one run, at what passes cost to this sequence."""
        assert state.costs is not None, "the plan has just set them"
        costs = state.costs
        state.calibration = state.calibrator.snapshot(state.margin_scale, state.own_bias)
        odds = state.outlook.odds(state.calibration, length)
        rule = AdaptiveStopping(
            max_length=length,
            min_length=0,
            calibration=state.calibration,
            odds=odds,
            mean_probability=tuple(sum(p * share for p, share in pairs) for pairs in odds),
            costs=costs,
            rate=rate,
            num_endings=num_endings,
        )
        waited_share = self._overlap.waited_share if num_endings != OFF else 1.0
        expected = replace(rule, costs=costs.with_draft_share(waited_share))
        if rule.max_length > 0 and not expected.should_continue(()):
            # a first probe costs more than drafting does: the drafter has a prompt to catch up with
            is_second = state.has_drafted and not self._costs.draft.is_known
            is_probe = is_second or self._probing.is_due(state.probing, costs)
            rule = replace(rule, min_length=is_probe, max_length=rule.max_length * is_probe)
        state.is_asked = rule.max_length > 0
        return rule

    def _cost_table(self, turns: Sequence[Turn]) -> CostTable | None:
        """Costs now; once much is known, as they were a few rounds ago, for tables take time."""
        kept, is_settled = self._table, self._num_rounds >= _SETTLED
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
        self._account(rounds, num_tokens, verify_s)
        self._probing.observe_pass()
        self._costs.observe_pass(num_tokens, position, verify_s)
        self._costs.observe_other(other_s)
        if all(self._slots[slot].is_asked for slot in reports):
            _observe_overlap(self._overlap, reports)
        for slot, report in reports.items():
            state = self._slots[slot]
            if len(reports) > 1 and state.is_asked:
                state.probing.observe_asked(len(report.run.token_ids) > 0)
            self._learn(state, report, elapsed_s)

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

    def _learn(self, state: _Slot, report: RoundReport, elapsed_s: float) -> None:
        """Learn from one sequence's round; `elapsed_s` is the whole pass's."""
        run, num_checked = report.run, report.num_checked
        num_drafted, num_accepted = len(run.token_ids), len(report.acceptance.accepted)
        if state.is_asked:
            self._learn_draft_cost(state, report)
        state.has_drafted = num_drafted > 0
        state.num_checked = num_checked
        state.outlook.observe(run.confidences, state.margin_scale)
        for index in range(min(num_checked, num_accepted + 1)):
            state.learn(run.confidences[index], index, index < num_accepted)
        if num_checked and state.costs is not None:
            state.probing.observe(num_accepted >= state.costs.price(num_drafted, num_checked))
        state.rate.observe(num_accepted + 1, elapsed_s)

    def _learn_draft_cost(self, state: _Slot, report: RoundReport) -> None:
        """Learn from the tokens that were waited for; a run that was too late was dear, too."""
        num_waited_for = len(report.run.token_ids) - report.run.work.num_ready
        if num_waited_for > 0 and state.has_drafted:
            self._costs.observe_draft(num_waited_for, report.draft_s)
        elif not report.run.token_ids and report.draft_s > self._costs.draft.step_s:
            self._costs.observe_draft(1, report.draft_s)

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
