"""What a machine can run, what is missing and the remedy: judged from plain facts; it probes none.

A finding is `ok`, a `note` (it costs speed or a choice, nothing is broken) or a `problem` (the
configured run cannot start). Remedies are commands, or steps where no command can do it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from specdec.config import Config
from specdec.machine import AmdMemory, DisplayController, Gpu, Machine, ModelNeed

_GIB = 1 << 30
_PAGE_BYTES = 4096  # of x86
_RESERVED_BYTES = 2 * _GIB  # of main memory for everything else
_PREFERENCE = ("discrete", "integrated", "virtual", "software", "other")
_DRIVER_REMEDY = {
    "AMD": "sudo apt-get install mesa-vulkan-drivers   (RADV)",
    "Intel": "sudo apt-get install mesa-vulkan-drivers   (ANV)",
    "NVIDIA": "install NVIDIA's driver with its Vulkan part (Debian: nvidia-vulkan-icd; in a "
    "container: NVIDIA_DRIVER_CAPABILITIES=all, libegl1 and libvulkan1)",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    level: str  # ok, note or problem
    subject: str
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, and what a run would use."""

    findings: tuple[Finding, ...]
    target: str  # where the target would run, and why
    draft: str  # what would draft, and why

    @property
    def can_run(self) -> bool:
        """Nothing stands in the way of the configured run."""
        return all(finding.level != "problem" for finding in self.findings)


def diagnose(machine: Machine, need: ModelNeed, config: Config) -> Diagnosis:
    """Judge a machine for a configuration whose target takes `need`."""
    gpu = chosen_gpu(machine.gpus, config.target.device)
    findings = [
        *_loader(machine, config),
        *_controllers(machine),
        *_selection(machine, gpu, config),
        *_memory(machine, gpu, need),
        *_drafting(machine, config),
    ]
    return Diagnosis(tuple(findings), _target(gpu, config), _draft(machine, config))


def chosen_gpu(gpus: tuple[Gpu, ...], selector: str) -> Gpu | None:
    """The device that `target.device` names, as target.vulkan would choose; None: none, or numpy.

    `auto` prefers discrete, integrated, virtual, then software devices.
    """
    usable = [gpu for gpu in gpus if not gpu.missing]
    if selector == "reference":
        return None
    if selector == "auto":
        return min(usable, key=lambda gpu: _PREFERENCE.index(gpu.kind), default=None)
    if selector.isdecimal():
        matches = [gpu for gpu in usable if gpu.index == int(selector)]
    else:
        matches = [gpu for gpu in usable if selector.lower() in gpu.name.lower()]
    return matches[0] if len(matches) == 1 else None


def _loader(machine: Machine, config: Config) -> Iterator[Finding]:
    """Is there Vulkan at all."""
    if not machine.vulkan_error:
        names = "; ".join(f"{gpu.index}: {gpu.name} ({gpu.kind})" for gpu in machine.gpus)
        yield Finding("ok", "Vulkan", names or "the loader works, it lists no device")
        return
    is_wanted = config.target.device not in ("auto", "reference")
    has_loader = "no Vulkan loader" not in machine.vulkan_error
    packages = "mesa-vulkan-drivers" if has_loader else "libvulkan1 mesa-vulkan-drivers"
    yield Finding(
        "problem" if is_wanted else "note",
        "Vulkan",
        machine.vulkan_error.partition(": install")[0],
        f"sudo apt-get install {packages}",
    )


def _controllers(machine: Machine) -> Iterator[Finding]:
    """GPUs on the bus that Vulkan does not know, and why."""
    for node in machine.closed_nodes:
        yield Finding(
            "note",
            "GPU access",
            f"this user may not open {node}",
            "sudo usermod -aG render,video $USER   (then log in again)",
        )
    known = " ".join(f"{gpu.name} {gpu.driver}".lower() for gpu in machine.gpus)
    for controller in machine.controllers:
        if controller.vendor in _DRIVER_REMEDY and not _is_known(controller, known):
            bound = controller.kernel_driver or "no kernel driver"
            yield Finding(
                "note",
                f"{controller.vendor} GPU",
                f"{controller.address} ({bound}) is on the bus, Vulkan does not list it",
                _DRIVER_REMEDY[controller.vendor],
            )


def _is_known(controller: DisplayController, known: str) -> bool:
    """Whether a device of the controller's vendor is among the names and drivers `known`."""
    marks = {"AMD": ("radeon", "radv", "amd "), "NVIDIA": ("nvidia",), "Intel": ("intel",)}
    return any(mark in known for mark in marks[controller.vendor])


def _selection(machine: Machine, gpu: Gpu | None, config: Config) -> Iterator[Finding]:
    """Features of every device; a selector that finds none."""
    for other in machine.gpus:
        if other.missing:
            yield Finding(
                "note",
                other.name,
                f"cannot be used: {', '.join(other.missing)}",
                f"update its driver (now {other.driver})",
            )
    selector = config.target.device
    if gpu is None and selector not in ("auto", "reference") and not machine.vulkan_error:
        yield Finding(
            "problem",
            "target.device",
            f"{selector!r} names no usable Vulkan device, or more than one",
            "--set target.device=auto, or a number of the list above",
        )
    if gpu is not None:
        yield Finding("ok", gpu.name, _features(gpu))


