"""The files beside the weights in a folder: tokenizer, template, generation settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from puna.errors import UnsupportedModelError
from puna.formats.base import Checkpoint, TokenizerSpec
from puna.formats.template_file import TEMPLATE
from puna.formats.tokenizer_files import means_the_same, read_tokenizer_file
from puna.writers.tokenizers import (
    write_llama2c_tokenizer,
    write_sentencepiece,
    write_tiktoken,
    write_tokenizer_config,
    write_tokenizer_json,
)


def require_frame(spec: TokenizerSpec | None) -> None:
    """Raise UnsupportedModelError if a text must begin or end with a token that does not exist."""
    if spec is None:
        return
    for name, is_added, token_id in (("BOS", spec.add_bos, spec.bos_id), ("EOS", spec.add_eos, spec.eos_id)):
        if is_added and token_id is None:
            raise UnsupportedModelError(
                f"{spec.source}: the tokenizer adds {name} to a text, but has no such token; no tokenizer file can say that",
                hint="Name the right tokenizer with --tokenizer, or convert to gguf, which keeps it as it is.",
            )


def write_tokenizer_folder(spec: TokenizerSpec, folder: Path, checkpoint: Checkpoint) -> None:
    """tokenizer.json, and what it does not say: tokenizer_config.json and generation_config.json."""
    write_tokenizer_json(spec, folder / "tokenizer.json")
    _write_settings(spec, folder, checkpoint)


def _write_settings(spec: TokenizerSpec, folder: Path, checkpoint: Checkpoint) -> None:
    write_tokenizer_config(spec, checkpoint.chat_template, folder / "tokenizer_config.json")
    ids = [token_id for token_id in (spec.eos_id, spec.eot_id, *spec.stop_ids) if token_id is not None]
    settings: dict[str, Any] = dict(checkpoint.generation)
    settings |= {"bos_token_id": spec.bos_id, "eos_token_id": list(dict.fromkeys(ids))}
    write_json({key: value for key, value in settings.items() if value not in (None, [])}, folder / "generation_config.json")


# Format -> file name and writer, the likelier first; if none can hold the tokenizer, it becomes a tokenizer.json.
FORMS: dict[str, tuple[tuple[str, Callable[[TokenizerSpec, Path], None]], ...]] = {
    "meta": (("tokenizer.model", write_tiktoken), ("tokenizer.model", write_sentencepiece)),
    "llama2c": (("tokenizer.bin", write_llama2c_tokenizer),),
}


def write_tokenizer(checkpoint: Checkpoint, folder: Path, form: str) -> None:
    """Write the tokenizer in the first of a format's forms that can hold it: one that reads back with the same meaning."""
    spec = checkpoint.tokenizer
    if spec is None:
        return
    for name, write in FORMS[form]:
        path = folder / name
        with suppress(UnsupportedModelError):
            write(spec, path)
            if means_the_same(read_tokenizer_file(path, len(spec.tokens)), spec):
                return
        path.unlink(missing_ok=True)
    write_tokenizer_folder(spec, folder, checkpoint)


def write_huggingface_texts(checkpoint: Checkpoint, folder: Path) -> None:
    """tokenizer.json and its settings, also tokenizer.model if the tokenizer is SentencePiece's, and the rest."""
    write_template(checkpoint, folder)
    spec = checkpoint.tokenizer
    if spec is None:
        return
    with suppress(UnsupportedModelError):
        write_sentencepiece(spec, folder / "tokenizer.model")
    try:
        write_tokenizer_folder(spec, folder, checkpoint)
    except UnsupportedModelError:
        if not (folder / "tokenizer.model").is_file():
            raise
        _write_settings(spec, folder, checkpoint)


def write_template(checkpoint: Checkpoint, folder: Path) -> None:
    if checkpoint.chat_template is not None:
        (folder / TEMPLATE).write_bytes(checkpoint.chat_template.encode())


def write_json(values: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", "utf-8")
