"""Times the configured pair for a moment: what passes and draft steps cost; it keeps nothing."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from specdec.checkpoint import open_checkpoint
from specdec.config import Config, with_value
from specdec.costs import CostTable
from specdec.load.costs import cost_book
from specdec.load.drafters import cheapest_model, open_drafter
from specdec.load.models import model_dir
from specdec.load.stopwatch import by_num_tokens, draft_step_s, pass_times_s
from specdec.load.target import open_target

_CONTEXT_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class TimedPair:
    """Costs of a target and a draft on this machine, and where they ran."""

    costs: CostTable
    target_device: str
    draft_device: str


def time_pair(config: Config) -> TimedPair:
    """Open target and draft as configured (`auto` drafts with a model) and time a few of each."""
    target = open_checkpoint(model_dir(config.target.model, "target"))
    draft = open_checkpoint(model_dir(config.draft.model, "draft"))
    length = min(_CONTEXT_LENGTH, target.info.shape.context_length)
    bos_id = target.info.bos_id
    with ExitStack() as held:
        verifier = open_target(config, target, length, lambda done, total: None)
        held.callback(verifier.release)
        if config.draft.device == "auto":
            drafter = cheapest_model(with_value(config, "draft.device", "cpu"), draft, length)
        else:
            opened = open_drafter(config, target, length, cost_book(config, target, verifier))
            assert opened is not None, "plans are made for a draft"
            drafter = opened
        held.callback(drafter.release)
        step_s = draft_step_s(drafter, bos_id)
        pass_s = by_num_tokens(pass_times_s(verifier, bos_id, verifier.max_pass_tokens))
        return TimedPair(CostTable(pass_s, step_s), verifier.device, drafter.device)
