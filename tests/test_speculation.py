"""Speculation changes no bit: whatever a drafter guesses, results are those of one token per step."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from puna.config import EngineConfig
from puna.engine import Engine
from puna.request import FinishReason, Request, SamplingParams, StepOutput
from puna.sampling import History, Row
from puna.scheduler import Scheduler
from puna.speculation import COSTS, LOSS, MAX_DRAFT, MAX_PROOF, MODEL_GAIN, Drafter, NGramDrafter, StepCosts
from tests.fakes import EOS, FILTERS, VOCAB_SIZE, ByteTokenizer, FakeBackend, make_plan, tiny_config

MODEL = tiny_config(vocab_size=VOCAB_SIZE)


class Adversary(Drafter):
    """Guesses right, wrong, too long or not at all, at random. `answers`: request id -> the ids that will come."""

    def __init__(self, seed: int, answers: dict[int, list[int]]) -> None:
        self._rng, self._answers = random.Random(seed), answers
        self.live: set[int] = set()
        self.rows: list[int] = []

    def start(self, request: Request) -> None:
        self.live.add(request.id)

    def draft(self, requests: Sequence[Request], rows: int) -> None:
        assert rows >= len(requests) > 0
        for request in requests:
            request.draft_ids = self._guess(self._answers.get(request.id, [])[len(request.output_ids) :])

    def note(self, rows: int, seconds: float) -> None:
        self.rows.append(rows)

    def finish(self, request: Request) -> None:
        self.live.remove(request.id)

    def _guess(self, coming: list[int]) -> list[int]:
        rng = self._rng
        wrong = [rng.randrange(VOCAB_SIZE) for _ in range(rng.choice([1, 2, 9, 200]))]
        right = coming[: rng.choice([1, 3, 8, 100])]
        return rng.choice([[], right, wrong, right + wrong, [*right, EOS, *wrong]])


@dataclasses.dataclass
class LastSeen:
    """A sampler of the caller's: its choice and its state depend on the logits and on each call."""

    num_calls: int = 0

    def sample(self, logits: Row, history: History) -> int:
        self.num_calls += 1
        return int(np.argsort(logits)[-1 - (self.num_calls + len(history.output_ids)) % 3])


Job = tuple[list[int], SamplingParams, bool]  # prompt, parameters, whether a caller's sampler samples


def random_job(rng: random.Random) -> Job:
    ids = [rng.choice([1, 2])] * rng.randint(1, 40) + [rng.randrange(256)]
    params = SamplingParams(
        max_tokens=rng.choice([1, 2, 7, 40, None]),
        min_tokens=rng.choice([0, 0, 5]),
        temperature=rng.choice([0.0, 0.0, 0.7, 3.0]),
        top_k=rng.choice([0, 20]),
        top_p=rng.choice([1.0, 0.9]),
        repetition_penalty=rng.choice([1.0, 1.3]),
        presence_penalty=rng.choice([0.0, 0.6]),
        frequency_penalty=rng.choice([0.0, 0.4]),
        logit_bias=rng.choice([{}, {7: 2.0, EOS: 3.0}]),
        seed=rng.randrange(1 << 40),
        stop=rng.choice([(), ("a", "bc"), ("e ",)]),
        stop_ids=rng.choice([(), tuple(range(10))]),
        ignore_eos=rng.random() < 0.3,
        logprobs=rng.choice([None, 0, 3]),
        prompt_logprobs=rng.choice([None, None, 2]),
        **({} if rng.random() < 0.5 else rng.choice(FILTERS)),
    )
    if rng.random() < 0.2:  # a constraint, which masks each row in turn, and may force tokens
        regex = rng.choice(["[abc de]{1,20}", "(abc|bcd)+ (always the same|another)?"])
        return ids, dataclasses.replace(params, regex=regex, stop=(), stop_ids=(), ignore_eos=False, min_tokens=0), False
    return ids, params, rng.random() < 0.1


