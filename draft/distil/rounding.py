"""The devices' rounding of weights and activations with gradients passed straight through.

It knows no model. Weights go to the INT4 grid of GGUF's Q4_0 (groups of 32, the largest weight at
-8, float16 scale), which `specdec convert` recovers exactly; activations to INT8 per group of 32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specdec.gemma3.shape import GROUP

_MIN_AMAX = 2.0**-100  # of specdec.gemma3.arithmetic: a smaller group becomes zeros


def to_int4_grid(weights: Tensor) -> Tensor:
    """Weights (N, K) rounded to value x scale, value in -8 .. 7: float32 (N, K)."""
    groups = weights.float().unflatten(-1, (-1, GROUP))
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    scales = (largest / -8).half().float()
    inverse = torch.where(scales == 0, torch.zeros_like(scales), 1 / scales)
    values = torch.round(groups * inverse).clamp(-8, 7)
    return (values * scales).flatten(-2)


def to_int8_grid(activations: Tensor) -> Tensor:
    """Activations (..., K) rounded to value x amax / 127: the same shape and type."""
    groups = activations.float().unflatten(-1, (-1, GROUP))
    amax = groups.abs().amax(-1, keepdim=True)
    inverse = torch.where(amax < _MIN_AMAX, torch.zeros_like(amax), 127 / amax)
    values = torch.round(groups * inverse)
    return (values * (amax / 127)).flatten(-2).to(activations.dtype)


def rounded_weights(weights: Tensor) -> Tensor:
    """The grid's values, the gradient of `weights`."""
    return weights + (to_int4_grid(weights.detach()) - weights.detach())


def rounded_activations(activations: Tensor) -> Tensor:
    """The grid's values, the gradient of `activations`."""
    return activations + (to_int8_grid(activations.detach()) - activations.detach())
