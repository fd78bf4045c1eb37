"""Models for tours: a tiny one with a chat template, on the reference backend, and the default model, each loaded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from puna.explain.live import LiveModel
from puna.llm import LLM
from puna.progress import SILENT
from tests.models import TinyTokenizer, bpe_tokenizer, random_tensors, tiny_config, write_gguf

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)


def tiny_file(
    folder: Path, *, kind: str = "Q4_0", template: str | None = TEMPLATE, tokenizer: TinyTokenizer | None = None
) -> Path:
    """A random model of two layers with room for a short conversation."""
    config = tiny_config(max_context=512)
    spec = tokenizer or bpe_tokenizer(config.vocab_size)
    return write_gguf(folder / "tiny.gguf", config, random_tensors(config, 1), kind, spec, template)


def live_model(path: Path, **fixed: Any) -> LiveModel:
    return LiveModel(path, lambda settings: LLM(path, report=SILENT, **settings, **fixed))
