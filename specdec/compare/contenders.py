"""The configurations of a comparison and their names; it opens nothing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from specdec.config import Config, Value, read_config, with_overrides, with_value
from specdec.errors import UsageError

BASELINE = "plain"


@dataclass(frozen=True, slots=True)
class Contender:
    """One configuration; `settings` are the keys in which it differs from the baseline."""

    name: str
    config: Config
    settings: Mapping[str, Value]


def contenders_of(base: Config, against: Sequence[str], max_new_tokens: int) -> list[Contender]:
    """Plain decoding, the base as it is, and the base changed by each text of `against`.

    A text is `section.key=value ...` or the path of a TOML file, which then stands alone. A draft
    length given without a mode means a fixed one.
    """
    base = with_value(base, "run.max_new_tokens", max_new_tokens)
    plain = with_value(base, "speculation.mode", "off")
    configs = {BASELINE: plain}
    if base.speculation.mode != "off":
        configs[_configured_name(base)] = base
    for text in against:
        name, config = _parse(base, text)
        if name in configs:
            raise UsageError(f"--against {text!r}: {name!r} is compared already; give another")
        configs[name] = with_value(config, "run.max_new_tokens", max_new_tokens)
    if len(configs) < 2:
        raise UsageError(
            "speculation.mode is 'off', so there is nothing to compare plain decoding with; "
            "choose another mode or give --against"
        )
    for name, config in configs.items():
        if config.run.batch_size != 1:
            raise UsageError(
                f"run.batch_size is {config.run.batch_size} in {name!r}; legal is 1: a comparison "
                "times prompts one by one"
            )
    return [
        Contender(name, config, _differences(plain, config)) for name, config in configs.items()
    ]


def _configured_name(config: Config) -> str:
    speculation = config.speculation
    return f"fixed {speculation.draft_length}" if speculation.mode == "fixed" else speculation.mode


def _parse(base: Config, text: str) -> tuple[str, Config]:
    """Name and configuration of one `--against`."""
    if text.endswith(".toml"):
        return Path(text).stem, read_config(Path(text))
    try:
        assignments = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--against {text!r}: {error}; expected section.key=value ...") from error
    if not assignments:
        raise UsageError("--against is empty; give section.key=value ... or a TOML file")
    keys = {assignment.partition("=")[0].strip() for assignment in assignments}
    config = with_overrides(base, assignments)
    if "speculation.draft_length" in keys and "speculation.mode" not in keys:
        config = with_value(config, "speculation.mode", "fixed")
    return ", ".join(
        assignment.partition(".")[2] or assignment for assignment in assignments
    ), config


def _differences(plain: Config, config: Config) -> dict[str, Value]:
    usual = plain.to_dict()
    return {
        f"{section}.{key}": value
        for section, keys in config.to_dict().items()
        for key, value in keys.items()
        if value != usual[section][key]
    }
