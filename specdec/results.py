"""Makes results and events of what sequences have come to; it runs nothing."""

from __future__ import annotations

from dataclasses import replace

from specdec.batch import EngineParts, Running
from specdec.generation import Event, Generation
from specdec.prompts import Prompt
from specdec.requests import Refusal
from specdec.rounds import Progress
from specdec.sequence import FinishReason
from specdec.stats import SpecStats
from specdec.types import SamplingParams


class Results:
    """Results of one engine."""

    def __init__(self, parts: EngineParts) -> None:
        self._parts = parts

    def progress(self, progress: Progress) -> Event:
        """What a pass did for a sequence, with the result if that was its last."""
        running = progress.running
        result = self._finished(running) if running.sequence.finish_reason else None
        text = running.sequence.take_text()
        request_id = running.request.prompt.id
        return Event(request_id, text, progress.emitted, progress.num_accepted, result)

    def cut_short(self, running: Running) -> Event:
        """A sequence that is cancelled: what it has come to."""
        running.sequence.finish("cancelled")
        return self.progress(Progress(running, (), 0))

    def never_run(self, prompt: Prompt, sampling: SamplingParams) -> Event:
        """A prompt that is cancelled before it ran."""
        return Event(prompt.id, "", (), 0, self._empty(prompt, sampling, "cancelled"))

    def refused(self, refusal: Refusal) -> Event:
        """A prompt that cannot run."""
        empty = self._empty(refusal.prompt, refusal.sampling, "error")
        return Event(refusal.prompt.id, "", (), 0, replace(empty, error=str(refusal.error)))

    def _finished(self, running: Running) -> Generation:
        sequence = running.sequence
        assert sequence.finish_reason is not None, "it runs no more"
        return replace(
            self._empty(running.request.prompt, sequence.sampling, sequence.finish_reason),
            text=sequence.text,
            token_ids=tuple(sequence.emitted_ids),
            log_probs=tuple(sequence.log_probs) if sequence.sampling.log_probs else None,
            stats=running.stats,
        )

    def _empty(
        self, prompt: Prompt, sampling: SamplingParams, finish_reason: FinishReason
    ) -> Generation:
        """A result without text: what any result of this engine says of prompt and devices."""
        drafter = self._parts.drafter
        return Generation(
            id=prompt.id,
            prompt=prompt.shown_text,
            text="",
            token_ids=(),
            finish_reason=finish_reason,
            mode=self._parts.controller.mode,
            target_device=self._parts.verifier.device,
            draft_device=drafter.device if drafter else "off",
            numerics_id=self._parts.verifier.numerics_id,
            seed=sampling.seed,
            stats=SpecStats(),
        )
