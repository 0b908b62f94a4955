"""Tiny Gemma 3 sources to convert: Hugging Face directories and GGUF files of random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sentencepiece import sentencepiece_model_pb2

from specdec.checkpoint import Checkpoint
from specdec.convert import convert
from specdec.convert.source import role_sizes
from specdec.errors import ModelError
from specdec.gemma3.shape import Gemma3Shape

Floats = NDArray[np.float32]
Type = gguf.GGMLQuantizationType

SHAPE = Gemma3Shape(
    vocab_size=300,  # not a multiple of 32: the last tile is padded
    hidden_size=256,  # one block of the K-quants
    intermediate_size=256,
    num_heads=2,
    num_kv_heads=1,
    head_dim=128,
    context_length=64,
    sliding_window=16,
    is_global_layer=(False, True),
    query_pre_attn_scalar=128.0,
)
HUGGINGFACE_NAMES = {
    "embed": "embed_tokens",
    "final_norm": "norm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "input_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "pre_feedforward_norm": "pre_feedforward_layernorm",
    "post_feedforward_norm": "post_feedforward_layernorm",
}
GGUF_NAMES = {
    "embed": "token_embd",
    "final_norm": "output_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "input_norm": "attn_norm",
    "post_attention_norm": "post_attention_norm",
    "pre_feedforward_norm": "ffn_norm",
    "post_feedforward_norm": "post_ffw_norm",
}


def random_weights(shape: Gemma3Shape = SHAPE, seed: int = 0) -> dict[str, Floats]:
    """Every tensor by role; norms are stored weights, so the factor is 1 + w."""
    rng = np.random.default_rng(seed)
    return {
        role: (rng.standard_normal(size) * 0.05).astype(np.float32)
        for role, size in role_sizes(shape)
    }


def to_bfloat16(weights: Floats) -> NDArray[np.uint16]:
    return (weights.view(np.uint32) >> 16).astype(np.uint16)


def vocabulary(num_pieces: int = SHAPE.vocab_size) -> list[tuple[str, float, int]]:
    """Pieces, scores and types: Gemma's four control pieces, all bytes, then letters."""
    pieces = [("<pad>", 0.0, 3), ("<eos>", 0.0, 3), ("<bos>", 0.0, 3), ("<unk>", 0.0, 2)]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    pieces += [(chr(0x4E00 + index), -float(index), 1) for index in range(num_pieces)]
    return pieces[:num_pieces]


def tokenizer_model(num_pieces: int = SHAPE.vocab_size) -> bytes:
    model = sentencepiece_model_pb2.ModelProto()
    for piece, score, kind in vocabulary(num_pieces):
        model.pieces.add(piece=piece, score=score, type=kind)
    trainer = model.trainer_spec
    trainer.model_type, trainer.byte_fallback = trainer.BPE, True
    trainer.pad_id, trainer.eos_id, trainer.bos_id, trainer.unk_id = 0, 1, 2, 3
    model.normalizer_spec.name = "identity"
    return bytes(model.SerializeToString())


def huggingface_config(shape: Gemma3Shape = SHAPE) -> dict[str, object]:
    kinds = {True: "full_attention", False: "sliding_attention"}
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.context_length,
        "sliding_window": shape.sliding_window,
        "query_pre_attn_scalar": shape.query_pre_attn_scalar,
        "layer_types": [kinds[is_global] for is_global in shape.is_global_layer],
        "bos_token_id": 2,
        "eos_token_id": 1,
        "final_logit_softcapping": None,
    }


def huggingface_tensors(
    weights: Mapping[str, Floats], prefix: str = "model."
) -> dict[str, NDArray[np.generic]]:
    """By Hugging Face's names."""
    return {f"{prefix}{_theirs(role, HUGGINGFACE_NAMES)}.weight": w for role, w in weights.items()}


def write_huggingface(
    directory: Path,
    tensors: Mapping[str, NDArray[np.generic]] | None = None,
    config: Mapping[str, object] | None = None,
    num_shards: int = 1,
) -> Path:
    """A directory with config, tokenizer and weights in one file or several."""
    tensors = huggingface_tensors(random_weights()) if tensors is None else tensors
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config or huggingface_config()))
    (directory / "tokenizer.model").write_bytes(tokenizer_model())
    if num_shards == 1:
        save_file(dict(tensors), directory / "model.safetensors")
        return directory
    weight_map = {}
    for index in range(num_shards):
        name = f"model-{index + 1:05d}-of-{num_shards:05d}.safetensors"
        part = dict(list(tensors.items())[index::num_shards])
        save_file(part, directory / name)
        weight_map |= dict.fromkeys(part, name)
    text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(text)
    return directory


def write_safetensors(
    path: Path, entries: Mapping[str, tuple[str, tuple[int, ...], bytes]]
) -> None:
    """A file of tensors given by type, shape and bytes: any type, and any mistake."""
    header: dict[str, object] = {}
    at = 0
    for name, (dtype, shape, data) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    write_raw_safetensors(path, header, b"".join(data for _, _, data in entries.values()))


