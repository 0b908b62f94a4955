"""Learned costs kept between runs, one file per machine and pair of models; it measures nothing.

A cache that cannot be read or written costs the first rounds of a run, nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path

from specdec.costs import Costs


@dataclass(frozen=True, slots=True)
class CostKey:
    """What costs depend on."""

    target_device: str
    numerics_id: str
    model_hash: str
    draft_device: str
    processor: str

    def to_json_text(self) -> str:
        """The key as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def fingerprint(self) -> str:
        """A short name for it."""
        return hashlib.blake2b(self.to_json_text().encode(), digest_size=8).hexdigest()


def processor_name() -> str:
    """The processor's model name, or its architecture where there is none to be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, platform.machine())} x {os.cpu_count()}"


def load_costs(directory: Path, key: CostKey, costs: Costs) -> str:
    """Fill `costs` from the cache; a note, one line, if there is a file that cannot be used."""
    path = _path(directory, key)
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    try:
        saved = json.loads(content)
        if saved["key"] != asdict(key):
            return f"ignoring {path.name}: its costs are of another machine or model"
        passes = saved["passes"]
        sizes = {int(size): _level(level) for size, level in passes["sizes"].items()}
        slope_s, other_s = _number(passes["slope_s"]), _number(saved["other_s"])
        fixed_s, step_s = _number(saved["draft_fixed_s"]), saved["draft_step_s"]
        step_s = None if step_s is None else _number(step_s)
        row_s = None if saved["draft_row_s"] is None else _number(saved["draft_row_s"])
        read_s = _number(saved["draft_read_s"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"ignoring {path.name}: not costs as this version saves them; they are learned anew"
    costs.restore(sizes, slope_s, fixed_s, step_s, other_s, row_s, read_s)
    return ""


def save_costs(directory: Path, key: CostKey, costs: Costs) -> bool:
    """Write what was learned, whole or not at all; False where that is impossible."""
    content = json.dumps({"key": asdict(key), **costs.to_json()}, indent=1)
    temporary = ""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=directory)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
        Path(temporary).replace(_path(directory, key))
    except OSError:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        return False
    return True


def _path(directory: Path, key: CostKey) -> Path:
    return directory / f"costs-{key.fingerprint}.json"


def _level(saved: object) -> tuple[float, float, int]:
    """Seconds, context and number of samples of one size."""
    if not isinstance(saved, list) or len(saved) != 3:
        raise ValueError("a level has three numbers")
    seconds, context, num_samples = (_number(value) for value in saved)
    if seconds <= 0.0:
        raise ValueError("a pass takes time")
    return seconds, context, int(num_samples)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    if not isfinite(value) or value < 0.0:
        raise ValueError("not a cost")
    return float(value)