def random_plan(rng: random.Random) -> dict[str, Any]:
    return {
        "num_pages": rng.choice([8, 9, 12, 64]),
        "max_tokens": rng.choice([3, 16, 32]),
        "max_sequences": rng.choice([1, 2, 8]),
        "max_logits": rng.choice([2, 8, 32]),
    }


def engine_of(sizes: dict[str, Any], drafter: Drafter | None, prefix_cache: bool = True) -> tuple[Engine, FakeBackend]:
    plan = make_plan(**sizes)
    backend = FakeBackend(plan, lambda ids: [*b"abc de", EOS, 3][(sum(ids) * 7 + len(ids)) % 8])
    return Engine(backend, ByteTokenizer(), plan, EngineConfig(prefix_cache=prefix_cache), MODEL, drafter), backend


def require_sound(scheduler: Scheduler, backend: FakeBackend) -> None:
    """No page is lost or held for nothing, and each known page holds the K and V of the ids by which it can be found."""
    pages = scheduler.pages
    pages.check()
    for request in scheduler.running:
        assert request.num_computed <= request.num_tokens
        needed = pages.pages_for(request.num_computed), pages.pages_for(request.num_tokens)
        assert needed[0] <= len(request.page_ids) <= needed[1]
    for page, (_, ids, _) in pages._content.items():
        assert backend.pages[page].tolist() == list(ids)


def steps_of(engine: Engine, backend: FakeBackend, aborts: dict[int, int] | None = None) -> dict[int, list[StepOutput]]:
    """Step to the end. `aborts`: request id -> the step before which it is aborted."""
    told: dict[int, list[StepOutput]] = {}
    for number in range(10_000):
        for request_id, at in (aborts or {}).items():
            if at == number:
                engine.abort(request_id)
        for output in engine.step():
            told.setdefault(output.request_id, []).append(output)
        require_sound(engine._scheduler, backend)
        if not engine.has_work:
            return told
    raise AssertionError("it does not end")


def run_all(jobs: list[Job], engine: Engine, backend: FakeBackend, aborts: dict[int, int] | None = None) -> list[Any]:
    requests = [engine.add(ids, params, LastSeen() if own else None) for ids, params, own in jobs]
    told = steps_of(engine, backend, aborts)
    assert engine.num_free_pages == engine._scheduler.pages.num_pages
    return [gist(request, told[request.id]) for request in requests]


def gist(request: Request, told: list[StepOutput]) -> Any:
    pieces = [(o.text, o.token_ids, o.logprobs, o.finish_reason) for o in told]
    return (request.output_ids, request.logprobs, request.prompt_logprobs, request.finish_reason, request.stop_reason, pieces)


@pytest.mark.parametrize("seed", range(16))
def test_whatever_is_guessed_the_results_are_those_of_one_token_per_step(seed: int) -> None:
    """Greedy and sampled, penalties, stops, log-probabilities, chunks, few pages, prefix cache, batches; pieces too."""
    rng = random.Random(seed)
    jobs, sizes, prefix_cache = [random_job(rng) for _ in range(12)], random_plan(rng), rng.random() < 0.7
    expected = run_all(jobs, *engine_of(sizes, None, prefix_cache))
    adversary = Adversary(seed, {number: result[0] for number, result in enumerate(expected, start=1)})
    engine, backend = engine_of(sizes, adversary, prefix_cache)
    assert run_all(jobs, engine, backend) == expected
    assert run_all(jobs, engine, backend) == expected, "with what the prefix cache now holds, and blind guesses"
    assert adversary.live == set()


@pytest.mark.parametrize("seed", range(6))
def test_an_aborted_request_has_a_beginning_of_its_answer_and_the_others_have_all(seed: int) -> None:
    rng = random.Random(100 + seed)
    jobs, sizes = [random_job(rng) for _ in range(12)], random_plan(rng)
    expected = run_all(jobs, *engine_of(sizes, None))
    aborts = {rng.randint(1, 12): rng.randint(0, 30) for _ in range(4)}
    adversary = Adversary(seed, {number: result[0] for number, result in enumerate(expected, start=1)})
    for number, (found, whole) in enumerate(zip(run_all(jobs, *engine_of(sizes, adversary), aborts), expected), start=1):
        if found[3] is FinishReason.ABORT:
            assert number in aborts and found[0] == whole[0][: len(found[0])]
        else:
            assert found == whole


