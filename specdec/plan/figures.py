"""A number with where it comes from; it computes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Label = Literal["measured", "modelled", "assumed"]
LABELS: tuple[str, ...] = get_args(Label)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number; its unit is in the name of what holds it."""

    value: float
    label: Label
    source: str  # of a measured or assumed figure; of a modelled one, what it was computed from

    def __str__(self) -> str:
        return f"{self.value:g} ({self.label}: {self.source})"
