"""What the driver's errors mean and what to do about them; it knows no model."""

from __future__ import annotations

from specdec.errors import DeviceError

_KNOWN = (  # part of the driver's message, what it means and what helps
    (
        "CREATE_HWCTX IOCTL failed (err=-22)",
        "all hardware contexts of the NPU are taken (6 on Phoenix, each program takes one): "
        "end the other programs that use it",
    ),
    (
        "failed (err=-11)",
        "locked memory is limited: set `* - memlock unlimited` in /etc/security/limits.conf and "
        "log in again",
    ),
    (
        "EXEC_CMD IOCTL failed (err=2)",
        "the hardware context was lost (suspend, or a reset after another program's fault): "
        "start again",
    ),
    (
        "TIMEOUT",
        "the array hangs: remove and rescan the PCI device, or reboot",
    ),
)


def explain(doing: str, error: Exception | str) -> DeviceError:
    """An error for the user from what pyxrt raised or said while `doing`."""
    text = " ".join(str(error).split()) or type(error).__name__
    remedy = next((help_ for part, help_ in _KNOWN if part in text), None)
    if remedy is None:
        return DeviceError(f"NPU: cannot {doing}: {text}; choose another draft.device meanwhile")
    return DeviceError(f"NPU: cannot {doing}: {remedy} ({text})")
