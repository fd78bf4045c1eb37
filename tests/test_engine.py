"""The engine on an arithmetic backend: a batch gives the same results as single requests, and errors stay in one request."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from puna import filters
from puna.config import EngineConfig
from puna.deadlines import Deadlines
from puna.engine import Engine
from puna.errors import ContextLengthError, QueueFullError, UsageError
from puna.request import FinishReason, Request, SamplingParams, StepOutput, TokenLogprob
from puna.sampling import History, Row, token_logprob
from tests.fakes import (
    BOS,
    EOS,
    FILTERS,
    VOCAB_SIZE,
    ByteTokenizer,
    FakeBackend,
    ParamsWithOnly,
    SamplingBackend,
    make_engine,
    make_plan,
    only,
    run,
    tiny_config,
)

MODEL = tiny_config(vocab_size=VOCAB_SIZE)
PlainBackend = FakeBackend  # by a name that the fixture below leaves alone


@pytest.fixture(autouse=True, params=["plain steps", "overlapped steps"])
def backend_class(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[FakeBackend]:
    """Every test runs on a backend that returns logits, and on one that also samples."""
    kind = FakeBackend if request.param == "plain steps" else SamplingBackend
    monkeypatch.setattr("tests.fakes.FakeBackend", kind)
    monkeypatch.setattr("tests.test_engine.FakeBackend", kind)
    return kind


def spell(text: str) -> FakeBackend:
    """A backend that answers any prompt ending in 0 with `text`, then EOS."""
    data = text.encode()

    def answer(ids: list[int]) -> int:
        told = len(ids) - 1 - max((i for i, token_id in enumerate(ids) if token_id == 0), default=0)
        return data[told] if told < len(data) else EOS

    return FakeBackend(make_plan(), answer)


def told(outputs: list[StepOutput]) -> tuple[str, tuple[int, ...]]:
    return "".join(o.text for o in outputs), tuple(i for o in outputs for i in o.token_ids)


def alone(prompt_ids: list[int], params: SamplingParams, **plan: int) -> Request:
    engine = make_engine(plan=make_plan(**plan))
    request = engine.add(prompt_ids, params)
    run(engine)
    return request


def all_free(engine: Engine) -> bool:
    engine._scheduler.pages.check()
    return engine.num_free_pages == engine._plan.num_pages


def test_text_and_ids_come_piece_by_piece_and_eos_is_an_id_but_no_text() -> None:
    engine = make_engine(spell("Hi, €!"))
    request = engine.add([BOS, 0], SamplingParams())
    outputs = run(engine)[request.id]
    assert told(outputs) == ("Hi, €!", (*"Hi, €!".encode(), EOS))
    assert [o.text for o in outputs] == ["H", "i", ",", " ", "", "", "€", "!", ""]
    assert request.finish_reason is outputs[-1].finish_reason is FinishReason.STOP
    assert all_free(engine)


def test_max_tokens_ends_with_length_and_releases_half_a_character_as_such() -> None:
    engine = make_engine(spell("a€"))
    request = engine.add([0], SamplingParams(max_tokens=2))
    outputs = run(engine)[request.id]
    assert told(outputs) == ("a\ufffd", (97, 0xE2))
    assert request.finish_reason is FinishReason.LENGTH


def test_max_tokens_zero_ends_at_once_without_a_forward_pass() -> None:
    backend = spell("a")
    engine = make_engine(backend)
    request = engine.add([0], SamplingParams(max_tokens=0))
    assert run(engine) == {request.id: [StepOutput(request.id, "", (), (), FinishReason.LENGTH)]}
    assert not backend.batches


def test_a_stop_string_ends_the_text_before_it() -> None:
    engine = make_engine(spell("one two three"))
    request = engine.add([0], SamplingParams(stop=(" th", "wo x")))
    outputs = run(engine)[request.id]
    assert told(outputs)[0] == "one two"
    assert request.finish_reason is FinishReason.STOP


def test_what_could_have_become_a_stop_string_is_told_at_the_end() -> None:
    engine = make_engine(spell("one tw"))
    request = engine.add([0], SamplingParams(stop=("two",)))
    assert told(run(engine)[request.id])[0] == "one tw"


def test_stop_ids_end_the_text_and_ignore_eos_does_not_touch_them() -> None:
    engine = make_engine(spell("abc"))
    request = engine.add([0], SamplingParams(stop_ids=(ord("b"),), ignore_eos=True))
    assert told(run(engine)[request.id]) == ("a", tuple(b"ab"))
    assert request.finish_reason is FinishReason.STOP


def test_the_stop_text_and_the_text_of_a_stop_id_can_be_included() -> None:
    for params, text in (
        (SamplingParams(stop=("thr", "x"), include_stop_str_in_output=True), "one two thr"),
        (SamplingParams(stop_ids=(ord("w"),), include_stop_str_in_output=True), "one tw"),
        (SamplingParams(include_stop_str_in_output=True), "one two three"),
        (SamplingParams(stop=("</s>",), include_stop_str_in_output=True), "one two three</s>"),
    ):
        engine = make_engine(spell("one two three"))
        request = engine.add([BOS, 0], params)
        assert told(run(engine)[request.id])[0] == text
        assert request.finish_reason is FinishReason.STOP


def test_a_stop_text_within_min_tokens_does_not_end_the_text() -> None:
    for min_tokens, text in ((0, ""), (2, ""), (3, "one "), (6, "one "), (7, "one one "), (11, "one one one")):
        engine = make_engine(spell("one one one"))
        request = engine.add([BOS, 0], SamplingParams(stop=("one",), min_tokens=min_tokens))
        assert told(run(engine)[request.id])[0] == text, min_tokens


def test_an_id_that_only_pads_the_vocabulary_has_no_text() -> None:
    plan = make_plan()
    tokenizer = ByteTokenizer()
    tokenizer.vocab_size = 200
    engine = Engine(FakeBackend(plan, lambda ids: 65 if len(ids) % 2 else 201), tokenizer, plan, EngineConfig(), MODEL)
    request = engine.add([1], SamplingParams(max_tokens=4))
    assert told(run(engine)[request.id]) == ("AA", (65, 201, 65, 201))


def test_ignore_eos_goes_on() -> None:
    engine = make_engine(spell("a"))
    request = engine.add([0], SamplingParams(ignore_eos=True, max_tokens=4))
    assert told(run(engine)[request.id]) == ("a", (97, EOS, EOS, EOS))


def test_a_full_context_ends_with_length() -> None:
    request = alone([1] * 120, SamplingParams(max_tokens=None))
    assert request.finish_reason is FinishReason.LENGTH
    assert request.num_tokens == 128


@pytest.mark.parametrize("length", [128, 129, 1000])
def test_a_prompt_too_long_is_refused_with_both_numbers(length: int) -> None:
    with pytest.raises(ContextLengthError, match=rf"{length} tokens.* 128"):
        make_engine().add([1] * length, SamplingParams())


def test_a_prompt_that_fills_the_context_can_be_given_where_nothing_is_asked() -> None:
    engine = make_engine()
    engine.add([1] * 128, SamplingParams(max_tokens=0))
    assert not engine._scheduler.has_work


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(UsageError, match="no tokens"):
        make_engine().add([], SamplingParams())


@pytest.mark.parametrize("bad", [-1, VOCAB_SIZE, 1 << 40])
def test_an_id_outside_the_vocabulary_is_named(bad: int) -> None:
    with pytest.raises(UsageError, match=rf"{bad} .*0\.\.{VOCAB_SIZE - 1}"):
        make_engine().add([1, bad], SamplingParams())


@pytest.mark.parametrize("bad", [-1, VOCAB_SIZE])
def test_a_stop_id_outside_the_vocabulary_is_named(bad: int) -> None:
    with pytest.raises(UsageError, match=rf"stop id {bad} .*0\.\.{VOCAB_SIZE - 1}"):
        make_engine().add([1], SamplingParams(stop_ids=(1, bad)))


def test_stop_strings_need_a_tokenizer_and_ids_do_not() -> None:
    plan = make_plan()
    engine = Engine(FakeBackend(plan), None, plan, EngineConfig(), MODEL)
    with pytest.raises(UsageError, match="tokenizer"):
        engine.add([1], SamplingParams(stop=("x",)))
    request = engine.add([1], SamplingParams(max_tokens=3))
    assert told(run(engine)[request.id]) == ("", (2, 5, 11))


def test_a_refused_request_leaves_nothing_behind() -> None:
    engine = make_engine()
    for bad in ([], [1] * 500, [VOCAB_SIZE]):
        with pytest.raises((UsageError, ContextLengthError)):
            engine.add(bad, SamplingParams())
    with pytest.raises(UsageError):
        engine.add([1], SamplingParams(logit_bias={VOCAB_SIZE: 1.0}))
    assert not engine.has_work and not engine._live


def test_the_seed_that_was_drawn_can_be_read_and_used_again() -> None:
    drawn = alone([1, 2], SamplingParams(temperature=5.0, max_tokens=20))
    assert drawn.params.seed is not None
    again = alone([1, 2], SamplingParams(temperature=5.0, max_tokens=20, seed=drawn.params.seed))
    assert again.output_ids == drawn.output_ids


def test_logprobs_are_one_per_token() -> None:
    request = alone([1, 2], SamplingParams(max_tokens=5, logprobs=2))
    assert [p.token_id for p in request.logprobs] == request.output_ids
    assert all(p.top[0] == (p.token_id, p.logprob) and len(p.top) == 2 for p in request.logprobs)


def random_params(rng: random.Random) -> SamplingParams:
    return SamplingParams(
        max_tokens=rng.choice([1, 7, 40, None]),
        temperature=rng.choice([0.0, 0.0, 3.0]),
        top_k=rng.choice([0, 20]),
        top_p=rng.choice([1.0, 0.9]),
        repetition_penalty=rng.choice([1.0, 1.3]),
        seed=rng.randrange(1 << 40),
        logprobs=rng.choice([None, 3]),
        **rng.choice([{}, *FILTERS]),
    )


PLANS: list[dict[str, Any]] = [{}, {"num_pages": 8}, {"num_pages": 9, "max_tokens": 3}, {"num_pages": 12, "max_sequences": 2}]


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("sizes", PLANS, ids=str)
def test_together_each_request_gets_what_it_gets_alone(sizes: dict[str, Any], prefix_cache: bool) -> None:
    """Chunked prompts, shared beginnings, preemption, few pages: ids and log-probabilities are equal."""
    rng = random.Random(11)
    jobs = [([rng.choice([1, 2])] * rng.randint(1, 60) + [rng.randrange(256)], random_params(rng)) for _ in range(20)]
    engine = make_engine(plan=make_plan(**sizes), prefix_cache=prefix_cache)
    together = [engine.add(ids, params) for ids, params in jobs]
    run(engine)
    for request, (ids, params) in zip(together, jobs, strict=True):
        lone = alone(ids, params)
        assert (request.output_ids, request.logprobs, request.finish_reason) == (
            lone.output_ids,
            lone.logprobs,
            lone.finish_reason,
        )
    assert all_free(engine)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_end_only_their_request(poison: float) -> None:
    engine = make_engine()
    assert isinstance(engine._backend, FakeBackend)
    engine._backend.poison = lambda ids: poison if ids[0] == 9 and len(ids) == 20 else 0.0
    good, bad, other = (engine.add([first, *range(10)], SamplingParams(max_tokens=20)) for first in (8, 9, 10))
    outputs = run(engine)
    assert bad.finish_reason is FinishReason.ERROR
    assert "not finite" in bad.error and "fetch the model again" in bad.error, "the fault and the cure"
    assert outputs[bad.id][-1].finish_reason is FinishReason.ERROR
    assert len(bad.output_ids) == 9
    for request in (good, other):
        assert request.output_ids == alone(request.prompt_ids, SamplingParams(max_tokens=20)).output_ids
    assert all_free(engine)
    assert engine._scheduler.pages.match([9, *range(10), *bad.output_ids]) == [], "pages of wrong numbers can be found"


def test_an_aborted_request_tells_what_it_held_back_and_harms_nobody() -> None:
    engine = make_engine(spell("one two"))
    request, other = (engine.add([first, 0], SamplingParams(stop=("two",))) for first in (1, 2))
    pieces: list[StepOutput] = []
    while len(request.output_ids) < 6:
        pieces += [o for o in engine.step() if o.request_id == request.id]
    engine.abort(request.id)
    engine.abort(request.id)
    engine.abort(12345)
    rest = run(engine)
    assert told(pieces + rest[request.id])[0] == "one tw"
    assert rest[request.id][-1].finish_reason is FinishReason.ABORT
    assert other.finish_reason is FinishReason.STOP
    assert all_free(engine)


@pytest.mark.parametrize("way", ["abort", "timeout"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_what_was_computed_of_a_prompt_that_is_given_up_is_found_by_the_next_one(way: str, steps: int) -> None:
    """A prompt of 100 tokens, 32 in a step, pages of 16: the next request computes only what is missing, with the same result."""
    now, prompt = 0.0, [7 * i % 250 for i in range(100)]
    engine = make_engine()
    engine._deadlines = Deadlines(lambda: now)
    given_up = engine.add(prompt, SamplingParams(timeout=9.0 if way == "timeout" else None))
    for _ in range(steps):
        engine.step()
    now = 10.0
    if way == "abort":
        engine.abort(given_up.id)
    engine.step()
    assert given_up.output_ids == [] and all_free(engine)
    again = engine.add(prompt, SamplingParams(max_tokens=5))
    run(engine)
    known = steps * 32 - (32 if engine._backend.filters else 0)  # the device computes the last chunk at that moment
    assert known - 16 < again.num_cached <= known + 32 and again.num_cached % 16 == 0
    assert again.num_cached or steps == 1
    assert again.output_ids == alone(prompt, SamplingParams(max_tokens=5)).output_ids


def test_a_page_that_is_not_finite_ends_what_is_kept_of_a_prompt_that_is_given_up() -> None:
    engine = make_engine()
    request = engine.add([1] * 100, SamplingParams())
    for _ in range(3):
        engine.step()
    engine._backend.pages.view(np.float32)[request.page_ids[1], 3] = np.inf  # type: ignore[attr-defined]
    engine.abort(request.id)
    again = engine.add([1] * 100, SamplingParams(max_tokens=1))
    run(engine)
    assert again.num_cached == 16 and again.finish_reason is FinishReason.LENGTH


def test_a_device_that_cannot_be_read_keeps_nothing_and_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    request = engine.add([1] * 100, SamplingParams())
    engine.step()

    def fail(page_ids: list[int]) -> None:
        raise RuntimeError("the card is gone")

    monkeypatch.setattr(engine._backend, "read_pages", fail)
    engine.abort(request.id)
    assert run(engine)[request.id][-1].finish_reason is FinishReason.ABORT and all_free(engine)


def test_a_waiting_request_can_be_aborted() -> None:
    engine = make_engine(plan=make_plan(max_sequences=1))
    first, second = (engine.add([i], SamplingParams(max_tokens=5)) for i in (1, 2))
    engine.step()
    engine.abort(second.id)
    run(engine)
    assert (first.finish_reason, second.finish_reason) == (FinishReason.LENGTH, FinishReason.ABORT)


@pytest.mark.parametrize("error", [MemoryError, OSError, RuntimeError, KeyboardInterrupt])
def test_the_kth_forward_fails_and_the_engine_can_be_used_again(error: type[BaseException]) -> None:
    expected = alone([1, 2, 3], SamplingParams(max_tokens=8)).output_ids
    for k in range(1, 12):
        engine = make_engine(plan=make_plan(num_pages=9, max_tokens=8))
        backend = engine._backend
        assert isinstance(backend, FakeBackend)

        def fail(call: int, k: int = k) -> None:
            if call == k:
                raise error("k-th")

        backend.fail = fail
        requests = [engine.add([i] * 20, SamplingParams(max_tokens=8)) for i in range(4)]
        before: list[StepOutput] = []
        with pytest.raises(error, match="k-th"):
            while engine.has_work:
                before += engine.step()
        after = [o for outputs in run(engine).values() for o in outputs]
        assert {o.request_id for o in before + after if o.finish_reason} == {r.id for r in requests}
        for r in requests:
            assert told([o for o in before + after if o.request_id == r.id])[1] == tuple(r.output_ids)
        assert all_free(engine)
        again = engine.add([1, 2, 3], SamplingParams(max_tokens=8))
        run(engine)
        assert again.output_ids == expected


def test_a_batch_is_ragged_and_names_the_rows_that_want_logits() -> None:
    backend = FakeBackend(make_plan())
    engine = make_engine(backend, prefix_cache=False)
    engine.add([5, 6, 7], SamplingParams(max_tokens=4))
    engine.step()
    engine.add([1] * 40, SamplingParams(max_tokens=4))
    engine.step()
    engine.step()
    batch = backend.batches[2]
    assert batch.starts.tolist() == [0, 1, 17], "half a step is the prompt's"
    assert batch.positions.tolist() == [4, *range(16, 32)]
    assert batch.token_ids[1:].tolist() == [1] * 16
    assert batch.logit_rows.tolist() == [0]
    assert batch.page_tables.shape == (2, 2) and batch.page_tables[0, 1] == -1
    assert {a.dtype for a in (batch.token_ids, batch.positions, batch.starts, batch.page_tables, batch.logit_rows)} == {
        np.dtype(np.int32)
    }


def test_the_step_can_be_read_in_one_glance() -> None:
    import inspect

    assert len(inspect.getsource(Engine.step).splitlines()) <= 22
    whole = (Engine.step, Engine._plain_step, Engine._overlapped_step, Engine._launch, Engine._finish_step)
    assert sum(len(inspect.getsource(part).splitlines()) for part in whole) <= 64, "one screen"


# ---- log-probabilities of the prompt --------------------------------------------------------------------------------


def scored(requests: list[tuple[list[int], SamplingParams]], together: bool, **plan: int) -> list[list[TokenLogprob | None]]:
    """What each prompt's log-probabilities are, run together or one at a time."""
    engine = make_engine(plan=make_plan(**plan))
    done = []
    for prompt_ids, params in requests:
        done.append(engine.add(prompt_ids, params))
        if not together:
            run(engine)
    run(engine)
    assert all_free(engine)
    return [request.prompt_logprobs for request in done]