def counts(answer: list[int], max_tokens: int) -> tuple[Request, int]:
    """A request whose every guess is right, and the number of steps that it took."""

    class Oracle(Adversary):
        def _guess(self, coming: list[int]) -> list[int]:
            return coming[:4]

    engine, backend = engine_of({}, Oracle(0, {1: answer}))
    request = engine.add([1, 2, 3], SamplingParams(max_tokens=max_tokens, ignore_eos=True))
    steps_of(engine, backend)
    return request, len(backend.batches)


def test_right_guesses_save_steps_and_are_counted() -> None:
    engine, backend = engine_of({}, None)
    alone = engine.add([1, 2, 3], SamplingParams(max_tokens=31, ignore_eos=True))
    steps_of(engine, backend)
    request, num_steps = counts(alone.output_ids, 31)
    assert request.output_ids == alone.output_ids
    assert (len(backend.batches), num_steps) == (31, 7)
    assert (request.num_drafted, request.num_accepted) == (24, 24), "the prompt's step gives one token, each other five"
    assert (alone.num_drafted, alone.num_accepted) == (0, 0)


def test_guesses_take_only_what_others_leave() -> None:
    """A step has 8 rows: the guesses of one request take those that another's prompt, of half a step at most, leaves."""

    class Eager(Adversary):
        def _guess(self, coming: list[int]) -> list[int]:
            return [5] * 100

    engine, backend = engine_of({"max_tokens": 8, "max_sequences": 2}, Eager(0, {}))
    engine.add([1, 2, 3], SamplingParams(max_tokens=20, ignore_eos=True))
    engine.step()
    engine.step()
    engine.add([4] * 14, SamplingParams(max_tokens=20, ignore_eos=True))
    engine.step()
    engine.step()
    engine.step()
    assert [np.diff(batch.starts).tolist() for batch in backend.batches] == [[3], [8], [4, 4], [4, 4], [4, 4]]


def test_guesses_end_with_the_pages_and_preempt_nobody() -> None:
    class Eager(Adversary):
        def _guess(self, coming: list[int]) -> list[int]:
            return [5] * 100

    engine, backend = engine_of({"num_pages": 8, "max_tokens": 64}, Eager(0, {}))
    requests = [engine.add([i] * 50, SamplingParams(max_tokens=13, ignore_eos=True)) for i in (1, 2)]
    while engine.has_work:
        engine.step()
        require_sound(engine._scheduler, backend)
        assert not any(request.num_computed == 0 and request.output_ids for request in engine._scheduler.waiting)
    assert [len(request.output_ids) for request in requests] == [13, 13]
    assert max(map(len, (batch.token_ids for batch in backend.batches[3:]))) > 2, "there were guesses"


# ---- how much is guessed --------------------------------------------------------------------------------------------


def test_costs_learn_what_rows_cost_here() -> None:
    """Whatever the table says: on a device whose rows are free the most is guessed, where they cost all, nothing."""
    free, dear = StepCosts(MODEL_GAIN), StepCosts(MODEL_GAIN)
    for _ in range(60):
        for rows in (1, 4, 8):
            free.note(rows, 0.01)
            dear.note(rows, 0.01 * rows)
    assert free.length([0.6] * MAX_DRAFT, rows=1) > StepCosts(MODEL_GAIN).length([0.6] * MAX_DRAFT, rows=1) > 0
    assert dear.length([0.95] * MAX_DRAFT, rows=1) == 0


def test_a_step_that_was_held_up_changes_little() -> None:
    costs = StepCosts(MODEL_GAIN)
    for rows in (1, 4):
        costs.note(rows, 0.01 * COSTS[rows])
    before = costs[4]
    costs.note(4, 100.0)
    assert before < costs[4] < 1.2 * before


