"""llama-server's throughput by the number of requests at once; it knows nothing of our target.

    python benchmarks/peers/server_slots.py /dev/shm/27b.gguf [--libraries DIR]

One server with as many slots as the most requests. All requests of a round start together, each
with its own short random prompt, and end after the same number of tokens. Tokens per second: all
tokens over the time from start to end of the round (`wall`, prompts included), and the sum of what
the server says of each request's decoding (`decode`). A table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from llama_cpp import BUILD, library_folder

_START_PATIENCE_S = 180.0
_REQUEST_PATIENCE_S = 120.0
_POLL_S = 0.25


@contextmanager
def server(args: argparse.Namespace) -> Iterator[str]:
    """A running llama-server's address; RuntimeError if it does not come up."""
    folder, slots = library_folder(args.libraries), max(args.requests)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    length = slots * (args.prompt + args.tokens + 64)
    command = [folder / "llama-server", "-m", args.gguf, "-ngl", "999", "-np", str(slots)]
    command += ["-c", str(length), "--host", "127.0.0.1", "--port", str(port), "--no-webui"]
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder)}
    log = None if args.verbose else subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(process, address)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_up(process: subprocess.Popen[bytes], address: str) -> None:
    end = time.monotonic() + _START_PATIENCE_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"llama-server ended with {process.returncode}; see --verbose")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except OSError:  # refused, or 503 while it loads
            time.sleep(_POLL_S)
    raise RuntimeError(f"llama-server is not up after {_START_PATIENCE_S:.0f} s")


def complete(address: str, prompt: list[int], num_tokens: int) -> dict[str, float]:
    """The timings of one greedy request."""
    request = {"prompt": prompt, "n_predict": num_tokens, "ignore_eos": True}
    request |= {"temperature": 0.0, "cache_prompt": False}
    sent = urllib.request.Request(
        f"{address}/completion",
        json.dumps(request).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(sent, timeout=_REQUEST_PATIENCE_S) as answer:
        timings: dict[str, float] = json.load(answer)["timings"]
        return timings


def round_of(address: str, count: int, args: argparse.Namespace) -> tuple[float, float]:
    """Tokens per second of `count` requests at once: over the wall, and summed over requests."""
    prompts = [random.sample(range(300, 30000), args.prompt) for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        start = time.perf_counter()
        answers = list(pool.map(lambda prompt: complete(address, prompt, args.tokens), prompts))
        elapsed_s = time.perf_counter() - start
    num_tokens = sum(answer["predicted_n"] for answer in answers)
    return num_tokens / elapsed_s, sum(answer["predicted_per_second"] for answer in answers)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--libraries", type=Path, help="folder of llama-server and its libraries")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=96, help="tokens generated for each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--verbose", action="store_true", help="show the server's log")
    return parser.parse_args()


def main() -> int:
    """Measure and print; 1 if the server fails."""
    args = arguments()
    random.seed(1)
    found: list[dict[str, float]] = []
    failure = ""
    try:
        with server(args) as address:
            round_of(address, 1, args)
            for count in args.requests:
                rates = [round_of(address, count, args) for _ in range(args.rounds)]
                wall, decode = zip(*rates, strict=True)
                entry = {"requests": count, "n": args.rounds, "least": round(min(wall), 1)}
                entry |= {"wall": round(statistics.median(wall), 1), "most": round(max(wall), 1)}
                found.append(entry | {"decode": round(statistics.median(decode), 1)})
                print("  ".join(f"{key} {value}" for key, value in found[-1].items()), flush=True)
    except (OSError, RuntimeError, urllib.error.URLError) as error:
        failure = str(error)
        print(f"{BUILD}: {failure}", file=sys.stderr)
    what = {"subject": BUILD, "tokens": args.tokens, "prompt": args.prompt, "failure": failure}
    print(json.dumps({"benchmark": "server_slots", **what, "label": "measured", "rows": found}))
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
