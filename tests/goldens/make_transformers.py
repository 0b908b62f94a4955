"""Write transformers_*.npz: logits of small random Gemma 3 models, from transformers in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from random_gemma3 import CASES, RandomGemma3
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from specdec.gemma3.shape import Gemma3Shape

HERE = Path(__file__).resolve().parent


def main() -> None:
    for case in CASES:
        path = HERE / f"transformers_{case.name}.npz"
        version = f"transformers {transformers.__version__}"
        np.savez_compressed(path, made_by=version, token_ids=case.token_ids(), logits=logits(case))
        print(f"{path.name}: {case.num_tokens} tokens, {path.stat().st_size:,} bytes")


def logits(case: RandomGemma3) -> NDArray[np.float32]:
    """Logits (T, V) of the case's prompt."""
    model = Gemma3ForCausalLM(config(case.shape)).eval()
    state = {name: torch.from_numpy(tensor) for name, tensor in case.tensors().items()}
    missing = model.load_state_dict(state, strict=False)
    assert missing.missing_keys == ["lm_head.weight"], missing  # tied to the embedding
    assert not missing.unexpected_keys
    model.tie_weights()
    with torch.no_grad():
        result: NDArray[np.float32] = model(torch.tensor([case.token_ids()])).logits[0].numpy()
    return result


def config(shape: Gemma3Shape) -> Gemma3TextConfig:
    """The shape as transformers says it."""
    scaling = {"rope_type": "linear", "factor": shape.rope_scaling_factor}
    kinds = ["full_attention" if g else "sliding_attention" for g in shape.is_global_layer]
    return Gemma3TextConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.context_length,
        sliding_window=shape.sliding_window,
        layer_types=kinds,
        query_pre_attn_scalar=int(shape.query_pre_attn_scalar),
        rms_norm_eps=shape.rms_norm_eps,
        rope_parameters={
            "full_attention": scaling | {"rope_theta": shape.rope_theta_global},
            "sliding_attention": {"rope_type": "default", "rope_theta": shape.rope_theta_local},
        },
        pad_token_id=0,
        attn_implementation="eager",
        dtype="float32",
    )


if __name__ == "__main__":
    main()
