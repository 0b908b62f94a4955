"""Builds an engine from a config: the only package that names both draft and target.

They are imported inside the functions that need them: `specdec` exports `load`, and `draft` and
`target` use leaf modules of `specdec`, so at module level the imports would run in a circle.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from specdec.checkpoint import Checkpoint, open_checkpoint
from specdec.config import Config
from specdec.controller import AdaptiveLength, FixedLength
from specdec.engine import BatchSettings, Engine
from specdec.errors import UsageError
from specdec.load.costs import CostBook, cost_book
from specdec.load.drafters import open_drafter
from specdec.load.machine_name import warn_if_tuned_elsewhere
from specdec.load.models import model_dir, open_tokenizer
from specdec.load.target import open_target
from specdec.planning import Controller, RoundRecorder
from specdec.requests import GenerationDefaults, Order
from specdec.types import Drafter, Verifier

Progress = Callable[[int, int], None]


def load(
    config: Config,
    *,
    stop_strings: tuple[str, ...] = (),
    stop_token_ids: frozenset[int] = frozenset(),
    controller: Controller | None = None,
    recorder: RoundRecorder | None = None,
    target: Verifier | None = None,
    drafter: Drafter | None = None,
    progress: Progress = lambda done_bytes, total_bytes: None,
) -> Engine:
    """Open models and devices as configured; close the engine (or use `with`) to free them.

    Args:
        config: all settings.
        stop_strings, stop_token_ids: texts and tokens that end a generation.
        controller: decides draft lengths in place of the configured one.
        recorder: is told of every round; the engine releases it.
        target, drafter: open ones of these settings; the engine releases them (see `borrowed`).
        progress: hears the bytes of weights loaded onto the device so far, and in all.

    Raises UsageError for contradicting settings, ModelError or DeviceError for what is unusable.
    """
    _check(config)
    checkpoint = open_checkpoint(model_dir(config.target.model, "target"))
    context_length = _context_length(config, checkpoint)
    tokenizer = open_tokenizer(checkpoint)
    recorders = [recorder] if recorder else []
    with ExitStack() as held:
        verifier = target or open_target(config, checkpoint, context_length, progress)
        held.callback(verifier.release)
        warn_if_tuned_elsewhere(config, verifier.device)
        book = cost_book(config, checkpoint, verifier)
        drafter = drafter or open_drafter(config, checkpoint, context_length, book)
        if controller is None:
            controller, keeper = _controller(config, book, drafter)
            recorders += keeper
        held.pop_all()
    defaults = _defaults(config, checkpoint, stop_strings, stop_token_ids)
    return Engine(verifier, drafter, controller, tokenizer, defaults, recorders, _batch(config))


def load_target(
    config: Config, progress: Progress = lambda done_bytes, total_bytes: None
) -> Verifier:
    """Open the target alone: engines that generate in turn can borrow it."""
    checkpoint = open_checkpoint(model_dir(config.target.model, "target"))
    return open_target(config, checkpoint, _context_length(config, checkpoint), progress)


def _check(config: Config) -> None:
    """UsageError for settings that contradict each other."""
    speculation = config.speculation
    if speculation.draft_length > speculation.max_draft_length:
        raise UsageError(
            f"speculation.draft_length is {speculation.draft_length}, above "
            f"speculation.max_draft_length = {speculation.max_draft_length}"
        )


def _defaults(
    config: Config,
    checkpoint: Checkpoint,
    stop_strings: tuple[str, ...],
    stop_token_ids: frozenset[int],
) -> GenerationDefaults:
    return GenerationDefaults(
        sampling=config.sampling,
        max_new_tokens=config.run.max_new_tokens,
        eos_ids=frozenset(checkpoint.info.eos_ids),
        stop_strings=stop_strings,
        stop_token_ids=stop_token_ids,
        has_chat_template=checkpoint.info.chat_template is not None,
    )


def _batch(config: Config) -> BatchSettings:
    order: Order = "longest" if config.run.order == "longest" else "arrival"
    return BatchSettings(config.run.batch_size, order, config.run.kept_prefixes)


def context_length_of(config: Config) -> int:
    """Tokens a slot holds with these settings."""
    return _context_length(config, open_checkpoint(model_dir(config.target.model, "target")))


def _context_length(config: Config, checkpoint: Checkpoint) -> int:
    """Tokens a slot holds: as configured, at most what the model was made for."""
    longest = checkpoint.info.shape.context_length
    wanted = config.run.context_length
    if wanted > longest:
        raise UsageError(f"run.context_length is {wanted}; the target's longest is {longest}")
    return wanted or longest


def _controller(
    config: Config, book: CostBook, drafter: Drafter | None
) -> tuple[Controller, list[RoundRecorder]]:
    """The configured controller, and what keeps its costs for the next run."""
    speculation = config.speculation
    if drafter is None:
        return FixedLength(0), []
    if speculation.mode == "fixed":
        return FixedLength(speculation.draft_length, speculation.overlap), []
    costs = book.of(drafter)
    controller = AdaptiveLength(costs, speculation.max_draft_length, speculation.overlap)
    return controller, [book.keeper(drafter, costs)]
