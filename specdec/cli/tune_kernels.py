"""`specdec tune --kernels`: the fastest settings of every matrix product on the target's device."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from specdec.config import Config, read_config, with_overrides
from specdec.errors import DeviceError
from specdec.load.kernels import TunedProduct, tune_kernels


def run_kernels(args: argparse.Namespace) -> int:
    """Search, show each product as it is done, and say where the result lies."""
    config = with_overrides(read_config(args.config) if args.config else Config(), args.set)
    print(
        f"{'product':14}{'rows':>5}{'shipped us':>12}{'gain':>7}{'tried':>7}  changes",
        file=sys.stderr,
    )
    tuned = tune_kernels(config, args.budget, _show)
    if not tuned.path:
        raise DeviceError("the user's cache directory cannot be written: set XDG_CACHE_HOME")
    num_changed = sum(product.speedup > 1.0 for product in tuned.products)
    num_wrong = sum(product.num_wrong for product in tuned.products)
    told = (
        f"{tuned.device}: {num_changed} of {len(tuned.products)} products are faster with other "
        f"settings (measured); every one gave the same bits, {tuned.numerics_id}"
    )
    if num_wrong:
        told += f"; {num_wrong} settings gave other bits and were not used: please report them"
    print(told, file=sys.stderr if args.json else sys.stdout)
    print(f"specdec: wrote {tuned.path}; runs on this device use it", file=sys.stderr)
    if args.json:
        print(json.dumps({"label": "measured", **asdict(tuned)}))
    return 0


def _show(product: TunedProduct) -> None:
    kept = "as shipped" if product.num_tried else "no time left: as shipped"
    changes = " ".join(f"{name}={value}" for name, value in product.changes.items())
    print(
        f"{product.matrix:14}{product.rows:5}{product.shipped_us:12.1f}{product.speedup:7.2f}"
        f"{product.num_tried:7}  {changes or kept}",
        file=sys.stderr,
        flush=True,
    )
