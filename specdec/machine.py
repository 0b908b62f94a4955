"""What a machine is made of, as plain values; it probes nothing and judges nothing.

Sizes in bytes, bandwidths in 10^9 bytes read plus written per second.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """One Vulkan device as its driver describes it."""

    index: int
    name: str
    kind: str  # discrete, integrated, virtual, software or other
    driver: str
    missing: tuple[str, ...]  # features it lacks to be used
    has_integer_dot: bool
    has_cooperative_matrix: bool
    subgroup_sizes: tuple[int, int, int]  # default, smallest, largest
    heap_bytes: tuple[int, ...]  # device-local heaps
    storage_range_bytes: int  # largest binding
    tuning: str = ""  # name of the settings it would run with
    prefill_rows: int = 64  # of the largest chunk of prefill with these
    free_bytes: int | None = None  # None: it could not be opened
    copy_gb_s: float | None = None  # measured; None: not measured


@dataclass(frozen=True, slots=True)
class DisplayController:
    """A GPU on the PCI bus, whether or not Vulkan knows it."""

    address: str
    vendor: str  # AMD, NVIDIA, Intel, or the vendor's id
    kernel_driver: str  # empty: none is bound


@dataclass(frozen=True, slots=True)
class AmdMemory:
    """What the amdgpu driver lets one GPU use."""

    card: str
    carve_out_bytes: int  # set aside in the firmware setup ("VRAM" of an APU)
    gtt_bytes: int  # of main memory that the GPU may map


@dataclass(frozen=True, slots=True)
class Host:
    """Processor, main memory and limits of this process."""

    processor: str
    num_cpus: int
    memory_bytes: int
    available_bytes: int
    locked_limit_bytes: int | None  # memory this process may lock; None: unlimited
    kernel: str
    python: str
    copy_gb_s: float | None = None  # measured with all cores


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything `specdec doctor` looks at."""

    host: Host
    controllers: tuple[DisplayController, ...]
    amd_memory: tuple[AmdMemory, ...]
    closed_nodes: tuple[str, ...]  # of /dev/dri that this user may not open
    vulkan_error: str  # why there is no Vulkan at all; empty: there is
    gpus: tuple[Gpu, ...]
    npu_problems: tuple[str, ...]  # each with its remedy; empty: the NPU can draft
    cpu_draft_problem: str  # empty: ONNX Runtime is there


@dataclass(frozen=True, slots=True)
class ModelNeed:
    """Bytes a model takes on a device, computed from its shape."""

    model: str
    weights_bytes: int
    kv_bytes: int
    kv_bytes_per_token: int  # what one more token of context adds, beyond the windows
    scratch_bytes: int
    context_length: int
    kv: str  # fp16 or int8

    @property
    def total_bytes(self) -> int:
        """All parts together."""
        return self.weights_bytes + self.kv_bytes + self.scratch_bytes
