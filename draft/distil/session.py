"""What every training here shares: device, budget, who hears of it, the directory it works in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from draft.distil.acceptance import AcceptanceRow
from draft.distil.model import Gemma3
from draft.distil.recipe import Recipe
from draft.distil.training import Plan, Point, Training
from specdec.errors import UsageError
from specdec.weights import Bits

_WARM_STEPS = 100
_REPORT_EVERY = 20


class Listener(Protocol):
    """Who hears how it goes."""

    def note(self, text: str) -> None:
        """Something a person wants to know."""

    def progress(self, point: Point, share: float) -> None:
        """A training went on; `share` of its budget is spent."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A trained model and how it came to be."""

    huggingface: Path
    num_parameters: int
    history: tuple[Point, ...]
    before: tuple[AcceptanceRow, ...]  # of an untrained draft; empty for a target
    after: tuple[AcceptanceRow, ...]
    bits_per_byte: dict[str, float]


def device_and_type() -> tuple[torch.device, torch.dtype]:
    """The GPU in bfloat16 if there is one, else the CPU in float32."""
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        return torch.device("cuda"), torch.bfloat16
    return torch.device("cpu"), torch.float32


def claim_work(recipe: Recipe) -> None:
    """Make the working directory this recipe's own; UsageError if it is another's."""
    path = recipe.work / "recipe.json"
    try:
        recipe.work.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if json.loads(path.read_text(encoding="utf-8")) != {"digest": recipe.digest()}:
                raise UsageError(
                    f"{recipe.work} holds the work of other options: remove it or name another"
                )
        else:
            path.write_text(json.dumps({"digest": recipe.digest()}) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot work in {recipe.work}: {error.strerror}") from error


def training_of(
    model: Gemma3, recipe: Recipe, rates: tuple[float, float], state_name: str
) -> Training:
    """The model's training within the recipe's budget; goes on from a state left in `work`."""
    budget = recipe.budget
    plan = Plan(
        max_steps=budget.max_steps,
        max_seconds=budget.max_seconds,
        matrix_rate=rates[0] * recipe.rate_scale,
        other_rate=rates[1] * recipe.rate_scale,
        report_every=min(_REPORT_EVERY, recipe.measure_every),
        warm_steps=min(_WARM_STEPS, max(1, budget.max_steps // 10)),
    )
    tokens = recipe.num_rows * recipe.window_length
    return Training(model, plan, tokens, recipe.work / state_name)


def heard(training: Training, listener: Listener) -> Callable[[Point], None]:
    """Tell the listener of every point, and how much of the budget is spent."""

    def hear(point: Point) -> None:
        listener.progress(point, training.share(point))

    return hear


def head_bits(recipe: Recipe) -> Bits:
    """Bits of embedding and head."""
    return 4 if recipe.head_bits == 4 else 8


def num_parameters(model: Gemma3) -> int:
    """All of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def in_millions(model: Gemma3) -> str:
    """The size of a model for people."""
    return f"{num_parameters(model) / 1e6:.2f} M parameters"