def _features(gpu: Gpu) -> str:
    """What matters for speed."""
    dot = "integer dot products" if gpu.has_integer_dot else "no fast integer dot products"
    matrix = "cooperative matrices" if gpu.has_cooperative_matrix else "no cooperative matrices"
    default, low, high = gpu.subgroup_sizes
    lanes = str(default) if low == high else f"{default} ({low} to {high})"
    return (
        f"driver {gpu.driver}; {dot}, {matrix}, subgroups of {lanes}, bindings to "
        f"{gpu.storage_range_bytes / (1 << 20):.0f} MiB; settings {gpu.tuning!r}"
    )


def _memory(machine: Machine, gpu: Gpu | None, need: ModelNeed) -> Iterator[Finding]:
    """Does the model fit where it would run."""
    needed = (
        f"{need.model} needs {_gib(need.total_bytes)} (computed: weights "
        f"{_gib(need.weights_bytes)}, KV {_gib(need.kv_bytes)} for {need.context_length} tokens, "
        f"scratch {_gib(need.scratch_bytes)})"
    )
    available, where = machine.host.available_bytes, "this machine"
    if gpu is not None and gpu.free_bytes is not None:
        available, where = gpu.free_bytes, gpu.name
    if need.total_bytes <= available:
        yield Finding("ok", "memory", f"{needed}; {where} has {_gib(available)} free")
        return
    text = f"{needed}; {where} has only {_gib(available)} free"
    yield Finding("problem", "memory", text, "; or ".join(_memory_remedies(machine, gpu, need)))


def _memory_remedies(machine: Machine, gpu: Gpu | None, need: ModelNeed) -> Iterator[str]:
    """What would make a model fit, the least costly first."""
    if gpu is not None and gpu.kind == "integrated" and machine.amd_memory:
        yield _gtt_remedy(machine, machine.amd_memory[0], need)
    free = gpu.free_bytes if gpu is not None else machine.host.available_bytes
    lacking = need.total_bytes - (free or 0)
    spare_tokens = -(-lacking // max(need.kv_bytes_per_token, 1))
    shorter = (need.context_length - spare_tokens) // 256 * 256
    if shorter >= 512:
        yield f"--set run.context_length={shorter}"
    if need.kv == "fp16" and need.kv_bytes * 7 // 16 >= lacking:
        yield "--set run.kv=int8"
    yield "a smaller target, or its head in INT4 (specdec convert --head-bits 4)"


def _gtt_remedy(machine: Machine, memory: AmdMemory, need: ModelNeed) -> str:
    """Let the GPU map more of main memory, if there is enough of it."""
    total_bytes = machine.host.memory_bytes + memory.carve_out_bytes
    wanted = need.total_bytes + need.total_bytes // 16 + _GIB
    if wanted + _RESERVED_BYTES > total_bytes:
        return f"more main memory: {_gib(total_bytes)} are built in"
    pages = -(-wanted // _PAGE_BYTES)
    return (
        f"let the GPU map more memory (GTT is {_gib(memory.gtt_bytes)}, carve-out "
        f"{_gib(memory.carve_out_bytes)}): add ttm.pages_limit={pages} "
        f"ttm.page_pool_size={pages} to GRUB_CMDLINE_LINUX_DEFAULT in /etc/default/grub, then "
        f"sudo update-grub && sudo reboot"
    )


def _drafting(machine: Machine, config: Config) -> Iterator[Finding]:
    """The NPU, and ONNX Runtime for a draft on the CPU."""
    wanted = config.draft.device
    level = "problem" if wanted == "npu" else "note"
    for text in machine.npu_problems:
        what, _, remedy = text.removeprefix("NPU: ").partition(": ")
        yield Finding(level, "NPU", what, remedy)
    if not machine.npu_problems:
        yield Finding("ok", "NPU", "driver, permissions, locked memory, pyxrt and array are there")
    if machine.cpu_draft_problem:
        yield Finding(
            "problem" if wanted == "cpu" else "note",
            "draft on the CPU",
            machine.cpu_draft_problem,
            "pip install 'specdec[cpu]'",
        )
    else:
        yield Finding("ok", "draft on the CPU", "ONNX Runtime is installed")


def _target(gpu: Gpu | None, config: Config) -> str:
    selector = config.target.device
    if gpu is not None:
        reason = f"the best device by kind: {gpu.kind}" if selector == "auto" else "as configured"
        slow = "; a software device proves correctness, it is slow" * (gpu.kind == "software")
        return f"{gpu.name} ({reason}{slow})"
    if selector == "reference":
        return "numpy on the CPU (as configured)"
    if selector == "auto":
        return "numpy on the CPU (no usable Vulkan device): slow, for small models only"
    return f"nothing: {selector!r} is not here"


def _draft(machine: Machine, config: Config) -> str:
    device = config.draft.device
    if config.speculation.mode == "off" or device == "off":
        return "nothing (as configured)"
    if device != "auto":
        return f"{device} (as configured)"
    model = "reference" if machine.cpu_draft_problem else "cpu"
    return f"auto: {model} or ngram, or nothing, whichever predicts most tokens/s when timed"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.2f} GiB"
