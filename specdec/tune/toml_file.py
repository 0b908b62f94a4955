"""Writes a found setting as a configuration with its evidence in comments; it measures nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from specdec.config import Config, Value, with_value
from specdec.tune.choice import Choice
from specdec.tune.halving import Trial
from specdec.tune.table import table, verdict


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the comments of the file say besides the table."""

    machine: str  # processor and target device: the settings hold for these alone
    date: str
    budget_s: float
    kinds: Sequence[str]
    max_new_tokens: int


def config_text(base: Config, choice: Choice, trials: Sequence[Trial], evidence: Evidence) -> str:
    """TOML: what differs from the defaults, the fingerprint, and the evidence."""
    config = choice.best.setting.applied_to(base)
    config = with_value(config, "tuned.machine", evidence.machine)
    comments = [
        "Made by `specdec tune`: measured, for the machine below and this pair of models.",
        f"{evidence.date}, budget {evidence.budget_s:g} s, up to {evidence.max_new_tokens} tokens "
        f"a prompt, kinds {', '.join(evidence.kinds)}.",
        *verdict(choice),
        *table(trials),
    ]
    lines = [f"# {comment}".rstrip() for comment in comments]
    usual = Config().to_dict()
    for section, keys in config.to_dict().items():
        changed = {key: value for key, value in keys.items() if value != usual[section][key]}
        if section == "speculation":  # what was tuned is written even where it is the default
            changed = {**changed, "mode": config.speculation.mode}
        if changed:
            lines += ["", f"[{section}]"]
            lines += [f"{key} = {_toml(value)}" for key, value in changed.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Value) -> str:
    """A value as TOML: texts and booleans look as in JSON."""
    return json.dumps(value, ensure_ascii=False)
