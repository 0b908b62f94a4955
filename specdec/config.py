"""All settings: one TOML file of five sections, every key settable by `section.key=value`.

Read once, checked once, never changed. It knows what is legal, not what devices exist.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from specdec.errors import UsageError
from specdec.types import SamplingParams

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """The model that decides."""

    model: str = "embedded"  # or a directory made by `specdec convert`
    device: str = "auto"  # a Vulkan device by name or index, or "reference"


@dataclass(frozen=True, slots=True)
class DraftConfig:
    """The model that proposes."""

    model: str = "embedded"
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class SpeculationConfig:
    """How long the draft runs are."""

    mode: str = "auto"
    draft_length: int = 7
    max_draft_length: int = 15
    overlap: str = "auto"  # drafting while the target checks


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Limits of a run."""

    max_new_tokens: int = 256
    context_length: int = 0  # 0: the model's
    batch_size: int = 1  # prompts that run at once
    order: str = "arrival"  # in which waiting prompts start: arrival or longest first
    shared_prefixes: int = 1  # beginnings of prompts kept for others, where several run at once
    output: str = ""  # file that results of a file of prompts are appended to
    kv: str = "fp16"  # keys and values in the cache: fp16 or int8
    validation: bool = False  # the Vulkan validation layer

    @property
    def kept_prefixes(self) -> int:
        """Slots for shared beginnings of prompts; a sequence alone has nobody to share with."""
        return self.shared_prefixes if self.batch_size > 1 else 0

    @property
    def num_slots(self) -> int:
        """Sequences that the target's cache holds, kept prefixes among them."""
        return self.batch_size + self.kept_prefixes


@dataclass(frozen=True, slots=True)
class TunedConfig:
    """Where the settings come from, if `specdec tune` found them."""

    machine: str = ""  # that they are best on; another one is warned


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting of the engine."""

    target: TargetConfig = field(default_factory=TargetConfig)
    draft: DraftConfig = field(default_factory=DraftConfig)
    speculation: SpeculationConfig = field(default_factory=SpeculationConfig)
    sampling: SamplingParams = field(default_factory=SamplingParams)
    run: RunConfig = field(default_factory=RunConfig)
    tuned: TunedConfig = field(default_factory=TunedConfig)

    def to_dict(self) -> dict[str, dict[str, Value]]:
        """Sections and keys, as they stand in TOML."""
        return asdict(self)


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "draft.device": tuple(
        ["auto", "npu", "npu-emulated", "cpu", "vulkan", "reference", "ngram", "off"]
    ),
    "speculation.mode": ("auto", "fixed", "off"),
    "speculation.overlap": ("auto", "off", "chain", "branch"),
    "run.kv": ("fp16", "int8"),
    "run.order": ("arrival", "longest"),
}

# sampling keys of other engines, and why they are none here
_PENALTIES = ("repetition_penalty", "repeat_penalty", "presence_penalty", "frequency_penalty")
_NOT_SUPPORTED: Mapping[str, str] = {
    "logit_bias": "tokens are chosen by the model's own logits",
    **dict.fromkeys(
        _PENALTIES,
        "all tokens of a run are chosen in one pass, none by what was emitted before it",
    ),
}

# inclusive bounds
_BOUNDS: Mapping[str, tuple[float, float]] = {
    "speculation.draft_length": (0, 15),
    "speculation.max_draft_length": (0, 15),
    "sampling.temperature": (0.0, 100.0),
    "sampling.top_k": (0, 2**31 - 1),
    "sampling.top_p": (1e-6, 1.0),
    "sampling.min_p": (0.0, 1.0),
    "sampling.seed": (0, 2**64 - 1),
    "run.max_new_tokens": (1, 2**31 - 1),
    "run.context_length": (0, 2**31 - 1),
    "run.batch_size": (1, 64),
    "run.shared_prefixes": (0, 16),
}


def read_config(path: Path) -> Config:
    """Settings from a TOML file; what it leaves out keeps its default."""
    try:
        with path.open("rb") as file:
            sections = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read config {str(path)!r}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"config {str(path)!r} is not TOML: {error}") from error
    config = Config()
    for section, keys in sections.items():
        if not isinstance(keys, dict):
            raise UsageError(f"config {str(path)!r}: {section!r} must be a section [{section}]")
        for key, value in keys.items():
            config = with_value(config, f"{section}.{key}", value)
    return config


def with_overrides(config: Config, assignments: Sequence[str]) -> Config:
    """The config with `section.key=value` texts applied in order; values are TOML or bare text."""
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"--set {assignment!r}: expected section.key=value")
        config = with_value(config, name.strip(), _parse(text.strip()))
    return config


def with_value(config: Config, name: str, value: object) -> Config:
    """The config with one key changed; UsageError if the key or the value is not legal."""
    section, _, key = name.partition(".")
    if section not in _KEYS or key not in _KEYS[section]:
        raise UsageError(f"unknown config key {name!r}{nearest(name, _all_names())}")
    checked = checked_value(name, value)
    changed = replace(getattr(config, section), **{key: checked})
    return replace(config, **{section: changed})


def checked_value(name: str, value: object) -> Value:
    """`value` in the type of key `name`, within its legal range; UsageError otherwise."""
    section, _, key = name.partition(".")
    wanted = _KEYS[section][key]
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise UsageError(f"{name} is {value!r}; it must be of type {_TYPE_NAMES[wanted]}")
    assert isinstance(value, str | int | float | bool)
    if name in _CHOICES and value not in _CHOICES[name]:
        legal = ", ".join(_CHOICES[name])
        raise UsageError(f"{name} is {value!r}; legal: {legal}")
    if name in _BOUNDS:
        low, high = _BOUNDS[name]
        if not (isinstance(value, int | float) and low <= value <= high):
            raise UsageError(f"{name} is {value}; legal: {low} to {high}")
    return value


def nearest(name: str, legal: Sequence[str]) -> str:
    """A hint to append to an error: why it cannot be, the closest legal name, or all of them."""
    reason = _NOT_SUPPORTED.get(name.rpartition(".")[2])
    if reason:
        return f": not supported, {reason}; legal for sampling: {', '.join(_KEYS['sampling'])}"
    close = difflib.get_close_matches(name, legal, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; legal: {', '.join(legal)}"


def _parse(text: str) -> object:
    """A TOML value, or the text itself where it is none (so strings need no quotes)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _all_names() -> list[str]:
    return [f"{section}.{key}" for section, keys in _KEYS.items() for key in keys]


_TYPE_NAMES: Mapping[type, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
}
_KEYS: Mapping[str, Mapping[str, type]] = {
    section.name: {
        key.name: type(getattr(getattr(Config(), section.name), key.name))
        for key in fields(getattr(Config(), section.name))
    }
    for section in fields(Config)
}
