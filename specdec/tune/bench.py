"""Runs prompts under any setting: a target for all, an engine per drafter; it decides nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import cast

from specdec.checkpoint import open_checkpoint
from specdec.config import Config, with_value
from specdec.controller import AdaptiveLength, FixedLength
from specdec.engine import Engine
from specdec.errors import PromptError, SpecdecError
from specdec.generation import Generation
from specdec.load import Progress, load, load_target
from specdec.load.borrowed import borrowed
from specdec.load.costs import cost_book
from specdec.load.drafters import open_drafter
from specdec.load.models import model_dir
from specdec.planning import Controller
from specdec.prompts import Prompt
from specdec.tune.halving import Sample
from specdec.tune.settings import Setting

_SIZES = (2, 4, 8, 16)  # of passes: some devices compile in the first of each
_WARM_UP_TOKENS = 8


class Switch:
    """A controller that is another one, exchanged between generations."""

    def __init__(self) -> None:
        self.current: object = FixedLength(0)

    def __getattr__(self, name: str) -> object:
        return getattr(self.current, name)


@dataclass(frozen=True, slots=True)
class _Desk:
    """One engine, its exchangeable controller, and an adaptive one that keeps what it learns."""

    engine: Engine
    switch: Switch
    adaptive: AdaptiveLength
    overlap: str  # of fixed lengths

    def use(self, setting: Setting) -> None:
        """Decode as the setting says from now on."""
        length = setting.draft_length if setting.mode == "fixed" else 0
        fixed = FixedLength(length, self.overlap)
        self.switch.current = self.adaptive if setting.mode == "auto" else fixed


class Bench:
    """Engines held open over one target; every setting must produce the same tokens.

    With batches, the unit of measurement is as many prompts as the largest holds, timed together.
    """

    def __init__(
        self,
        config: Config,
        settings: Sequence[Setting],
        prompts: Sequence[Prompt],
        held: ExitStack,
        progress: Progress,
    ) -> None:
        self._chunk = max(setting.batch_size for setting in settings)
        self._prompts = prompts
        self._texts: dict[str, tuple[int, ...]] = {}
        config = with_value(config, "speculation.mode", "auto")
        self._target = load_target(with_value(config, "run.batch_size", self._chunk), progress)
        held.callback(self._target.release)
        lengths = sorted({setting.draft_length for setting in settings})
        by_size = {next(s for s in _SIZES if s > length): length for length in lengths}
        self._warm_up_lengths = by_size.values()
        self._desks: dict[tuple[str, int], _Desk] = {}
        for setting in settings:
            key = (setting.drafter, setting.batch_size)
            if setting.drafter and key not in self._desks:
                self._desks[key] = self._desk(setting, config, held)

    def _desk(self, setting: Setting, config: Config, held: ExitStack) -> _Desk:
        switch, speculation = Switch(), config.speculation
        config = with_value(setting.applied_to(config), "speculation.mode", "auto")
        checkpoint = open_checkpoint(model_dir(config.target.model, "target"))
        book = cost_book(config, checkpoint, self._target)
        drafter = open_drafter(config, checkpoint, self._target.context_length, book)
        assert drafter is not None, "a setting with a drafter"
        engine = load(
            config,
            controller=cast(Controller, switch),
            target=borrowed(self._target),
            drafter=drafter,
        )
        costs = book.timed(drafter)  # as any run on a new machine starts
        adaptive = AdaptiveLength(costs, speculation.max_draft_length, speculation.overlap)
        return _Desk(held.enter_context(engine), switch, adaptive, speculation.overlap)

    @property
    def target_device(self) -> str:
        """Name of the device that verifies."""
        return self._target.device

    @property
    def num_units(self) -> int:
        """How often there is something new to measure."""
        return len(self._prompts) // self._chunk

    def warm_up(self) -> float:
        """Let devices compile and adaptive controllers learn; seconds of a plain token, or so."""
        prompts = [replace(p, max_new_tokens=_WARM_UP_TOKENS) for p in self._prompts[: self._chunk]]
        token_s = 0.0
        for desk in self._desks.values():
            fixed: list[object] = [FixedLength(length) for length in self._warm_up_lengths]
            for controller in (*fixed, desk.adaptive, FixedLength(0)):
                desk.switch.current = controller
                start = time.perf_counter()
                list(desk.engine.generate(prompts))
                token_s = (time.perf_counter() - start) / _WARM_UP_TOKENS
        return token_s

    def shorten(self, max_new_tokens: int) -> None:
        """Let every prompt be continued by no more than so many tokens."""
        self._prompts = [replace(p, max_new_tokens=max_new_tokens) for p in self._prompts]

    def measure(self, setting: Setting, index: int) -> Sample:
        """Continue a prompt, or as many as a batch; SpecdecError if a token differs."""
        prompts = self._prompts[index * self._chunk : (index + 1) * self._chunk]
        desk = self._desk_of(setting)
        desk.use(setting)
        results = [event.result for event in desk.engine.generate(prompts) if event.result]
        for result in results:
            self._check(setting, result)
        tokens = sum(result.stats.num_tokens for result in results)
        passes = sum(result.stats.num_passes for result in results)
        # a sequence has its share of each pass it was in, so the sum is the time of decoding
        elapsed_s = sum(result.stats.decode_s for result in results)
        kind = prompts[0].kind if self._chunk == 1 else "mixed"
        return Sample(kind, prompts[0].id, tokens, passes, elapsed_s)

    def _desk_of(self, setting: Setting) -> _Desk:
        """An engine for the setting; plain decoding runs on any of its batch size."""
        return next(
            desk
            for (drafter, size), desk in self._desks.items()
            if size == setting.batch_size and setting.drafter in ("", drafter)
        )

    def _check(self, setting: Setting, result: Generation) -> None:
        if result.error:
            raise PromptError(result.error)
        if self._texts.setdefault(result.id, result.token_ids) != result.token_ids:
            raise SpecdecError(
                f"prompt {result.id!r} came out differently under {setting.name}: this is a bug "
                "of specdec, no setting is safe to recommend; please report it"
            )
