"""Where models lie and what belongs to them; it opens no device."""

from __future__ import annotations

from pathlib import Path

from specdec.assets import embedded_model_dir
from specdec.checkpoint import Checkpoint, open_checkpoint
from specdec.config import Config
from specdec.tokenizer import Tokenizer


def model_dir(name: str, role: str) -> Path:
    """Directory of the model `name`; `embedded` is the shipped pair's `role`."""
    return embedded_model_dir(role) if name == "embedded" else Path(name)


def target_sha256(config: Config) -> str:
    """Hash of the source that the configured target was converted from."""
    return open_checkpoint(model_dir(config.target.model, "target")).info.source_sha256


def open_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of a converted model."""
    info = checkpoint.info
    path = checkpoint.directory / "tokenizer.model"
    return Tokenizer.from_file(path, info.shape.vocab_size, info.bos_id)


def vocabulary_mismatch(draft: Checkpoint, target: Checkpoint) -> str:
    """Why the draft's token ids mean something else than the target's; empty if they agree.

    Models of one family may differ in how many ids without a piece they add at the end.
    """
    draft_file, target_file = (c.directory / "tokenizer.model" for c in (draft, target))
    if draft_file.read_bytes() == target_file.read_bytes():
        return ""
    ours, theirs = open_tokenizer(draft), open_tokenizer(target)
    if ours.num_pieces != theirs.num_pieces:
        return (
            f"the draft's tokenizer has {ours.num_pieces} pieces, the target's {theirs.num_pieces}"
        )
    for token_id in range(ours.num_pieces):
        if ours.piece_bytes(token_id) != theirs.piece_bytes(token_id):
            return f"token {token_id} is another text to the draft than to the target"
    return ""
