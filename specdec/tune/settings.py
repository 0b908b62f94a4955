"""The settings that tuning tries, as named changes of a configuration; it runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specdec.config import Config, with_value

PLAIN = "plain"
DEFAULT_LENGTHS = (1, 2, 3, 4, 5, 6, 8, 11, 15)


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to decode: a drafter, how long its runs are, and how many prompts run at once."""

    name: str
    drafter: str  # draft.device; empty when plain
    mode: str  # speculation.mode
    draft_length: int  # of mode `fixed`
    batch_size: int = 1

    @property
    def is_fixed(self) -> bool:
        """Plain decoding, or one draft length for every run."""
        return self.mode != "auto"

    def applied_to(self, config: Config) -> Config:
        """The configuration with this setting."""
        config = with_value(config, "speculation.mode", self.mode)
        config = with_value(config, "run.batch_size", self.batch_size)
        if self.drafter:
            config = with_value(config, "draft.device", self.drafter)
        if self.mode == "fixed":
            config = with_value(config, "speculation.draft_length", self.draft_length)
            longest = max(self.draft_length, config.speculation.max_draft_length)
            config = with_value(config, "speculation.max_draft_length", longest)
        return config


def settings_of(
    drafters: Sequence[str], lengths: Sequence[int], batch_sizes: Sequence[int] = (1,)
) -> list[Setting]:
    """Plain decoding, then every drafter at every length and adaptive; all that per batch size."""
    found = []
    for size in batch_sizes:
        suffix = f" x {size}" if len(batch_sizes) > 1 else ""
        found.append(Setting(f"{PLAIN}{suffix}", "", "off", 0, size))
        for drafter in drafters:
            found += [
                Setting(f"{drafter} {length}{suffix}", drafter, "fixed", length, size)
                for length in lengths
            ]
            found.append(Setting(f"{drafter} auto{suffix}", drafter, "auto", 0, size))
    return found
