"""A Hugging Face folder: `config.json` + safetensors or `pytorch_model*.bin` + tokenizer files -> Checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from puna.errors import UnsupportedModelError
from puna.formats.base import Checkpoint

FILES = ("*.safetensors", "pytorch_model*.bin", "config.json", "*.index.json")


def matches(names: Collection[str]) -> bool:
    """Whether a folder with files of these names holds a Hugging Face checkpoint, perhaps not a whole one."""
    return any(fnmatch(name, pattern) for name in names for pattern in FILES)


def open_huggingface(folder: Path, tokenizer: Path | None = None) -> Checkpoint:
    """Raises ModelNotFoundError, ModelFormatError, UnsupportedModelError."""
    raise UnsupportedModelError(
        f"{folder} holds a Hugging Face checkpoint, which puna does not read yet", hint="Fetch the model as GGUF."
    )
