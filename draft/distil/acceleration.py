"""Compiling a model's layer for a GPU, with attention that skips what a window hides."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from draft.distil.model import Gemma3, run_block

_log = logging.getLogger(__name__)
_RECOMPILE_LIMIT = 64
_P = ParamSpec("_P")
_T = TypeVar("_T")


def compiled_for(device: torch.device, function: Callable[_P, _T]) -> Callable[_P, _T]:
    """The function compiled on a GPU, as it is elsewhere."""
    return torch.compile(function, dynamic=False) if device.type == "cuda" else function


def accelerate(model: Gemma3) -> None:
    """Compile the layer of a model on a GPU; elsewhere nothing changes."""
    if model.device.type == "cuda":
        torch._dynamo.config.recompile_limit = _RECOMPILE_LIMIT
        model.run_block = torch.compile(run_block, dynamic=False)
        model.has_block_masks = True


def slow_down(model: Gemma3) -> None:
    """Undo `accelerate`, for batches of changing sizes."""
    model.run_block, model.has_block_masks = run_block, False
