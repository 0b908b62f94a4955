"""Drafts with a model of several cache rows: ahead along likely endings, or many sequences at once.

A *path* is what was drafted after the confirmed tokens along one row of the cache. The first path
of a sequence is its run and what follows it; further ones are branches: they share the run as far
as an ending accepts it, go on with the ending's next token, and then with what the draft would
say. The verdict keeps the path that begins with it. Nothing here can change a text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from draft.choice import rank_near_best
from draft.messages import Wish
from draft.outcomes import Drafted, EndingOdds
from draft.pace import Pace
from draft.rows import RowModel, Rows, common_length
from specdec.endings import GROUP_ROWS, NUM_OTHERS
from specdec.types import DraftRun, DraftStep, DraftWork, SamplingParams, StoppingRule

_MAX_STEPS = 256  # remembered for the timeline


@dataclass(slots=True)
class Path:
    """Tokens drafted along one row; the first `num_ending` of them belong to an ending."""

    row: int
    drafted: list[Drafted] = field(default_factory=list)
    num_ending: int = 0

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The drafted tokens' ids."""
        return tuple(drafted.token_id for drafted in self.drafted)

    @property
    def is_in_ending(self) -> bool:
        """Whether the ending's own tokens are not all known yet."""
        return len(self.drafted) < self.num_ending

    def margins(self) -> tuple[float, ...]:
        """Margins of the tokens after the ending."""
        return tuple(drafted.margin for drafted in self.drafted[self.num_ending :])


@dataclass(slots=True)
class _Sequence:
    """One sequence; `paths` begins with that of its own row."""

    tokens: list[int]  # confirmed
    sampling: SamplingParams
    paths: list[Path]
    num_checked: int | None = None  # length of the run in flight
    work: DraftWork = field(default_factory=DraftWork)  # since the last take, but its steps

    @property
    def main(self) -> Path:
        return self.paths[0]


