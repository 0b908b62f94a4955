"""Importing a Gemma 3 GGUF file; it reads metadata and tensor places, no weights.

GGUF keeps less than a Hugging Face config: the pattern of local and global layers, the local RoPE
base and the query scale are Gemma 3's own and come from here where the metadata is silent.
"""

from __future__ import annotations

from pathlib import Path

from specdec.checkpoint import check_num_layers, check_shape, read_sizes
from specdec.convert.encodings import Encoding
from specdec.convert.gguf_header import GgufHeader, read_header
from specdec.convert.gguf_tokenizer import sentencepiece_model
from specdec.convert.source import SourceModel, SourceTensor, check_tensors, role_sizes
from specdec.errors import ModelError
from specdec.fields import Fields
from specdec.gemma3.shape import Gemma3Shape

_MAX_INTEGER = 1 << 30
_LAYER_PERIOD = 6
_THETA_LOCAL = 10_000.0
# The 27B alone scales queries by hidden size / heads in place of the head length; as GGUF does not
# say so, its number of layers tells it apart, here as in other readers of the format.
_LAYERS_27B = 62
_ROOT_NAMES = {"token_embd": "embed", "output_norm": "final_norm"}
_LAYER_NAMES = {
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_output": "o",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
    "attn_q_norm": "q_norm",
    "attn_k_norm": "k_norm",
    "attn_norm": "input_norm",
    "post_attention_norm": "post_attention_norm",
    "ffn_norm": "pre_feedforward_norm",
    "post_ffw_norm": "post_feedforward_norm",
}
_END_OF_TURN = "<end_of_turn>"


def read_gguf(path: Path) -> SourceModel:
    """The model in one GGUF file."""
    header = read_header(path)
    fields = Fields(str(path), {name: field.value for name, field in header.fields.items()})
    _check_architecture(fields)
    tensors = _tensors(path, header)
    shape = _shape(fields, tensors)
    names = {role: _source_name(role) for role, _ in role_sizes(shape)}
    check_tensors(path, shape, tensors, names)
    foreign = next((role for role in tensors if role not in names), None)
    if foreign is not None:
        raise ModelError(
            f"{path}: tensor {tensors[foreign].name} does not belong to a model "
            f"of {shape.num_layers} layers"
        )
    _check_no_overlap(path, tensors)
    last_id = shape.vocab_size - 1
    return SourceModel(
        kind="gguf",
        name=path.name,
        shape=shape,
        bos_id=fields.integer("tokenizer.ggml.bos_token_id", 0, last_id, 2),
        eos_ids=_eos_ids(fields, last_id),
        chat_template=fields.text_if_any("tokenizer.chat_template"),
        tokenizer=sentencepiece_model(header),
        tensors=tensors,
        norm_offset=0.0,  # GGUF's norm weights already are 1 + w
        files=(path,),
    )


def _check_architecture(fields: Fields) -> None:
    architecture = fields.text("general.architecture")
    if architecture != "gemma3":
        raise ModelError(
            f"{fields.where}: general.architecture is {architecture[:60]!r}: "
            "only 'gemma3' can be converted"
        )
    num_parts = fields.integer("split.count", 0, _MAX_INTEGER, 0)
    if num_parts > 1:
        raise ModelError(
            f"{fields.where}: is one of {num_parts} parts: merge them into one GGUF file first"
        )
    for name in ("gemma3.final_logit_softcapping", "gemma3.attn_logit_softcapping"):
        if name in fields:
            raise fields.error(name, "absent: Gemma 3 caps no logits")


def _shape(fields: Fields, tensors: dict[str, SourceTensor]) -> Gemma3Shape:
    """The shape; the vocabulary's size is that of the embedding."""
    if "embed" not in tensors:
        raise ModelError(
            f"{fields.where}: tensor token_embd.weight is missing: copy the file again"
        )
    num_layers = check_num_layers(
        fields.integer("gemma3.block_count", 1, _MAX_INTEGER), fields.where
    )
    hidden = read_sizes(fields, "gemma3.embedding_length")
    num_heads = read_sizes(fields, "gemma3.attention.head_count")
    head_dim = read_sizes(fields, "gemma3.attention.key_length", 256)
    if "gemma3.attention.value_length" in fields:
        fields.integer("gemma3.attention.value_length", head_dim, head_dim)
    is_27b = num_layers == _LAYERS_27B
    shape = Gemma3Shape(
        vocab_size=tensors["embed"].shape[0],
        hidden_size=hidden,
        intermediate_size=read_sizes(fields, "gemma3.feed_forward_length"),
        num_heads=num_heads,
        num_kv_heads=read_sizes(fields, "gemma3.attention.head_count_kv", num_heads),
        head_dim=head_dim,
        context_length=read_sizes(fields, "gemma3.context_length"),
        sliding_window=read_sizes(fields, "gemma3.attention.sliding_window"),
        is_global_layer=_layer_pattern(fields, num_layers),
        query_pre_attn_scalar=hidden / num_heads if is_27b else float(head_dim),
        rms_norm_eps=_shortest(fields.number("gemma3.attention.layer_norm_rms_epsilon", 1e-6)),
        rope_theta_global=_shortest(fields.number("gemma3.rope.freq_base", 1_000_000.0)),
        rope_theta_local=_shortest(fields.number("gemma3.rope.freq_base_swa", _THETA_LOCAL)),
        rope_scaling_factor=_rope_factor(fields),
    )
    check_shape(shape, fields.where)
    return shape


