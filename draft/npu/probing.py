"""Whether this machine has a usable NPU, and what to do if not; the only importer of pyxrt.

Checks go from the outside in: device node, permissions, locked memory, the Python module, the
device's name. Each failure is one DeviceError with its remedy.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

from draft.npu.build import find_build
from draft.npu.faults import explain
from draft.npu.surface import Xrt
from specdec.errors import DeviceError

_NODES = Path("/dev/accel")
_DRIVER = Path("/sys/module/amdxdna")
_NAMES = ("npu1", "phoenix", "hawk point")  # AIE2 devices, as drivers name them
_MIN_LOCKED_BYTES = 64 << 20  # the device's heap; weights come on top
_OTHERWISE = "or set draft.device to cpu or npu-emulated"


def open_pyxrt() -> Xrt:
    """The pyxrt module, if device 0 is an NPU our array runs on; DeviceError otherwise."""
    check_system(_NODES, _DRIVER)
    check_locked_memory(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0])
    xrt = import_pyxrt()
    check_device(xrt)
    return xrt


def problems() -> list[str]:
    """Everything that keeps the NPU from drafting, each with its remedy; empty if nothing does."""
    limit_bytes = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    checks: list[Callable[[], object]] = [
        lambda: check_system(_NODES, _DRIVER),
        lambda: check_locked_memory(limit_bytes),
        import_pyxrt,
        find_build,
    ]
    found = [text for check in checks if (text := _problem(check))]
    if found:
        return found
    text = _problem(lambda: check_device(import_pyxrt()))
    return [text] if text else []


def _problem(check: Callable[[], object]) -> str:
    """What a check complains of; empty if it passes."""
    try:
        check()
    except DeviceError as error:
        return str(error)
    return ""


def check_system(nodes: Path, driver: Path) -> None:
    """The driver is loaded and this user may open its device."""
    found = sorted(nodes.glob("accel*")) if nodes.is_dir() else []
    if not found:
        what = "no device of its own" if driver.exists() else "not loaded"
        raise DeviceError(
            f"NPU: {nodes}/accel0 does not exist, the amdxdna driver is {what}: it needs Linux "
            f"6.14 or newer and the NPU enabled in the firmware setup (`modprobe amdxdna`), "
            f"{_OTHERWISE}"
        )
    if not os.access(found[0], os.R_OK | os.W_OK):
        raise DeviceError(
            f"NPU: no permission to open {found[0]}: add yourself to its group "
            "(`sudo usermod -aG render $USER`) and log in again"
        )


def check_locked_memory(limit_bytes: int) -> None:
    """The NPU pins the memory it uses."""
    if limit_bytes != resource.RLIM_INFINITY and limit_bytes < _MIN_LOCKED_BYTES:
        raise DeviceError(
            f"NPU: this process may lock {limit_bytes >> 10} KiB of memory, needed are "
            f"{_MIN_LOCKED_BYTES >> 20} MiB and the draft's weights: set `* - memlock unlimited` "
            "in /etc/security/limits.conf and log in again"
        )


def import_pyxrt() -> Xrt:
    """The module; it fits one version of Python."""
    try:
        module = importlib.import_module("pyxrt")
    except ImportError as error:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise DeviceError(
            f"NPU: cannot import pyxrt in Python {version} ({error}): install libxrt-npu2 and "
            "AMD's python3-xrt 2.21 or newer (1.4 of that name is X-ray tracing), or build "
            "xdna-driver and source /opt/xilinx/xrt/setup.sh; use the Python it was built for, "
            "in a virtual environment made with --system-site-packages"
        ) from error
    if not hasattr(module, "hw_context"):
        raise DeviceError(
            "NPU: the pyxrt found has no hw_context: it is too old; install XRT 2.17 or newer"
        )
    return cast(Xrt, module)


def check_device(xrt: Xrt) -> None:
    """Device 0 is of the generation that the array is built for, and its firmware answers."""
    try:
        name = xrt.device(0).get_info(xrt.xrt_info_device.name)
    except RuntimeError as error:
        raise explain("open device 0 (is its firmware in /lib/firmware/amdnpu?)", error) from error
    if not any(known in name.lower() for known in _NAMES):
        raise DeviceError(
            f"NPU: device 0 is {name!r}; the kernels are for the NPU of Phoenix and Hawk Point "
            f"(npu1): {_OTHERWISE.removeprefix('or ')}"
        )
