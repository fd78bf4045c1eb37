"""Many threads share an engine: each hears all of its own outputs, whoever steps; nobody waits for ever."""

from __future__ import annotations

import gc
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from puna.engine import Engine
from puna.errors import UsageError
from puna.request import FinishReason, SamplingParams, StepOutput
from puna.runner import Handle, Runner
from puna.sampling import History, Row
from tests.fakes import FakeBackend, SamplingBackend, make_engine, make_plan, run

WAIT_S = 30.0  # for what comes at once: a test that takes as long has failed
TEN = SamplingParams(max_tokens=10, ignore_eos=True)
ENDLESS = SamplingParams(max_tokens=None, ignore_eos=True)


class Parts:
    """A runner, with its engine and its backend."""

    def __init__(self, backend: FakeBackend | None = None) -> None:
        self.plan = make_plan()
        self.backend = FakeBackend(self.plan) if backend is None else backend
        self.engine = make_engine(self.backend, self.plan)
        self.runner = Runner(self.engine)

    def submit(self, prompt: str, params: SamplingParams = TEN) -> Handle:
        return self.runner.submit(list(prompt.encode()), params)

    def is_clean(self) -> bool:
        return self.runner.is_idle and not self.runner._handles and self.engine.num_free_pages == self.plan.num_pages


@pytest.fixture
def parts() -> Iterator[Parts]:
    made = Parts()
    yield made
    made.runner.close()


def alone(prompt: str, params: SamplingParams = TEN) -> list[int]:
    """The ids of a prompt that has an engine of its own."""
    engine = make_engine()
    request = engine.add(list(prompt.encode()), params)
    run(engine)
    return request.output_ids


def ids(outputs: list[StepOutput]) -> list[int]:
    return [token_id for output in outputs for token_id in output.token_ids]


def threads(works: list[Callable[[], Any]]) -> None:
    """Do all works at once, and wait for their ends."""
    started = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(WAIT_S)
        assert not thread.is_alive(), "a thread goes on for ever"


@contextmanager
def in_step(parts: Parts, work: Callable[[], Any]) -> Iterator[None]:
    """The block runs while another thread, which does `work`, is inside a step."""
    inside, leave = threading.Event(), threading.Event()

    def fail(call: int) -> None:
        inside.set()
        assert leave.wait(WAIT_S)

    parts.backend.fail = fail
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert inside.wait(WAIT_S)
    try:
        yield
    finally:
        parts.backend.fail = lambda call: None
        leave.set()
        thread.join(WAIT_S)
        assert not thread.is_alive()


# ---- who hears ------------------------------------------------------------------------------------------------------


def test_a_handle_has_the_outputs_of_the_engine(parts: Parts) -> None:
    handle = parts.submit("hello")
    outputs = list(handle)
    assert ids(outputs) == alone("hello") and outputs == handle.outputs
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert 0 < handle.submitted_at < handle.first_token_at < handle.ended_at
    assert list(handle) == [] and handle.is_over and parts.is_clean()


def test_whoever_pulls_advances_all(parts: Parts) -> None:
    handles = [parts.submit(text) for text in ("a", "bb", "ccc")]
    list(handles[1])
    assert all(handle.ended_at for handle in handles) and len(parts.backend.batches) == 10
    assert [ids(handle.outputs) for handle in handles] == [alone(text) for text in ("a", "bb", "ccc")]


def test_threads_that_pull_at_once_hear_what_they_hear_alone(parts: Parts) -> None:
    texts = [f"prompt {i}" for i in range(12)]
    found: dict[str, list[int]] = {}

    def hear(text: str) -> None:
        found[text] = ids(list(parts.submit(text)))

    threads([partial(hear, text) for text in texts])
    assert found == {text: alone(text) for text in texts} and parts.is_clean()


def test_who_waits_for_anothers_step_hears_of_it_before_the_other_has_ended(parts: Parts) -> None:
    """Else a thread that steps without a pause would keep all tokens from the others."""
    parts.backend.fail = lambda call: time.sleep(0.001)
    long, short = parts.submit("long", SamplingParams(max_tokens=100, ignore_eos=True)), parts.submit("short")
    when: list[int] = []

    def hear() -> None:
        list(short)
        when.append(len(long.outputs))

    threads([lambda: list(long), hear])
    assert when[0] < 100


def test_several_threads_share_the_outputs_of_one_handle(parts: Parts) -> None:
    handle, found = parts.submit("hello", SamplingParams(max_tokens=60, ignore_eos=True)), list[StepOutput]()
    threads([lambda: found.extend(handle)] * 4)
    assert sorted(map(id, found)) == sorted(map(id, handle.outputs)) and len(ids(found)) == 60


