"""Two cohorts by turns: the drafter works for one while the target checks the other."""

import pytest
from batch_fakes import PLAIN, SeededVerifier, engine, prompts, results, what
from fakes import RuleDrafter, RuleVerifier

from specdec.cohorts import CohortChoice
from specdec.types import DraftRun, StoppingRule


class TwoCohorts(CohortChoice):
    """Two, whatever it is told."""

    def num_cohorts(self, num_sequences: int) -> int:
        return 2 if num_sequences > 1 else 1


class PreparedDrafter(RuleDrafter):
    """Counts the passes between the preparing of a run and its taking."""

    def __init__(self, verifier: RuleVerifier) -> None:
        super().__init__(0.7)
        self.verifier = verifier
        self.prepared: dict[tuple[int, int], int] = {}
        self.num_passes_between: list[int] = []

    def prepare(
        self, slot: int, position: int, max_length: int, stopping: StoppingRule | None = None
    ) -> None:
        self.prepared[slot, position] = self.verifier.num_passes

    def take(
        self,
        slot: int,
        position: int,
        max_length: int,
        timeout_s: float,
        stopping: StoppingRule | None = None,
    ) -> DraftRun:
        if (slot, position) in self.prepared:
            passes = self.verifier.num_passes - self.prepared.pop((slot, position))
            self.num_passes_between.append(passes)
        return super().take(slot, position, max_length, timeout_s, stopping)


@pytest.mark.parametrize("batch_size", [2, 5, 16])
def test_one_cohort_is_drafted_for_while_the_other_is_checked(batch_size: int) -> None:
    verifier = SeededVerifier()
    drafts = PreparedDrafter(verifier)
    running = engine(drafts, None, batch_size, verifier)
    running._choice = TwoCohorts()
    assert what(results(running.generate(prompts(60)))) == PLAIN
    ahead = [passes for passes in drafts.num_passes_between if passes]
    assert set(ahead) == {1} and len(ahead) > 0.8 * len(drafts.num_passes_between)
    assert len(verifier.calls) > 30
