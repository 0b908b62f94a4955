"""A run over a file with fake models, as a process that can be killed: PROMPTS OUTPUT PAUSE_S."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from fakes import ByteTokenizer, RuleDrafter, RuleVerifier

from specdec.controller import FixedLength
from specdec.engine import BatchSettings, Engine
from specdec.requests import GenerationDefaults
from specdec.runs.run import Run
from specdec.types import Segment

HEADER = {"numerics_id": "fake"}


class PausingVerifier(RuleVerifier):
    """Takes a while for every pass."""

    def __init__(self, pause_s: float) -> None:
        super().__init__()
        self.max_pass_tokens = 64
        self.pause_s = pause_s

    def verify(self, segments: Sequence[Segment]) -> list[tuple[int, ...]]:
        time.sleep(self.pause_s)
        return super().verify(segments)


def fake_engine(pause_s: float = 0.0, verifier: RuleVerifier | None = None) -> Engine:
    return Engine(
        verifier or PausingVerifier(pause_s),
        RuleDrafter(0.5),
        FixedLength(3),
        ByteTokenizer(),
        GenerationDefaults(max_new_tokens=6),
        batch=BatchSettings(8),
    )


def main() -> None:
    prompts, output, pause_s = sys.argv[1:]
    with closing(Run(Path(prompts), Path(output))) as run:
        for _ in run.generate(fake_engine(float(pause_s)), HEADER):
            pass


if __name__ == "__main__":
    main()
