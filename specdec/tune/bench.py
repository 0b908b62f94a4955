"""Runs prompts under any setting: a target for all, an engine per drafter; it decides nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import cast

from specdec.config import Config, with_value
from specdec.controller import AdaptiveLength, FixedLength
from specdec.costs import Costs
from specdec.engine import Engine
from specdec.errors import PromptError, SpecdecError
from specdec.load import Progress, load, load_target
from specdec.load.borrowed import borrowed
from specdec.planning import Controller
from specdec.prompts import Prompt
from specdec.tune.halving import Sample
from specdec.tune.settings import Setting

_WARM_UP_LENGTHS = (0, 1, 3, 7, 15)  # passes of all sizes: some devices compile in the first
_WARM_UP_TOKENS = 8


class Switch:
    """A controller that is another one, exchanged between generations."""

    def __init__(self) -> None:
        self.current: object = FixedLength(0)

    def __getattr__(self, name: str) -> object:
        return getattr(self.current, name)


class Bench:
    """Engines held open over one target; every setting must produce the same tokens."""

    def __init__(
        self,
        config: Config,
        drafters: Sequence[str],
        prompts: Sequence[Prompt],
        held: ExitStack,
        progress: Progress,
    ) -> None:
        config = with_value(config, "speculation.mode", "auto")
        self._prompts = prompts
        self._texts: dict[str, tuple[int, ...]] = {}
        self._target = load_target(config, progress)
        held.callback(self._target.release)
        self._engines: dict[str, Engine] = {}
        self._switches: dict[str, Switch] = {}
        self._adaptive: dict[str, AdaptiveLength] = {}
        for drafter in drafters:
            self._switches[drafter] = switch = Switch()
            engine = load(
                with_value(config, "draft.device", drafter),
                controller=cast(Controller, switch),
                target=borrowed(self._target),
            )
            self._engines[drafter] = held.enter_context(engine)
            costs = Costs(self._target.max_pass_tokens, self._target.pass_sizes)
            longest = config.speculation.max_draft_length
            self._adaptive[drafter] = AdaptiveLength(costs, longest)

    @property
    def target_device(self) -> str:
        """Name of the device that verifies."""
        return self._target.device

    def warm_up(self) -> float:
        """Let devices compile and adaptive controllers learn; seconds of a plain token, or so."""
        prompt = replace(self._prompts[0], max_new_tokens=_WARM_UP_TOKENS)
        token_s = 0.0
        for drafter, switch in self._switches.items():
            lengths: list[object] = [FixedLength(length) for length in _WARM_UP_LENGTHS]
            for controller in (*lengths, self._adaptive[drafter], FixedLength(0)):
                switch.current = controller
                start = time.perf_counter()
                list(self._engines[drafter].generate([prompt]))
                token_s = (time.perf_counter() - start) / _WARM_UP_TOKENS
        return token_s

    def shorten(self, max_new_tokens: int) -> None:
        """Let every prompt be continued by no more than so many tokens."""
        self._prompts = [replace(p, max_new_tokens=max_new_tokens) for p in self._prompts]

    def measure(self, setting: Setting, index: int) -> Sample:
        """Continue a prompt; SpecdecError if a token differs from another setting's."""
        prompt = self._prompts[index]
        drafter = setting.drafter or next(iter(self._engines))
        length = setting.draft_length if setting.mode == "fixed" else 0
        is_adaptive = setting.mode == "auto"
        controller = self._adaptive[drafter] if is_adaptive else FixedLength(length)
        self._switches[drafter].current = controller
        results = [event.result for event in self._engines[drafter].generate([prompt])]
        result = results[-1]
        assert result is not None, "the last event of a prompt carries its result"
        if result.error:
            raise PromptError(result.error)
        if self._texts.setdefault(prompt.id, result.token_ids) != result.token_ids:
            raise SpecdecError(
                f"prompt {prompt.id!r} came out differently under {setting.name}: this is a bug "
                "of specdec, no setting is safe to recommend; please report it"
            )
        stats = result.stats
        return Sample(prompt.kind, prompt.id, stats.num_tokens, stats.num_passes, stats.decode_s)
