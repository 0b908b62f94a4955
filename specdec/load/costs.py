"""What a run learns of costs is kept for the next one; it decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from specdec.cost_cache import CostKey, save_costs
from specdec.costs import Costs
from specdec.types import RoundReport, SamplingParams


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
