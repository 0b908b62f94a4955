"""Small random Gemma 3 models in Hugging Face's terms, made of a seed; they know no library.

Each exercises other options: several key heads, a query scale that is not the head length, linear
RoPE scaling, a window within and beyond one attention tile, enough layers for local and global.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specdec.gemma3.shape import Gemma3Shape


@dataclass(frozen=True, slots=True)
class RandomGemma3:
    """One golden case: a shape, a seed for weights and prompt, and the prompt's length."""

    name: str
    shape: Gemma3Shape
    seed: int
    num_tokens: int

    def token_ids(self) -> list[int]:
        """The prompt."""
        raw = np.random.PCG64(self.seed + 1).random_raw(self.num_tokens)
        return [int(word) for word in raw % np.uint64(self.shape.vocab_size)]

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Weights by their Hugging Face names; norms far enough from 0 to tell w from 1 + w."""
        source = np.random.PCG64(self.seed)
        tensors = {}
        for name, sizes in self._sizes().items():
            # raw words: the stream of a bit generator never changes, those of distributions may
            words = source.random_raw(math.prod(sizes)) >> np.uint64(40)
            uniform = words.astype(np.float32).reshape(sizes) * np.float32(2.0**-23) - 1
            reach = 0.5 if len(sizes) == 1 else 2.0 / math.sqrt(sizes[1])
            tensors[name] = uniform * np.float32(reach)
        return tensors

    def _sizes(self) -> dict[str, tuple[int, ...]]:
        shape, width = self.shape, self.shape.hidden_size
        sizes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (shape.vocab_size, width),
            "model.norm.weight": (width,),
        }
        for index in range(shape.num_layers):
            layer = {
                "self_attn.q_proj": (shape.query_size, width),
                "self_attn.k_proj": (shape.kv_size, width),
                "self_attn.v_proj": (shape.kv_size, width),
                "self_attn.o_proj": (width, shape.query_size),
                "mlp.gate_proj": (shape.intermediate_size, width),
                "mlp.up_proj": (shape.intermediate_size, width),
                "mlp.down_proj": (width, shape.intermediate_size),
                "self_attn.q_norm": (shape.head_dim,),
                "self_attn.k_norm": (shape.head_dim,),
                "input_layernorm": (width,),
                "post_attention_layernorm": (width,),
                "pre_feedforward_layernorm": (width,),
                "post_feedforward_layernorm": (width,),
            }
            sizes |= {f"model.layers.{index}.{name}.weight": size for name, size in layer.items()}
        return sizes


CASES = (
    RandomGemma3(
        "scaled_rope",
        Gemma3Shape(
            vocab_size=160,
            hidden_size=64,
            intermediate_size=96,
            num_heads=4,
            num_kv_heads=1,
            head_dim=32,
            context_length=256,
            sliding_window=16,
            is_global_layer=((False,) * 5 + (True,)) * 2,
            query_pre_attn_scalar=24.0,
            rope_scaling_factor=8.0,
        ),
        seed=101,
        num_tokens=100,
    ),
    RandomGemma3(
        "several_key_heads",
        Gemma3Shape(
            vocab_size=160,
            hidden_size=96,
            intermediate_size=160,
            num_heads=6,
            num_kv_heads=2,
            head_dim=16,
            context_length=256,
            sliding_window=70,
            is_global_layer=(False,) * 5 + (True,) + (False,) * 2,
            query_pre_attn_scalar=16.0,
        ),
        seed=202,
        num_tokens=150,
    ),
    RandomGemma3(
        "every_head_its_key",
        Gemma3Shape(
            vocab_size=160,
            hidden_size=64,
            intermediate_size=128,
            num_heads=2,
            num_kv_heads=2,
            head_dim=64,
            context_length=256,
            sliding_window=33,
            is_global_layer=((False,) * 5 + (True,)) * 2 + (False,),
            query_pre_attn_scalar=32.0,
            rms_norm_eps=1e-5,
            rope_theta_global=100_000.0,
            rope_theta_local=5_000.0,
            rope_scaling_factor=2.0,
        ),
        seed=303,
        num_tokens=90,
    ),
)
