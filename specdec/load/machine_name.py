"""Names this machine, so that settings found on another are noticed; it measures nothing."""

from __future__ import annotations

from specdec.config import Config
from specdec.cost_cache import processor_name


def machine_name(target_device: str) -> str:
    """The processor and the device that runs the target."""
    return f"{processor_name()}, {target_device}"


def tuned_elsewhere(config: Config, target_device: str) -> str:
    """What to tell if the settings were tuned on another machine; empty if they were not."""
    tuned, here = config.tuned.machine, machine_name(target_device)
    if not tuned or tuned == here:
        return ""
    return f"these settings were tuned on {tuned}; this is {here}: run specdec tune again"
