"""Opens the drafter: the configured one, or with `auto` the one predicted to be fastest."""

from __future__ import annotations

import importlib.util
import logging
import time
from pathlib import Path

from specdec.checkpoint import Checkpoint, open_checkpoint
from specdec.config import Config
from specdec.errors import DeviceError, UsageError
from specdec.load.models import model_dir, vocabulary_mismatch
from specdec.load.target import vulkan_verifier
from specdec.selection import COPY_ACCEPTANCE, MODEL_ACCEPTANCE, DraftOption, select
from specdec.types import Drafter, SamplingParams, Segment, Verifier

_log = logging.getLogger("specdec")

_GREEDY = SamplingParams()
_SLOT = 0
_TIMED_SIZES = (1, 2, 4, 8, 16)  # passes timed for `auto` where the target pads to no sizes
_TIMED_STEPS = 4
_PATIENCE_S = 60.0


def open_drafter(
    config: Config, target: Checkpoint, context_length: int, verifier: Verifier
) -> Drafter | None:
    """The drafter that the config names; None where nothing drafts.

    `verifier` is asked for the times of its passes where `auto` has to compare.
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
            return _fastest(config, draft, length, target, verifier)
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


def _fastest(
    config: Config, draft: Checkpoint, length: int, target: Checkpoint, verifier: Verifier
) -> Drafter | None:
    """The draft model where it pays, copies of earlier text, or nothing."""
    from draft.ngram import NgramDrafter

    model = cheapest_model(config, draft, length)
    step_s = draft_step_s(model, target.info.bos_id)
    options = [
        DraftOption(model.device, step_s, MODEL_ACCEPTANCE),
        DraftOption("ngram", 0.0, COPY_ACCEPTANCE),
    ]
    chosen, reason = select(options, pass_times_s(verifier, target.info.bos_id))
    _log.info("draft.device = auto takes %s; %s", chosen, reason)
    if chosen == model.device:
        return model
    model.release()
    return NgramDrafter() if chosen == "ngram" else None


def cheapest_model(config: Config, draft: Checkpoint, length: int) -> Drafter:
    """The draft model on ONNX Runtime where that is installed, else on the numpy reference."""
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        try:
            return _model_drafter(config, "cpu", draft, length)
        except DeviceError as error:
            _log.warning("%s; the numpy reference drafts instead", error)
    else:
        _log.info("ONNX Runtime is not installed (pip install 'specdec[cpu]'): numpy drafts")
    return _model_drafter(config, "reference", draft, length)


def draft_step_s(drafter: Drafter, bos_id: int) -> float:
    """Seconds of a draft step, the faster of two short runs after a first one."""
    elapsed: list[float] = []
    tokens = [bos_id] * 8
    drafter.open(_SLOT, tokens, _GREEDY)
    for _ in range(3):
        start = time.perf_counter()
        run = drafter.take(_SLOT, len(tokens), _TIMED_STEPS, _PATIENCE_S)
        elapsed.append((time.perf_counter() - start) / max(1, len(run.token_ids)))
        drafter.close(_SLOT)
        drafter.open(_SLOT, tokens, _GREEDY)
    drafter.close(_SLOT)
    return min(elapsed[1:])


def pass_times_s(verifier: Verifier, bos_id: int) -> list[float]:
    """Seconds of a pass of 1, 2, ... tokens: the faster of two after a first one."""
    times: dict[int, float] = {}
    sizes = verifier.pass_sizes or _TIMED_SIZES
    for size in (size for size in sizes if size <= verifier.context_length):
        elapsed: list[float] = []
        for _ in range(3):
            verifier.open(_SLOT, _GREEDY)
            start = time.perf_counter()
            verifier.verify([Segment(_SLOT, 0, (bos_id,) * size)])
            elapsed.append(time.perf_counter() - start)
            verifier.close(_SLOT)
        times[size] = min(elapsed[1:])
    timed = sorted(times)
    return [
        times[next(size for size in timed if size >= num_tokens)]
        for num_tokens in range(1, timed[-1] + 1)
    ]
