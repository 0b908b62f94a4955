"""Peak memory of `specdec convert` on a synthetic sharded model of 8 GB and more.

Writes random bfloat16 weights in the shape of a Gemma 3 of about 4 thousand million parameters as a
Hugging Face directory, converts it in a process of its own, compares that process's peak resident
memory with the bound (twice the largest tensor + 1 GiB) and removes everything again.
Needs some 11 GB of free disk: `python benchmarks/convert_memory.py --dir FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from specdec.assets import embedded_model_dir

HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 2560, 10_240, 8, 4, 256, 262_144
SHARD_BYTES = 2 << 30
GIB = 1 << 30
Sizes = dict[str, tuple[int, ...]]


def tensor_sizes(num_layers: int) -> Sizes:
    query, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    sizes: Sizes = {"model.embed_tokens": (VOCABULARY, HIDDEN), "model.norm": (HIDDEN,)}
    for layer in range(num_layers):
        at = f"model.layers.{layer}."
        for name, rows in (("q", query), ("k", kv), ("v", kv)):
            sizes[f"{at}self_attn.{name}_proj"] = (rows, HIDDEN)
        sizes[f"{at}self_attn.o_proj"] = (HIDDEN, query)
        sizes[f"{at}mlp.gate_proj"] = sizes[f"{at}mlp.up_proj"] = (FFN, HIDDEN)
        sizes[f"{at}mlp.down_proj"] = (HIDDEN, FFN)
        for name in ("q", "k"):
            sizes[f"{at}self_attn.{name}_norm"] = (HEAD_DIM,)
        for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            sizes[f"{at}{name}_layernorm"] = (HIDDEN,)
    return {f"{name}.weight": size for name, size in sizes.items()}


def write_source(directory: Path, num_layers: int) -> int:
    """Write the model; returns the bytes of its weights."""
    config = {
        "architectures": ["Gemma3ForCausalLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": num_layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "sliding_window": 1024,
    }
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    shutil.copy(embedded_model_dir("target") / "tokenizer.model", directory)
    groups: list[Sizes] = [{}]
    for name, size in tensor_sizes(num_layers).items():
        if 2 * sum(map(math.prod, groups[-1].values())) > SHARD_BYTES:
            groups.append({})
        groups[-1][name] = size
    weight_map: dict[str, str] = {}
    for index, sizes in enumerate(groups):
        file_name = f"model-{index + 1:05d}-of-{len(groups):05d}.safetensors"
        write_shard(directory / file_name, sizes)
        weight_map |= dict.fromkeys(sizes, file_name)
    index_text = json.dumps({"weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(index_text)
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def write_shard(path: Path, sizes: Sizes) -> None:
    """One file; every tensor repeats 16 MiB of normal weights, shifted by a little each time."""
    normal = np.random.default_rng(0).standard_normal(8 << 20, dtype=np.float32) * np.float32(0.02)
    pattern = (normal.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    header, at = {}, 0
    for name, size in sizes.items():
        num_bytes = 2 * math.prod(size)
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [at, at + num_bytes]}
        at += num_bytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        left = at
        while left:
            left -= file.write(pattern[: min(left, len(pattern) - 2 * (left % 997))])


def peak_bytes(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process; the high-water mark of its resident memory."""
    status, peak_kib = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):  # gone once the process is a zombie
                peak_kib = int(line.split()[1])
        time.sleep(0.02)
    return peak_kib << 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="folder for the models (default: the system's)")
    parser.add_argument("--layers", type=int, default=36, help="36 layers make 8.1 GB")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir, prefix="convert-memory-") as folder:
        source, out = Path(folder) / "source", Path(folder) / "out"
        source_bytes = write_source(source, args.layers)
        print(f"source: {source_bytes / 1e9:.2f} GB of random weights", flush=True)
        start_s = time.monotonic()
        command = [sys.executable, "-m", "specdec", "convert", str(source), str(out)]
        peak = peak_bytes(process := subprocess.Popen(command))
        elapsed_s = time.monotonic() - start_s
        out_bytes = sum(path.stat().st_size for path in out.glob("*.safetensors"))
    bound = 2 * 2 * VOCABULARY * HIDDEN + GIB
    row = {
        "benchmark": "convert_memory",
        "source_gb": round(source_bytes / 1e9, 3),
        "out_gb": round(out_bytes / 1e9, 3),
        "elapsed_s": round(elapsed_s, 1),
        "million_weights_per_s": round(source_bytes / 2e6 / elapsed_s, 1),
        "peak_mib": round(peak / 2**20, 1),
        "bound_mib": round(bound / 2**20, 1),
        "is_within": process.returncode == 0 and peak <= bound,
    }
    print(f"peak {row['peak_mib']} MiB, bound {row['bound_mib']} MiB, {row['elapsed_s']} s")
    print(json.dumps(row))
    return 0 if row["is_within"] else 1


if __name__ == "__main__":
    sys.exit(main())
