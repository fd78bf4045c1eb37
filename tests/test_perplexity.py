"""Perplexities equal those of transformers and llama.cpp for the same settings, and the definition's on any backend."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.backends.reference import ReferenceBackend
from puna.config import EngineConfig
from puna.errors import ContextLengthError, PunaError, UsageError
from puna.formats.base import Checkpoint
from puna.llm import LLM
from puna.perplexity import Perplexity, Window, chunks, num_windows, perplexity, strides
from puna.tokenizers.base import Tokenizer
from tests.fakes import BOS, VOCAB_SIZE, ByteTokenizer, FakeBackend, make_plan, random_checkpoint, tiny_config
from tests.families import FAMILIES
from tests.families import VOCAB_SIZE as FAMILY_IDS


def make_llm(checkpoint: Checkpoint, tokenizer: Tokenizer | None = None, **plan: int) -> LLM:
    config, sizes = EngineConfig(device="reference", page_size=16), make_plan(**plan)
    backend = ReferenceBackend(config)
    backend.load(checkpoint, sizes)
    return LLM.from_parts(checkpoint, tokenizer, backend, sizes, config)


def random_ids(seed: int, count: int, vocab_size: int = FAMILY_IDS) -> list[int]:
    return [random.Random(seed + i).randrange(3, vocab_size) for i in range(count)]


def by_definition(llm: LLM, windows: list[Window]) -> tuple[float, float, int]:
    """(perplexity, standard error, tokens) from the log-probabilities of whole windows, one at a time, as llama.cpp sums."""
    nll = nll2 = 0.0
    count = 0
    for window in windows:
        entries = llm.generate(window.token_ids, max_tokens=0, prompt_logprobs=0).prompt_logprobs[window.first :]
        for entry in entries:
            assert entry is not None
            nll, nll2, count = nll - entry.logprob, nll2 + entry.logprob**2, count + 1
    mean = nll / count
    spread = math.sqrt(max(nll2 / count - mean**2, 0) / (count - 1))
    return math.exp(mean), spread * math.exp(mean), count


@pytest.mark.parametrize(("context", "stride"), [(32, 0), (31, 0), (16, 7), (16, 16), (100, 60)])
def test_it_is_the_definition_for_any_context_and_stride(context: int, stride: int) -> None:
    ids = random_ids(2, 130, VOCAB_SIZE)
    with make_llm(random_checkpoint(tiny_config(), seed=2)) as llm:
        found = perplexity(llm, ids, context=context, stride=stride)
        windows = list(strides(ids, context, stride) if stride else chunks(ids, context, None))
        value, error, count = by_definition(llm, windows)
        assert llm.engine.num_free_pages == llm.plan.num_pages
    assert (found.num_tokens, found.num_windows) == (count, len(windows)) == (count, num_windows(130, context, stride))
    assert found.value == pytest.approx(value, rel=1e-12) and found.error == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("seed", range(60))
def test_strides_score_each_token_but_the_first_once_and_chunks_the_second_halves(seed: int) -> None:
    rng = random.Random(seed)
    ids, context = list(range(rng.randint(2, 200))), rng.randint(4, 60)
    stride = rng.randint(1, context)
    windows = list(strides(ids, context, stride))
    scored = [i for window in windows for i in window.token_ids[window.first :]]
    assert scored == (ids[1:] if stride < context else [i for i in ids if i % stride])
    assert all(len(window.token_ids) <= context and window.first > 0 for window in windows)
    assert len(windows) == num_windows(len(ids), context, stride)
    cut = list(chunks(ids, context, -7))
    assert all(window.token_ids[0] == -7 and window.first == context // 2 + 1 for window in cut)
    assert [i for window in cut for i in window.token_ids[1:]] == [
        i for number, i in enumerate(ids[: len(ids) // context * context]) if number % context
    ]


def test_each_chunk_begins_with_the_bos_where_the_model_adds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "the llama on the high plain " * 6
    with make_llm(random_checkpoint(tiny_config(), seed=2), ByteTokenizer()) as llm:
        ids = [BOS, *text.encode()]
        expected, _, count = by_definition(llm, list(chunks(ids, 32, BOS)))
        found = perplexity(llm, text, context=32)
        assert found.value == pytest.approx(expected, rel=1e-12) and found.num_tokens == count
        monkeypatch.setattr(ByteTokenizer, "add_bos", False)
        assert perplexity(llm, ids, context=32).value != pytest.approx(expected, rel=1e-12)


def test_what_is_known_after_each_window_is_told_and_a_limit_ends_it() -> None:
    told: list[tuple[int, int]] = []
    with make_llm(random_checkpoint(tiny_config(), seed=2)) as llm:
        ids = random_ids(3, 300, VOCAB_SIZE)
        found = perplexity(
            llm, ids, context=32, max_windows=5, on_window=lambda so_far, total: told.append((so_far.num_windows, total))
        )
        assert found == perplexity(llm, ids[: 5 * 32], context=32)
    assert told == [(n, 5) for n in range(1, 6)]


def test_few_rows_of_logits_are_held_at_once() -> None:
    """Whatever the text's length: a step gives at most `max_logits` rows, and only a few windows are open."""
    plan = make_plan(max_logits=8)
    backend = FakeBackend(plan)
    with LLM.from_parts(random_checkpoint(tiny_config(), seed=1), None, backend, plan, EngineConfig(device="reference")) as llm:
        open_at_once: list[int] = []
        perplexity(
            llm,
            random_ids(4, 1500, VOCAB_SIZE - 3),
            context=30,
            on_window=lambda so_far, total: open_at_once.append(len(llm.engine._live)),
        )
    assert max(len(batch.logit_rows) for batch in backend.batches) <= 8 and max(open_at_once) < 4 and len(open_at_once) == 50


