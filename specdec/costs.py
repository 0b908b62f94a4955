"""What a round costs, learned from the rounds themselves; it knows seconds, no device, no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from specdec.level import Level
from specdec.pass_costs import PassCosts

_UNKNOWN_STEP = 0.05  # of a pass: a draft step's cost until one is measured
_DRAFT_MEMORY = 0.9  # what a draft's cost sums keep per round
_READ_WEIGHT = 1000.0  # what a saved cost of reading counts as: that of some thirty tokens
_ROW_SHARE, _ROW_WEIGHT = 0.25, 4.0  # of a step: a further row's cost until measured; tokens' worth


@dataclass(frozen=True, slots=True)
class CostTable:
    """A snapshot of all costs, in seconds, at one context length."""

    pass_s: tuple[float, ...]  # [m]: a pass of m tokens, never falling; [0] is 0.0
    draft_step_s: float
    draft_fixed_s: float = 0.0  # of asking the drafter at all
    other_s: float = 0.0  # of every round, whatever is drafted
    num_sequences: int = 1  # that share a pass: a plain one makes a token of each
    draft_row_s: float = 0.0  # of each further sequence in a draft step
    draft_read_s: float = 0.0  # per token of a sequence new to the drafter, while all wait
    is_draft_known: bool = True  # else what drafting costs is a guess

    @property
    def longest_run(self) -> int:
        """Most draft tokens that the table has a pass for."""
        return len(self.pass_s) - 2

    @property
    def plain_s(self) -> float:
        """A round without draft."""
        return self.pass_s[1] + self.other_s

    @property
    def least_token_s(self) -> float:
        """The least that one more token can take, drafted and checked beside plain ones."""
        n, plain_s = self.num_sequences, self.pass_s[self.num_sequences]
        return min(
            (
                (self._shared_draft_s(-(-count // n), count) + pass_s - plain_s) / count
                for count, pass_s in enumerate(self.pass_s[n + 1 :], 1)
            ),
            default=inf,
        )

    def shared_extra_s(self, drafted: Sequence[int], checked: Sequence[int]) -> float:
        """What drafting and checking so many tokens of each sequence adds to a plain pass."""
        num_sequences = len(drafted)
        pass_s = self.pass_s[num_sequences + sum(checked)] - self.pass_s[num_sequences]
        return self._shared_draft_s(max(drafted), sum(drafted)) + pass_s

    def _shared_draft_s(self, longest: int, num_drafted: int) -> float:
        """Drafting so many tokens for several sequences, so many steps."""
        return self.draft_s(longest) + (num_drafted - longest) * self.draft_row_s

    def with_draft_share(self, share: float) -> CostTable:
        """The costs where only a part of all draft time is waited for."""
        step_s, fixed_s = share * self.draft_step_s, share * self.draft_fixed_s
        return replace(self, draft_step_s=step_s, draft_fixed_s=fixed_s)

    def round_s(self, num_drafted: int, num_checked: int) -> float:
        """A round that drafts and checks so many tokens."""
        return self.draft_s(num_drafted) + self.pass_s[num_checked + 1] + self.other_s

    def draft_s(self, num_drafted: int) -> float:
        """Drafting so many tokens."""
        return self.draft_fixed_s + num_drafted * self.draft_step_s if num_drafted else 0.0

    def price(self, num_drafted: int, num_checked: int) -> float:
        """What such a round costs beyond a plain one, in tokens that plain rounds would make."""
        plain_s = self.plain_s
        return self.num_sequences * (self.round_s(num_drafted, num_checked) / plain_s - 1.0)


class DraftCosts:
    """Seconds of drafting: a fixed part, one per step, and one per further sequence in a step.

    The first two by a forgetting regression over runs alone, the last by what runs side by side
    take beyond the longest of them.
    """

    def __init__(self) -> None:
        self.fixed_s = 0.0
        self.step_s = 0.0
        self._rows: tuple[float, float] | None = None  # sums of y r and r r, r tokens in y seconds
        self._reading: tuple[float, float] | None = None  # the same of reading t tokens
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)  # of 1, k, k k, x, k x

    @property
    def is_known(self) -> bool:
        """Whether any run was measured."""
        return self._sums[0] > 0.0

    def observe(self, num_steps: int, elapsed_s: float) -> None:
        """Learn from one run; one sample raises the costs by half at most."""
        if self.is_known:
            expected_s = self.fixed_s + num_steps * self.step_s
            elapsed_s = min(elapsed_s, max(1.5 * expected_s, 1e-5))
        new = (1.0, num_steps, num_steps**2, elapsed_s, num_steps * elapsed_s)
        kept = (_DRAFT_MEMORY * old + x for old, x in zip(self._sums, new, strict=True))
        count, k, kk, x, kx = self._sums = tuple(kept)  # type: ignore[assignment]
        # least squares with a slight pull of the fixed part to 0, so one length is enough to solve
        determinant = (count + 1) * kk - k * k
        fixed_s = min(max((kk * x - k * kx) / determinant, 0.0), x / count)
        self.fixed_s = fixed_s
        self.step_s = max((kx - k * fixed_s) / kk, 0.0)

    @property
    def knows_rows(self) -> bool:
        """Sequences have drafted together; else `row_s` is a guess."""
        return self._rows is not None

    @property
    def row_s(self) -> float:
        """Seconds of a token drafted beside a longer run."""
        if self._rows is None:
            return _ROW_SHARE * self.step_s
        return self._rows[0] / self._rows[1]

    def observe_shared(self, lengths: Sequence[int], elapsed_s: float) -> None:
        """Learn from runs that were drafted side by side; one sample raises a cost by half."""
        longest, num_beside = max(lengths), sum(lengths) - max(lengths)
        alone_s = self.fixed_s + longest * self.step_s
        if not num_beside or not self.is_known or elapsed_s < alone_s:
            self.observe(longest, elapsed_s)  # others beside it have cost nothing
        if not num_beside:
            return
        elapsed_s = min(elapsed_s, 1.5 * (alone_s + num_beside * self.row_s))
        beside_s = max(elapsed_s - alone_s, 0.0)
        yr, rr = self._rows or (_ROW_WEIGHT * self.row_s, _ROW_WEIGHT)
        new_yr, new_rr = num_beside * beside_s, num_beside**2
        self._rows = (_DRAFT_MEMORY * yr + new_yr, _DRAFT_MEMORY * rr + new_rr)

    @property
    def read_s(self) -> float:
        """Seconds that all wait per token of a sequence new to the drafter; 0.0 until measured."""
        return self._reading[0] / self._reading[1] if self._reading else 0.0

    def observe_reading(self, num_tokens: int, lengths: Sequence[int], elapsed_s: float) -> None:
        """Learn from drafting that began with the reading of so many tokens."""
        longest = max(lengths)
        drafted_s = self.fixed_s * (longest > 0) + longest * self.step_s
        elapsed_s = max(elapsed_s - drafted_s - (sum(lengths) - longest) * self.row_s, 0.0)
        yt, tt = self._reading or (0.0, 0.0)
        self._reading = (
            _DRAFT_MEMORY * yt + num_tokens * elapsed_s,
            _DRAFT_MEMORY * tt + num_tokens**2,
        )

    def restore(self, fixed_s: float, step_s: float, row_s: float | None, read_s: float) -> None:
        """Start from what was learned in another run, as good as two runs of this one."""
        self._reading = (_READ_WEIGHT * read_s, _READ_WEIGHT)
        self._rows = None if row_s is None else (_ROW_WEIGHT * row_s, _ROW_WEIGHT)
        self.fixed_s = self.step_s = 0.0
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)
        for num_steps in (1, 8):
            new_s = fixed_s + num_steps * step_s
            sums = (1.0, num_steps, num_steps**2, new_s, num_steps * new_s)
            total = (a + b for a, b in zip(self._sums, sums, strict=True))
            self._sums = tuple(total)  # type: ignore[assignment]
        self.fixed_s, self.step_s = fixed_s, step_s


class Costs:
    """All costs of one pair of target and draft on their devices."""

    def __init__(self, max_pass_tokens: int, pass_steps: Sequence[int] = ()) -> None:
        self.passes = PassCosts(max_pass_tokens, pass_steps)
        self.draft = DraftCosts()
        self.other = Level()

    def observe_pass(self, num_tokens: int, context_length: int, elapsed_s: float) -> None:
        """Learn from one pass."""
        self.passes.observe(num_tokens, context_length, elapsed_s)

    def observe_draft(self, lengths: Sequence[int], elapsed_s: float) -> None:
        """Learn from draft runs that began where the last ones were confirmed."""
        self.draft.observe_shared(lengths, elapsed_s)

    def observe_reading(self, num_tokens: int, lengths: Sequence[int], elapsed_s: float) -> None:
        """Learn from a round in which the drafter was told of so many tokens of new sequences."""
        self.draft.observe_reading(num_tokens, lengths, elapsed_s)

    def observe_other(self, elapsed_s: float) -> None:
        """Learn from what a round took beside its draft and its pass."""
        self.other.observe(elapsed_s)

    def is_plain_due(self, num_sequences: int = 1) -> bool:
        """Whether a plain pass of so many sequences is due, for its own cost's sake."""
        return self.passes.is_plain_due(num_sequences)

    def table(self, context_length: int, num_sequences: int = 1) -> CostTable | None:
        """What is known now; None before the first plain passes of so many sequences."""
        pass_s = self.passes.table(context_length, num_sequences)
        if not pass_s:
            return None
        step_s, row_s = self.draft.step_s, self.draft.row_s
        if not self.draft.is_known:
            step_s, row_s = _UNKNOWN_STEP * pass_s[1], 0.0
        fixed_s, other_s = self.draft.fixed_s, self.other.value
        return CostTable(
            pass_s,
            step_s,
            fixed_s,
            other_s,
            num_sequences,
            row_s,
            self.draft.read_s,
            self.draft.is_known,
        )

    def restore(
        self,
        sizes: Mapping[int, tuple[float, float, int]],
        slope_s: float,
        draft_fixed_s: float,
        draft_step_s: float | None,
        other_s: float,
        draft_row_s: float | None = None,
        draft_read_s: float = 0.0,
    ) -> None:
        """Start from what another run has learned (None: it never drafted, or never together)."""
        self.passes.restore(sizes, slope_s)
        if draft_step_s is not None:
            self.draft.restore(draft_fixed_s, draft_step_s, draft_row_s, draft_read_s)
        self.other = Level(other_s, 2)

    def to_json(self) -> dict[str, object]:
        """Everything learned, as numbers."""
        return {
            "passes": self.passes.to_json(),
            "draft_fixed_s": self.draft.fixed_s,
            "draft_step_s": self.draft.step_s if self.draft.is_known else None,
            "draft_row_s": self.draft.row_s if self.draft.knows_rows else None,
            "draft_read_s": self.draft.read_s,
            "other_s": self.other.value,
        }
