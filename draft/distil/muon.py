"""The Muon optimiser, all matrices of one shape in one batched iteration; it knows no model.

As torch.optim.Muon with adjust_lr_fn="match_rms_adamw" (Jordan 2024, Liu et al. 2025); batches save
a few thousand tiny kernel launches per step, which a small model notices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MIN_NORM = 1e-7


class Muon(torch.optim.Optimizer):
    """Momentum whose update is the nearest semi-orthogonal matrix; for matrices (N, K) alone."""

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every matrix by its gradient, Nesterov's way."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                by_shape[matrix.shape].append(matrix)
            for shape, matrices in by_shape.items():
                gradients = torch.stack([_gradient(matrix) for matrix in matrices])
                state = self.state[matrices[0]]
                buffer = state.setdefault("momentum", torch.zeros_like(gradients))
                buffer.lerp_(gradients, 1 - group["momentum"])
                update = orthogonal(gradients.lerp(buffer, group["momentum"]))
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                updates = list(update.to(gradients.dtype).unbind(0))
                torch._foreach_add_(matrices, updates, alpha=-rate)


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly the nearest semi-orthogonal matrices (B, N, K), by Newton-Schulz in bfloat16."""
    first, third, fifth = _COEFFICIENTS
    x = matrices.bfloat16()
    is_tall = x.shape[-2] > x.shape[-1]
    if is_tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=_MIN_NORM)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = first * x + (third * gram + fifth * gram @ gram) @ x
    return x.mT if is_tall else x


def _gradient(matrix: Tensor) -> Tensor:
    assert matrix.grad is not None
    return matrix.grad