def prompts_to_score() -> list[tuple[list[int], SamplingParams]]:
    rng = random.Random(7)
    lengths = [1, 2, 16, 17, 33, 60, 60, 5]
    return [
        ([rng.randrange(256) for _ in range(n)], SamplingParams(max_tokens=i % 4, prompt_logprobs=i % 3, logprobs=0))
        for i, n in enumerate(lengths)
    ]


@pytest.mark.parametrize("plan", [{}, {"max_tokens": 5, "max_sequences": 3}, {"num_pages": 9}], ids=str)
def test_log_probabilities_of_a_prompt_are_the_same_bits_alone_batched_chunked_and_preempted(plan: dict[str, int]) -> None:
    requests = prompts_to_score()
    expected = [
        [None] + [one_logprob(ids[:i], ids[i], params.prompt_logprobs or 0) for i in range(1, len(ids))]
        for ids, params in requests
    ]
    assert scored(requests, together=True, **plan) == scored(requests, together=False, **plan) == expected


def one_logprob(prefix: list[int], token_id: int, num_top: int) -> TokenLogprob:
    """From the logits that the backend gives after `prefix`."""
    return token_logprob(FakeBackend(make_plan())._logits(prefix), token_id, num_top)


def test_a_prompt_is_scored_without_an_answer_even_where_it_fills_the_context() -> None:
    engine = make_engine()
    request = engine.add([3] * 128, SamplingParams(max_tokens=0, prompt_logprobs=0))
    (output,) = run(engine)[request.id]
    assert output == StepOutput(request.id, "", (), (), FinishReason.LENGTH)
    assert len(request.prompt_logprobs) == 128 and request.prompt_logprobs[0] is None and all(request.prompt_logprobs[1:])


