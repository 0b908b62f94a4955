"""Settings of products that were found on this very device, in the user's cache; it times nothing.

The file is taken only for the device, driver and shipped settings that it was made with; what is
not legal there is left out as a whole, with a note. Bits never depend on it.
"""

from __future__ import annotations

import hashlib
import logging
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from target.cache import cache_dir, read_cached, write_cached
from target.product_space import FREE_FIELDS, Product, is_legal
from target.tuning import GemmTuning, Tuning, shipped_tuning
from target.vulkan import DeviceInfo

_log = logging.getLogger(__name__)


def tuning_for(info: DeviceInfo) -> Tuning:
    """The shipped settings, with what `specdec tune --kernels` has found here in their place."""
    shipped = shipped_tuning(info)
    path = tuned_path(info)
    content = read_cached(path)
    if content is None:
        return shipped
    try:
        tuned = _overlaid(shipped, tomllib.loads(content.decode()), info)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("ignoring %s (%s): run specdec tune --kernels again", path, error)
        return shipped
    _log.info("%s runs with the settings found here, %s", info.name, path)
    return tuned


def tuned_path(info: DeviceInfo) -> Path:
    """Where this device's file lies."""
    name = hashlib.blake2b(f"{info.name}\n{info.driver}".encode(), digest_size=8).hexdigest()
    return cache_dir() / "tunings" / f"{name}.toml"


def save_tuned(
    info: DeviceInfo, found: Mapping[Product, GemmTuning], evidence: Sequence[str]
) -> bool:
    """Write what differs from the shipped settings; False where that is impossible."""
    shipped = shipped_tuning(info)
    lines = [
        "# Made by `specdec tune --kernels`; delete it to return to the shipped settings.",
        *(f"# {line}" for line in evidence),
        f"device = {_text(info.name)}",
        f"driver = {_text(info.driver)}",
        f"shipped = {_text(_digest(shipped))}",
    ]
    for product, settings in found.items():
        base = shipped.gemm(product.matrix, product.rows)
        changed = {
            name: value
            for name, value in asdict(settings).items()
            if name in FREE_FIELDS and value != getattr(base, name)
        }
        if changed:
            lines += ["", f"[rows{product.rows}.{product.matrix}]"]
            lines += [
                f"{name} = {_text(value) if isinstance(value, str) else value}"
                for name, value in changed.items()
            ]
    return write_cached(tuned_path(info), ("\n".join(lines) + "\n").encode())


def _overlaid(shipped: Tuning, content: Mapping[str, object], info: DeviceInfo) -> Tuning:
    """ValueError where the content does not fit this device, driver or version."""
    expected = {"device": info.name, "driver": info.driver, "shipped": _digest(shipped)}
    for name, value in expected.items():
        if content[name] != value:
            raise ValueError(f"made for another {name}")
    products = dict(shipped.products)
    for section, matrices in content.items():
        if section in expected:
            continue
        rows = int(section.removeprefix("rows"))
        for matrix, settings in dict(matrices).items():  # type: ignore[call-overload]
            product = Product(matrix, rows)
            if not set(settings) <= set(FREE_FIELDS):
                raise ValueError(f"{product} has unknown settings")
            changed = replace(products[matrix, rows], **settings)
            if not is_legal(changed, product, info):
                raise ValueError(f"{product} is not legal here")
            products[matrix, rows] = changed
    return replace(shipped, name=f"{shipped.name}, tuned here", products=products)


def _digest(tuning: Tuning) -> str:
    """Names the shipped settings: found ones were compared with these."""
    ordered = sorted((key, asdict(value)) for key, value in tuning.products.items())
    text = f"{tuning.numerics_id} {ordered}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _text(value: str) -> str:
    """A TOML string; names of devices hold no control characters."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
