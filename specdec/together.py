"""How far sequences that share passes draft, decided for all at once; it knows no device.

What a pass of so many tokens costs, and a draft step for so many sequences, is paid together: so
lengths that are right for each alone may together end just beyond a step of T, or share no step.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from specdec.costs import CostTable
from specdec.planning import Turn
from specdec.probing import MOST_TRIES, Probing, probe_interval
from specdec.sharing import Stakes, draft_lengths, token_costs
from specdec.slot_state import Prospect, SlotState
from specdec.stopping import AdaptiveStopping, FixedStopping
from specdec.types import RoundReport

_IDLE = FixedStopping(0)
_RESTING = 8  # passes after one that drafted nothing: odds change by drafting alone
_RESTING_EACH = 2  # the same, per sequence: planning costs as much time as there are
_FURTHER = 3  # tokens beyond the longest run planned last that are looked at
_HOPELESS = 10.0  # times as long between probes where only costs could change the mind
_BIAS_KEPT = 0.98  # of what is held for or against a text, per pass that drafts for others alone

Rule = AdaptiveStopping | FixedStopping


@dataclass(frozen=True, slots=True)
class _Group:
    """The sequences of a pass, and what is expected of them."""

    turns: Sequence[Turn]
    states: Sequence[SlotState]
    prospects: Sequence[Prospect]
    costs: CostTable
    rate: float
    most_lost_s: float

    def best_lengths(self, *, with_unread: bool) -> tuple[float, tuple[int, ...]]:
        """What draft lengths are worth, and these; of all, or of those that are read."""
        stakes = [
            prospect.stakes() if state.is_read or with_unread else Stakes()
            for state, prospect in zip(self.states, self.prospects, strict=True)
        ]
        return draft_lengths(stakes, self.costs, self.rate, self.most_lost_s)

    def opener(self, token_s: float) -> int | None:
        """The sequence that the drafter should read next, if that can pay; `token_s` as planned.

        One at a time: the others wait until it has read.
        """
        wanted = []
        for i, (turn, state) in enumerate(zip(self.turns, self.states, strict=True)):
            first = sum(self.prospects[i].stakes().survival[:1])
            won_s = (first / self.rate - token_s) * turn.longest / (1.0 + first)
            can_draft = turn.longest > 0 and not state.is_read
            if can_draft and self.reading_s(i) <= min(won_s, self.most_lost_s):
                wanted.append(i)
        return min(wanted, key=self._by_tries, default=None)

    def reading_s(self, i: int) -> float:
        """What all wait while the drafter reads a sequence that it does not know."""
        is_read = self.states[i].is_read
        return 0.0 if is_read else self.turns[i].position * self.costs.draft_read_s

    def single(self) -> int | None:
        """The sequence that drafts a token alone most cheaply."""
        able = [i for i, turn in enumerate(self.turns) if turn.longest > 0]
        return min(able, key=lambda i: (self.reading_s(i), self._by_tries(i)), default=None)

    def rules(self, lengths: Sequence[int], opener: int | None, least: int) -> list[Rule]:
        """All that draft go on while their own tokens pay; one token more than planned at most."""
        rules: list[Rule] = [_IDLE] * len(self.states)
        costs, most = token_costs(lengths, self.costs), max(lengths) + 1
        for i, (state, prospect) in enumerate(zip(self.states, self.prospects, strict=True)):
            if lengths[i] or i == opener:
                rule = prospect.rule(min(most, len(prospect.odds)), costs, self.rate)
                rules[i] = replace(rule, min_length=1 if i == opener else least)
            elif any(lengths):
                state.own_bias *= _BIAS_KEPT
        return rules

    def _by_tries(self, i: int) -> tuple[int, int]:
        """What has been tried a few times goes on, what has been tried too often comes last."""
        num_in_vain = self.states[i].num_in_vain
        return num_in_vain // MOST_TRIES, -num_in_vain


class Together:
    """Plans the drafting of passes of several sequences."""

    def __init__(self, max_draft_length: int) -> None:
        self._max_draft_length = max_draft_length
        self._probing = Probing()
        self._num_resting = 0
        self._longest = 1
        self._num_passed = 0  # passes since a probe was thought of

    def rules(
        self,
        turns: Sequence[Turn],
        states: Sequence[SlotState],
        costs: CostTable,
        rate: float,
        most_lost_s: float,
    ) -> list[Rule]:
        """The rule of each sequence.

        Args:
            turns, states: of the sequences that share the pass.
            costs: of passes as large as may be; what drafting costs may be a guess.
            rate: of all sequences together, tokens per second.
            most_lost_s: what drafting may take if nothing of it is accepted.
        """
        self._num_resting -= 1
        self._num_passed += 1
        if self._num_resting > 0 or len(costs.pass_s) <= len(turns) + 1:
            return [_IDLE] * len(turns)
        # no token is worth more than one: where each takes longer, odds need not be asked
        can_pay = costs.is_draft_known and costs.least_token_s < 1.0 / rate
        room = (len(costs.pass_s) - 1 - len(turns)) // len(turns)
        most = min(2 * room + 1, self._longest + _FURTHER, self._max_draft_length)
        prospects = [
            state.prospect(min(turn.longest, most if can_pay else 1))
            for state, turn in zip(states, turns, strict=True)
        ]
        group = _Group(turns, states, prospects, costs, rate, most_lost_s)
        rules = self._drafting(group) if can_pay else self._probe(group, None)
        self._longest = max(rule.max_length for rule in rules) if rules else 1
        self._num_resting = 0 if rules else max(_RESTING, _RESTING_EACH * len(turns))
        return rules or [_IDLE] * len(turns)

    def observe(
        self, reports: Collection[RoundReport], is_asked: bool, costs: CostTable | None
    ) -> None:
        """Learn from a pass, at the costs it was planned with, whether drafting has paid."""
        drafted = [len(report.run.token_ids) for report in reports]
        if is_asked:
            self._probing.observe_asked(any(drafted))
        if any(drafted) and costs is not None:
            checked = [report.num_checked for report in reports]
            price = costs.shared_extra_s(drafted, checked) / costs.pass_s[len(drafted)]
            num_accepted = sum(len(report.acceptance.accepted) for report in reports)
            self._probing.observe(num_accepted >= price * len(drafted))

    def _drafting(self, group: _Group) -> list[Rule] | None:
        """The rules where drafting should pay, with what is read or once more is; else a probe."""
        value, lengths = group.best_lengths(with_unread=True)
        opener = None
        if not all(state.is_read for state in group.states):
            if value > 0.0:
                token_s = group.costs.shared_extra_s(lengths, lengths) / sum(lengths)
                opener = group.opener(token_s)
            value, lengths = group.best_lengths(with_unread=False)
        if value <= 0.0 and opener is None:
            return self._probe(group, lengths)
        if value <= 0.0:
            lengths = (0,) * len(lengths)
        return group.rules(lengths, opener, 0)

    def _probe(self, group: _Group, lengths: Sequence[int] | None) -> list[Rule] | None:
        """The rules of a pass that finds out whether drafting pays after all, if one is due.

        `lengths` are those of the least loss, or None where no odds could make drafting pay: costs
        alone may turn out to be otherwise there, which is seldom once they are known.
        """
        costs, num_sequences = group.costs, len(group.turns)
        patience = _HOPELESS if lengths is None and costs.is_draft_known else 1.0
        opener, reading_s = None, 0.0
        if lengths is None or not any(lengths):
            opener = group.single()
            lengths = [int(i == opener) for i in range(num_sequences)]
            reading_s = 0.0 if opener is None else group.reading_s(opener)
        price_s = reading_s + costs.shared_extra_s(lengths, lengths)
        if not any(lengths) or price_s > group.most_lost_s:
            return None
        interval = patience * probe_interval(price_s / costs.pass_s[num_sequences])
        is_due = self._probing.is_due(interval, self._num_passed)
        self._num_passed = 0
        has_begun = opener is not None and group.states[opener].has_drafted
        is_second = has_begun and not costs.is_draft_known  # the first had to read as well
        return group.rules(lengths, opener, 1) if is_due or is_second else None
