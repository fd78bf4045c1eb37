"""Embeddings: transformers' hidden states, pooled; the same bits alone and together; refused before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from puna.backends import backend_spec, create_backend
from puna.config import EngineConfig
from puna.embedding import shortened
from puna.errors import ContextLengthError, UsageError
from puna.formats.base import Checkpoint
from puna.llm import LLM
from puna.plan import make_plan
from puna.pooling import Pooling
from tests.conformance.test_backends import BACKENDS_UNDER_TEST, THREADS
from tests.fakes import BOS, VOCAB_SIZE, ByteTokenizer, random_checkpoint, tiny_config
from tests.families import FAMILIES

TOLERANCE = 1e-4
WAYS: tuple[Pooling, ...] = ("mean", "last", "cls")
ORACLES = ("llama-3.1", "qwen2", "qwen3", "mistral", "gemma2", "olmo2", "granite", "phi3", "smollm3")
devices = pytest.mark.parametrize("device", BACKENDS_UNDER_TEST)


@contextmanager
def loaded(checkpoint: Checkpoint, device: str, **settings: Any) -> Iterator[LLM]:
    config = EngineConfig(device=device, page_size=16, threads=THREADS.get(device, 0), kv_type="f32", **settings)
    backend = create_backend(config)
    plan = make_plan(checkpoint.config, checkpoint.tensors, config, backend_spec(device).layouts, backend.info.free_bytes)
    backend.load(checkpoint, plan)
    tokenizer = ByteTokenizer() if checkpoint.config.vocab_size == VOCAB_SIZE else None
    with LLM.from_parts(checkpoint, tokenizer, backend, plan, config) as llm:
        yield llm


@lru_cache(maxsize=1)
def made(name: str) -> tuple[Checkpoint, list[list[int]], list[np.ndarray[Any, Any]]]:
    """A family's model in our names, prompts, and transformers' hidden states of each after the final norm."""
    import torch

    oracle = FAMILIES[name].transformers_model(seed=3)
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, oracle.config.vocab_size, length).tolist() for length in (1, 20, 75)]
    with torch.no_grad():
        states = [oracle.model(torch.tensor([ids])).last_hidden_state[0].double().numpy() for ids in prompts]
    return FAMILIES[name].checkpoint(oracle), prompts, states


def expected(states: np.ndarray[Any, Any], way: Pooling) -> np.ndarray[Any, Any]:
    vector = {"mean": states.mean(axis=0), "last": states[-1], "cls": states[0]}[way]
    return np.asarray(vector / np.linalg.norm(vector))


@pytest.mark.parametrize("name", ORACLES)
@devices
def test_embeddings_are_transformers_hidden_states(name: str, device: str) -> None:
    checkpoint, prompts, states = made(name)
    with loaded(checkpoint, device, chunk_tokens=32) as llm:
        for way in WAYS:
            found = llm.embed(prompts, pooling=way)
            error = max(np.abs(row - expected(one, way)).max() for row, one in zip(found, states, strict=True))
            print(f"{name} on {device}, {way}: largest error {error:.2e}")
            assert error < TOLERANCE


@devices
@pytest.mark.parametrize("quant", ["F32", "Q8_0"])
def test_together_alone_and_in_chunks_the_bits_are_the_same(device: str, quant: str) -> None:
    checkpoint = random_checkpoint(tiny_config(hidden_size=64, ffn_size=96), quant, seed=2)
    rng = np.random.default_rng(2)
    prompts = [rng.integers(0, 256, length).tolist() for length in (1, 2, 31, 33, 70)]
    with loaded(checkpoint, device, prefix_cache=False) as llm:
        alone = np.stack([llm.embed(prompt, pooling="mean") for prompt in prompts])
    with loaded(checkpoint, device, chunk_tokens=16) as llm:
        stream = llm.stream("beside them", max_tokens=20)
        next(stream)
        assert llm.embed(prompts, pooling="mean").tobytes() == alone.tobytes()
        text = [*stream] and stream.completion.token_ids
        assert llm.generate("beside them", max_tokens=20).token_ids == text
        assert llm.embed(prompts[-1], pooling="mean").tobytes() == alone[-1].tobytes()


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with loaded(random_checkpoint(tiny_config(), seed=1), "reference") as it:
        yield it


def test_one_prompt_gives_a_vector_and_a_list_gives_rows(llm: LLM) -> None:
    one, rows = llm.embed("hello"), llm.embed(["hello", "world!"])
    assert one.shape == (32,) and rows.shape == (2, 32) and one.dtype == rows.dtype == np.float32
    assert one.tobytes() == rows[0].tobytes() == llm.embed(llm.encode("hello")).tobytes()
    assert np.isclose(np.linalg.norm(one), 1)
    assert llm.embed([], dimensions=7).shape == (0, 7)


def test_fewer_dimensions_are_the_first_ones_normalised_again(llm: LLM) -> None:
    raw = llm.embed("hello", normalize=False)
    short = llm.embed("hello", dimensions=5)
    assert short.shape == (5,) and np.allclose(short, raw[:5] / np.linalg.norm(raw[:5]), atol=1e-6)
    assert llm.embed("hello", dimensions=5, normalize=False).tolist() == raw[:5].tolist()
    assert shortened(np.zeros(3), None, True).tolist() == [0, 0, 0]


def test_without_a_word_from_the_file_the_last_token_counts(llm: LLM) -> None:
    assert llm.pooling == "last"
    assert (
        llm.embed("hello").tolist() == llm.embed("hello", pooling="last").tolist() != llm.embed("hello", pooling="mean").tolist()
    )


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"pooling": "max"}, "pooling is 'max'; allowed: mean, last, cls"),
        ({"normalize": 1}, "normalize is 1; True or False is needed"),
        ({"dimensions": 0}, "dimensions is 0; a whole number in 1..32 is needed"),
        ({"dimensions": 33}, "dimensions is 33; a whole number in 1..32 is needed"),
    ],
)
def test_what_is_not_allowed_is_refused(llm: LLM, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        llm.embed("hello", **settings)


def test_a_prompt_longer_than_the_context_is_refused_before_the_others_run(llm: LLM) -> None:
    with pytest.raises(ContextLengthError):
        llm.embed([[1, 2], [1] * 129])
    with pytest.raises(UsageError, match="no tokens"):
        llm.embed([[1], []])
    assert llm.runner.is_idle and llm.engine.num_free_pages == llm.plan.num_pages
    assert llm.embed([1] * 128).shape == (32,)


class WithoutBos(ByteTokenizer):
    """It adds no token of its own."""

    add_bos = False


def test_an_empty_text_is_refused_unless_the_tokenizer_adds_a_token(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """As llama-server and sentence-transformers: BOS (or CLS) alone has an embedding, and no token has none."""
    assert llm.embed("").tobytes() == llm.embed([BOS]).tobytes()
    monkeypatch.setattr(llm, "tokenizer", WithoutBos())
    with pytest.raises(UsageError, match="text 1 to embed is '', which has no tokens"):
        llm.embed(["hello", ""])
    assert llm.embed(["hello", " "]).shape == (2, 32) and llm.runner.is_idle
