"""llama.cpp computes from the GGUF files that puna writes of each family what puna computes. Skipped where it is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.batch import Logits
from puna.formats.base import Checkpoint, TokenizerSpec
from puna.model.weights import layer_of
from puna.writers.base import WriteJob
from puna.writers.gguf import GGUF
from tests.conformance.test_backends import forward, loaded
from tests.families import FAMILIES, ORIGINAL_CONTEXT, VOCAB_SIZE

TOLERANCE = 2e-3  # of the row's largest logit: its products of float32 are not in puna's order
SHORT, LONG = 40, 110  # tokens; the latter beyond the window and the original context
CONTEXT = 256
PAGES = list(range(8))  # of 16 tokens
LETTERS = TokenizerSpec(
    kind="bpe", tokens=[b"t%d" % i for i in range(VOCAB_SIZE)], token_types=np.ones(VOCAB_SIZE, np.int32), merges=[b"t1 t2"],
    bos_id=1, eos_id=2,
)  # fmt: skip
# What llama.cpp computes in another way, and puna says so when it writes the file, or what it does not load.
OTHERWISE = {
    "mistral": "ignores the window of this architecture",
    "mistral, window of two": "ignores the window of this architecture",
    "qwen2, a window": "ignores the window of this architecture",
    "qwen2, windows in every other layer": "ignores the window of this architecture",
    "phi3, a window": "ignores the window of this architecture",
    "mixtral, a window": "ignores the window of this architecture",
}
NAMES = [name for name, family in FAMILIES.items() if not family.not_gguf and name not in OTHERWISE]


def written(checkpoint: Checkpoint, path: Path) -> Path:
    job = WriteJob(replace(checkpoint, path=path, tokenizer=LETTERS), dict.fromkeys(checkpoint.tensors, "F32"))
    GGUF.require(job)
    GGUF.write(job, path)
    return path


def with_context(checkpoint: Checkpoint, length: int) -> Checkpoint:
    """llama.cpp takes the long factors of "longrope" if its context, of 256 tokens or more, is larger than the original one."""
    rope = checkpoint.config.rope
    if rope.scaling != "longrope" or length > ORIGINAL_CONTEXT:
        return checkpoint
    return replace(checkpoint, config=replace(checkpoint.config, ropes=(replace(rope, original_context=CONTEXT),)))


def deepened(checkpoint: Checkpoint) -> Checkpoint:
    """llama.cpp knows windows of EXAONE 4 in models of 64 layers only: the same layers again and again."""
    config = checkpoint.config
    if config.architecture != "exaone4" or not config.sliding_window:
        return checkpoint
    layers = [f"layers.{number}." for number in range(config.num_layers)]
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if layer_of(name) is None}
    for number in range(64):
        own = layers[number % len(layers)]
        tensors |= {
            name.replace(own, f"layers.{number}."): tensor for name, tensor in checkpoint.tensors.items() if name.startswith(own)
        }
    return replace(checkpoint, config=replace(config, layers=config.layers * (64 // len(layers))), tensors=tensors)


def their_logits(path: Path, ids: list[int]) -> Logits:
    llama_cpp: Any = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    f32 = 0  # ggml's number of the type
    llm = llama_cpp.Llama(
        str(path),
        n_ctx=CONTEXT,
        n_batch=256,
        n_threads=1,
        logits_all=True,
        verbose=False,
        type_k=f32,
        type_v=f32,
        flash_attn=False,
    )
    llm.eval(ids)
    logits = np.array(llm.scores[: len(ids)], np.float32)
    llm.close()
    return logits


@pytest.mark.parametrize("length", [SHORT, LONG])
@pytest.mark.parametrize("name", NAMES)
def test_llama_cpp_has_the_same_logits(name: str, length: int, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    family = FAMILIES[name]
    checkpoint = deepened(with_context(family.checkpoint(family.transformers_model(seed=5)), length))
    ids: list[int] = np.random.default_rng(length).integers(0, VOCAB_SIZE, length).tolist()
    with loaded("reference", checkpoint, kv="f32") as backend:
        ours = forward(backend, (ids, 0, PAGES), prompt_length=length)
    theirs = their_logits(written(checkpoint, tmp_path / "m.gguf"), ids)
    error = np.abs(ours - theirs).max(axis=1) / np.abs(ours).max(axis=1)
    print("largest relative error:", error.max(), "at row", error.argmax())
    assert error.max() < TOLERANCE
