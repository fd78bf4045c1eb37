"""Real files of families beyond LLaMA, where PUNA_REAL_MODELS names their folder. The ids are those of llama.cpp 0.3.36."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from puna import LLM
from puna.formats import open_checkpoint
from puna.tokenizers import build_tokenizer


def real_model(name: str) -> Path:
    path = Path(os.environ.get("PUNA_REAL_MODELS", ".")) / name
    if not path.is_file():
        pytest.skip(f"{name} is not here; PUNA_REAL_MODELS may name its folder")
    return path


GEMMA = "gemma-3-270m-q4_k_m.gguf"
TEXTS = {
    "The capital of France is": [2, 818, 5279, 529, 7001, 563],
    "  two spaces,\n\n\ntabs\t\tand 日本語 😀 123": [
        2, 138, 13498, 9952, 236764, 109, 39218, 255969, 624, 33375, 238582, 163543, 236743, 236770, 236778, 236800,
    ],
    "<start_of_turn>user\nHi<end_of_turn>\n": [2, 105, 2364, 107, 10979, 106, 107],
}  # fmt: skip


def test_gemma_has_its_layers_and_its_two_rotary_tables() -> None:
    config = open_checkpoint(real_model(GEMMA)).config
    assert (config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim) == (18, 4, 1, 256)
    assert [number for number, layer in enumerate(config.layers) if not layer.attention.window] == [5, 11, 17]
    assert [rope.theta for rope in config.ropes] == [1e6, 1e4] and config.sliding_window == 512
    assert config.embedding_scale == 640**0.5 and config.tie_embeddings


@pytest.mark.parametrize("text", TEXTS)
def test_gemma_cuts_a_text_as_llama_cpp_does(text: str) -> None:
    spec = open_checkpoint(real_model(GEMMA)).tokenizer
    assert spec is not None and build_tokenizer(spec).encode(text, special=True) == TEXTS[text]


@pytest.mark.full
@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_gemma_writes_python(device: str) -> None:
    """As llama.cpp does from the same file, and transformers from its numbers in single precision."""
    with LLM.load(real_model(GEMMA), device=device, max_context=64) as llm:
        text = llm.generate("def fibonacci(n):\n", max_tokens=14, temperature=0.0).text
    assert text.startswith("    if n == 0:\n        return 0\n")