def _shortest(value: float) -> float:
    """The decimal that a float32 was written as: 1e-06 for 9.999999974752427e-07."""
    return float(f"{value:.7g}")


def _layer_pattern(fields: Fields, num_layers: int) -> tuple[bool, ...]:
    """Which layers are global; newer files may name the period or list the local layers."""
    name = "gemma3.attention.sliding_window_pattern"
    if name not in fields:
        period = _LAYER_PERIOD
    elif isinstance(is_local := fields.raw(name), list):
        if len(is_local) != num_layers or not all(isinstance(local, bool) for local in is_local):
            raise fields.error(name, f"{num_layers} times true or false")
        return tuple(not local for local in is_local)
    else:
        period = fields.integer(name, 1, _MAX_INTEGER)
    return tuple((layer + 1) % period == 0 for layer in range(num_layers))


def _rope_factor(fields: Fields) -> float:
    kind = fields.text("gemma3.rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise fields.error("gemma3.rope.scaling.type", "'linear' or 'none'")
    return 1.0 if kind == "none" else _shortest(fields.number("gemma3.rope.scaling.factor"))


def _eos_ids(fields: Fields, last_id: int) -> tuple[int, ...]:
    """End of text and, for models made for chat, end of turn."""
    ids = [fields.integer("tokenizer.ggml.eos_token_id", 0, last_id, 1)]
    if "tokenizer.ggml.eot_token_id" in fields:
        ids.append(fields.integer("tokenizer.ggml.eot_token_id", 0, last_id))
    if "tokenizer.chat_template" in fields:
        tokens = fields.items("tokenizer.ggml.tokens")
        ids += [index for index, token in enumerate(tokens) if token == _END_OF_TURN]
    return tuple(dict.fromkeys(ids))


def _tensors(path: Path, header: GgufHeader) -> dict[str, SourceTensor]:
    """Every tensor by role."""
    tensors = {}
    for entry in header.tensors:
        role = _role(entry.name)
        if role is None:
            reason = " (the head must be the embedding)" if entry.name == "output.weight" else ""
            raise ModelError(f"{path}: tensor {entry.name[:80]!r} is not one of Gemma 3's{reason}")
        kind = entry.type_name
        if kind not in Encoding.__members__:
            raise ModelError(
                f"{path}: {entry.name} is of type {kind}: only {', '.join(Encoding.__members__)} "
                "can be converted"
            )
        encoding = Encoding[kind]
        tensors[role] = SourceTensor(entry.name, entry.shape, encoding, path, entry.offset)
    return tensors


def _role(name: str) -> str | None:
    """Our name of a tensor; None for one that Gemma 3 does not have."""
    match name.split("."):
        case [root, "weight"]:
            return _ROOT_NAMES.get(root)
        case ["blk", layer, part, "weight"] if layer.isdecimal() and part in _LAYER_NAMES:
            return f"layers.{layer}.{_LAYER_NAMES[part]}"
    return None


def _source_name(role: str) -> str:
    """GGUF's name of a role."""
    layer, _, part = role.removeprefix("layers.").rpartition(".")
    names = _LAYER_NAMES if layer else _ROOT_NAMES
    theirs = next(name for name, ours in names.items() if ours == part)
    return f"blk.{layer}.{theirs}.weight" if layer else f"{theirs}.weight"


def _check_no_overlap(path: Path, tensors: dict[str, SourceTensor]) -> None:
    """Two tensors over the same bytes mean a damaged header."""
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
        if tensor.offset < end:
            raise ModelError(f"{path}: {tensor.name} overlaps another tensor: copy the file again")
        num_rows = tensor.shape[0] if len(tensor.shape) == 2 else 1
        end = tensor.offset + num_rows * tensor.row_bytes
