"""What lies beside the weights in a folder: tokenizer, template, generation settings."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from puna.errors import UnsupportedModelError
from puna.formats.base import Checkpoint, TokenizerSpec
from puna.formats.template_file import TEMPLATE
from puna.writers.tokenizers import (
    write_llama2c_tokenizer,
    write_sentencepiece,
    write_tiktoken,
    write_tokenizer_config,
    write_tokenizer_json,
)

# Format -> file name and writer, the likelier first; a format reads any of its own.
FORMS = {
    "meta": (
        ("tokenizer.model", write_tiktoken),
        ("tokenizer.model", write_sentencepiece),
        ("tokenizer.json", write_tokenizer_json),
    ),
    "safetensors": (("tokenizer.json", write_tokenizer_json), ("tokenizer.model", write_sentencepiece)),
    "llama2c": (("tokenizer.bin", write_llama2c_tokenizer), ("tokenizer.json", write_tokenizer_json)),
}


def write_tokenizer(spec: TokenizerSpec | None, folder: Path, form: str) -> None:
    """The tokenizer in the first of a format's forms that can hold it. UnsupportedModelError where none can."""
    if spec is None:
        return
    *others, (last, write_last) = FORMS[form]
    for name, write in others:
        with suppress(UnsupportedModelError):
            write(spec, folder / name)
            return
    write_last(spec, folder / last)


def write_huggingface_texts(checkpoint: Checkpoint, folder: Path) -> None:
    """tokenizer.json and its settings, tokenizer.model too where the tokenizer is SentencePiece's, and the rest."""
    write_template(checkpoint, folder)
    spec = checkpoint.tokenizer
    if spec is None:
        return
    write_tokenizer(spec, folder, "safetensors")
    with suppress(UnsupportedModelError):
        write_sentencepiece(spec, folder / "tokenizer.model")
    write_tokenizer_config(spec, checkpoint.chat_template, folder / "tokenizer_config.json")
    ids = [token_id for token_id in (spec.eos_id, spec.eot_id, *spec.stop_ids) if token_id is not None]
    settings: dict[str, Any] = dict(checkpoint.generation) | {
        "bos_token_id": spec.bos_id,
        "eos_token_id": list(dict.fromkeys(ids)),
    }
    write_json({key: value for key, value in settings.items() if value not in (None, [])}, folder / "generation_config.json")


def write_template(checkpoint: Checkpoint, folder: Path) -> None:
    if checkpoint.chat_template is not None:
        (folder / TEMPLATE).write_bytes(checkpoint.chat_template.encode())


def write_json(values: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", "utf-8")