def test_a_prompt_is_scored_whatever_the_prefix_cache_holds_and_its_own_pages_serve_the_next() -> None:
    engine = make_engine()
    first = engine.add([9] * 40, SamplingParams(max_tokens=1, prompt_logprobs=0))
    run(engine)
    again = engine.add([9] * 40, SamplingParams(max_tokens=1, prompt_logprobs=0))
    run(engine)
    plain = engine.add([9] * 40, SamplingParams(max_tokens=1))
    run(engine)
    assert again.prompt_logprobs == first.prompt_logprobs and again.num_cached == 0
    assert plain.num_cached == 32 and plain.prompt_logprobs == [] and plain.output_ids == first.output_ids


def test_logits_that_are_not_finite_within_a_prompt_end_its_request_only() -> None:
    backend = FakeBackend(make_plan())
    backend.poison = lambda ids: math.nan if ids[:3] == [1, 2, 3] and len(ids) < 6 else 0.0
    engine = make_engine(backend)
    bad = engine.add([1, 2, 3, 4, 5, 6, 7, 8], SamplingParams(max_tokens=2, prompt_logprobs=0))
    good = engine.add([1, 2, 4, 5], SamplingParams(max_tokens=2, prompt_logprobs=0))
    run(engine)
    assert (bad.finish_reason, good.finish_reason) == (FinishReason.ERROR, FinishReason.LENGTH)
    assert len(good.prompt_logprobs) == 4 and all_free(engine)


