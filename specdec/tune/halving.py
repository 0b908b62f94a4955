"""Successive halving: all settings on a little text, the better half on more; it runs nothing.

Every setting that is still in runs the same prompts in the same turn, so comparisons are paired.
Jamieson and Talwalkar 2016, arXiv 1502.07943. Adaptive settings stay in while their drafter does:
whether adapting beats every fixed choice is a question of its own, and the last rung asks it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from specdec.tune.settings import Setting


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt continued."""

    kind: str
    prompt_id: str
    num_tokens: int
    num_passes: int
    elapsed_s: float


@dataclass(slots=True)
class Trial:
    """A setting and what is known of it so far."""

    setting: Setting
    samples: list[Sample] = field(default_factory=list)
    rung: int = 0  # the last that it took part in

    @property
    def tokens_per_s(self) -> float:
        """Over all its prompts."""
        return rate(self.samples)

    def share_of(self, other: Trial, kind: str = "") -> float:
        """Its rate over the other's on the prompts that both have run; 0 where there are none.

        Rates over different prompts must not be compared: texts differ more than settings do.
        """
        mine, its = self._of_kind(kind), other._of_kind(kind)
        shared = {sample.prompt_id for sample in mine} & {sample.prompt_id for sample in its}
        if not shared:
            return 0.0
        rates = [rate([s for s in own if s.prompt_id in shared]) for own in (mine, its)]
        return rates[0] / rates[1]

    def tokens_per_s_of(self, kind: str) -> float:
        """Over its prompts of one kind; 0 where it had none."""
        return rate(self._of_kind(kind))

    def _of_kind(self, kind: str) -> list[Sample]:
        return [sample for sample in self.samples if kind in ("", sample.kind)]


def rate(samples: Sequence[Sample]) -> float:
    """Tokens per second; 0 without samples."""
    elapsed_s = sum(sample.elapsed_s for sample in samples)
    return sum(sample.num_tokens for sample in samples) / elapsed_s if elapsed_s else 0.0


Measure = Callable[[Setting, int], Sample]  # of the prompt with that index
Show = Callable[[Sequence[Trial]], None]

_TOKENS = (16, 48)  # per prompt, at least and at most
_OVERRUN = 1.1  # of the budget, after which a turn of prompts is given up
_NEAR = 0.9  # of the best rate: an adaptive setting as close as this is not dropped


@dataclass(frozen=True, slots=True)
class Clock:
    """The time there is, and what has passed of it."""

    budget_s: float
    now_s: Callable[[], float]  # since the start


class Halving:
    """One search; `trials` hold everything measured."""

    def __init__(
        self, settings: Sequence[Setting], measure: Measure, num_prompts: int, clock: Clock
    ) -> None:
        self.trials = [Trial(setting) for setting in settings]
        self._measure = measure
        self._num_prompts = num_prompts
        self._clock = clock
        self._prompt = 0  # the next

    def run(self, show: Show) -> None:
        """Halve until one fixed choice is left beside the adaptive ones, or time or text ends."""
        alive = list(self.trials)
        rung = 0
        while True:
            rung += 1
            for trial in alive:
                trial.rung = rung
            is_last = _num_fixed(alive) <= 1
            self._rung(alive, is_last, show)
            is_over = self._clock.now_s() >= self._clock.budget_s
            if is_last or is_over or self._prompt >= self._num_prompts:
                return
            alive = _better_half(alive)

    def _rung(self, alive: Sequence[Trial], is_last: bool, show: Show) -> None:
        """One prompt after the other within this rung's part of the time left; one at least."""
        start_s = self._clock.now_s()
        num_rungs = 1 if is_last else 1 + (_num_fixed(alive) - 1).bit_length()
        until_s = start_s + (self._clock.budget_s - start_s) / num_rungs
        while self._prompt < self._num_prompts:
            turn_start_s = self._clock.now_s()
            samples = self._turn(alive)
            if not samples:
                return
            for trial, sample in zip(alive, samples, strict=True):
                trial.samples.append(sample)
            show(alive)
            self._prompt += 1
            now_s = self._clock.now_s()
            if now_s + (now_s - turn_start_s) > until_s:
                return

    def _turn(self, alive: Sequence[Trial]) -> list[Sample]:
        """The next prompt under every setting; nothing if time ran out on the way.

        The very first prompt is always measured. Turning the order around cancels what drifts.
        """
        order = list(range(len(alive)))
        samples: dict[int, Sample] = {}
        for index in order if self._prompt % 2 == 0 else order[::-1]:
            if self._prompt and self._clock.now_s() > _OVERRUN * self._clock.budget_s:
                return []
            samples[index] = self._measure(alive[index].setting, self._prompt)
        return [samples[index] for index in order]


def _num_fixed(alive: Sequence[Trial]) -> int:
    return sum(trial.setting.is_fixed for trial in alive)


def _better_half(alive: Sequence[Trial]) -> list[Trial]:
    """The faster half of the fixed settings, and the adaptive ones that may still win."""
    fixed = sorted(
        (trial for trial in alive if trial.setting.is_fixed), key=lambda trial: -trial.tokens_per_s
    )
    kept = fixed[: (len(fixed) + 1) // 2]
    drafters = {trial.setting.drafter for trial in kept}
    adaptive = [
        trial
        for trial in alive
        if not trial.setting.is_fixed
        and (trial.setting.drafter in drafters or trial.tokens_per_s > _NEAR * kept[0].tokens_per_s)
    ]
    return [trial for trial in alive if trial in kept or trial in adaptive]


def affordable_tokens(budget_s: float, token_s: float, num_settings: int, num_kinds: int) -> int:
    """Tokens a prompt so that the first rung takes every kind once, if the budget allows that."""
    rung_s = budget_s / (1 + (num_settings - 1).bit_length())
    tokens = int(rung_s / (token_s * num_settings * num_kinds))
    return min(max(tokens, _TOKENS[0]), _TOKENS[1])