# ---- against others --------------------------------------------------------------------------------------------------------


def slid() -> Iterator[object]:
    """Two models of each kind of window in the normal tier."""
    for name, sizes in product(("llama-2", "qwen3", "llama-3.2, tied", "smollm3"), ((64, 30), (50, 50), (128, 37), (64, 7))):
        is_first = (name, sizes) in (("llama-2", (64, 30)), ("qwen3", (50, 50)))
        yield pytest.param(name, *sizes, marks=[] if is_first else [pytest.mark.full])


@pytest.mark.parametrize(("name", "context", "stride"), list(slid()))
def test_transformers_has_the_same_with_its_sliding_window(name: str, context: int, stride: int) -> None:
    """The loop of its documentation; each window's loss counts as often as tokens were scored in it."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    model, ids = FAMILIES[name].transformers_model(seed=7), random_ids(5, 150)
    total, count, seen = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        window = torch.tensor([ids[begin:end]])
        labels = window.clone()
        labels[:, : seen - end] = -100
        with torch.no_grad():
            loss = model(window, labels=labels).loss.double()
        scored = int((labels[:, 1:] != -100).sum())
        total, count, seen = total + float(loss) * scored, count + scored, end
        if end == len(ids):
            break
    with make_llm(FAMILIES[name].checkpoint(model)) as llm:
        found = perplexity(llm, ids, context=context, stride=stride)
    assert found.num_tokens == count
    print(name, "relative difference of perplexities:", abs(found.value / math.exp(total / count) - 1))
    assert found.value == pytest.approx(math.exp(total / count), rel=1e-5)


def theirs(path: Path, ids: list[int], context: int, bos_id: int | None, **settings: Any) -> tuple[float, float, int]:
    """(perplexity, standard error, tokens) by llama-perplexity's rules from llama.cpp's logits."""
    llama_cpp: Any = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    llm = llama_cpp.Llama(str(path), n_ctx=context, n_batch=context, n_threads=2, logits_all=True, verbose=False, **settings)
    nlls: list[float] = []
    for start in range(0, len(ids) // context * context, context):
        chunk = ids[start : start + context]
        chunk = chunk if bos_id is None else [bos_id, *chunk[1:]]
        llm.reset()
        llm.eval(chunk)
        for at in range(context // 2, context - 1):
            row = np.array(llm.scores[at], np.float64)
            nlls.append(float(np.log(np.exp(row - row.max()).sum()) + row.max() - row[chunk[at + 1]]))
    llm.close()
    mean, squares = np.mean(nlls), np.mean(np.square(nlls))
    return math.exp(mean), math.sqrt((squares - mean**2) / (len(nlls) - 1)) * math.exp(mean), len(nlls)


@pytest.mark.parametrize("name", ["llama-2", "qwen3"])
def test_llama_cpp_has_the_same_from_a_file_in_float32(name: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    pytest.importorskip("transformers")
    from tests.conformance.test_llama_cpp import written

    checkpoint, ids = FAMILIES[name].checkpoint(FAMILIES[name].transformers_model(seed=7)), random_ids(6, 600)
    path = written(checkpoint, tmp_path / "m.gguf")
    with make_llm(replace(checkpoint), max_context=256) as llm:
        found = perplexity(llm, ids, context=256)
    value, error, count = theirs(path, ids, 256, None, type_k=0, type_v=0, flash_attn=False)
    print(name, "relative difference:", abs(found.value / value - 1))
    assert found.num_tokens == count
    assert found.value == pytest.approx(value, rel=1e-4) and found.error == pytest.approx(error, rel=1e-3)


@pytest.mark.full
def test_llama_cpp_has_the_same_for_the_default_model_within_its_rounding(default_model: Path) -> None:
    """Both compute with 8-bit activations, each in its own way: the texts' figures differ by far less than their errors."""
    text = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    with LLM(default_model, max_context=512) as llm:
        assert llm.tokenizer is not None
        ids, bos_id = llm.tokenizer.encode(text), llm.tokenizer.bos_id if llm.tokenizer.add_bos else None
        found = perplexity(llm, text)
    value, error, count = theirs(default_model, ids, 512, bos_id)
    print(f"puna {found.value:.4f} ± {found.error:.4f}, llama.cpp {value:.4f} ± {error:.4f}, {count} tokens")
    assert found.num_tokens == count and abs(found.value - value) < 0.2 * error