def test_submit_and_cancel_never_wait_and_are_carried_out_before_the_next_step(parts: Parts) -> None:
    running, other = parts.submit("running"), parts.submit("other", ENDLESS)
    with in_step(parts, lambda: next(running)):
        late = parts.submit("late")
        other.cancel()
        cancelled = parts.submit("never")
        cancelled.cancel()
        assert (late.request, other.ended_at, late.take()) == (None, 0.0, None)
    list(running)
    sizes = [len(batch.starts) - 1 for batch in parts.backend.batches]
    assert sizes[:3] == [2, 2, 2], "the cancelled one is in no step but the one that ran, and the late one in all others"
    assert other.request is not None and other.request.finish_reason is FinishReason.ABORT
    assert list(cancelled)[-1].finish_reason is FinishReason.ABORT and ids(cancelled.outputs) == []
    assert ids(list(late)) == alone("late")


def test_a_refusal_is_raised_by_its_handle_alone(parts: Parts) -> None:
    good, bad = parts.submit("good"), parts.runner.submit([1 << 30], TEN)
    for _ in range(2):
        with pytest.raises(UsageError, match="not in the vocabulary"):
            bad.confirm()
        with pytest.raises(UsageError, match="not in the vocabulary"):
            next(bad)
    assert good.confirm().prompt_ids == list(b"good") and ids(list(good)) == alone("good") and parts.is_clean()


def test_a_sampler_of_the_callers_is_asked(parts: Parts) -> None:
    class Second:
        def sample(self, logits: Row, history: History) -> int:
            assert list(history.prompt_ids) == [65]
            return int(logits.argsort()[-2])

    handle = parts.runner.submit([65], TEN, Second())
    assert len(ids(list(handle))) == 10 and ids(handle.outputs)[0] != alone("A")[0]


def test_a_listener_is_told_of_each_output_and_of_the_end(parts: Parts) -> None:
    told: list[int] = []
    handle = parts.runner.submit([65], TEN, listener=lambda _: told.append(1))
    list(handle)
    assert len(told) == 10
    bad = parts.runner.submit([], TEN, listener=lambda _: told.append(2))
    with pytest.raises(UsageError, match="no tokens"):
        bad.confirm()
    assert told[10:] == [2]


# ---- how it ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", "close", "drop"])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_handle_that_is_given_up_is_in_no_further_step(how: str, ahead: bool) -> None:
    parts = Parts(SamplingBackend(make_plan()) if ahead else None)
    given_up, other = parts.submit("given up", ENDLESS), parts.submit("other")
    next(given_up)
    request = given_up.confirm()
    getattr(given_up, how, lambda: None)()
    del given_up
    gc.collect()
    list(other)
    assert request.finish_reason is FinishReason.ABORT and len(request.output_ids) <= 2
    assert ids(other.outputs) == alone("other") and parts.is_clean()
    parts.runner.close()


def test_a_handle_that_is_closed_has_its_last_output_and_gives_nothing_more(parts: Parts) -> None:
    handle = parts.submit("hello", ENDLESS)
    next(handle)
    handle.close()
    handle.close()
    assert list(handle) == [] and handle.outputs[-1].finish_reason is FinishReason.ABORT and parts.is_clean()


def test_a_handle_whose_last_output_was_lost_ends_all_the_same(parts: Parts) -> None:
    for give_up in (list, Handle.close):
        handle, other = parts.submit("hello"), parts.submit("other", ENDLESS)
        next(handle)
        parts.engine.abort(handle.confirm().id)
        parts.engine.outputs()
        if give_up is list:
            other.close()
        give_up(handle)
        assert handle.ended_at and not handle.error
        other.close()


class Broken(Exception):
    pass


def test_an_error_in_a_step_is_raised_by_every_handle_after_its_last_output(parts: Parts) -> None:
    def fail(call: int) -> None:
        if call == 4:
            raise Broken

    parts.backend.fail = fail
    handles = [parts.submit(text) for text in ("a", "b", "c")]
    raised: list[int] = []

    def hear(number: int) -> None:
        with pytest.raises(Broken):
            for _ in handles[number]:
                pass
        raised.append(number)

    threads([partial(hear, number) for number in range(3)])
    assert sorted(raised) == [0, 1, 2] and parts.is_clean()
    assert all(handle.outputs[-1].finish_reason is FinishReason.ERROR for handle in handles)
    assert [len(ids(handle.outputs)) for handle in handles] == [3] * 3
    assert ids(list(parts.submit("hello"))) == alone("hello")


PLACES = ("step", "add", "outputs", "abort", "listener")


