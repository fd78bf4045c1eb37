"""TokenizerSpec -> the files and keys in which each format has its tokenizer.

Each function raises UnsupportedModelError, and writes nothing, where its form cannot hold the tokenizer.
"""

from __future__ import annotations

from pathlib import Path

from puna.formats.base import TokenizerSpec


def write_sentencepiece(spec: TokenizerSpec, path: Path) -> None:
    """SentencePiece's `tokenizer.model`."""
    raise NotImplementedError


def write_tiktoken(spec: TokenizerSpec, path: Path) -> None:
    """Llama 3's `tokenizer.model`."""
    raise NotImplementedError


def write_tokenizer_json(spec: TokenizerSpec, path: Path) -> None:
    """`tokenizer.json` of Hugging Face's `tokenizers`."""
    raise NotImplementedError


def write_tokenizer_config(spec: TokenizerSpec, chat_template: str | None, path: Path) -> None:
    """`tokenizer_config.json` of `transformers`."""
    raise NotImplementedError


def write_llama2c_tokenizer(spec: TokenizerSpec, path: Path) -> None:
    """llama2.c's `tokenizer.bin`."""
    raise NotImplementedError


def gguf_tokenizer_metadata(spec: TokenizerSpec) -> dict[str, object]:
    """The `tokenizer.ggml.` keys of a GGUF file: text, tokens as bytes, arrays as NumPy arrays or lists of bytes."""
    raise NotImplementedError