# ---- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"context": 3}, "context is 3"),
        ({"context": 16, "stride": 17}, "stride is 17"),
        ({"stride": -1}, "stride is -1"),
        ({"context": 16.5}, "context is 16.5"),
        ({"context": 100}, "the text has 60 tokens; at least 100"),
        ({"max_windows": -1}, "max_windows"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], told: str) -> None:
    with make_llm(random_checkpoint(tiny_config(), seed=2)) as llm:
        with pytest.raises(UsageError, match=told):
            perplexity(llm, random_ids(1, 60), **({"context": 16} | settings))
        with pytest.raises(ContextLengthError, match="context is 512; the model holds 128 tokens"):
            perplexity(llm, random_ids(1, 600), context=512)
        with pytest.raises(UsageError, match="needs a tokenizer"):
            perplexity(llm, "text")


def test_logits_that_are_not_finite_are_an_error() -> None:
    plan, config = make_plan(), EngineConfig(device="reference")
    backend = FakeBackend(plan)
    backend.poison = lambda ids: math.nan if len(ids) == 20 else 0.0
    with LLM.from_parts(random_checkpoint(tiny_config(), seed=1), None, backend, plan, config) as llm:
        with pytest.raises(PunaError, match="could not be scored"):
            perplexity(llm, random_ids(1, 200), context=32)
        assert not llm.engine.has_work and llm.engine.num_free_pages == plan.num_pages


def test_a_perplexity_beyond_any_float_is_infinite() -> None:
    assert Perplexity().after([800.0, 900.0]).value == math.inf and math.isnan(Perplexity().value)
