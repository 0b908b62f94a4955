"""Opens the target on the configured device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from specdec.checkpoint import Checkpoint
from specdec.config import Config
from specdec.errors import DeviceError
from specdec.gemma3.loading import from_checkpoint
from specdec.types import Verifier

if TYPE_CHECKING:
    from target.model import VulkanVerifier
    from target.vulkan import Device

_log = logging.getLogger("specdec")


def open_target(
    config: Config,
    checkpoint: Checkpoint,
    context_length: int,
    progress: Callable[[int, int], None],
) -> Verifier:
    """The target on the configured device; `auto` is Vulkan, or numpy where there is none."""
    from target.pass_sizes import pass_rows_for
    from target.reference import ReferenceVerifier

    device = _open_device(config)
    if device is not None:
        return vulkan_verifier(config, checkpoint, context_length, device, progress)
    shape = replace(checkpoint.info.shape, context_length=context_length)
    max_pass_tokens = pass_rows_for(config.run.batch_size)
    return ReferenceVerifier(from_checkpoint(checkpoint, shape), max_pass_tokens)


def vulkan_verifier(
    config: Config,
    checkpoint: Checkpoint,
    context_length: int,
    device: Device,
    progress: Callable[[int, int], None],
) -> VulkanVerifier:
    """A model on a Vulkan device, which it then owns."""
    from target.model import open_verifier
    from target.pass_sizes import pass_rows_for

    return open_verifier(
        checkpoint,
        checkpoint.info.shape,
        checkpoint.info.head_bits,
        device,
        context_length=context_length,
        num_slots=config.run.num_slots,
        max_pass_tokens=pass_rows_for(config.run.batch_size),
        kv="int8" if config.run.kv == "int8" else "fp16",
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
