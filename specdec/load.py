"""Builds an engine from a config: the only module that names both draft and target.

They are imported inside the functions that need them: `specdec` exports `load`, and `draft` and
`target` use leaf modules of `specdec`, so at module level the imports would run in a circle.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from specdec.assets import embedded_model_dir
from specdec.checkpoint import Checkpoint, open_checkpoint
from specdec.config import Config
from specdec.controller import FixedLength
from specdec.engine import Engine, GenerationDefaults
from specdec.errors import DeviceError, UsageError
from specdec.gemma3.loading import from_checkpoint
from specdec.gemma3.reference import Gemma3Reference
from specdec.tokenizer import Tokenizer
from specdec.types import Controller, Drafter, RoundRecorder, Verifier

if TYPE_CHECKING:
    from target.vulkan import Device

Progress = Callable[[int, int], None]

_log = logging.getLogger("specdec")


def load(
    config: Config,
    *,
    stop_strings: tuple[str, ...] = (),
    stop_token_ids: frozenset[int] = frozenset(),
    controller: Controller | None = None,
    recorder: RoundRecorder | None = None,
    progress: Progress = lambda done_bytes, total_bytes: None,
) -> Engine:
    """Open models and devices as configured; close the engine (or use `with`) to free them.

    Args:
        config: all settings.
        stop_strings: texts that end a generation.
        stop_token_ids: tokens that end it.
        controller: decides draft lengths in place of the configured one.
        recorder: is told of every round; the engine releases it.
        progress: hears the bytes of weights loaded onto the device so far, and in all.

    Raises UsageError for settings that contradict each other, ModelError for an unusable model,
    DeviceError for an unusable device.
    """
    speculation = config.speculation
    if speculation.draft_length > speculation.max_draft_length:
        raise UsageError(
            f"speculation.draft_length is {speculation.draft_length}, above "
            f"speculation.max_draft_length = {speculation.max_draft_length}"
        )
    checkpoint = open_checkpoint(_model_dir(config.target.model, "target"))
    context_length = _context_length(config, checkpoint)
    tokenizer = _tokenizer(checkpoint)
    defaults = GenerationDefaults(
        sampling=config.sampling,
        max_new_tokens=config.run.max_new_tokens,
        eos_ids=frozenset(checkpoint.info.eos_ids),
        stop_strings=stop_strings,
        stop_token_ids=stop_token_ids,
        has_chat_template=checkpoint.info.chat_template is not None,
    )
    drafter = _drafter(config, checkpoint, context_length)
    controller = controller or _controller(config, drafter)
    verifier = _verifier(config, checkpoint, context_length, progress)
    return Engine(verifier, drafter, controller, tokenizer, defaults, recorder)


def _model_dir(name: str, role: str) -> Path:
    """Directory of the model `name`; `embedded` is the shipped pair's."""
    return embedded_model_dir(role) if name == "embedded" else Path(name)


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    info = checkpoint.info
    path = checkpoint.directory / "tokenizer.model"
    return Tokenizer.from_file(path, info.shape.vocab_size, info.bos_id)


def _context_length(config: Config, checkpoint: Checkpoint) -> int:
    """Tokens a slot holds: as configured, at most what the model was made for."""
    longest = checkpoint.info.shape.context_length
    wanted = config.run.context_length
    if wanted > longest:
        raise UsageError(f"run.context_length is {wanted}; the target's longest is {longest}")
    return wanted or longest


def _verifier(
    config: Config, checkpoint: Checkpoint, context_length: int, progress: Progress
) -> Verifier:
    """The target on the configured device; `auto` is Vulkan, or numpy where there is none."""
    from target.reference import ReferenceVerifier

    device = _open_device(config)
    if device is None:
        return ReferenceVerifier(_reference(checkpoint, context_length))
    from target.model import open_verifier

    return open_verifier(
        checkpoint,
        checkpoint.info.shape,
        checkpoint.info.head_bits,
        device,
        context_length=context_length,
        num_slots=config.run.batch_size,
        kv=config.run.kv,
        load=progress,
    )


def _open_device(config: Config) -> Device | None:
    """The Vulkan device to run on; None is the numpy reference."""
    selector = config.target.device
    if selector == "reference":
        return None
    try:
        from target.vulkan import Device

        return Device.open(selector, validation=config.run.validation)
    except DeviceError as error:
        if selector != "auto":
            raise
        _log.warning("%s; the numpy reference runs the target instead", error)
        return None


def _reference(checkpoint: Checkpoint, context_length: int) -> Gemma3Reference:
    """The numpy model, with room for `context_length` tokens."""
    shape = replace(checkpoint.info.shape, context_length=context_length)
    return from_checkpoint(checkpoint, shape)


def _controller(config: Config, drafter: Drafter | None) -> Controller:
    """`auto` is a fixed length until a controller is measured to beat it, and says so."""
    speculation = config.speculation
    if drafter is None:
        return FixedLength(0)
    if speculation.mode == "auto":
        _log.info(
            "speculation.mode = auto drafts a fixed %d tokens for now", speculation.draft_length
        )
    return FixedLength(speculation.draft_length)


def _drafter(config: Config, target: Checkpoint, context_length: int) -> Drafter | None:
    """The configured drafter; `auto` is the numpy reference where a draft model fits the target."""
    from draft.ngram import NgramDrafter
    from draft.reference import ModelDrafter

    device = config.draft.device
    if device == "off" or config.speculation.mode == "off":
        return None
    if device == "ngram":
        return NgramDrafter()
    draft = open_checkpoint(_model_dir(config.draft.model, "draft"))
    mismatch = _vocabulary_mismatch(draft, target)
    if not mismatch:
        length = min(context_length, draft.info.shape.context_length)
        return ModelDrafter(_reference(draft, length), "reference")
    if device == "auto" and config.draft.model == "embedded":
        _log.warning("the embedded draft does not fit this target (%s); using ngram", mismatch)
        return NgramDrafter()
    raise UsageError(
        f"draft.model {config.draft.model!r} does not fit the target: {mismatch}; draft and "
        "target must share a tokenizer: choose another draft, or draft.device = ngram"
    )


def _vocabulary_mismatch(draft: Checkpoint, target: Checkpoint) -> str:
    """Why the draft's token ids mean something else than the target's; empty if they agree."""
    sizes = draft.info.shape.vocab_size, target.info.shape.vocab_size
    if sizes[0] != sizes[1]:
        return f"draft vocabulary {sizes[0]}, target vocabulary {sizes[1]}"
    paths = draft.directory / "tokenizer.model", target.directory / "tokenizer.model"
    if paths[0].is_file() and paths[0].read_bytes() != paths[1].read_bytes():
        return "their tokenizer.model files differ"
    return ""