def test_a_sampler_of_ones_own_samples_the_tokens() -> None:
    class Counter:
        num_calls = 0

        def sample(self, logits: Row, history: History) -> int:
            self.num_calls += 1
            return len(history.output_ids)

    engine, counter = make_engine(), Counter()
    request = engine.add([0], SamplingParams(max_tokens=4), counter)
    run(engine)
    assert request.output_ids == [0, 1, 2, 3] and counter.num_calls == 4


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([3, RuntimeError("no such idea\nwith details")], "RuntimeError: no such idea"),
        ([3, 1 << 20], "the sampler's token id is 1048576"),
        ([3, None], "the sampler's token id is None"),
    ],
)
def test_a_sampler_that_fails_ends_its_request_and_no_other(answers: list[Any], error: str) -> None:
    class Failing:
        def sample(self, logits: Row, history: History) -> int:
            answer = answers[len(history.output_ids)]
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[no-any-return]

    engine, alone = make_engine(), make_engine()
    bad = engine.add([0, 1], SamplingParams(max_tokens=6), Failing())
    good = engine.add([0, 2], SamplingParams(max_tokens=6))
    same = alone.add([0, 2], SamplingParams(max_tokens=6))
    run(engine)
    run(alone)
    assert (bad.finish_reason, bad.output_ids) == (FinishReason.ERROR, [3])
    assert bad.error.startswith(error) and "\n" not in bad.error
    assert (good.finish_reason, good.output_ids) == (FinishReason.LENGTH, same.output_ids) and all_free(engine)


