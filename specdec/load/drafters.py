"""Opens the drafter: the configured one, or with `auto` the one predicted to be fastest."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from specdec.checkpoint import Checkpoint, open_checkpoint
from specdec.config import Config
from specdec.costs import Costs
from specdec.errors import DeviceError, UsageError
from specdec.load.costs import CostBook
from specdec.load.models import model_dir, vocabulary_mismatch
from specdec.load.target import vulkan_verifier
from specdec.selection import COPY_ACCEPTANCE, MODEL_ACCEPTANCE, DraftOption, select
from specdec.types import Drafter

_log = logging.getLogger("specdec")


def open_drafter(
    config: Config, target: Checkpoint, context_length: int, book: CostBook
) -> Drafter | None:
    """The drafter that the config names; None where nothing drafts.

    `book` says what passes and draft steps cost where `auto` has to compare.
    """
    from draft.ngram import NgramDrafter

    device = config.draft.device
    if device == "off" or config.speculation.mode == "off":
        return None
    if device == "ngram":
        return NgramDrafter()
    draft = open_checkpoint(model_dir(config.draft.model, "draft"))
    mismatch = vocabulary_mismatch(draft, target)
    if not mismatch:
        length = min(context_length, draft.info.shape.context_length)
        if device == "auto":
            return _fastest(config, draft, length, book)
        return _model_drafter(config, device, draft, length)
    if device == "auto" and config.draft.model == "embedded":
        _log.warning("the embedded draft does not fit this target (%s); using ngram", mismatch)
        return NgramDrafter()
    raise UsageError(
        f"draft.model {config.draft.model!r} does not fit the target: {mismatch}; draft and "
        "target must share a tokenizer: choose another draft, or draft.device = ngram"
    )


def _model_drafter(config: Config, device: str, draft: Checkpoint, length: int) -> Drafter:
    """A draft model on a device. All but the reference and Vulkan run in a worker process."""
    from draft.factories import CpuDraft, ReferenceDraft
    from draft.worker import WorkerDrafter

    if device == "reference":
        return ReferenceDraft(draft.directory, length)()
    if device == "cpu":
        return WorkerDrafter(CpuDraft(draft.directory, length, config.run.batch_size))
    if device == "vulkan":
        return _vulkan_drafter(config, draft, length)
    return _npu_drafter(device, draft.directory, length, config.run.batch_size)


def _vulkan_drafter(config: Config, draft: Checkpoint, length: int) -> Drafter:
    """A second model on the target's GPU."""
    from draft.reference import ModelDrafter
    from target.language import VulkanModel
    from target.vulkan import Device

    selector = config.target.device
    device = Device.open("auto" if selector == "reference" else selector)
    verifier = vulkan_verifier(config, draft, length, device, lambda done, total: None)
    model = VulkanModel(verifier, draft.info.shape.vocab_size)
    return ModelDrafter(model, "vulkan", model.release)


def _npu_drafter(device: str, directory: Path, length: int, num_slots: int) -> Drafter:
    from draft.npu.factories import EmulatedNpuDraft, NpuDraft
    from draft.worker import WorkerDrafter

    if device == "npu":
        return WorkerDrafter(NpuDraft(directory, length, num_slots))
    return WorkerDrafter(EmulatedNpuDraft(directory, length, num_slots))


def _fastest(config: Config, draft: Checkpoint, length: int, book: CostBook) -> Drafter | None:
    """The draft model where it pays, copies of earlier text, or nothing.

    Costs of earlier runs are believed where they speak for the model, for its next run will
    correct them. Those that speak against it are timed again: else one busy hour would be believed
    for ever.
    """
    from draft.ngram import NgramDrafter

    device = _model_device()
    costs = book.saved(device)
    if costs and _selected(device, costs, "costs of earlier runs") == device:
        return cheapest_model(config, draft, length)
    model = cheapest_model(config, draft, length)
    chosen = _selected(model.device, book.timed(model), "timed now")
    if chosen == model.device:
        return model
    model.release()
    return NgramDrafter() if chosen == "ngram" else None


def _selected(device: str, costs: Costs, source: str) -> str:
    """The draft device to take by these costs; `device` names the draft model's."""
    table = costs.table(0)
    assert table is not None, "passes were measured"
    options = [
        DraftOption(device, table.draft_step_s, MODEL_ACCEPTANCE),
        DraftOption("ngram", 0.0, COPY_ACCEPTANCE),
    ]
    chosen, reason = select(options, table.pass_s[1:])
    _log.info("draft.device = auto takes %s; %s (%s)", chosen, reason, source)
    return chosen


def _model_device() -> str:
    """Where the draft model runs on the processor: ONNX Runtime if installed, else numpy."""
    modules = ("onnxruntime", "onnx")
    return "cpu" if all(map(importlib.util.find_spec, modules)) else "reference"


def cheapest_model(config: Config, draft: Checkpoint, length: int) -> Drafter:
    """The draft model on ONNX Runtime where that is installed, else on the numpy reference."""
    if _model_device() == "cpu":
        try:
            return _model_drafter(config, "cpu", draft, length)
        except DeviceError as error:
            _log.warning("%s; the numpy reference drafts instead", error)
    else:
        _log.info("ONNX Runtime is not installed (pip install 'specdec[cpu]'): numpy drafts")
    return _model_drafter(config, "reference", draft, length)
