"""The settings that tuning tries, as named changes of a configuration; it runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specdec.config import Config, with_value

PLAIN = "plain"
DEFAULT_LENGTHS = (1, 2, 3, 4, 5, 6, 8, 11, 15)


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to decode: a drafter and how long its runs are."""

    name: str
    drafter: str  # draft.device; empty when plain
    mode: str  # speculation.mode
    draft_length: int  # of mode `fixed`

    @property
    def is_fixed(self) -> bool:
        """Plain decoding, or one draft length for every run."""
        return self.mode != "auto"

    def applied_to(self, config: Config) -> Config:
        """The configuration with this setting."""
        config = with_value(config, "speculation.mode", self.mode)
        if self.drafter:
            config = with_value(config, "draft.device", self.drafter)
        if self.mode == "fixed":
            config = with_value(config, "speculation.draft_length", self.draft_length)
            longest = max(self.draft_length, config.speculation.max_draft_length)
            config = with_value(config, "speculation.max_draft_length", longest)
        return config


def settings_of(drafters: Sequence[str], lengths: Sequence[int]) -> list[Setting]:
    """Plain decoding, then every drafter at every length and adaptive."""
    found = [Setting(PLAIN, "", "off", 0)]
    for drafter in drafters:
        found += [Setting(f"{drafter} {length}", drafter, "fixed", length) for length in lengths]
        found.append(Setting(f"{drafter} auto", drafter, "auto", 0))
    return found
