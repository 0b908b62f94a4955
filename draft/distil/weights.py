"""Weights between converted models, PyTorch modules and Hugging Face directories; no training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from draft.distil.model import Gemma3, is_matrix
from draft.distil.rounding import to_int4_grid
from specdec.checkpoint import Checkpoint
from specdec.gemma3.shape import Gemma3Shape
from specdec.types import FloatArray
from specdec.weights import TILE_ROWS

_FIRST_FACTOR = 0.1  # of what an inserted layer adds
_NORMS = {
    "input_layernorm": "input_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "pre_feedforward_norm",
    "post_feedforward_layernorm": "post_feedforward_norm",
    "self_attn.q_norm": "q_norm",
    "self_attn.k_norm": "k_norm",
}


def load_checkpoint(checkpoint: Checkpoint, dtype: torch.dtype) -> Gemma3:
    """The module with a converted model's weights, as its integers and scales give them."""
    info = checkpoint.info
    model = Gemma3(info.shape, info.head_bits, dtype)
    tensors = {"embed_tokens.weight": checkpoint.matrix("embed").dequantize()}
    tensors["norm.weight"] = checkpoint.vector("final_norm") - np.float32(1)
    for layer in range(info.shape.num_layers):
        tensors |= _layer_tensors(checkpoint, info.shape, layer)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    return model


def _layer_tensors(checkpoint: Checkpoint, shape: Gemma3Shape, layer: int) -> dict[str, FloatArray]:
    """One layer's tensors by their names in the module."""
    at = f"layers.{layer}."
    qkv = checkpoint.matrix(f"{at}qkv").dequantize()
    ends = [shape.query_size, shape.query_size + shape.kv_size]
    query, key, value = np.split(qkv, ends)
    gate_up = checkpoint.matrix(f"{at}gate_up").dequantize()
    tiles = gate_up.reshape(-1, 2, TILE_ROWS, shape.hidden_size)
    tensors: dict[str, FloatArray] = {
        "self_attn.q_proj": query,
        "self_attn.k_proj": key,
        "self_attn.v_proj": value,
        "self_attn.o_proj": checkpoint.matrix(f"{at}o").dequantize(),
        "mlp.gate_proj": tiles[:, 0].reshape(-1, shape.hidden_size),
        "mlp.up_proj": tiles[:, 1].reshape(-1, shape.hidden_size),
        "mlp.down_proj": checkpoint.matrix(f"{at}down").dequantize(),
    }
    for module, norm in _NORMS.items():
        tensors[module] = checkpoint.vector(f"{at}{norm}") - np.float32(1)
    return {f"{at}{module}.weight": array for module, array in tensors.items()}


def grid_state(model: Gemma3) -> dict[str, Tensor]:
    """The parameters with INT4 matrices on their grid, float32, on the CPU."""
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        is_wide = name == "embed_tokens.weight" and model.head_bits == 8
        on_grid = to_int4_grid(tensor) if is_matrix(name) and not is_wide else tensor.float()
        state[name] = on_grid.detach().cpu().contiguous()
    return state


def save_huggingface(model: Gemma3, out: Path, bos_id: int, eos_ids: tuple[int, ...]) -> None:
    """Write a Hugging Face directory whose conversion finds every INT4 matrix on its grid."""
    out.mkdir(parents=True, exist_ok=True)
    named = {f"model.{name}": tensor for name, tensor in grid_state(model).items()}
    save_file(named, out / "model.safetensors", metadata={"format": "pt"})
    config = huggingface_config(model.shape, bos_id, eos_ids)
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def huggingface_config(
    shape: Gemma3Shape, bos_id: int, eos_ids: tuple[int, ...]
) -> dict[str, object]:
    """config.json of a Gemma3ForCausalLM of this shape."""
    wide: dict[str, object] = {"rope_type": "default", "rope_theta": shape.rope_theta_global}
    if shape.rope_scaling_factor != 1:
        wide |= {"rope_type": "linear", "factor": shape.rope_scaling_factor}
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
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": shape.context_length,
        "rms_norm_eps": shape.rms_norm_eps,
        "bos_token_id": bos_id,
        "eos_token_id": list(eos_ids),
        "pad_token_id": 0,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "query_pre_attn_scalar": shape.query_pre_attn_scalar,
        "sliding_window": shape.sliding_window,
        "layer_types": [kinds[is_global] for is_global in shape.is_global_layer],
        "rope_parameters": {
            "full_attention": wide,
            "sliding_attention": {"rope_type": "default", "rope_theta": shape.rope_theta_local},
        },
        "dtype": "float32",
    }


def deepened(model: Gemma3, is_global_layer: tuple[bool, ...]) -> Gemma3:
    """The model with layers inserted before its last, which at first add next to nothing."""
    shape = dataclasses.replace(model.shape, is_global_layer=is_global_layer)
    deeper = Gemma3(shape, model.head_bits, model.dtype).to(model.device)
    state = deeper.state_dict()
    last, new_last = model.shape.num_layers - 1, shape.num_layers - 1
    for name, tensor in model.state_dict().items():
        moved = name.replace(f"layers.{last}.", f"layers.{new_last}.", 1)
        state[moved if name.startswith(f"layers.{last}.") else name] = tensor
    for layer in range(last, new_last):
        for norm in ("post_attention_layernorm", "post_feedforward_layernorm"):
            state[f"layers.{layer}.{norm}.weight"].fill_(_FIRST_FACTOR - 1)
    deeper.load_state_dict(state)
    return deeper
