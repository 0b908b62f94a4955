"""Looks at every device of this machine that specdec can use; it changes and keeps nothing."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING

from specdec.checkpoint import open_checkpoint
from specdec.config import Config
from specdec.errors import DeviceError, UsageError
from specdec.gemma3.named import NAMED_SHAPES
from specdec.gemma3.shape import Gemma3Shape
from specdec.load.host import amd_memory, closed_nodes, display_controllers, read_host
from specdec.load.models import model_dir
from specdec.machine import Gpu, Machine, ModelNeed
from specdec.model_bytes import kv_bytes, kv_bytes_per_token, scratch_bytes, weight_bytes
from specdec.weights import Bits

if TYPE_CHECKING:
    from target.vulkan import DeviceInfo

_NAMED_HEAD_BITS: Bits = 8  # what `specdec convert` makes by default


def probe_machine(*, measure: bool) -> Machine:
    """Everything there is; `measure` also copies memory on the host and on each Vulkan device."""
    from draft.npu.probing import problems

    error, gpus = _gpus(measure)
    onnx = [name for name in ("onnxruntime", "onnx") if importlib.util.find_spec(name) is None]
    return Machine(
        host=read_host(measure=measure),
        controllers=display_controllers(),
        amd_memory=amd_memory(),
        closed_nodes=closed_nodes(),
        vulkan_error=error,
        gpus=gpus,
        npu_problems=tuple(problems()),
        cpu_draft_problem=f"{' and '.join(onnx)} not installed" if onnx else "",
    )


def model_need(config: Config, prefill_rows: int = 64) -> ModelNeed:
    """Bytes the configured target takes; a name of NAMED_SHAPES needs no files.

    `prefill_rows` is what the device feeds of a prompt at once: it needs room for so many rows.
    """
    name, kv = config.target.model, config.run.kv
    shape, head_bits = shape_of(name, "target")
    context_length = config.run.context_length or shape.context_length
    if context_length > shape.context_length:
        raise UsageError(
            f"run.context_length is {context_length}; the target's longest is "
            f"{shape.context_length}"
        )
    slots = config.run.num_slots
    return ModelNeed(
        model=name,
        weights_bytes=weight_bytes(shape, head_bits),
        kv_bytes=kv_bytes(shape, context_length, slots, kv, prefill_rows),
        kv_bytes_per_token=slots * kv_bytes_per_token(shape, kv),
        scratch_bytes=scratch_bytes(shape, context_length, slots, prefill_rows),
        context_length=context_length,
        kv=kv,
    )


def shape_of(name: str, role: str) -> tuple[Gemma3Shape, Bits]:
    """Shape and bits of the head of a converted model's directory, or of a published model."""
    if name in NAMED_SHAPES:
        return NAMED_SHAPES[name], _NAMED_HEAD_BITS
    info = open_checkpoint(model_dir(name, role)).info
    return info.shape, info.head_bits


def _gpus(measure: bool) -> tuple[str, tuple[Gpu, ...]]:
    """Why there is no Vulkan (else empty), and its devices."""
    try:
        from target.vulkan import list_devices

        return "", tuple(_gpu(info, measure) for info in list_devices())
    except DeviceError as error:
        return str(error), ()


def _gpu(info: DeviceInfo, measure: bool) -> Gpu:
    from target.tuned_products import tuning_for

    tuning = tuning_for(info)
    gpu = Gpu(
        index=info.index,
        name=info.name,
        kind=info.kind,
        driver=info.driver,
        missing=info.missing,
        has_integer_dot=info.has_integer_dot,
        has_cooperative_matrix=info.has_cooperative_matrix,
        subgroup_sizes=info.subgroup_sizes,
        heap_bytes=info.heap_bytes,
        storage_range_bytes=info.limits.storage_range_bytes,
        tuning=tuning.name,
        prefill_rows=tuning.prefill_rows,
    )
    return gpu if info.missing else _opened(gpu, measure)


def _opened(gpu: Gpu, measure: bool) -> Gpu:
    """With what only an open device tells; a device that cannot be opened stays as it was."""
    from target.bandwidth import copy_gb_s
    from target.vulkan import Device

    try:
        with Device.open(str(gpu.index)) as device:
            free_bytes = device.memory.available_bytes()
            gb_s = copy_gb_s(device) if measure else None
    except DeviceError as error:
        return replace(gpu, missing=(str(error),))
    return replace(gpu, free_bytes=free_bytes, copy_gb_s=gb_s)