# ---- overlapped steps -----------------------------------------------------------------------------------------------


def sampling_engine(**plan: int) -> tuple[Engine, SamplingBackend]:
    backend = SamplingBackend(make_plan(**plan))
    return make_engine(backend, make_plan(**plan)), backend


def test_the_next_step_is_launched_before_the_last_one_is_read() -> None:
    engine, backend = sampling_engine()
    request = engine.add([1, 2, 3], SamplingParams(max_tokens=6))
    run(engine)
    assert backend.most_in_flight == 2 and backend.num_in_flight == 0
    assert len(backend.batches) == 6, "no step is made for tokens that nobody wants"
    assert request.output_ids == alone([1, 2, 3], SamplingParams(max_tokens=6)).output_ids


EDITS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.5},
    {"presence_penalty": 4.5},
    {"frequency_penalty": -0.3},
    {"logit_bias": {7: 6.0, 9: 5.5}},
]


@pytest.mark.parametrize("params", EDITS, ids=str)
@pytest.mark.parametrize("prompt_ids", [[4], [4, 5, 4, 5]], ids=str)
def test_penalties_and_biases_make_nobody_wait(prompt_ids: list[int], params: dict[str, Any]) -> None:
    """The device repeats itself as soon as it may, so that an id that nobody has read yet counts."""
    engine, backend = sampling_engine()
    backend.answer = lambda ids: ids[-1]
    request, other = (engine.add(prompt_ids, SamplingParams(max_tokens=20, **given)) for given in (params, {}))
    run(engine)
    assert backend.most_in_flight == 2 and len(backend.batches) == 20
    plain = make_engine(PlainBackend(make_plan(), lambda ids: ids[-1]))
    expected = plain.add(prompt_ids, SamplingParams(max_tokens=20, **params))
    run(plain)
    assert request.output_ids == expected.output_ids
    assert other.output_ids == [prompt_ids[-1]] * 20


