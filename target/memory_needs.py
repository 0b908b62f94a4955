"""What a run needs in device memory, by part, told and checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from specdec.errors import DeviceError
from target.kvcache import KvCache
from target.packing import WeightMap
from target.sizes import RunSizes
from target.vulkan import Device
from target.vulkan.arena import lay_out

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """Bytes on the device."""

    weights_bytes: int
    kv_bytes: int  # for `context_length` tokens in each of `num_slots`
    scratch_bytes: int
    context_length: int
    num_slots: int

    @property
    def total_bytes(self) -> int:
        """All parts together."""
        return self.weights_bytes + self.kv_bytes + self.scratch_bytes

    def __str__(self) -> str:
        return (
            f"weights {self.weights_bytes / _GIB:.2f} GiB, KV cache {self.kv_bytes / _GIB:.2f} GiB "
            f"({self.num_slots} x {self.context_length} tokens), "
            f"scratch {self.scratch_bytes / _GIB:.2f} GiB"
        )


def memory_needs(device: Device, weights: WeightMap) -> MemoryNeeds:
    """Bytes a run takes; DeviceError if one buffer cannot be bound as a whole on this device."""
    sizes, memory = weights.sizes, device.memory
    _check_bindings(device, sizes)
    scratch = lay_out(
        list(sizes.scratch_bytes().values()), memory.alignment, memory.block_limit_bytes
    )
    return MemoryNeeds(
        weights.total_bytes,
        KvCache.total_bytes(device, sizes),
        scratch.total_bytes,
        sizes.context_length,
        sizes.num_slots,
    )


def check_memory(device: Device, needs: MemoryNeeds) -> None:
    """DeviceError that says needed and available, per part, if the device has too little."""
    available = device.memory.available_bytes()
    if needs.total_bytes > available:
        room = available - needs.total_bytes + needs.kv_bytes
        advice = _advice(room * needs.num_slots // needs.kv_bytes)
        raise DeviceError(
            f"{device.info.name} has {available / _GIB:.2f} GiB free, the model needs "
            f"{needs.total_bytes / _GIB:.2f} GiB ({needs}): {advice}, or a smaller model"
        )


def _advice(num_slots: int) -> str:
    """What to change where no more than `num_slots` sequences find room."""
    if num_slots < 1:
        return "use a smaller run.context_length"
    return f"use run.batch_size = {num_slots} at most or a smaller run.context_length"


def _check_bindings(device: Device, sizes: RunSizes) -> None:
    limit = device.memory.binding_limit_bytes
    for layer in range(sizes.shape.num_layers):
        size = sizes.kv_region_bytes(layer)
        if size > limit:
            raise DeviceError(
                f"KV cache of layer {layer} needs {size} bytes for {sizes.num_slots} x "
                f"{sizes.context_length} tokens; {device.info.name} binds at most {limit}: "
                f"{_advice(limit * sizes.num_slots // size)}"
            )
    for name, size in sizes.scratch_bytes().items():
        if size > limit:
            raise DeviceError(
                f"{name} needs {size} bytes for {sizes.context_length} tokens; "
                f"{device.info.name} binds at most {limit}: {_advice(0)}"
            )
