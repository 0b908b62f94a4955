"""Names this machine, so that settings found on another are noticed; it measures nothing."""

from __future__ import annotations

import logging

from specdec.config import Config
from specdec.cost_cache import processor_name

_log = logging.getLogger("specdec")


def machine_name(target_device: str) -> str:
    """The processor and the device that runs the target."""
    return f"{processor_name()}, {target_device}"


def warn_if_tuned_elsewhere(config: Config, target_device: str) -> None:
    """Say so, once, if the settings were found on another machine."""
    tuned, here = config.tuned.machine, machine_name(target_device)
    if tuned and tuned != here:
        _log.warning(
            "these settings were tuned on %s; this is %s: run specdec tune again", tuned, here
        )