@pytest.mark.parametrize("params", [{"logprobs": 1}, {"prompt_logprobs": 0}, {"logprobs": 0, "repetition_penalty": 1.5}])
def test_who_wants_more_than_ids_makes_all_wait_until_it_ends(params: dict[str, Any]) -> None:
    engine, backend = sampling_engine()
    penalised = engine.add([1, 2], SamplingParams(max_tokens=20, frequency_penalty=1.0))
    first = engine.add([1, 2, 3], SamplingParams(max_tokens=20))
    for _ in range(3):
        engine.step()
    assert backend.most_in_flight == 2
    second = engine.add([4, 5], SamplingParams(max_tokens=3, **params))
    backend.most_in_flight = 0
    while second.finish_reason is None:
        engine.step()
    assert backend.most_in_flight <= 1
    run(engine)
    assert backend.most_in_flight == 2
    assert first.output_ids == alone([1, 2, 3], SamplingParams(max_tokens=20)).output_ids
    assert second.output_ids == alone([4, 5], SamplingParams(max_tokens=3, **params)).output_ids
    assert penalised.output_ids == alone([1, 2], SamplingParams(max_tokens=20, frequency_penalty=1.0)).output_ids


def device_params(rng: random.Random) -> SamplingParams:
    """Whatever a device can sample by."""
    return SamplingParams(
        max_tokens=rng.choice([1, 2, 7, 40, None]),
        temperature=rng.choice([0.0, 0.7, 3.0]),
        top_k=rng.choice([0, 20]),
        top_p=rng.choice([1.0, 0.9]),
        min_p=rng.choice([0.0, 0.05]),
        seed=rng.randrange(1 << 40),
        stop_ids=rng.sample(range(256), 6),
        repetition_penalty=rng.choice([1.0, 1.0, 1.1, 5.0]),
        presence_penalty=rng.choice([0.0, 0.0, 0.4, -0.2]),
        frequency_penalty=rng.choice([0.0, 0.0, 0.3]),
        logit_bias=rng.choice([{}, {}, {rng.randrange(256): 4.5, rng.randrange(256): -9.0}, {i: 0.01 * i for i in range(256)}]),
    )


