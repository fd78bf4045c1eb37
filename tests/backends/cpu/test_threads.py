"""The thread team: no step at any time loses a wake-up; closing ends every thread. And the policy: who runs a step."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from puna.backends import create_backend
from puna.backends.base import Backend
from puna.backends.cpu.threads import MAX_ALONE, ThreadPolicy
from puna.batch import Batch
from puna.config import EngineConfig
from tests.conformance.test_backends import ODD_SIZES, loaded, plan_of
from tests.fakes import chunk_of, random_checkpoint

CHECKPOINT = random_checkpoint(ODD_SIZES["plain"], "Q8_0", seed=1)


def one_token(backend: Backend, token: int) -> bytes:
    batch = Batch.of([chunk_of([token], 0, [0], num_logits=1, prompt_length=1)])
    return backend.step(batch).logits().tobytes()


def test_a_step_at_any_moment_finds_its_threads() -> None:
    """Pauses around the time after which a thread parks: a lost wake-up would hang here."""
    rng = np.random.default_rng(1)
    with loaded("cpu", CHECKPOINT, threads=2) as backend:
        expected = one_token(backend, 5)
        for pause in rng.uniform(0, 0.012, 250):
            time.sleep(pause)
            assert one_token(backend, 5) == expected


def test_more_threads_than_cores_give_the_same_bits() -> None:
    found = []
    for threads in (1, 3, 5):
        with loaded("cpu", CHECKPOINT, threads=threads) as backend:
            found.append([one_token(backend, token) for token in range(8)])
    assert found[0] == found[1] == found[2]


def test_threads_end_with_the_backend() -> None:
    before = threading.active_count()
    for _ in range(3):
        with loaded("cpu", CHECKPOINT, threads=3) as backend:
            one_token(backend, 1)
            assert threading.active_count() == before + 2
    assert threading.active_count() == before


def test_two_models_take_turns() -> None:
    with loaded("cpu", CHECKPOINT, threads=2) as first, loaded("cpu", CHECKPOINT, threads=2) as second:
        assert len({one_token(backend, 3) for _ in range(20) for backend in (first, second)}) == 1


def test_an_interrupt_before_a_step_leaves_the_team_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EngineConfig(device="cpu", threads=2, page_size=16)
    backend = create_backend(config)
    backend.load(CHECKPOINT, plan_of(CHECKPOINT, config, backend))
    expected = one_token(backend, 2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for name in ("_run_shared", "_run_alone"):
            patch.setattr(backend, name, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        one_token(backend, 2)
    assert one_token(backend, 2) == expected
    backend.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    with loaded("cpu", CHECKPOINT, threads=2) as backend:
        expected = one_token(backend, 7)
        child = os.fork()
        if child == 0:
            os._exit(0 if one_token(backend, 7) == expected else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert one_token(backend, 7) == expected


# ---- when a step runs on several threads, and when not ------------------------------------------------------------------


def steps(policy: ThreadPolicy, seconds_shared: float, seconds_alone: float, count: int, rows: int = 1) -> list[bool]:
    """Whether each of `count` steps was shared, on a machine of these speeds."""
    found = []
    for _ in range(count):
        shared = policy.shares(rows)
        policy.note(rows, shared, seconds_shared if shared else seconds_alone)
        found.append(shared)
    return found


def test_a_quiet_machine_shares_every_step_but_the_one_that_measures() -> None:
    assert steps(ThreadPolicy(2), 0.005, 0.008, 500) == [True, False, *[True] * 498]


def test_a_context_that_grows_is_no_hindrance() -> None:
    policy = ThreadPolicy(2)
    shared = [steps(policy, 0.005 * (1 + i / 500), 0.008 * (1 + i / 500), 1)[0] for i in range(4000)]
    assert shared.count(False) < 20


def test_one_hiccup_changes_nothing() -> None:
    policy = ThreadPolicy(2)
    steps(policy, 0.005, 0.008, 20)
    assert steps(policy, 0.5, 0.008, 1) == [True]
    assert all(steps(policy, 0.005, 0.008, 100))


def test_a_busy_machine_is_left_to_one_thread_and_tried_ever_more_rarely() -> None:
    shared = steps(ThreadPolicy(2), 0.2, 0.008, 3000)
    assert shared[:9] == [True, False, True, True, False, False, True, False, False]
    assert sum(shared) <= 3000 / MAX_ALONE + 10


def test_the_team_is_used_again_once_the_machine_is_quiet() -> None:
    policy = ThreadPolicy(2)
    steps(policy, 0.2, 0.008, 30)
    assert all(steps(policy, 0.005, 0.008, 100)[40:])


def test_each_number_of_rows_has_its_own_measure() -> None:
    policy = ThreadPolicy(2)
    steps(policy, 0.005, 0.008, 10)
    assert all(steps(policy, 0.012, 0.03, 50, rows=4)[2:])


def test_one_thread_and_long_steps_have_no_choice() -> None:
    assert not ThreadPolicy(1).shares(1)
    policy = ThreadPolicy(4)
    for seconds in (1.0, 100.0, 100.0, 100.0):
        policy.note(256, True, seconds)
    assert policy.shares(256) and policy.shares(1)


def test_each_number_of_rows_has_a_baseline_of_its_own() -> None:
    """Steps of one and of four rows take turns, as with speculation: sharing is faster, and only their second steps run alone."""
    policy, shared = ThreadPolicy(2), []
    for rows in (1, 4) * 4:
        shared.append(policy.shares(rows))
        policy.note(rows, shared[-1], 0.006 if shared[-1] else 0.01)
    assert shared == [True, True, False, False, True, True, True, True]
