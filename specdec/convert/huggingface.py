"""Importing a Hugging Face Gemma 3 directory; it reads headers and configs, no weights."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from specdec.convert.encodings import Encoding
from specdec.convert.huggingface_config import HuggingFaceConfig, parse_config
from specdec.convert.source import SourceModel, SourceTensor, check_tensors, role_sizes
from specdec.errors import ModelError
from specdec.fields import read_json_object
from specdec.safetensors_header import read_header

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_TEXT_PREFIXES = ("model.language_model.", "language_model.model.", "model.")
_SKIPPED_PREFIXES = (
    "vision_tower.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
    # the head is the embedding (config.json says so), whatever a file stores twice
    "lm_head.",
    "language_model.lm_head.",
)
_LAYER_NAMES = {
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.o_proj": "o",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
    "self_attn.q_norm": "q_norm",
    "self_attn.k_norm": "k_norm",
    "input_layernorm": "input_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "pre_feedforward_norm",
    "post_feedforward_layernorm": "post_feedforward_norm",
}
_LAYER = re.compile(r"layers\.(\d+)\.(.+)\.weight")
_ENCODINGS = {"F32": Encoding.F32, "F16": Encoding.F16, "BF16": Encoding.BF16}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_huggingface(directory: Path) -> SourceModel:
    """The model in a directory of config.json and safetensors files."""
    if not (directory / "config.json").is_file():
        raise ModelError(
            f"{directory}: has no config.json: name a Hugging Face directory or a GGUF file"
        )
    config = parse_config(read_json_object(directory / "config.json"))
    config = _with_generation_config(directory, config)
    shards = _shards(directory)
    tensors, skipped = _text_tensors(shards)
    names = {role: _source_name(role) for role, _ in role_sizes(config.shape)}
    check_tensors(directory, config.shape, tensors, names)
    foreign = next((role for role in tensors if role not in names), None)
    if foreign is not None:
        raise ModelError(
            f"{directory}: tensor {tensors[foreign].name} does not belong to a model "
            f"of {config.shape.num_layers} layers"
        )
    tokenizer = directory / "tokenizer.model"
    return SourceModel(
        kind="huggingface",
        name=directory.resolve().name,
        shape=config.shape,
        bos_id=config.bos_id,
        eos_ids=config.eos_ids,
        chat_template=_chat_template(directory),
        tokenizer=tokenizer.read_bytes() if tokenizer.is_file() else None,
        tensors=tensors,
        norm_offset=1.0,
        files=(directory / "config.json", *shards),
        skipped_tensors=tuple(skipped),
    )


def _shards(directory: Path) -> list[Path]:
    """The safetensors files that make up the model, all present."""
    index = directory / _INDEX
    if not index.is_file():
        if (directory / _SINGLE).is_file():
            return [directory / _SINGLE]
        raise _no_weights(directory)
    weight_map = read_json_object(index).section("weight_map")
    names = sorted({weight_map.text(tensor) for tensor in weight_map.names()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{index}: names {name[:80]!r}: it must be a safetensors file here")
        if not (directory / name).is_file():
            raise ModelError(f"{directory}: {name} is missing: download every file {_INDEX} names")
    return [directory / name for name in names]


def _no_weights(directory: Path) -> ModelError:
    """Say what was found instead of safetensors."""
    found = sorted(path.name for pattern in _PICKLES for path in directory.glob(pattern))
    if found:
        return ModelError(
            f"{directory}: holds {found[0]} but no safetensors: pickled weights can run code "
            "and are never loaded; get the model as safetensors"
        )
    ggufs = sorted(path.name for path in directory.glob("*.gguf"))
    if ggufs:
        return ModelError(f"{directory}: holds {ggufs[0]}: name that file, not its directory")
    return ModelError(f"{directory}: holds neither {_SINGLE} nor {_INDEX}: download the weights")


def _text_tensors(shards: list[Path]) -> tuple[dict[str, SourceTensor], list[str]]:
    """Tensors of the text model by role, and the names of those left out."""
    tensors: dict[str, SourceTensor] = {}
    skipped = []
    for tensor in _all_tensors(shards):
        if tensor.name.startswith(_SKIPPED_PREFIXES):
            skipped.append(tensor.name)
            continue
        role = _role(tensor.name)
        if role is None:
            raise ModelError(f"{tensor.path}: tensor {tensor.name[:80]!r} is not one of Gemma 3's")
        if role in tensors:
            raise ModelError(f"{tensor.path}: {tensor.name} is stored twice: keep one of them")
        tensors[role] = tensor
    return tensors, skipped


def _all_tensors(shards: list[Path]) -> Iterator[SourceTensor]:
    for path in shards:
        for name, entry in read_header(path).items():
            # skipped tensors may be of any type: theirs does not matter
            encoding = _ENCODINGS.get(entry.dtype, Encoding.F32)
            is_skipped = name.startswith(_SKIPPED_PREFIXES)
            if entry.dtype not in _ENCODINGS and not is_skipped:
                raise ModelError(
                    f"{path}: {name[:80]!r} is of type {entry.dtype}: "
                    f"only {', '.join(_ENCODINGS)} can be converted"
                )
            yield SourceTensor(name, entry.shape, encoding, path, entry.offset)


def _role(name: str) -> str | None:
    """Our name of a text tensor; None for one that Gemma 3 does not have."""
    prefix = next((prefix for prefix in _TEXT_PREFIXES if name.startswith(prefix)), "")
    rest = name.removeprefix(prefix)
    if not prefix or rest in ("embed_tokens.weight", "norm.weight"):
        return {"embed_tokens.weight": "embed", "norm.weight": "final_norm"}.get(rest)
    match = _LAYER.fullmatch(rest)
    if match is None or match[2] not in _LAYER_NAMES:
        return None
    return f"layers.{match[1]}.{_LAYER_NAMES[match[2]]}"


def _source_name(role: str) -> str:
    """Hugging Face's name of a role, less the prefix."""
    if role in ("embed", "final_norm"):
        return "embed_tokens.weight" if role == "embed" else "norm.weight"
    _, layer, part = role.split(".")
    theirs = next(name for name, ours in _LAYER_NAMES.items() if ours == part)
    return f"layers.{layer}.{theirs}.weight"


def _with_generation_config(directory: Path, config: HuggingFaceConfig) -> HuggingFaceConfig:
    """End tokens of generation_config.json win: instruction models list <end_of_turn> there."""
    path = directory / "generation_config.json"
    if not path.is_file():
        return config
    fields = read_json_object(path)
    if "eos_token_id" not in fields:
        return config
    ids = fields.integers("eos_token_id", 0, config.shape.vocab_size - 1)
    return dataclasses.replace(config, eos_ids=ids)


def _chat_template(directory: Path) -> str | None:
    """The template's text, from wherever this directory keeps it."""
    plain = directory / "chat_template.jinja"
    if plain.is_file():
        return plain.read_text(encoding="utf-8", errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = directory / name
        if path.is_file():
            template = read_json_object(path).text_if_any("chat_template")
            if template is not None:
                return template
    return None
