"""The training loop: budget, rates, checkpoints to resume from, history; it knows no objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from draft.distil.model import Gemma3, is_matrix
from draft.distil.muon import Muon
from specdec.errors import ModelError

# step index, whether to round as the devices do, share of the budget that is spent -> loss
Objective = Callable[[int, bool, float], Tensor]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast to train; a budget ends with whichever limit comes first."""

    max_steps: int
    max_seconds: float
    accumulate: int = 1  # objectives summed up per step
    matrix_rate: float = 4e-3
    other_rate: float = 1.5e-3
    warm_steps: int = 100
    decay_from: float = 0.5  # share of the budget after which rates fall linearly to 0
    rounded_from: float = 0.7  # share after which weights and activations are rounded
    report_every: int = 20  # steps
    save_every_seconds: float = 60.0

    def share(self, step: int, elapsed_s: float) -> float:
        """How much of the budget is spent."""
        return max(step / self.max_steps, elapsed_s / self.max_seconds)

    def rate(self, step: int, share: float) -> float:
        """The factor of both rates."""
        falling = (1 - share) / (1 - self.decay_from)
        return min(1.0, (step + 1) / self.warm_steps) * min(1.0, max(0.0, falling))


@dataclass(frozen=True, slots=True)
class Point:
    """One row of a training's history."""

    step: int
    elapsed_s: float
    num_tokens: int
    loss: float
    is_rounded: bool


class Training:
    """One model's training; `run` goes on from `state_path` if a training was cut off there."""

    def __init__(
        self, model: Gemma3, plan: Plan, tokens_per_objective: int, state_path: Path | None
    ) -> None:
        self.history: list[Point] = []
        self.num_tokens = 0
        self._model, self._plan = model, plan
        self._tokens_per_objective, self._state_path = tokens_per_objective, state_path
        self._optimizers = _optimizers(model, plan)
        self._step, self._earlier_s = 0, 0.0
        if state_path is not None and state_path.exists():
            self._resume(state_path)

    @property
    def step(self) -> int:
        """Steps done."""
        return self._step

    def share(self, point: Point) -> float:
        """How much of the budget was spent at a point."""
        return min(1.0, self._plan.share(point.step, point.elapsed_s))

    def run(self, objective: Objective, on_point: Callable[[Point], None]) -> None:
        """Train until the budget is spent; `on_point` hears of the mean loss now and then."""
        plan, start_s = self._plan, time.monotonic() - self._earlier_s
        losses: list[Tensor] = []
        is_rounded, saved_s = False, self._earlier_s
        while (share := plan.share(self._step, time.monotonic() - start_s)) < 1:
            is_rounded = share >= plan.rounded_from
            for part in range(plan.accumulate):
                index = self._step * plan.accumulate + part
                loss = objective(index, is_rounded, share)
                (loss / plan.accumulate).backward()
                losses.append(loss.detach())
            self._update(plan.rate(self._step, share))
            self._step += 1
            self.num_tokens += plan.accumulate * self._tokens_per_objective
            if self._model.device.type == "cuda":
                torch.cuda.synchronize()  # else the clock runs ahead of the work
            elapsed_s = time.monotonic() - start_s
            if self._step % plan.report_every == 0:
                self._report(losses, elapsed_s, is_rounded, on_point)
                losses = []
            if elapsed_s - saved_s >= plan.save_every_seconds:
                self.save(elapsed_s)
                saved_s = elapsed_s
        if losses:
            self._report(losses, time.monotonic() - start_s, is_rounded, on_point)
        self.save(time.monotonic() - start_s)

    def _update(self, factor: float) -> None:
        for optimizer, rate in zip(
            self._optimizers, (self._plan.matrix_rate, self._plan.other_rate), strict=True
        ):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
        self._model.zero_grad(set_to_none=True)

    def _report(
        self,
        losses: list[Tensor],
        elapsed_s: float,
        is_rounded: bool,
        on_point: Callable[[Point], None],
    ) -> None:
        loss = torch.stack(losses).mean().item()
        if not math.isfinite(loss):
            raise ModelError(
                f"the loss is {loss} after {self._step} steps: lower --matrix-rate and --other-rate"
            )
        point = Point(self._step, round(elapsed_s, 2), self.num_tokens, round(loss, 5), is_rounded)
        self.history.append(point)
        on_point(point)

    def save(self, elapsed_s: float) -> None:
        """Write the whole state to `state_path`, at once or not at all."""
        if self._state_path is None:
            return
        state = {
            "step": self._step,
            "elapsed_s": elapsed_s,
            "num_tokens": self.num_tokens,
            "history": [asdict(point) for point in self.history],
            "model": self._model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        partial = self._state_path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._state_path)

    def _resume(self, path: Path) -> None:
        state = torch.load(path, map_location=self._model.device, weights_only=True)
        self._model.load_state_dict(state["model"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._step, self._earlier_s = state["step"], state["elapsed_s"]
        self.num_tokens = state["num_tokens"]
        self.history = [Point(**point) for point in state["history"]]


def _optimizers(model: Gemma3, plan: Plan) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embedding and norms."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        is_layer_matrix = is_matrix(name) and not name.startswith("embed_tokens")
        (matrices if is_layer_matrix else others).append(parameter)
    is_cuda = model.device.type == "cuda"
    return (
        Muon(matrices, lr=plan.matrix_rate),
        torch.optim.AdamW(
            others, lr=plan.other_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=is_cuda
        ),
    )