def in_plain_steps(prompt_ids: list[int], params: SamplingParams) -> list[int]:
    """The ids of a request alone, on a backend that does not sample."""
    engine = make_engine(PlainBackend(make_plan()))
    request = engine.add(prompt_ids, params)
    run(engine)
    return request.output_ids


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sizes", PLANS, ids=str)
def test_overlapped_steps_change_no_id_whatever_is_added_stopped_and_preempted(sizes: dict[str, Any], seed: int) -> None:
    rng = random.Random(seed)
    jobs = [([rng.choice([1, 2])] * rng.randint(1, 60) + [rng.randrange(256)], device_params(rng)) for _ in range(16)]
    engine, backend = sampling_engine(**sizes)
    requests, dropped = [], set()
    for ids, params in jobs:
        requests.append(engine.add(ids, params))
        for _ in range(rng.randint(0, 4)):
            engine.step()
        if rng.random() < 0.2:
            victim = rng.choice(requests)
            engine.abort(victim.id)
            dropped.add(victim.id)
    run(engine)
    assert backend.most_in_flight == 2 and backend.num_in_flight == 0 and all_free(engine)
    for request, (ids, params) in zip(requests, jobs, strict=True):
        expected = in_plain_steps(ids, params)
        assert request.output_ids == (expected[: len(request.output_ids)] if request.id in dropped else expected)
        assert request.num_in_flight == 0 and request.finish_reason is not None


def test_a_filter_that_the_device_lacks_makes_the_host_sample_while_a_request_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "FILTERS", {**filters.FILTERS, "only": filters.Filter(only, ("only",))})
    hot = ParamsWithOnly(temperature=5.0, max_tokens=12, seed=3)
    expected = alone([1, 2], hot).output_ids
    engine, backend = sampling_engine()
    plain = engine.add([1, 2], hot)
    for _ in range(3):
        engine.step()
    assert backend.most_in_flight == 2
    needy = engine.add([3], ParamsWithOnly(temperature=5.0, max_tokens=4, only=77))
    backend.most_in_flight = 0
    while needy.finish_reason is None:
        engine.step()
    assert backend.most_in_flight <= 1
    run(engine)
    assert backend.most_in_flight == 2
    assert needy.output_ids == [77] * 4 and plain.output_ids == expected


# ---- what ended it, and what must not come ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "reason", "text"),
    [
        (SamplingParams(), None, "Hi, you!"),
        (SamplingParams(stop="you"), "you", "Hi, "),
        (SamplingParams(stop=["zzz", ","]), ",", "Hi"),
        (SamplingParams(stop_ids=[ord("y")]), ord("y"), "Hi, "),
        (SamplingParams(stop_ids=[EOS]), EOS, "Hi, you!"),
        (SamplingParams(stop="</s>"), "</s>", "Hi, you!"),  # spells EOS
        (SamplingParams(stop="!</s>"), "!</s>", "Hi, you"),
        (SamplingParams(stop="</s>", ignore_eos=True), "</s>", "Hi, you!"),
    ],
    ids=str,
)
def test_what_ended_a_request_is_told(params: SamplingParams, reason: int | str | None, text: str) -> None:
    engine = make_engine(spell("Hi, you!"))
    request = engine.add([BOS, 0], params)
    outputs = run(engine)[request.id]
    assert request.finish_reason is FinishReason.STOP and request.stop_reason == reason
    assert told(outputs)[0] == text
    assert all_free(engine)


def test_a_request_that_is_cut_has_no_stop_reason() -> None:
    engine = make_engine(spell("Hi"))
    request = engine.add([0], SamplingParams(max_tokens=1))
    run(engine)
    assert request.finish_reason is FinishReason.LENGTH and request.stop_reason is None


