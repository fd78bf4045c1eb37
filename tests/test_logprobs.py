"""Log-probabilities against transformers', raw and after the filters, and their text, bytes and alignment in the engine."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from puna.errors import UsageError
from puna.request import SamplingParams, TokenLogprob
from puna.sampling import History, Row, Sampler, token_logprob
from tests.fakes import BOS, EOS, VOCAB_SIZE, ByteTokenizer, FakeBackend, make_engine, make_plan, run
from tests.test_engine import spell

FILTERED: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.7},
    {"temperature": 0.7},
    {"temperature": 1.3, "top_k": 5},
    {"temperature": 1.0, "top_p": 0.6},
    {"temperature": 2.0, "min_p": 0.2},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
]


def rows(seed: int, count: int, vocab_size: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=vocab_size) * scale).astype(np.float32) for scale in rng.uniform(0.1, 8, count)]


@pytest.mark.parametrize("vocab_size", [1, 2, 31, 4099])
def test_log_probabilities_are_the_log_softmax_of_torch(vocab_size: int) -> None:
    torch = pytest.importorskip("torch")
    for number, row in enumerate(rows(vocab_size, 40, vocab_size)):
        expected = torch.log_softmax(torch.tensor(row, dtype=torch.float64), -1)
        count = min(20, vocab_size)
        entry = token_logprob(row, number % vocab_size, count)
        best = torch.topk(expected, count)
        assert entry.logprob == pytest.approx(float(expected[entry.token_id]), abs=2e-7)
        assert [token_id for token_id, _ in entry.top] == best.indices.tolist()
        assert [value for _, value in entry.top] == pytest.approx(best.values.tolist(), abs=2e-7)


@pytest.mark.parametrize("settings", FILTERED, ids=str)
def test_processed_ones_are_those_after_the_processors_of_transformers(settings: dict[str, Any]) -> None:
    torch, theirs = pytest.importorskip("torch"), pytest.importorskip("transformers")
    rng, sampler = random.Random(5), Sampler(SamplingParams(seed=1, **settings), 500)
    made: dict[str, Any] = {
        "repetition_penalty": theirs.RepetitionPenaltyLogitsProcessor,
        "top_k": theirs.TopKLogitsWarper,
        "top_p": theirs.TopPLogitsWarper,
        "min_p": theirs.MinPLogitsWarper,
        "temperature": theirs.TemperatureLogitsWarper,
    }
    for row in rows(6, 40, 500):
        history = History([rng.randrange(500) for _ in range(rng.randint(1, 30))], [rng.randrange(500) for _ in range(5)])
        ids, values = torch.tensor([[*history.prompt_ids, *history.output_ids]]), torch.tensor(row)[None]
        for name, processor in made.items():
            if name in settings:
                values = processor(settings[name])(ids, values)
        expected = torch.log_softmax(values[0].double(), -1).numpy()
        processed = sampler.processed(row, history)
        found = np.array([token_logprob(processed, token_id, 0).logprob for token_id in range(500)])
        assert np.array_equal(np.isinf(found), np.isinf(expected))
        assert np.allclose(found, expected, atol=1e-5)


def test_only_ids_that_the_filters_keep_are_among_the_top_ones() -> None:
    engine = make_engine()
    params = SamplingParams(max_tokens=30, temperature=1.0, top_k=3, seed=2, logprobs=10, processed_logprobs=True)
    request = engine.add([4, 5, 6], params)
    run(engine)
    for entry in request.logprobs:
        assert entry.processed is not None and entry.processed.token_id == entry.token_id
        assert len(entry.top) == 10 and [i for i, _ in entry.processed.top] == [i for i, _ in entry.top[:3]]
        assert sum(math.exp(value) for _, value in entry.processed.top) == pytest.approx(1.0)
        assert entry.processed.logprob > entry.logprob and len(entry.processed.top_texts) == len(entry.processed.top_bytes) == 3


@pytest.mark.parametrize("text", ["Hi, €!", "🦙 llama", ""])
def test_the_bytes_of_all_tokens_together_are_the_text(text: str) -> None:
    engine = make_engine(spell(text))
    request = engine.add([BOS, 0], SamplingParams(logprobs=2, prompt_logprobs=2))
    outputs = run(engine)[request.id]
    assert b"".join(entry.bytes for entry in request.logprobs).decode() == text == "".join(output.text for output in outputs)
    assert (request.logprobs[-1].token_id, request.logprobs[-1].bytes) == (EOS, b"")
    for entry in [*request.logprobs, request.prompt_logprobs[1]]:
        assert entry is not None
        assert entry.top_bytes == tuple(ByteTokenizer().token_bytes(token_id) for token_id, _ in entry.top)


def test_an_engine_without_a_tokenizer_gives_no_bytes() -> None:
    engine = make_engine()
    engine._tokenizer = None
    request = engine.add([1, 2], SamplingParams(max_tokens=3, logprobs=1))
    run(engine)
    assert {(entry.text, entry.bytes, entry.top_bytes) for entry in request.logprobs} == {("", b"", (b"",))}


def scores(ids: list[int], start: int) -> list[TokenLogprob | None]:
    backend = FakeBackend(make_plan())
    scored = [token_logprob(backend._logits(ids[:i]), ids[i], 1) for i in range(max(start, 1), len(ids))]
    return [*[None] * max(start, 1), *scored]


@pytest.mark.parametrize("plan", [{}, {"max_tokens": 5, "max_sequences": 3}, {"num_pages": 9}], ids=str)
def test_a_prompt_is_scored_from_where_it_is_asked_for_and_what_is_before_may_be_cached(plan: dict[str, int]) -> None:
    rng, engine = random.Random(11), make_engine(plan=make_plan(**plan))
    common = [rng.randrange(256) for _ in range(40)]
    prompts = [common + [rng.randrange(256) for _ in range(n)] for n in (1, 7, 20, 50, 12)]
    starts = [len(ids) - rng.randint(0, len(ids)) for ids in prompts]
    wanted = [SamplingParams(max_tokens=0, prompt_logprobs=1, prompt_logprobs_start=start) for start in starts]
    requests = []
    for ids, params in zip(prompts, wanted, strict=True):
        requests.append(engine.add(ids, params))
        if len(requests) % 2:
            run(engine)
    run(engine)
    assert [request.prompt_logprobs for request in requests] == [scores(*each) for each in zip(prompts, starts, strict=True)]
    late = engine.add(prompts[-1], SamplingParams(max_tokens=0, prompt_logprobs=1, prompt_logprobs_start=40))
    run(engine)
    assert late.num_cached == 32 and late.prompt_logprobs == scores(prompts[-1], 40)


class Own:
    def sample(self, logits: Row, history: History) -> int:
        return 3


@pytest.mark.parametrize(
    ("settings", "sampler", "told"),
    [
        ({"processed_logprobs": True}, None, "processed_logprobs needs logprobs"),
        ({"processed_logprobs": True, "logprobs": 1}, Own(), "a sampler of your own"),
        ({"prompt_logprobs_start": 2}, None, "prompt_logprobs is None"),
        ({"prompt_logprobs": 0, "prompt_logprobs_start": 4}, None, "start is 4; the prompt has 3 tokens"),
    ],
)
def test_what_cannot_be_given_is_refused(settings: dict[str, Any], sampler: Own | None, told: str) -> None:
    engine = make_engine()
    with pytest.raises(UsageError, match=told):
        engine.add([1, 2, 3], SamplingParams(**settings), sampler)
    assert not engine.has_work


def test_filters_with_a_state_tell_what_the_token_was_drawn_from() -> None:
    """Mirostat's state changes with each token: the distribution told is that of before."""
    engine = make_engine()
    params = SamplingParams(
        max_tokens=20, temperature=1.0, mirostat=2, mirostat_tau=3.0, seed=3, logprobs=5, processed_logprobs=True
    )
    request = engine.add([4, 5, 6], params)
    run(engine)
    sampler, ids = Sampler(request.params, VOCAB_SIZE), [4, 5, 6]
    for number, entry in enumerate(request.logprobs):
        row = FakeBackend(make_plan())._logits(ids + request.output_ids[:number])
        history = History(ids, request.output_ids[:number])
        expected = token_logprob(sampler.processed(row, history), entry.token_id, 5)
        assert entry.processed == expected
        assert sampler.sample(row, history) == entry.token_id


def test_processed_ones_change_no_token_and_no_raw_value() -> None:
    def outcome(**more: Any) -> list[tuple[int, float]]:
        engine = make_engine()
        params = SamplingParams(max_tokens=20, temperature=3.0, top_p=0.8, presence_penalty=0.5, seed=9, logprobs=0, **more)
        request = engine.add([VOCAB_SIZE - 3], params)
        run(engine)
        return [(entry.token_id, entry.logprob) for entry in request.logprobs]

    assert outcome(processed_logprobs=True) == outcome()