def write_raw_safetensors(path: Path, header: object, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def encode_gguf(weights: Floats, kind: Type) -> NDArray[np.generic]:
    """Weights in a GGUF encoding; for K-quants, which the package cannot make, random blocks."""
    if kind not in (Type.Q4_K, Type.Q6_K):
        return np.asarray(gguf.quants.quantize(weights, kind))
    rng = np.random.default_rng(weights.size)
    block_bytes = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = rng.integers(0, 256, (*weights.shape[:-1], weights.shape[-1] // 256, block_bytes))
    raw = blocks.astype(np.uint8)
    scale = np.frombuffer(np.float16(0.001).tobytes(), np.uint8)
    if kind is Type.Q4_K:  # d and dmin come first
        raw[..., :2] = raw[..., 2:4] = scale
    else:  # d comes last
        raw[..., -2:] = scale
    return raw.reshape(*weights.shape[:-1], -1)


def write_gguf(
    path: Path,
    weights: Mapping[str, Floats] | None = None,
    kinds: Callable[[str], Type] = lambda role: Type.F32,
    edit: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
    shape: Gemma3Shape = SHAPE,
    architecture: str = "gemma3",
) -> dict[str, Floats]:
    """A GGUF file; returns the weights it holds after a round trip through their encodings."""
    writer = gguf.GGUFWriter(path, architecture)
    _add_metadata(writer, shape)
    edit(writer)
    held = {}
    for role, w in (random_weights(shape) if weights is None else weights).items():
        kind = kinds(role) if w.ndim == 2 else Type.F32
        raw = encode_gguf(w, kind)
        writer.add_tensor(f"{_theirs(role, GGUF_NAMES)}.weight", raw, raw_dtype=kind)
        held[role] = np.asarray(gguf.quants.dequantize(raw, kind), np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def _add_metadata(writer: gguf.GGUFWriter, shape: Gemma3Shape) -> None:
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_rope_freq_base(shape.rope_theta_global)
    writer.add_sliding_window(shape.sliding_window)
    pieces, scores, kinds = zip(*vocabulary(shape.vocab_size), strict=True)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)


def converted_weights(checkpoint: Checkpoint) -> Iterator[tuple[str, Floats]]:
    """Every tensor of a converted model by role, fused ones taken apart again."""
    shape = checkpoint.info.shape
    query, key = shape.query_size, shape.query_size + shape.kv_size
    yield "embed", checkpoint.matrix("embed").dequantize()
    yield "final_norm", checkpoint.vector("final_norm")
    for layer in range(shape.num_layers):
        at = f"layers.{layer}."
        qkv = checkpoint.matrix(f"{at}qkv").dequantize()
        yield from zip((f"{at}q", f"{at}k", f"{at}v"), np.split(qkv, (query, key)), strict=True)
        yield f"{at}o", checkpoint.matrix(f"{at}o").dequantize()
        tiles = checkpoint.matrix(f"{at}gate_up").dequantize()
        tiles = tiles.reshape(-1, 2, 32, shape.hidden_size)
        yield f"{at}gate", tiles[:, 0].reshape(-1, shape.hidden_size)
        yield f"{at}up", tiles[:, 1].reshape(-1, shape.hidden_size)
        yield f"{at}down", checkpoint.matrix(f"{at}down").dequantize()
        for name in ("input", "post_attention", "pre_feedforward", "post_feedforward", "q", "k"):
            yield f"{at}{name}_norm", checkpoint.vector(f"{at}{name}_norm")


def relative_error(ours: Floats, theirs: Floats) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def conversion_error(source: Path, **options: Path) -> str:
    """The one line that converting ends with; nothing may be left beside the source."""
    out = source.parent / "out"
    before = sorted(source.parent.iterdir())
    with pytest.raises(ModelError) as caught:
        convert(source, out, **options)  # type: ignore[arg-type]
    assert sorted(source.parent.iterdir()) == before
    message = str(caught.value)
    assert message and "\n" not in message and len(message) < 500
    return message


def assert_damage_is_refused(path: Path, header_bytes: int, source: Path) -> None:
    """Change random bytes of a header many times: at worst, each ends in one line."""
    good, out = path.read_bytes(), path.parent / "damaged"
    rng = np.random.default_rng(1)
    num_refused = 0
    for _ in range(40):
        data = bytearray(good)
        for at in rng.integers(0, header_bytes, 2):
            data[at] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            convert(source, out)
        except ModelError as error:
            num_refused += 1
            assert "\n" not in str(error)
        shutil.rmtree(out, ignore_errors=True)
    assert num_refused > 5


def _theirs(role: str, names: Mapping[str, str]) -> str:
    layer, _, part = role.removeprefix("layers.").rpartition(".")
    if not layer:
        return names[part]
    return f"{'layers' if names is HUGGINGFACE_NAMES else 'blk'}.{layer}.{names[part]}"
