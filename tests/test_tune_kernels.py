"""Tuning of matrix products: only legal settings, only equal bits, kept for one device alone."""

import json
import logging
import os
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("target.vulkan", exc_type=Exception)

from vulkan_harness import open_device

from specdec.assets import embedded_model_dir
from specdec.checkpoint import open_checkpoint
from specdec.cli import main
from target.cache import cache_dir
from target.pass_sizes import PREFILL_ROWS
from target.product_bench import ProductBench, TimedProduct, speedup
from target.product_search import search
from target.product_space import Product, forms_of, is_legal, neighbours, other_forms
from target.tuned_products import save_tuned, tuned_path, tuning_for
from target.tuning import MATRICES, GemmTuning, runnable, shipped_tuning
from target.vulkan import DeviceInfo
from target.vulkan.info import DeviceLimits

LIMITS = DeviceLimits(1 << 32, 1 << 32, 1 << 32, 256, 32768, 1024, 65535, 256, 1.0)
SOFTWARE = DeviceInfo(
    0, "llvmpipe (fake)", "software", "fake 1", 0, 0, "", (8, 8, 8), (1 << 34,), LIMITS,
    frozenset(), False, (),
)  # fmt: skip
HOPPER = replace(
    SOFTWARE, name="NVIDIA H100", kind="discrete", subgroup_sizes=(32, 32, 32),
    extensions=frozenset({"VK_KHR_cooperative_matrix"}), has_integer_dot=True,
    limits=replace(LIMITS, shared_bytes=49152),
)  # fmt: skip
RDNA3 = replace(SOFTWARE, name="Radeon 780M", subgroup_sizes=(64, 32, 64), has_integer_dot=True)
DEVICES = [SOFTWARE, HOPPER, RDNA3]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache without tuned settings; what is compiled is shared, for compiling takes long."""
    shared = cache_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("spirv", "pipelines"):
        (shared / name).mkdir(parents=True, exist_ok=True)
        cache_dir().mkdir(exist_ok=True)
        (cache_dir() / name).symlink_to(shared / name)


@pytest.mark.parametrize("info", DEVICES, ids=lambda info: info.name)
def test_shipped_settings_and_all_their_neighbours_are_legal_and_keep_the_slices(
    info: DeviceInfo,
) -> None:
    shipped = shipped_tuning(info)
    for rows in PREFILL_ROWS:
        for matrix in MATRICES:
            product, settings = Product(matrix, rows), shipped.gemm(matrix, rows)
            assert is_legal(settings, product, info), product
            near = [*neighbours(settings, product, info)]
            assert near, product
            forms = forms_of(shipped, info)
            assert ("matrix" in forms) == (info is HOPPER)
            for other in (*near, *other_forms(settings, product, info, forms)):
                assert is_legal(other, product, info) and other != settings
                assert other.slices == settings.slices


def test_a_panel_is_run_by_integer_dots_where_there_are_no_cooperative_matrices() -> None:
    panel = GemmTuning(slices=8, form="panel", width=128, block=64, unroll=2, subgroup=32)
    product, without = Product("gate_up", 512), replace(HOPPER, extensions=frozenset())
    assert runnable(panel, HOPPER) == panel and is_legal(panel, product, HOPPER)
    settings = runnable(panel, without)
    assert settings.form == "dot" and settings.slices == 8 and is_legal(settings, product, without)
    for broken in ({"width": 96}, {"unroll": 3}, {"block": 24}, {"subgroup": 0}, {"width": 1024}):
        assert not is_legal(replace(panel, **broken), product, HOPPER), broken


@pytest.mark.parametrize(
    ("settings", "product", "info"),
    [
        (GemmTuning(tiles=1, width=8), Product("gate_up", 1), SOFTWARE),
        (GemmTuning(tiles=4, width=8, block=8), Product("o", 8), SOFTWARE),
        (GemmTuning(tiles=1, width=64), Product("o", 1), HOPPER),
        (GemmTuning(tiles=2, width=64, slices=32), Product("o", 1), HOPPER),
        (GemmTuning(tiles=8, slices=16), Product("o", 16), HOPPER),
        (GemmTuning(form="matrix", tiles=4, slices=16, subgroup=32), Product("o", 16), HOPPER),
        (GemmTuning(form="matrix"), Product("o", 16), HOPPER),
        (GemmTuning(width=256), Product("o", 16), RDNA3),
        (GemmTuning(form="tensor"), Product("o", 1), HOPPER),
        (GemmTuning(subgroup=128), Product("o", 1), HOPPER),
        (GemmTuning(tiles=3), Product("o", 1), HOPPER),
    ],
)
def test_what_a_shader_or_device_cannot_run_is_not_legal(
    settings: GemmTuning, product: Product, info: DeviceInfo
) -> None:
    assert not is_legal(settings, product, info)


class FakeBench:
    """Seconds by a rule of the settings; some settings give other bits."""

    def __init__(self) -> None:
        self.prepared: list[GemmTuning] = []

    def prepare(self, product: Product, settings: GemmTuning) -> "FakeProduct":
        self.prepared.append(settings)
        return FakeProduct(settings)


class FakeProduct:
    def __init__(self, settings: GemmTuning) -> None:
        self.seconds = 1e-3 * abs(settings.tiles - 4) + 1e-3 / settings.width + 1e-4
        if settings.unroll == 8:
            self.seconds /= 100
        self.result = np.array([settings.unroll == 8])

    def run_s(self) -> float:
        return self.seconds

    def settle(self) -> None:
        pass

    def release(self) -> None:
        self.seconds = -1.0


def test_the_search_climbs_to_the_best_settings_and_never_takes_other_bits() -> None:
    bench, shown, shipped = FakeBench(), [], shipped_tuning(HOPPER)
    products = {key: GemmTuning(gemm.slices, "dot") for key, gemm in shipped.products.items()}
    start = replace(shipped, products=products)
    found = search(bench, HOPPER, start, 60.0, shown.append)  # type: ignore[arg-type]
    by_product = {one.product: one for one in found}
    best = by_product[Product("o", 1)]
    assert best.best.tiles == 4 and best.best.width == 64 and best.best.unroll != 8
    assert best.num_wrong > 0 and best.speedup > 2.0
    assert best.changes.keys() == {"tiles", "width"}
    assert shown == found and all(one.best.unroll != 8 for one in found)


def test_without_time_everything_stays_as_shipped() -> None:
    bench = FakeBench()
    found = search(bench, HOPPER, shipped_tuning(HOPPER), 0.0, lambda one: None)  # type: ignore[arg-type]
    assert not bench.prepared and len(found) == 25
    assert all(one.best == one.shipped and one.speedup == 1.0 for one in found)


def test_found_settings_are_used_on_that_device_with_that_driver_alone() -> None:
    shipped = shipped_tuning(HOPPER)
    found = replace(shipped.gemm("o", 1), tiles=4)
    assert save_tuned(HOPPER, {Product("o", 1): found}, ["o x 1: 1.20 x"])
    tuned = tuning_for(HOPPER)
    assert tuned.gemm("o", 1).tiles == 4 and tuned.gemm("o", 2) == shipped.gemm("o", 2)
    assert tuned.numerics_id == shipped.numerics_id and "tuned here" in tuned.name
    newer = replace(HOPPER, driver="fake 2")
    assert tuning_for(newer) == shipped
    tuned_path(newer).write_bytes(tuned_path(HOPPER).read_bytes())
    assert tuning_for(newer) == shipped


@pytest.mark.parametrize(
    "damage",
    [
        ("tiles = 4", "tiles = 3"),
        ("tiles = 4", "slices = 4"),
        ("tiles = 4", 'tiles = "4"'),
        ("tiles = 4", "speed = 4"),
        ("rows1.o", "rows3.o"),
        ("rows1.o", "rows1.nothing"),
        ("rows1.o", "elsewhere.o"),
        ("shipped = ", 'shipped = "0" #'),
        ("[", "[["),
    ],
)
def test_a_damaged_or_outdated_file_is_ignored_by_name(
    damage: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    shipped = shipped_tuning(HOPPER)
    save_tuned(HOPPER, {Product("o", 1): replace(shipped.gemm("o", 1), tiles=4)}, [])
    path = tuned_path(HOPPER)
    path.write_text(path.read_text().replace(*damage))
    with caplog.at_level(logging.WARNING):
        assert tuning_for(HOPPER) == shipped
    assert str(path) in caplog.text and "run specdec tune --kernels again" in caplog.text


def test_every_free_setting_of_a_product_is_known_to_the_file() -> None:
    changes = {"form": "dot", "tiles": 2, "width": 64, "block": 8, "unroll": 2, "subgroup": 32}
    assert changes.keys() < {field.name for field in fields(GemmTuning)}
    wanted = replace(shipped_tuning(HOPPER).gemm("o", 16), **changes)  # type: ignore[arg-type]
    assert save_tuned(HOPPER, {Product("o", 16): wanted}, [])
    assert tuning_for(HOPPER).gemm("o", 16) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("matrix", ["o", "gate_up", "head"])
def test_a_product_on_the_device_has_the_same_bits_under_other_settings(matrix: str) -> None:
    checkpoint = open_checkpoint(embedded_model_dir("target"))
    with open_device(validation=False) as device:
        shipped = shipped_tuning(device.info)
        info = checkpoint.info
        bench = ProductBench(device, checkpoint, info.shape, info.head_bits, shipped)
        product = Product(matrix, 2)
        settings = shipped.gemm(matrix, 2)
        first = bench.prepare(product, settings)
        other = bench.prepare(product, next(neighbours(settings, product, device.info)))
        assert first.result.any() and np.array_equal(first.result, other.result)
        assert speedup(first, other, 2) > 0.0
        for prepared in (first, other):
            prepared.release()
        bench.release()


@pytest.mark.slow
def test_the_command_tunes_this_device_and_text_stays_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    device = os.environ.get("SPECDEC_TEST_DEVICE", "auto")
    generate = ["generate", "import numpy", "--max-new-tokens", "24", "--device", device, "--json"]
    assert main(generate) == 0
    before = json.loads(capsys.readouterr().out)
    assert main(["tune", "--kernels", "--budget", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["products"]) == 25 and Path(report["path"]).is_file()
    assert all(product["num_wrong"] == 0 for product in report["products"])
    assert main(generate) == 0
    captured = capsys.readouterr()
    after = json.loads(captured.out)
    assert after["token_ids"] == before["token_ids"]
    assert after["numerics_id"] == before["numerics_id"]
    assert "runs with the settings found here" in captured.err


def test_the_reference_has_no_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--kernels", "--set", "target.device=reference"]) == 2
    assert "has no kernels" in capsys.readouterr().err


class Waking(TimedProduct):
    """Takes three times as long until it has run for a while, on a clock of its own."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock
        self.num_runs = 0
        super().__init__(None, self, 1, np.zeros(1, np.uint8))  # type: ignore[arg-type]

    def run(self) -> None:
        self.num_runs += 1
        self.clock[0] += 0.03 if self.num_runs < 4 else 0.01


def test_a_device_that_has_idled_is_woken_before_products_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    waking = Waking(clock)
    waking.settle()
    assert waking.num_runs > 4
    assert waking.run_s() == pytest.approx(0.01)
    num_runs = waking.num_runs
    waking.settle()
    assert waking.num_runs == num_runs + 1  # as fast as it was seen to be
    waking.num_runs = 0
    waking.settle()
    assert waking.num_runs == 4
