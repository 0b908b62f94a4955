"""specdec: fast, exact text generation by speculative decoding.

import specdec

with specdec.load(specdec.Config()) as engine:
    for event in engine.generate(["def fibonacci(n):"]):
        print(event.text, end="")
"""

from specdec.chat import ChatMessage
from specdec.config import Config, read_config, with_overrides
from specdec.engine import Engine
from specdec.errors import DeviceError, ModelError, PromptError, SpecdecError, UsageError
from specdec.generation import Event, Generation
from specdec.load import load
from specdec.prompts import Prompt, read_prompts
from specdec.stats import SpecStats
from specdec.types import SamplingParams

__all__ = [
    "ChatMessage",
    "Config",
    "DeviceError",
    "Engine",
    "Event",
    "Generation",
    "ModelError",
    "Prompt",
    "PromptError",
    "SamplingParams",
    "SpecStats",
    "SpecdecError",
    "UsageError",
    "load",
    "read_config",
    "read_prompts",
    "with_overrides",
]
