"""A tokenizer in files of its own: one file, or what lies in a Hugging Face folder -> TokenizerSpec."""

from __future__ import annotations

from pathlib import Path

from puna.formats.base import TokenizerSpec


def read_tokenizer_file(path: Path, vocab_size: int | None) -> TokenizerSpec:
    """A tokenizer file of any kind, told by its content. `vocab_size`: rows of the embedding, where a model is known.

    Raises ModelNotFoundError, ModelFormatError, UnsupportedModelError.
    """
    raise NotImplementedError


def read_tokenizer_folder(folder: Path, vocab_size: int) -> tuple[TokenizerSpec | None, tuple[str, ...]]:
    """The tokenizer of a Hugging Face folder, None where it has none, and what a person should hear about it."""
    raise NotImplementedError
