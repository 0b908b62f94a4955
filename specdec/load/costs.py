"""Costs a run starts from: learned by earlier runs, or timed now; it decides nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from specdec.assets import user_cache_dir
from specdec.checkpoint import Checkpoint
from specdec.config import Config
from specdec.cost_cache import CostKey, load_costs, processor_name, save_costs
from specdec.costs import Costs
from specdec.load.stopwatch import draft_read_s, draft_step_s, pass_times_s
from specdec.planning import RoundRecorder
from specdec.types import Drafter, RoundReport, SamplingParams, Verifier

_log = logging.getLogger("specdec")
_TIMED_SAMPLES = 9  # a timed size counts as well known


def cost_book(config: Config, checkpoint: Checkpoint, verifier: Verifier) -> CostBook:
    """Costs of the opened target, up to the passes that the configured runs can fill."""
    most = config.run.batch_size * (config.speculation.max_draft_length + 1)
    info = checkpoint.info
    directory = user_cache_dir(os.environ)
    return CostBook(verifier, info.source_sha256, info.bos_id, most, directory)


class KeptCosts:
    """A RoundRecorder that writes nothing down but, at the end, the controller's costs."""

    def __init__(self, directory: Path, key: CostKey, costs: Costs) -> None:
        self._directory, self._key, self._costs = directory, key, costs
        self._num_rounds = 0

    def open(
        self, slot: int, request_id: str, prompt_ids: Sequence[int], sampling: SamplingParams
    ) -> None:
        """Costs do not depend on requests."""

    def observe(self, slot: int, report: RoundReport) -> None:
        """The controller learns from the round; here it only counts."""
        self._num_rounds += 1

    def close(self, slot: int) -> None:
        """Costs do not depend on requests."""

    def release(self) -> None:
        """Save what was learned, if anything; a cache that cannot be written is no fault."""
        if self._num_rounds:
            save_costs(self._directory, self._key, self._costs)


class CostBook:
    """Costs of one target with any drafter.

    Args:
        verifier: the target, idle.
        model_hash: of the model it runs.
        bos_id: a token to time passes with.
        most: tokens of the longest pass that is worth timing.
        directory: where costs are kept.
    """

    def __init__(
        self, verifier: Verifier, model_hash: str, bos_id: int, most: int, directory: Path
    ) -> None:
        self._verifier = verifier
        self._model_hash = model_hash
        self._bos_id = bos_id
        self._most = most
        self._directory = directory
        self._pass_s: dict[int, float] = {}
        self._timed: dict[str, Costs] = {}  # by the drafter's device

    def saved(self, draft_device: str) -> Costs | None:
        """What earlier runs on this machine have learned of the pair; None if nothing of use."""
        costs = self._unknown()
        note = load_costs(self._directory, self._key(draft_device), costs)
        if note:
            _log.warning("%s", note)
        return costs if costs.table(0) and costs.draft.is_known else None

    def timed(self, drafter: Drafter) -> Costs:
        """A few passes and draft steps, timed now: little evidence, but none is dear to get."""
        if drafter.device not in self._timed:
            self._pass_s = self._pass_s or pass_times_s(self._verifier, self._bos_id, self._most)
            costs = self._unknown()
            levels = {size: (time_s, 0.0, _TIMED_SAMPLES) for size, time_s in self._pass_s.items()}
            step_s = draft_step_s(drafter, self._bos_id)
            read_s = draft_read_s(drafter, self._bos_id)
            costs.restore(levels, 0.0, 0.0, step_s, 0.0, draft_read_s=read_s)
            self._timed[drafter.device] = costs
        return self._timed[drafter.device]

    def of(self, drafter: Drafter) -> Costs:
        """Saved ones, else timed ones."""
        return self.saved(drafter.device) or self.timed(drafter)

    def keeper(self, drafter: Drafter, costs: Costs) -> RoundRecorder:
        """What saves the pair's costs when the engine is released."""
        return KeptCosts(self._directory, self._key(drafter.device), costs)

    def _unknown(self) -> Costs:
        return Costs(self._verifier.max_pass_tokens, self._verifier.pass_sizes)

    def _key(self, draft_device: str) -> CostKey:
        target = self._verifier
        return CostKey(
            target.device, target.numerics_id, self._model_hash, draft_device, processor_name()
        )