@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c_anywhere_in_a_turn_ends_what_runs_and_leaves_the_runner_usable(
    place: str, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_due = False

    def interrupt() -> None:
        nonlocal is_due
        if is_due:
            is_due = False
            raise KeyboardInterrupt

    if place != "listener":
        real = getattr(Engine, place)

        def interrupted(*args: Any, **named: Any) -> Any:
            if is_due and place == "outputs":  # they are lost
                real(*args, **named)
            interrupt()
            return real(*args, **named)

        monkeypatch.setattr(Engine, place, interrupted)
    other = parts.submit("other", ENDLESS)
    mine = parts.runner.submit(list(b"mine"), ENDLESS, listener=lambda _: interrupt() if place == "listener" else None)
    next(mine)
    gone, late = parts.submit("gone", ENDLESS), parts.submit("late")
    gone.cancel()
    is_due = True
    with pytest.raises(KeyboardInterrupt):
        for _ in mine:
            pass
    assert not is_due
    for handle in (other, gone):
        list(handle)
        assert handle.ended_at and not handle.error
        assert handle.confirm().finish_reason is FinishReason.ABORT
    mine.close()
    assert ids(list(late)) in (alone("late"), alone("late")[:1], []), "it had begun, or not"
    assert ids(list(parts.submit("hello"))) == alone("hello") and parts.is_clean()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer that interrupts a thread")
@pytest.mark.parametrize("has_thread", [False, True])
def test_ctrl_c_at_any_moment_hurts_no_other_thread(has_thread: bool, parts: Parts) -> None:
    if has_thread:
        parts.runner.start()

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    rng, is_over, problems = random.Random(7), threading.Event(), list[list[int]]()

    def read() -> None:
        while not is_over.is_set():
            found = ids(list(parts.submit("other")))
            problems.extend([] if found == expected[: len(found)] else [found])

    expected, readers = alone("other"), [threading.Thread(target=read, daemon=True) for _ in range(2)]
    before = signal.signal(signal.SIGALRM, interrupt)
    for reader in readers:
        reader.start()
    for _ in range(100):
        kept: list[Handle] = []  # what is raised while an object is freed goes nowhere
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0001, 0.003))
            while True:
                kept.append(parts.submit("mine"))
                for _ in range(5):
                    next(kept[-1])
    is_over.set()
    signal.signal(signal.SIGALRM, before)
    for reader in readers:
        reader.join(WAIT_S)
        assert not reader.is_alive()
    assert problems == [] and ids(list(parts.submit("other"))) == expected


def test_a_sampler_that_uses_its_own_model_is_told_so(parts: Parts) -> None:
    class Nested:
        def sample(self, logits: Row, history: History) -> int:
            list(parts.submit("inner"))
            return 0

    handle = parts.runner.submit([65], TEN, Nested())
    with pytest.raises(UsageError, match="a sampler used the model"):
        list(handle)
    assert ids(list(parts.submit("hello"))) == alone("hello")


# ---- close ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_thread", [False, True])
def test_closing_ends_everything_and_refuses_what_comes_later(has_thread: bool) -> None:
    parts = Parts()
    if has_thread:
        parts.runner.start()
    handles = [parts.submit(text, ENDLESS) for text in "abc"]
    for handle in handles:
        handle.confirm()
    ended: list[StepOutput] = []

    def hear(handle: Handle) -> None:
        ended.append(list(handle)[-1])

    threads([*(partial(hear, handle) for handle in handles), *[parts.runner.close] * 3])
    assert {output.finish_reason for output in ended} <= {FinishReason.ABORT, FinishReason.LENGTH} and len(ended) == 3
    num_steps = len(parts.backend.batches)
    late = parts.submit("late")
    for ask in (late.confirm, lambda: next(late), lambda: parts.runner.alone(lambda: 1)):
        with pytest.raises(UsageError, match="the model was closed"):
            ask()
    late.close()
    parts.runner.close()
    assert len(parts.backend.batches) == num_steps and parts.is_clean()
    assert not has_thread or "puna-runner" not in {thread.name for thread in threading.enumerate()}


def test_closing_waits_for_the_step_that_runs(parts: Parts) -> None:
    handle = parts.submit("hello", ENDLESS)
    closer = threading.Thread(target=parts.runner.close)
    with in_step(parts, lambda: list(handle)):
        closer.start()
        closer.join(0.05)
        assert closer.is_alive()
    closer.join(WAIT_S)
    assert len(parts.backend.batches) == 1 and handle.outputs[-1].finish_reason is FinishReason.ABORT


# ---- a thread that steps by itself ----------------------------------------------------------------------------------


def test_its_own_thread_steps_for_those_who_only_listen_and_others_pull_beside_it(parts: Parts) -> None:
    news = threading.Event()
    with parts.runner.start() as runner:
        assert runner.start() is runner
        listening: list[Handle] = []
        for text in ("a", "b", "c"):
            handle = parts.runner.submit(list(text.encode()), TEN, listener=lambda _: news.set())
            listening.append(handle)
            while not handle.ended_at:
                assert news.wait(WAIT_S)
                news.clear()
        pulled = parts.submit("pulled")
        assert ids(list(pulled)) == alone("pulled")
        assert [ids(handle.outputs) for handle in listening] == [alone(text) for text in "abc"]
    assert parts.runner.is_closed


