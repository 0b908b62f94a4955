"""Every error a user can cause, each a single line: the value found, what is legal, what to do.

SpecdecError
├── UsageError          bad option, bad config key, bad prompt file      (exit code 2)
├── ModelError          a model directory or source file is unusable     (exit code 1)
├── DeviceError         a device is missing, too small, or lost          (exit code 1)
└── PromptError         one prompt cannot run; others go on              (exit code 1)
"""

from __future__ import annotations


class SpecdecError(Exception):
    """Base of all errors meant for the user's eyes; `exit_code` is the command line's."""

    exit_code = 1


class UsageError(SpecdecError):
    """An option, config key or input file is not legal."""

    exit_code = 2


class ModelError(SpecdecError):
    """A model source or a converted model directory cannot be used."""


class DeviceError(SpecdecError):
    """A compute device is missing, lacks a feature or memory, or was lost."""


class PromptError(SpecdecError):
    """One prompt cannot be run: it is empty, not text, or longer than the context."""
