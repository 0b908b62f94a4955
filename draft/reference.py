"""Drafts with a language model in this process; it does not know the model's arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from draft.choice import choose_near_best
from specdec.types import DraftRun, LanguageModel, SamplingParams, StoppingRule


class ModelDrafter:
    """Chooses draft tokens one by one with the target's own noise, from the draft's logits."""

    def __init__(
        self, model: LanguageModel, device: str, release: Callable[[], None] = lambda: None
    ) -> None:
        """`release` gives back what the model holds outside Python, if anything."""
        self._model = model
        self._release = release
        self._device = device
        self._tokens: dict[int, list[int]] = {}  # confirmed
        self._fed: dict[int, list[int]] = {}  # in the model's cache: confirmed, then drafted
        self._sampling: dict[int, SamplingParams] = {}

    @property
    def device(self) -> str:
        """Name of the device the draft model runs on."""
        return self._device

    def open(self, slot: int, prompt_ids: Sequence[int], sampling: SamplingParams) -> None:
        """Start a sequence; the prompt is fed with the first run."""
        self._model.truncate(slot, 0)
        self._tokens[slot] = list(prompt_ids)
        self._fed[slot] = []
        self._sampling[slot] = sampling

    def confirm(self, slot: int, token_ids: Sequence[int]) -> None:
        """Append confirmed tokens; the cache keeps the fed tokens that agree with them."""
        tokens, fed = self._tokens[slot], self._fed[slot]
        agreeing = min(len(tokens), len(fed))
        tokens.extend(token_ids)
        while agreeing < min(len(tokens), len(fed)) and fed[agreeing] == tokens[agreeing]:
            agreeing += 1
        # the last confirmed token is always the next to be fed: its logits are what is wanted
        agreeing = min(agreeing, len(tokens) - 1)
        del fed[agreeing:]
        self._model.truncate(slot, agreeing)

    def take(
        self,
        slot: int,
        position: int,
        max_length: int,
        timeout_s: float,
        stopping: StoppingRule | None = None,
    ) -> DraftRun:
        """Draft up to `max_length` tokens, less where the model's context or `stopping` ends it."""
        tokens, fed, sampling = self._tokens[slot], self._fed[slot], self._sampling[slot]
        assert position == len(tokens), "runs continue the confirmed tokens"
        drafted: list[int] = []
        margins: list[float] = []
        room = self._model.context_length - position
        for offset in range(min(max_length, room)):
            if stopping is not None and not stopping.should_continue(margins):
                break
            pending = [*tokens[len(fed) :], *drafted[-1:]]
            logits = self._model.feed(slot, pending, num_logits=1)
            fed.extend(pending)
            token_id, margin = choose_near_best(logits[0], position + offset, sampling)
            drafted.append(token_id)
            margins.append(margin)
        return DraftRun(position, tuple(drafted), tuple(margins))

    def prepare(
        self, slot: int, position: int, max_length: int, stopping: StoppingRule | None = None
    ) -> None:
        """Everything happens in `take`."""

    def in_flight(self, slot: int, run: DraftRun) -> None:
        """Nothing runs beside the caller's thread."""

    def close(self, slot: int) -> None:
        """Forget the sequence."""
        self._model.truncate(slot, 0)
        self._tokens.pop(slot, None)
        self._fed.pop(slot, None)
        self._sampling.pop(slot, None)

    def release(self) -> None:
        """Give back the model's device."""
        self._release()