def test_its_own_thread_goes_on_after_an_error_that_every_handle_raises(parts: Parts) -> None:
    error: BaseException | None = None

    def fail(call: int) -> None:
        if error is not None:
            raise error

    parts.backend.fail = fail
    for raised in (Broken(), KeyboardInterrupt(), SystemExit()):  # what only its thread could hear of, it tells as well
        error = None
        parts.runner.start()
        handles = [parts.submit(text, ENDLESS) for text in "ab"]
        next(handles[0])
        error = raised
        ended = time.monotonic() + WAIT_S
        while not all(handle.ended_at for handle in handles):
            assert time.monotonic() < ended
            time.sleep(0.001)
        error = None
        for handle in handles:
            with pytest.raises(type(raised)):
                for _ in handle:
                    pass
        assert ids(list(parts.submit("hello"))) == alone("hello")


def test_what_needs_all_pages_waits_for_what_runs_which_loses_nothing(parts: Parts) -> None:
    handle = parts.submit("hello")
    first = next(handle)
    with in_step(parts, lambda: next(handle)):
        later = parts.submit("later")
        done: list[int] = []
        waiter = threading.Thread(target=lambda: done.append(parts.runner.alone(lambda: len(parts.backend.batches))))
        waiter.start()
        assert not done
    waiter.join(WAIT_S)
    assert done[0] >= 10
    assert ids(handle.outputs) == alone("hello") and ids(list(later)) == alone("later") and ids([first]) == alone("hello")[:1]


# ---- anything, in any order -----------------------------------------------------------------------------------------

FEW = 40  # prompts per thread


@pytest.mark.parametrize("seed", range(6))
def test_whatever_threads_do_everybody_hears_all_of_his_own_or_is_told(seed: int) -> None:
    """Threads submit, read, cancel, close, drop and break steps at random, with or without the runner's thread."""
    rng = random.Random(seed)
    print("seed", seed)
    parts = Parts(SamplingBackend(make_plan(num_pages=12)) if seed % 2 else FakeBackend(make_plan(num_pages=12)))
    expected = {text: alone(text, SamplingParams(max_tokens=12, ignore_eos=True)) for text in map(str, range(30))}
    breaks = {rng.randrange(40, 600) for _ in range(3)} if seed % 3 else set()

    def fail(call: int) -> None:
        if call in breaks:
            raise Broken

    parts.backend.fail = fail
    problems: list[str] = []

    def act(own: random.Random) -> None:
        for _ in range(FEW):
            text = str(own.randrange(30))
            handle = parts.submit(text, SamplingParams(max_tokens=12, ignore_eos=True))
            found: list[StepOutput] = []
            try:
                handle.confirm()
                for _ in range(own.choice([0, 1, 5, 99])):
                    found.append(next(handle))
            except StopIteration:
                whole = ids(found) == expected[text] and handle.outputs == found
                problems.extend([] if whole else [f"{text}: {ids(found)}"])
            except Broken:
                handle.close()
            give_up: Callable[[], object] = own.choice([handle.cancel, handle.close, lambda: None])
            give_up()
            if ids(found) != expected[text][: len(ids(found))]:
                problems.append(f"{text}: {ids(found)} is no beginning of {expected[text]}")

    if seed % 2:
        parts.runner.start()
    threads([partial(act, random.Random(rng.random())) for _ in range(6)])
    assert problems == []
    breaks.clear()
    last = parts.submit("7", SamplingParams(max_tokens=12, ignore_eos=True))
    assert ids(list(last)) == expected["7"]
    parts.runner.close()
    assert parts.is_clean()


@pytest.mark.parametrize("seed", range(4))
def test_closing_at_any_moment_ends_all_threads(seed: int) -> None:
    rng = random.Random(seed)
    print("seed", seed)
    parts = Parts()
    if seed % 2:
        parts.runner.start()
    close_at = rng.randrange(20, 200)
    at = threading.Event()
    parts.backend.fail = lambda call: at.set() if call == close_at else None

    def act(own: random.Random) -> None:
        while True:
            handle = parts.submit(str(own.randrange(30)))
            try:
                handle.confirm()
            except UsageError as error:
                assert "closed" in str(error)
                return
            outputs = list(handle)
            assert outputs[-1].finish_reason in (FinishReason.LENGTH, FinishReason.ABORT)

    def close() -> None:
        assert at.wait(WAIT_S)
        parts.runner.close()

    threads([close, *[partial(act, random.Random(rng.random())) for _ in range(5)]])
    assert parts.is_clean()
