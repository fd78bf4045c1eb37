"""A folder of Meta's: `consolidated.NN.pth` + `params.json` + `tokenizer.model` -> Checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from puna.errors import UnsupportedModelError
from puna.formats.base import Checkpoint


def matches(names: Collection[str]) -> bool:
    """Whether a folder with files of these names holds a checkpoint of Meta's, perhaps not a whole one."""
    return any(fnmatch(name, "*.pth") for name in names)


def open_meta(folder: Path, tokenizer: Path | None = None) -> Checkpoint:
    """Raises ModelNotFoundError, ModelFormatError, UnsupportedModelError."""
    raise UnsupportedModelError(
        f"{folder} holds a Meta checkpoint (.pth), which puna does not read yet", hint="Fetch the model as GGUF."
    )
