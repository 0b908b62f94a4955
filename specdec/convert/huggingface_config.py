"""Hugging Face's config.json to a Gemma3Shape, in both forms it has had; it knows no tensors.

Fields that a config leaves out have the defaults of Gemma 3's configuration class there: the
published multimodal configs name little more than the sizes that differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from specdec.checkpoint import check_num_layers, check_shape, read_sizes
from specdec.errors import ModelError
from specdec.fields import Fields
from specdec.gemma3.shape import Gemma3Shape

_TEXT, _MULTIMODAL = "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"
_MAX_INTEGER = 1 << 30
_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
_THETA_GLOBAL, _THETA_LOCAL = 1_000_000.0, 10_000.0
_EMPTY = Fields("", {})


@dataclass(frozen=True, slots=True)
class HuggingFaceConfig:
    """What the import needs from config.json."""

    shape: Gemma3Shape
    bos_id: int
    eos_ids: tuple[int, ...]


def parse_config(fields: Fields) -> HuggingFaceConfig:
    """The text model that config.json describes; ModelError for any that is not Gemma 3."""
    _check_architecture(fields)
    text = fields.section("text_config") if "text_config" in fields else fields
    _check_features(fields, text)
    num_layers = check_num_layers(
        text.integer("num_hidden_layers", 1, _MAX_INTEGER, 26), text.where
    )
    theta_global, theta_local, factor = _rope(text)
    shape = Gemma3Shape(
        vocab_size=read_sizes(text, "vocab_size", 262_208),
        hidden_size=read_sizes(text, "hidden_size", 2304),
        intermediate_size=read_sizes(text, "intermediate_size", 9216),
        num_heads=read_sizes(text, "num_attention_heads", 8),
        num_kv_heads=read_sizes(text, "num_key_value_heads", 4),
        head_dim=read_sizes(text, "head_dim", 256),
        context_length=read_sizes(text, "max_position_embeddings", 131_072),
        sliding_window=read_sizes(text, "sliding_window", 4096),
        is_global_layer=_layer_pattern(text, num_layers),
        query_pre_attn_scalar=text.number("query_pre_attn_scalar", 256.0),
        rms_norm_eps=text.number("rms_norm_eps", 1e-6),
        rope_theta_global=theta_global,
        rope_theta_local=theta_local,
        rope_scaling_factor=factor,
    )
    check_shape(shape, text.where)
    last_id = shape.vocab_size - 1
    ids = text if "bos_token_id" in text or "eos_token_id" in text else fields
    bos_id = ids.integer("bos_token_id", 0, last_id, 2)
    return HuggingFaceConfig(shape, bos_id, _eos_ids(fields, text, last_id))


def _eos_ids(fields: Fields, text: Fields, last_id: int) -> tuple[int, ...]:
    """End tokens; the outer config's come first, as they do for generation."""
    for section in (fields, text):
        if "eos_token_id" in section:
            return section.integers("eos_token_id", 0, last_id)
    return (1,)


def _check_architecture(fields: Fields) -> None:
    """Refuse every architecture that is not one of the two."""
    if "architectures" in fields:
        names = fields.items("architectures")
        if not any(name in (_TEXT, _MULTIMODAL) for name in names):
            shown = ", ".join(repr(name)[:60] for name in names[:4]) or "an empty list"
            raise ModelError(
                f"{fields.where}: architecture is {shown}: only {_TEXT} and {_MULTIMODAL} "
                "can be converted"
            )
        return
    kind = fields.text("model_type", "nothing")
    if kind not in ("gemma3_text", "gemma3"):
        raise ModelError(
            f"{fields.where}: model_type is {kind[:60]!r}: only gemma3_text and gemma3 "
            "can be converted"
        )


def _check_features(fields: Fields, text: Fields) -> None:
    """Refuse what changes the arithmetic and is not Gemma 3's."""
    for name in ("final_logit_softcapping", "attn_logit_softcapping"):
        if name in text:
            raise text.error(name, "null: Gemma 3 caps no logits")
    for name in ("attention_bias", "use_bidirectional_attention"):
        if name in text and text.flag(name):
            raise text.error(name, "false: Gemma 3 has none")
    for section in (fields, text):
        if not section.flag("tie_word_embeddings", True):
            raise section.error("tie_word_embeddings", "true: the head is the embedding")
    activation = text.text("hidden_activation", "gelu_pytorch_tanh")
    if activation != "gelu_pytorch_tanh":
        raise text.error("hidden_activation", "'gelu_pytorch_tanh'")


def _layer_pattern(text: Fields, num_layers: int) -> tuple[bool, ...]:
    """Which layers are global: listed, or every sixth."""
    if "layer_types" in text:
        kinds = text.items("layer_types")
        if len(kinds) != num_layers or not all(kind in (_GLOBAL, _LOCAL) for kind in kinds):
            raise text.error("layer_types", f"{num_layers} times {_LOCAL!r} or {_GLOBAL!r}")
        return tuple(kind == _GLOBAL for kind in kinds)
    plain = "sliding_window_pattern"
    name = plain if plain in text else f"_{plain}"
    period = text.integer(name, 1, _MAX_INTEGER, 6)
    return tuple((layer + 1) % period == 0 for layer in range(num_layers))


def _rope(text: Fields) -> tuple[float, float, float]:
    """Global base, local base and the factor that divides positions in global layers."""
    theta_global = text.number("rope_theta", _THETA_GLOBAL)
    theta_local = text.number("rope_local_base_freq", _THETA_LOCAL)
    scaling = text.section("rope_scaling") if "rope_scaling" in text else _EMPTY
    if "rope_parameters" not in text:
        return theta_global, theta_local, _rope_factor(scaling)
    parameters = text.section("rope_parameters")  # the newer form; it wins where both are given
    has_layer_types = _GLOBAL in parameters or _LOCAL in parameters
    if not has_layer_types:
        raise text.error("rope_parameters", f"an object with {_GLOBAL!r} and {_LOCAL!r}")
    wide = parameters.section(_GLOBAL) if _GLOBAL in parameters else scaling
    local = parameters.section(_LOCAL) if _LOCAL in parameters else _EMPTY
    if _rope_factor(local) != 1:
        raise local.error("factor", "1: only global layers are scaled")
    return (
        wide.number("rope_theta", theta_global),
        local.number("rope_theta", theta_local),
        _rope_factor(wide),
    )


def _rope_factor(scaling: Fields) -> float:
    """The linear factor; every other kind of scaling is refused."""
    name = "rope_type" if "rope_type" in scaling else "type"
    kind = scaling.text(name, "default")
    if kind == "default":
        return 1.0
    if kind != "linear":
        raise scaling.error(name, "'linear' or 'default'")
    return scaling.number("factor")
