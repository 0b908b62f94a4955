"""The sizes and constants of one Gemma 3 text model; it knows no file format and no weights."""

from __future__ import annotations

from dataclasses import dataclass

GROUP = 32  # weights and activations share one scale per group of 32 along K


@dataclass(frozen=True, slots=True)
class Gemma3Shape:
    """Sizes in Hugging Face's terms; every matrix has K (its input length) a multiple of GROUP."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    sliding_window: int  # a local layer's token sees itself and the sliding_window - 1 before it
    is_global_layer: tuple[bool, ...]  # one entry per layer; Gemma 3: every sixth is global
    query_pre_attn_scalar: float  # queries are scaled by its inverse square root
    rms_norm_eps: float = 1e-6
    rope_theta_global: float = 1_000_000.0
    rope_theta_local: float = 10_000.0
    rope_scaling_factor: float = 1.0  # global layers divide positions by it (8 in 4B, 12B, 27B)

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.is_global_layer)

    @property
    def query_size(self) -> int:
        """Rows of the query projection: heads x head length."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Rows of the key (and of the value) projection."""
        return self.num_kv_heads * self.head_dim