def test_what_was_dear_once_is_tried_again_when_nothing_is_guessed() -> None:
    costs = StepCosts(MODEL_GAIN)
    for rows in (1, *[4] * 20):
        costs.note(rows, 0.01 * rows)
    assert costs[4] > 3
    for _ in range(600):
        costs.note(1, 0.01)
    assert costs[4] == pytest.approx(COSTS[4], rel=0.1)


def test_each_number_of_rows_has_a_cost_of_its_own() -> None:
    """On this device two rows are dear, and four are cheap; numbers that no step had follow the nearest."""
    costs = StepCosts(MODEL_GAIN)
    for _ in range(100):
        for rows, cost in ((1, 1.0), (2, 3.0), (4, 1.2)):
            costs.note(rows, 0.01 * cost)
    assert [costs[2], costs[4]] == pytest.approx([3.0, 1.2], rel=0.05)
    assert costs[5] < COSTS[5] and costs[12] < COSTS[12]


def test_a_large_batch_is_not_guessed() -> None:
    costs = StepCosts(MODEL_GAIN)
    assert [costs.length([0.8] * MAX_DRAFT, rows) > 0 for rows in (1, 2, 8)] == [True, True, False]


class Copyist(NGramDrafter):
    """Steps always cost what the table says."""

    def note(self, rows: int, seconds: float) -> None:
        pass


def answered(
    drafter: Drafter | None, answer: list[int], max_tokens: int = 60, cache_salt: str = ""
) -> tuple[Request, FakeBackend]:
    """A request whose answer repeats `answer`."""
    plan = make_plan()
    backend = FakeBackend(plan, lambda ids: answer[(len(ids) - 3) % len(answer)])
    engine = Engine(backend, ByteTokenizer(), plan, EngineConfig(), MODEL, drafter)
    request = engine.add([1, 2, 3], SamplingParams(max_tokens=max_tokens, ignore_eos=True, cache_salt=cache_salt))
    steps_of(engine, backend)
    return request, backend


def test_a_text_that_repeats_itself_takes_few_steps() -> None:
    plain, _ = answered(None, [5, 6, 7, 8, 9])
    request, backend = answered(Copyist(), [5, 6, 7, 8, 9])
    assert request.output_ids == plain.output_ids
    assert len(backend.batches) <= 25
    assert 0 < request.num_accepted == request.num_drafted


def test_a_text_that_never_repeats_takes_no_guesses() -> None:
    request, backend = answered(Copyist(), list(range(100)))
    assert len(backend.batches) == 60 and request.num_drafted == 0


def test_guesses_that_fail_end() -> None:
    """Each pair of ids comes again, and never goes on as before."""
    rng = random.Random(3)
    answer = [i for _ in range(40) for i in (4, 5, rng.randrange(10, 250))]
    request, backend = answered(Copyist(), answer, max_tokens=110)
    assert len(backend.batches) >= 110 - 8
    assert request.num_drafted <= 16


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_whose_guesses_all_fail_loses_next_to_nothing(seed: int) -> None:
    """Long runs come again, so that the odds look good, and each ends before its first guess."""
    rng = random.Random(seed)
    run = list(range(10, 16))
    answer = [i for _ in range(30) for i in (*run, rng.randrange(20, 250), rng.randrange(20, 250))]
    request, _ = answered(Copyist(), answer, max_tokens=200)
    lost = request.num_drafted / 3 * (COSTS[4] - 1) - request.num_accepted
    assert lost <= LOSS * 200 + MAX_PROOF, f"seed {seed}"


def test_an_answer_given_before_is_guessed_from_it() -> None:
    drafter, answer = Copyist(), list(range(100))
    answered(drafter, answer)
    request, backend = answered(drafter, answer)
    assert request.num_accepted > 30 and len(backend.batches) < 30


def test_no_tenant_sees_what_another_was_told() -> None:
    drafter, answer = Copyist(), list(range(100))
    answered(drafter, answer, cache_salt="one")
    assert answered(drafter, answer, cache_salt="two")[0].num_drafted == 0
    assert answered(drafter, answer)[0].num_drafted == 0
    assert answered(drafter, answer, cache_salt="one")[0].num_accepted > 30
