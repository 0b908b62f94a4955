"""`make demo`: text from the embedded pair, speculative beside plain, and proof that they agree."""

from __future__ import annotations

import sys

import specdec
from specdec.report import summary

PROMPT = '''"""Count words in text files."""

import argparse
from collections import Counter
from pathlib import Path


def count_words(path: Path) -> Counter[str]:
'''
SETTINGS = ["run.max_new_tokens=160", "sampling.temperature=0.6", "sampling.seed=7"]


def generate(mode: str, *, is_shown: bool) -> specdec.Generation:
    """Continue the prompt in `mode` (auto or off), streaming the text if it is to be shown."""
    config = specdec.with_overrides(specdec.Config(), [*SETTINGS, f"speculation.mode={mode}"])
    with specdec.load(config) as engine:
        # the first passes of each size compile shaders, and `auto` learns what passes cost
        list(engine.generate([specdec.Prompt(id="warm-up", text=PROMPT, max_new_tokens=48)]))
        for event in engine.generate([PROMPT]):
            if is_shown:
                print(event.text, end="", flush=True)
            if event.result:
                result = event.result
    print(f"\n{summary(result, result.stats)}\n" if is_shown else summary(result, result.stats))
    return result


def main() -> int:
    print(f"prompt\n------\n{PROMPT}speculative\n-----------")
    speculative = generate("auto", is_shown=True)
    print("plain\n-----")
    plain = generate("off", is_shown=False)
    if speculative.token_ids != plain.token_ids:
        print("\nFAILED: speculative and plain text differ", file=sys.stderr)
        return 1
    ratio = plain.stats.decode_s / speculative.stats.decode_s
    print(f"\nidentical text; speculative decoding was {ratio:.2f} times as fast as plain")
    return 0


if __name__ == "__main__":
    sys.exit(main())
