"""A draft model saves steps where it guesses well, changes no result, and gives all its pages back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from puna.config import EngineConfig
from puna.draft_model import ModelDrafter, require_same_vocabulary
from puna.errors import ConfigError, UsageError
from puna.llm import LLM
from puna.request import Request, SamplingParams
from tests.fakes import EOS, VOCAB_SIZE, ByteTokenizer, FakeBackend, make_plan
from tests.models import random_tensors, spm_tokenizer, write_gguf
from tests.models import tiny_config as tiny_file_config
from tests.test_speculation import Job, engine_of, random_job, random_plan, run_all, steps_of


class Steady(ModelDrafter):
    """Steps cost what the table says, and guesses nothing, whatever the machine does."""

    _guess_cost = 0.0

    def note(self, rows: int, seconds: float) -> None:
        pass


def drafter(seed: int = -1, **sizes: int) -> ModelDrafter:
    """A draft model that is wrong now and then; `seed` -1: never."""
    plan = make_plan(**sizes)

    def answer(ids: list[int]) -> int:
        right: int = [*b"abc de", EOS, 3][(sum(ids) * 7 + len(ids)) % 8]
        return (right + 1) % 256 if seed >= 0 and random.Random(seed + sum(ids) * 31 + len(ids)).random() < 0.3 else right

    return Steady(FakeBackend(plan, answer), plan, VOCAB_SIZE)


@pytest.mark.parametrize("seed", range(8))
def test_a_draft_model_changes_no_result(seed: int) -> None:
    rng = random.Random(200 + seed)
    jobs: list[Job] = [random_job(rng) for _ in range(10)]
    sizes, own = random_plan(rng), random_plan(rng)
    expected = run_all(jobs, *engine_of(sizes, None))
    draft = drafter(rng.choice([-1, seed]), **(own | {"max_sequences": 8, "max_tokens": max(8, own["max_tokens"])}))
    engine, backend = engine_of(sizes, draft)
    assert run_all(jobs, engine, backend) == expected
    draft._pages.check()
    assert draft._pages.num_free == draft._pages.num_pages and not draft._shadows


def generated(draft: ModelDrafter | None, prompt: int = 3) -> tuple[Request, FakeBackend]:
    engine, backend = engine_of({}, draft)
    request = engine.add([1] * prompt, SamplingParams(max_tokens=40, ignore_eos=True))
    steps_of(engine, backend)
    return request, backend


def test_a_perfect_draft_model_saves_steps() -> None:
    plain, _ = generated(None)
    request, backend = generated(drafter())
    assert request.output_ids == plain.output_ids
    assert len(backend.batches) < 20 and request.num_accepted == request.num_drafted > 20


def test_a_draft_model_that_was_wrong_is_not_asked_by_the_next_requests_but_tried_again_later() -> None:
    draft = drafter(seed=1)
    assert isinstance(draft._backend, FakeBackend)
    draft._backend.answer = lambda ids: 0
    engine, backend = engine_of({}, draft)
    drafted = []
    for _ in range(60):
        request = engine.add([1, 2, 3], SamplingParams(max_tokens=12, ignore_eos=True))
        steps_of(engine, backend)
        drafted.append(request.num_drafted)
    assert 0 < sum(drafted[:2]) < 30 and sum(drafted[1:10]) <= 6 and 0 < sum(drafted[10:]) < 30


def test_a_long_prompt_is_read_in_chunks_before_there_are_guesses() -> None:
    draft = drafter(max_tokens=8)
    request, _ = generated(draft, prompt=60)
    assert isinstance(draft._backend, FakeBackend)
    assert max(len(batch.token_ids) for batch in draft._backend.batches) == 8
    assert request.num_accepted > 0


def test_a_draft_model_without_pages_guesses_nothing() -> None:
    request, _ = generated(drafter(num_pages=1), prompt=30)
    assert request.num_drafted == 0


class Renamed(ByteTokenizer):
    def piece(self, token_id: int) -> str:
        return "another" if token_id == 200 else super().piece(token_id)


class Shorter(ByteTokenizer):
    vocab_size = 256


def test_vocabularies_are_compared_token_by_token() -> None:
    require_same_vocabulary(ByteTokenizer(), ByteTokenizer())
    for other, told in ((Renamed(), "token 200 is 'another'"), (Shorter(), "256 tokens, and the model 258"), (None, "has none")):
        with pytest.raises(UsageError, match=told):
            require_same_vocabulary(ByteTokenizer(), other)


def test_a_draft_model_and_another_way_of_guessing_exclude_each_other() -> None:
    assert EngineConfig(draft_model="small.gguf").draft_model == "small.gguf"
    with pytest.raises(ConfigError, match="but speculation is 'off'"):
        EngineConfig(draft_model="small.gguf", speculation="off")


def test_models_from_files(tmp_path: Path) -> None:
    large, small = tiny_file_config(), tiny_file_config(num_layers=1)
    path = write_gguf(tmp_path / "large.gguf", large, random_tensors(large, 1))
    draft = write_gguf(tmp_path / "small.gguf", small, random_tensors(small, 2))
    other = write_gguf(tmp_path / "other.gguf", small, random_tensors(small, 2), tokenizer=spm_tokenizer())
    prompts = [[5, 6, 7], [9, 8, 7, 6]]
    with LLM(path, device="reference", speculation="off") as llm:
        expected = [c.token_ids for c in llm.generate(prompts, max_tokens=20, ignore_eos=True)]
    for guessing in (path, draft):
        with LLM(path, device="reference", draft_model=guessing) as llm:
            found = llm.generate(prompts, max_tokens=20, ignore_eos=True)
            assert [c.token_ids for c in found] == expected
            assert isinstance(llm.engine._drafter, ModelDrafter)
    with pytest.raises(UsageError, match="in the draft model"):
        LLM(path, device="reference", draft_model=other)
