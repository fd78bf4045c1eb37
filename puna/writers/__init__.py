"""Checkpoint -> file or folder of a format. The table lists all writers; `convert.py` makes the writing safe."""

from __future__ import annotations

from puna.writers.base import Writer
from puna.writers.gguf import GGUF
from puna.writers.llama2c import LLAMA2C
from puna.writers.meta import META
from puna.writers.safetensors import SAFETENSORS

WRITERS: dict[str, Writer] = {"gguf": GGUF, "safetensors": SAFETENSORS, "meta": META, "llama2c": LLAMA2C}
