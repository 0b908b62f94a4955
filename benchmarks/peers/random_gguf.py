"""A GGUF of a Gemma 3 shape with random Q4_0 weights and a made-up vocabulary; runs nothing.

python benchmarks/peers/random_gguf.py OUT [--shape 27b]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench_target import SHAPES
from gguf import GGMLQuantizationType, TokenType

from specdec.gemma3.shape import GROUP, Gemma3Shape

_Q4_0_BYTES = 18  # of a block: fp16 scale, 32 nibbles
_RANDOM_BLOCKS = 1 << 21
_ALIGNMENT = 32  # GGUF's default
_SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
_BYTES = 256


def matrices(shape: Gemma3Shape) -> dict[str, tuple[int, int]]:
    """Rows and columns by GGUF's names."""
    hidden, ffn = shape.hidden_size, shape.intermediate_size
    sizes = {"token_embd": (shape.vocab_size, hidden)}
    for layer in range(shape.num_layers):
        block = f"blk.{layer}"
        sizes[f"{block}.attn_q"] = (shape.query_size, hidden)
        sizes[f"{block}.attn_k"] = sizes[f"{block}.attn_v"] = (shape.kv_size, hidden)
        sizes[f"{block}.attn_output"] = (hidden, shape.query_size)
        sizes[f"{block}.ffn_gate"] = sizes[f"{block}.ffn_up"] = (ffn, hidden)
        sizes[f"{block}.ffn_down"] = (hidden, ffn)
    return sizes


def norms(shape: Gemma3Shape) -> dict[str, int]:
    """Lengths of vectors by GGUF's names."""
    sizes = {"output_norm": shape.hidden_size}
    for layer in range(shape.num_layers):
        for name in ("attn", "post_attention", "ffn", "post_ffw"):
            sizes[f"blk.{layer}.{name}_norm"] = shape.hidden_size
        for name in ("attn_q", "attn_k"):
            sizes[f"blk.{layer}.{name}_norm"] = shape.head_dim
    return sizes


def add_shape(writer: gguf.GGUFWriter, shape: Gemma3Shape) -> None:
    """The keys of a Gemma 3."""
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta_global)
    writer.add_sliding_window(shape.sliding_window)


def add_vocabulary(writer: gguf.GGUFWriter, vocab_size: int) -> None:
    """Control tokens, bytes and numbered words: enough for llama.cpp to load and to serve."""
    num_words = vocab_size - len(_SPECIAL) - _BYTES
    pieces = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(_BYTES))]
    pieces += [f"\u2581w{index}" for index in range(num_words)]
    types = [TokenType.CONTROL] * len(_SPECIAL) + [TokenType.BYTE] * _BYTES
    types += [TokenType.NORMAL] * num_words
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.encode() for piece in pieces])
    writer.add_token_scores([-float(index) for index in range(vocab_size)])
    writer.add_token_types([int(kind) for kind in types])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)


def random_blocks() -> bytes:
    """Q4_0 blocks, 38 MB of them."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (_RANDOM_BLOCKS, _Q4_0_BYTES), np.uint8)
    scales = rng.uniform(0.002, 0.006, _RANDOM_BLOCKS).astype(np.float16)
    blocks[:, :2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.tobytes()


def write_random_gguf(shape: Gemma3Shape, out: Path) -> int:
    """Write the file; returns its bytes. Matrices repeat the same blocks, norms are 1."""
    writer = gguf.GGUFWriter(out, "gemma3")
    add_shape(writer, shape)
    add_vocabulary(writer, shape.vocab_size)
    sizes: list[tuple[bool, int]] = []
    for name, (num_rows, num_columns) in matrices(shape).items():
        row_bytes = num_columns // GROUP * _Q4_0_BYTES
        stored = (num_rows, row_bytes)
        sizes.append((True, num_rows * row_bytes))
        writer.add_tensor_info(
            f"{name}.weight", stored, np.dtype(np.uint8), sizes[-1][1], GGMLQuantizationType.Q4_0
        )
    for name, length in norms(shape).items():
        sizes.append((False, 4 * length))
        writer.add_tensor_info(f"{name}.weight", (length,), np.dtype(np.float32), 4 * length)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    blocks, ones = random_blocks(), np.ones(shape.hidden_size, np.float32).tobytes()
    with out.open("ab") as file:
        file.write(bytes(-file.tell() % _ALIGNMENT))
        for is_matrix, num_bytes in sizes:
            data = blocks if is_matrix else ones
            for start in range(0, num_bytes, len(data)):
                file.write(data[: num_bytes - start])
            file.write(bytes(-num_bytes % _ALIGNMENT))
        return file.tell()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="file to make, best in memory (/dev/shm)")
    parser.add_argument("--shape", choices=SHAPES, default="27b")
    args = parser.parse_args()
    print(f"{args.out}: {write_random_gguf(SHAPES[args.shape], args.out) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
