"""Writes a GGUF file that holds a sentencepiece vocabulary and no weights."""

from __future__ import annotations

from pathlib import Path

from gguf import GGUFWriter
from sentencepiece import sentencepiece_model_pb2

USER_DEFINED = 4
CONTROL = 3


def write_vocabulary(tokenizer_model: Path, gguf: Path) -> None:
    """As converters to GGUF do: turn tokens as control tokens, other symbols unescaped."""
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer_model.read_bytes())
    tokens, types = [], []
    for piece in model.pieces:
        is_turn = piece.piece in ("<start_of_turn>", "<end_of_turn>")
        types.append(CONTROL if is_turn else piece.type)
        is_symbol = piece.type == USER_DEFINED
        tokens.append(piece.piece.replace("\u2581", " ") if is_symbol else piece.piece)
    writer = GGUFWriter(gguf, "gemma3")
    writer.add_context_length(2048)
    writer.add_embedding_length(512)
    writer.add_block_count(6)
    writer.add_feed_forward_length(1536)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(512)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([piece.score for piece in model.pieces])
    writer.add_token_types(types)
    writer.add_pad_token_id(model.trainer_spec.pad_id)
    writer.add_eos_token_id(model.trainer_spec.eos_id)
    writer.add_bos_token_id(model.trainer_spec.bos_id)
    writer.add_unk_token_id(model.trainer_spec.unk_id)
    writer.add_add_space_prefix(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
