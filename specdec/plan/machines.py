"""The machines that plans are made for, read from machines.toml; it measures nothing."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specdec.config import nearest
from specdec.errors import UsageError
from specdec.plan.figures import LABELS, Figure

_SHIPPED = Path(__file__).with_name("machines.toml")


@dataclass(frozen=True, slots=True)
class MeasuredPasses:
    """T(m) of one model, measured on such a machine."""

    seconds: Mapping[int, float]  # by number of tokens
    source: str


@dataclass(frozen=True, slots=True)
class PlanMachine:
    """Figures of one machine; the names are explained in machines.toml."""

    name: str
    title: str
    is_bus_shared: bool  # draft and target read through the same memory
    figures: Mapping[str, Figure]
    passes: Mapping[str, MeasuredPasses] = field(default_factory=dict)  # by model

    def value(self, name: str) -> float:
        """The number of a figure that every machine has."""
        return self.figures[name].value

    def draft_devices(self) -> tuple[str, ...]:
        """Where a draft model can run."""
        return tuple(kind for kind in ("npu", "cpu") if f"{kind}_gb_s" in self.figures)


def named_machine(name: str) -> PlanMachine:
    """A machine by name; UsageError with the nearest known name."""
    machines = read_machines(_SHIPPED)
    if name not in machines:
        raise UsageError(f"unknown machine {name!r}{nearest(name, [*machines, 'this'])}")
    return machines[name]


def machine_names() -> list[str]:
    """Every named machine."""
    return list(read_machines(_SHIPPED))


def read_machines(path: Path) -> dict[str, PlanMachine]:
    """All machines of a file."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: _machine(name, entry) for name, entry in content.items()}


def _machine(name: str, entry: Mapping[str, Any]) -> PlanMachine:
    figures = {}
    for key, (value, label, source) in entry["figures"].items():
        assert label in LABELS, f"{name}.{key}: {label}"
        figures[key] = Figure(float(value), label, source)
    passes = {
        model: MeasuredPasses(
            {int(size): ms / 1e3 for size, ms in table.items() if size != "source"},
            table["source"],
        )
        for model, table in entry.get("passes_ms", {}).items()
    }
    return PlanMachine(name, entry["title"], entry["shared_bus"], figures, passes)
