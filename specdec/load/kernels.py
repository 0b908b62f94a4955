"""Tunes the shaders' settings for the configured target on its device, and keeps them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specdec.checkpoint import open_checkpoint
from specdec.config import Config
from specdec.errors import UsageError
from specdec.gemma3.loading import MatrixSource
from specdec.gemma3.named import NAMED_SHAPES
from specdec.gemma3.random_weights import RandomWeights
from specdec.gemma3.shape import Gemma3Shape
from specdec.load.models import model_dir
from specdec.load.probes import shape_of
from specdec.weights import Bits

if TYPE_CHECKING:
    from target.product_search import Found


@dataclass(frozen=True, slots=True)
class TunedProduct:
    """One matrix product of a pass, before and after."""

    matrix: str
    rows: int
    shipped_us: float
    speedup: float
    changes: dict[str, str | int]  # from the shipped settings
    num_tried: int
    num_wrong: int  # settings that gave other bits, and were not used


@dataclass(frozen=True, slots=True)
class TunedKernels:
    """Everything found, and where it was written; empty where that is impossible."""

    device: str
    driver: str
    numerics_id: str
    products: tuple[TunedProduct, ...]
    path: str


def tune_kernels(
    config: Config, budget_s: float, show: Callable[[TunedProduct], None]
) -> TunedKernels:
    """Search within the budget and write the result where runs on this device find it.

    A published model's name needs no files: time does not depend on what the weights are.
    """
    from target.product_bench import ProductBench
    from target.product_search import search
    from target.tuned_products import save_tuned, tuned_path
    from target.tuning import shipped_tuning
    from target.vulkan import Device

    if config.target.device == "reference":
        raise UsageError("target.device is 'reference', which has no kernels; name a Vulkan device")
    name = config.target.model
    source, shape, head_bits = _model(name)

    with ExitStack() as held:
        device = held.enter_context(Device.open(config.target.device))
        info = device.info
        shipped = shipped_tuning(info)
        bench = ProductBench(device, source, shape, head_bits, shipped)
        held.callback(bench.release)
        found = search(bench, info, shipped, budget_s, lambda one: show(_told(one)))
    best = {one.product: one.best for one in found if one.speedup > 1.0}
    evidence = [f"{one.product}: {one.speedup:.2f} x" for one in found if one.speedup > 1.0]
    is_saved = save_tuned(info, best, [f"measured on {name}", *evidence])
    return TunedKernels(
        info.name,
        info.driver,
        shipped.numerics_id,
        tuple(map(_told, found)),
        str(tuned_path(info)) if is_saved else "",
    )


def _model(name: str) -> tuple[MatrixSource, Gemma3Shape, Bits]:
    """A converted model, or random weights in the shape of a published one."""
    shape, head_bits = shape_of(name, "target")
    if name in NAMED_SHAPES:
        return RandomWeights(shape, head_bits), shape, head_bits
    return open_checkpoint(model_dir(name, "target")), shape, head_bits


def _told(found: Found) -> TunedProduct:
    return TunedProduct(
        found.product.matrix,
        found.product.rows,
        found.shipped_s * 1e6,
        found.speedup,
        found.changes,
        found.num_tried,
        found.num_wrong,
    )
