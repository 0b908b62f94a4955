"""What a draft worker is told, and when it is left alone."""

import pytest
from fakes import ByteTokenizer, rule
from faulty_drafters import perfect

from draft.messages import Command
from draft.worker import WorkerDrafter
from specdec.types import SamplingParams


def test_rounds_without_a_run_do_not_wake_a_worker_that_has_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Command] = []
    tell = WorkerDrafter._tell
    monkeypatch.setattr(WorkerDrafter, "_tell", lambda self, it: (told.append(it), tell(self, it)))
    drafter = WorkerDrafter(perfect)
    tokens = list(ByteTokenizer().encode("some prompt", add_bos=True))
    drafter.open(0, tokens, SamplingParams())
    for _ in range(2):
        told.clear()
        for _ in range(20):
            tokens.append(rule(tokens))
            drafter.confirm(0, tokens[-1:])
        assert 1 <= len(told) <= 2  # the first, so that what was drafted meanwhile is dropped
        run = drafter.take(0, len(tokens), 4, 5.0)
        for token_id in run.token_ids:
            assert token_id == rule(tokens)
            tokens.append(token_id)
        assert len(run.token_ids) == 4
        drafter.confirm(0, run.token_ids)
    drafter.release()