class BranchingDrafter:
    """A Drafter for a worker process: it can be given work between the calls."""

    def __init__(
        self,
        model: RowModel,
        device: str,
        num_slots: int = 1,
        num_branches: int = 0,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """Slot s has row s of the model; the rows after them are branches of a single slot 0."""
        assert num_slots == 1 or num_branches == 0, "branches are for one sequence"
        self._model, self._device, self._release = model, device, release
        self._rows = Rows(model, num_slots + num_branches)
        self._num_branches = num_branches
        self._odds = EndingOdds()
        self._pace = Pace()
        self._sequences: dict[int, _Sequence] = {}
        self._steps: list[DraftStep] = []

    @property
    def device(self) -> str:
        """Name of the device the draft model runs on."""
        return self._device

    def open(self, slot: int, prompt_ids: Sequence[int], sampling: SamplingParams) -> None:
        """Start a sequence; the prompt is fed with the first run."""
        self._rows.cut(slot, 0)
        self._sequences[slot] = _Sequence(list(prompt_ids), sampling, [Path(slot)])

    def confirm(self, slot: int, token_ids: Sequence[int]) -> None:
        """The verdict: the path that begins with it goes on, the others are dropped."""
        state = self._sequences[slot]
        self._pace.end_pass(slot, time.perf_counter())
        if not token_ids:
            return  # nothing was judged, so nothing has to go
        count, tokens = len(token_ids), tuple(token_ids)
        self._odds.learn(state.main.drafted, tokens, state.sampling)
        state.tokens.extend(tokens)
        kept = next((path for path in state.paths if path.token_ids[:count] == tokens), None)
        if kept is not None and kept.row != slot:
            self._rows.fork(kept.row, slot, len(self._rows.held[kept.row]))
        ready = kept.drafted[count:] if kept else []
        state.work = DraftWork(
            num_endings=state.work.num_endings,
            is_hit=len(ready) > 0 and state.work.num_endings > 0,
            num_ready=len(ready),
        )
        state.paths, state.num_checked = [Path(slot, ready)], None
        whole = [*state.tokens, *state.main.token_ids]
        # what is told last is always the next to be fed: its logits are what is wanted
        agreeing = min(common_length(whole, self._rows.held[slot]), len(whole) - 1)
        self._rows.cut(slot, agreeing)

    def take(
        self,
        slot: int,
        position: int,
        max_length: int,
        timeout_s: float,
        stopping: StoppingRule | None = None,
    ) -> DraftRun:
        """What is drafted already, and more while `stopping` and the model's context allow."""
        state = self._sequences[slot]
        assert position == len(state.tokens), "runs continue the confirmed tokens"
        wish = Wish(slot, max_length, stopping)
        while self._has_room(state, state.main) and wish.goes_on(state.main.margins()):
            self._step([(state, state.main)], is_ahead=False)
        taken = state.main.drafted[:max_length]
        ready = taken[: state.work.num_ready]
        work = DraftWork(
            state.work.num_endings,
            state.work.is_hit,
            len(ready),
            sum(drafted.elapsed_s for drafted in ready),
            tuple(self._steps),
        )
        state.work = DraftWork(num_ready=len(ready))
        self._steps.clear()
        ids, margins = (d.token_id for d in taken), (d.margin for d in taken)
        return DraftRun(position, tuple(ids), tuple(margins), work)

    def prepare(
        self, slot: int, position: int, max_length: int, stopping: StoppingRule | None = None
    ) -> None:
        """What is prepared is drafted by `draft_each`."""

    def in_flight(self, slot: int, run: DraftRun) -> None:
        """Remember what is being checked; `work_ahead` does the work."""
        state = self._sequences[slot]
        num_checked, main = len(run.token_ids), state.main
        if run.position == len(state.tokens) and main.token_ids[:num_checked] == run.token_ids:
            state.num_checked, main.num_ending = num_checked, num_checked + 1
            self._pace.begin_pass(slot, num_checked, time.perf_counter())

    def work_ahead(self, wish: Wish, goes_on: Callable[[], bool]) -> None:
        """Draft along the likeliest endings of the pass in flight, while `goes_on` says so.

        On how many the wish's rule decides; each run ends where that rule would end it. A step for
        unlikely endings is not begun where the verdict would have to wait for its end.
        """
        state = self._sequences[wish.slot]
        if state.num_checked is None or wish.stopping is None:
            return
        num_branches = min(wish.stopping.num_endings - 1, self._num_branches)
        first = 0
        while num_branches >= 0 and first < len(state.paths) and goes_on():
            self._branch(state, min(num_branches, first + GROUP_ROWS - 1))
            group = state.paths[first : first + GROUP_ROWS]
            wanting = [
                (state, path)
                for path in group
                if self._has_room(state, path)
                and (path.is_in_ending or wish.goes_on_ahead(path.margins()))
            ]
            if wanting and first and not self._is_in_time(wish.slot, len(wanting)):
                return
            if wanting:
                self._step(wanting, is_ahead=True)
            else:
                first += GROUP_ROWS
                self._branch(state, min(num_branches, first + GROUP_ROWS - 1))
            endings = sum(len(path.drafted) >= path.num_ending for path in state.paths)
            state.work = DraftWork(num_endings=endings)

    def draft_each(self, wishes: Sequence[Wish], goes_on: Callable[[], bool]) -> None:
        """Draft the runs of several sequences together, while `goes_on` says so."""
        pairs = [(self._sequences[wish.slot], wish) for wish in wishes]
        while goes_on():
            wanting = [
                (state, state.main)
                for state, wish in sorted(pairs, key=lambda pair: pair[1].slot)
                if self._has_room(state, state.main) and wish.goes_on(state.main.margins())
            ]
            if not wanting:
                return
            first = wanting[0][1].row
            near = [pair for pair in wanting if pair[1].row < first + self._model.max_rows]
            self._step(near, is_ahead=True)

    def close(self, slot: int) -> None:
        """Forget the sequence."""
        self._rows.cut(slot, 0)
        self._sequences.pop(slot, None)

    def release(self) -> None:
        """Give back the model's device."""
        self._release()

    def _branch(self, state: _Sequence, most: int) -> None:
        """Start branches for the likeliest endings without one, up to `most` in all."""
        main = state.main
        assert state.num_checked is not None
        if len(main.drafted) == state.num_checked:
            most -= 1  # the token after the run is unknown yet, and so is the best of its endings
        if len(state.paths) > most:
            return
        known = {(path.num_ending, path.token_ids[path.num_ending - 1]) for path in state.paths[1:]}
        for accepted, token in self._odds.rank(main.drafted, state.num_checked, state.sampling):
            length = len(state.tokens) + accepted
            if len(state.paths) > most:
                return
            is_new = (accepted + 1, token) not in known
            if is_new and length <= len(self._rows.held[main.row]):
                row = main.row + len(state.paths)
                self._rows.fork(main.row, row, length)
                told = [*main.drafted[:accepted], Drafted(token, 0.0)]
                state.paths.append(Path(row, told, len(told)))

    def _is_in_time(self, slot: int, num_rows: int) -> bool:
        return self._pace.is_in_time(slot, num_rows, time.perf_counter())

    def _has_room(self, state: _Sequence, path: Path) -> bool:
        """Whether the model's context can take one more token along a path."""
        return len(state.tokens) + len(path.drafted) < self._model.context_length

    def _step(self, wanting: Sequence[tuple[_Sequence, Path]], is_ahead: bool) -> None:
        """One more token along each of some paths."""
        start_s = time.perf_counter()
        pending = {}
        for state, path in wanting:
            held, told = len(self._rows.held[path.row]), len(state.tokens)
            pending[path.row] = [*state.tokens[held:], *path.token_ids[max(0, held - told) :]]
        found = self._rows.feed(pending)
        chosen = [
            rank_near_best(
                logits, len(state.tokens) + len(path.drafted), state.sampling, 1 + NUM_OTHERS
            )
            for (state, path), logits in zip(wanting, found, strict=True)
        ]
        end_s = time.perf_counter()
        for (_, path), (ids, margin) in zip(wanting, chosen, strict=True):
            path.drafted.append(Drafted(ids[0], margin, ids[1:], end_s - start_s))
        self._pace.observe_step(len(wanting), end_s - start_s)
        if len(self._steps) < _MAX_STEPS:
            self._steps.append(DraftStep(start_s, end_s, len(wanting), is_ahead))
