"""Reads processor, memory, GPUs on the bus and limits from Linux; what cannot be read is absent."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from specdec.cost_cache import processor_name
from specdec.machine import AmdMemory, DisplayController, Host

_VENDORS = {"0x1002": "AMD", "0x10de": "NVIDIA", "0x8086": "Intel"}
_DISPLAY_CLASS = "0x03"
_COPY_BYTES = 128 << 20  # beyond any cache
_COPIES = 5


def read_host(*, measure: bool) -> Host:
    """This machine's processor and memory; `measure` copies memory for a moment."""
    page = os.sysconf("SC_PAGE_SIZE")
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return Host(
        processor=processor_name(),
        num_cpus=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * page,
        available_bytes=_available_bytes(Path("/proc/meminfo")),
        locked_limit_bytes=None if locked == resource.RLIM_INFINITY else locked,
        kernel=platform.release(),
        python=platform.python_version(),
        copy_gb_s=copy_gb_s() if measure else None,
    )


def _available_bytes(meminfo: Path) -> int:
    """What programs can still take, page cache included; free pages where the kernel is silent."""
    try:
        for line in meminfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def copy_gb_s() -> float:
    """Bytes read plus written per second when all cores copy (median), in 10^9."""
    num_parts = os.cpu_count() or 1
    source = np.ones(_COPY_BYTES, np.uint8)
    target = np.zeros_like(source)
    parts = list(
        zip(np.array_split(target, num_parts), np.array_split(source, num_parts), strict=True)
    )
    elapsed = []
    with ThreadPoolExecutor(num_parts) as pool:
        for _ in range(_COPIES + 1):
            start = time.perf_counter()
            list(pool.map(lambda part: np.copyto(*part), parts))
            elapsed.append(time.perf_counter() - start)
    return 2 * _COPY_BYTES / statistics.median(elapsed[1:]) / 1e9


def display_controllers(pci: Path = Path("/sys/bus/pci/devices")) -> tuple[DisplayController, ...]:
    """Every GPU on the PCI bus."""
    found = []
    for device in sorted(pci.glob("*")):
        if _text(device / "class").startswith(_DISPLAY_CLASS):
            vendor = _text(device / "vendor")
            driver = device / "driver"
            name = driver.resolve().name if driver.exists() else ""
            found.append(DisplayController(device.name, _VENDORS.get(vendor, vendor), name))
    return tuple(found)


def amd_memory(drm: Path = Path("/sys/class/drm")) -> tuple[AmdMemory, ...]:
    """Carve-out and GTT of every GPU that the amdgpu driver runs."""
    found = []
    for card in sorted(drm.glob("card[0-9]*")):
        sizes = [_text(card / "device" / f"mem_info_{kind}_total") for kind in ("vram", "gtt")]
        if all(size.isdecimal() for size in sizes):
            found.append(AmdMemory(card.name, int(sizes[0]), int(sizes[1])))
    return tuple(found)


def closed_nodes(dri: Path = Path("/dev/dri")) -> tuple[str, ...]:
    """Render nodes that this user may not open."""
    nodes = sorted(dri.glob("renderD*"))
    return tuple(str(node) for node in nodes if not os.access(node, os.R_OK | os.W_OK))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
