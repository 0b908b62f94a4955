"""Command line: parsing and printing only, a file per command.

Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted. Results go to stdout, all else to
stderr.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata

from specdec.cli import compare, convert, distil, doctor, generate, plan, tune
from specdec.errors import SpecdecError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="specdec", description=metadata.metadata("specdec")["Summary"]
    )
    parser.add_argument("--version", action="version", version=metadata.version("specdec"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (generate, compare, convert, distil, doctor, plan, tune):
        command.add_parser(commands)
    args = parser.parse_args(argv)
    try:
        with _notes_on_stderr():
            return int(args.run(args))
    except SpecdecError as error:
        print(f"specdec: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("specdec: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of stdout went away; keep the interpreter's own flush from complaining
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


@contextmanager
def _notes_on_stderr() -> Iterator[None]:
    """Show what the library has to say (fallbacks, choices, memory it takes) as it says it."""
    loggers = [logging.getLogger(name) for name in ("specdec", "target")]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("specdec: %(message)s"))
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
