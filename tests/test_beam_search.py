"""Beam search: equal ids and scores with transformers' on a tiny float32 model, and what it promises besides."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from puna.backends import backend_spec, create_backend
from puna.beam_search import Beam, BeamSearch
from puna.config import EngineConfig
from puna.errors import NumericalError, UsageError
from puna.llm import LLM
from puna.plan import make_plan
from puna.sampling import Row, not_finite
from tests.fakes import ByteTokenizer
from tests.families import FAMILIES, VOCAB_SIZE
from tests.test_llm import make_llm

FAMILY = next(iter(FAMILIES.values()))


@lru_cache(maxsize=1)
def oracle() -> Any:
    return FAMILY.transformers_model(seed=5)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    checkpoint, config = FAMILY.checkpoint(oracle()), EngineConfig(device="reference", page_size=16)
    backend = create_backend(config)
    plan = make_plan(checkpoint.config, checkpoint.tensors, config, backend_spec("reference").layouts, backend.info.free_bytes)
    backend.load(checkpoint, plan)
    with LLM.from_parts(checkpoint, None, backend, plan, config) as made:
        yield made
        assert made.engine.num_free_pages == plan.num_pages


def expected(ids: list[int], settings: dict[str, Any]) -> list[tuple[list[int], float]]:
    """(ids, score) of each answer of transformers."""
    import torch

    stop_ids = settings["stop_ids"]
    done = oracle().generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
        num_beams=settings["width"], num_return_sequences=settings["width"], max_new_tokens=settings["max_tokens"],
        length_penalty=settings["length_penalty"], early_stopping=settings["early_stopping"], eos_token_id=stop_ids,
        pad_token_id=VOCAB_SIZE - 1, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    answers = [row[len(ids) :] for row in done.sequences.tolist()]
    whole = [next((row[: i + 1] for i, one in enumerate(row) if one in stop_ids), row) for row in answers]
    return list(zip(whole, done.sequences_scores.tolist(), strict=True))


@pytest.mark.parametrize("seed", [*range(6), *[pytest.param(seed, marks=pytest.mark.full) for seed in range(6, 60)]])
def test_ids_and_scores_are_those_of_transformers(llm: LLM, seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    ids = [rng.randrange(VOCAB_SIZE - 1) for _ in range(rng.randint(1, 20))]
    settings = {
        "width": rng.randint(2, 5),
        "max_tokens": rng.randint(1, 10),
        "length_penalty": rng.choice([0.0, 1.0, 2.0, -1.0, 0.6]),
        "early_stopping": rng.random() < 0.5,
        "stop_ids": rng.sample(range(VOCAB_SIZE - 1), rng.choice([1, 2, 6])),
    }
    found = llm.beam_search(ids, **settings)  # type: ignore[arg-type]
    known = expected(ids, settings)[: len(found)]
    assert [list(beam.token_ids) for beam in found] == [row for row, _ in known], settings
    assert np.allclose([beam.score for beam in found], [score for _, score in known], atol=1e-4)


def table(rows: dict[tuple[int, ...], list[float]]) -> Any:
    def ask(answers: list[tuple[int, ...]]) -> list[Row]:
        return [np.log(np.array(rows.get(answer, [0.1, 0.1, 0.8]), np.float32)) for answer in answers]

    return ask


def test_a_beam_finds_what_greedy_sampling_misses() -> None:
    """The likeliest first token leads to unlikely ones."""
    rows = table({(): [0.5, 0.4, 0.1], (0,): [0.4, 0.3, 0.3], (1,): [0.05, 0.05, 0.9]})
    greedy, wide = (BeamSearch(width=width, max_tokens=2).search(rows) for width in (1, 2))
    assert greedy[0].token_ids == (0, 0) and wide[0].token_ids == (1, 2)
    assert math.isclose(wide[0].logprob, math.log(0.36), abs_tol=1e-6)


def test_a_beam_of_all_answers_is_an_exhaustive_search() -> None:
    rng = np.random.default_rng(2)
    table_of = {ids: rng.random(3) + 0.01 for n in range(4) for ids in itertools.product(range(3), repeat=n)}

    def rows(answers: list[tuple[int, ...]]) -> list[Row]:
        return [np.log(table_of[answer]).astype(np.float32) for answer in answers]

    def logprob(ids: tuple[int, ...]) -> float:
        return sum(math.log(table_of[ids[:i]][one] / table_of[ids[:i]].sum()) for i, one in enumerate(ids))

    found = BeamSearch(width=27, max_tokens=3).search(rows)
    assert [beam.token_ids for beam in found] == sorted(itertools.product(range(3), repeat=3), key=logprob, reverse=True)


def test_text_ends_before_the_id_that_ends_it() -> None:
    with make_llm(ByteTokenizer()) as llm:
        found = llm.beam_search("hello", width=3, max_tokens=6)
        assert len(found) == 3 and all(isinstance(beam, Beam) and len(beam.token_ids) == 6 for beam in found)
        last = found[0].token_ids[2]
        ended = llm.beam_search("hello", width=1, max_tokens=6, stop_ids=[last])
        assert ended[0].token_ids[-1] == last and ended[0].text == ByteTokenizer().decode(ended[0].token_ids[:-1])
        assert llm.engine.num_free_pages == llm.plan.num_pages


def test_it_runs_beside_other_requests_and_changes_none() -> None:
    with make_llm(ByteTokenizer()) as llm:
        alone = llm.generate("other", max_tokens=30, ignore_eos=True)
        found = llm.beam_search("hello", width=3, max_tokens=6)
        with llm.stream("other", max_tokens=30, ignore_eos=True) as stream:
            next(stream)
            assert llm.beam_search("hello", width=3, max_tokens=6) == found
            list(stream)
        assert stream.completion.token_ids == alone.token_ids


@pytest.mark.parametrize(
    "given",
    [
        {"width": 0},
        {"width": 65},
        {"max_tokens": 0},
        {"length_penalty": math.nan},
        {"early_stopping": 1},
        {"breadth": 2},
        {"stop_ids": range(1 << 40)},
        {"stop_ids": [1 << 20]},
    ],
)
def test_settings_that_are_not_allowed_are_refused_by_name(given: dict[str, Any]) -> None:
    with make_llm(ByteTokenizer()) as llm, pytest.raises(UsageError, match=next(iter(given)).replace("stop_ids", "stop.ids?")):
        llm.beam_search("hello", **given)


def test_a_prompt_that_fills_the_context_is_refused_and_bad_logits_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with make_llm(ByteTokenizer()) as llm:
        with pytest.raises(UsageError, match="the context holds"):
            llm.beam_search([1] * llm.plan.max_context)

        def refuse(logits: Row) -> None:
            raise not_finite()

        monkeypatch.setattr("puna.beam_search.require_finite", refuse)
        with pytest.raises(NumericalError):
            llm.beam_search("hello")