def test_suppressed_ids_never_come_and_no_end_comes_before_its_time() -> None:
    engine = make_engine(spell("abc"))
    plain = engine.add([0], SamplingParams())
    without = engine.add([0], SamplingParams(suppress_ids=[ord("b")], max_tokens=8))
    later = engine.add([0], SamplingParams(begin_suppress_ids=[ord("a"), ord("b")], max_tokens=8))
    longer = engine.add([0], SamplingParams(min_tokens=6))
    spelled = engine.add([0], SamplingParams(min_tokens=6, stop=["</s>"], ignore_eos=True))
    run(engine)
    assert plain.output_ids == [*b"abc", EOS]
    assert ord("b") not in without.output_ids and without.output_ids[0] == ord("a")
    assert later.output_ids[0] not in (ord("a"), ord("b"))
    assert longer.output_ids.index(EOS) == len(longer.output_ids) - 1 >= 6
    assert spelled.output_ids == longer.output_ids and spelled.stop_reason == "</s>"


def test_log_probabilities_carry_the_text_of_their_ids() -> None:
    engine = make_engine(spell("é"))
    request = engine.add([BOS, 0], SamplingParams(logprobs=1, prompt_logprobs=1))
    run(engine)
    assert [entry.text for entry in request.logprobs] == ["\ufffd", "\ufffd", ByteTokenizer().piece(EOS)]
    assert request.logprobs[-1].top_texts == (ByteTokenizer().piece(EOS),)
    scored = request.prompt_logprobs[1]
    assert scored is not None and scored.text == "\0" and len(scored.top_texts) == 1


# ---- time, and who comes first ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 3, 6])
def test_a_request_past_its_time_ends_with_its_text_so_far(at: int) -> None:
    """The clock stands until step `at`; a request that waits ends too, and those without a limit are left alone."""
    now = 0.0
    engine = make_engine(spell("one two three"), plan=make_plan(max_sequences=2))
    engine._deadlines = Deadlines(lambda: now)
    ended, other, waiting = (
        engine.add([i, 0], SamplingParams(stop=("e x",), timeout=limit)) for i, limit in ((1, 9.0), (2, None), (3, 8.0))
    )
    outputs: list[StepOutput] = []
    for number in range(20):
        now += 100.0 if number == at else 0.0
        outputs += engine.step()
    mine = [output for output in outputs if output.request_id == ended.id]
    assert ended.finish_reason is FinishReason.TIMEOUT is mine[-1].finish_reason
    text = "one two three"[: len(ended.output_ids)]
    assert told(mine) == (text, tuple(text.encode()))
    assert waiting.finish_reason is FinishReason.TIMEOUT and waiting.output_ids == []
    assert other.finish_reason is FinishReason.STOP
    assert all_free(engine) and not engine.has_work


def test_a_queue_that_is_full_refuses_and_takes_again_later() -> None:
    engine = make_engine(plan=make_plan(max_sequences=2), max_queue=3)
    params = SamplingParams(max_tokens=3)
    taken = [engine.add([i], params) for i in range(3)]
    with pytest.raises(QueueFullError, match="3 requests wait, and no more may") as refusal:
        engine.add([4], params)
    assert refusal.value.http_status == 429
    engine.step()
    taken += [engine.add([i], params) for i in (4, 5)]
    with pytest.raises(QueueFullError):
        engine.add([6], params)
    run(engine)
    assert all(request.finish_reason is FinishReason.LENGTH for request in taken) and all_free(engine)


@pytest.mark.parametrize("seed", range(2))
def test_priorities_change_no_result(seed: int) -> None:
    rng = random.Random(seed)
    jobs = [([rng.choice([1, 2])] * rng.randint(1, 60) + [rng.randrange(256)], random_params(rng)) for _ in range(16)]
    engine = make_engine(plan=make_plan(num_pages=9, max_tokens=12, max_sequences=3))
    requests = []
    for ids, params in jobs:
        requests.append(engine.add(ids, replace(params, priority=rng.randint(-2, 2))))
        for _ in range(rng.randint(0, 4)):
            engine.step()
    run(engine)
    for request, (ids, params) in zip(requests, jobs, strict=True):
        lone = alone(ids, params)
        assert (request.output_ids, request.logprobs) == (lone.output_ids, lone.logprobs)
    assert all_free(engine)
