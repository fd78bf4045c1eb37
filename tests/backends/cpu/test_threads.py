"""The thread team: no step at any time loses a wake-up; closing ends every thread."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

from puna.backends import create_backend
from puna.backends.base import Backend
from puna.config import EngineConfig
from puna.request import Batch
from tests.conformance.test_backends import ODD_SIZES, loaded, plan_of
from tests.fakes import random_checkpoint

CHECKPOINT = random_checkpoint(ODD_SIZES["plain"], "Q8_0", seed=1)


def one_token(backend: Backend, token: int) -> bytes:
    zero = np.zeros(1, np.int32)
    ids, starts = np.array([token], np.int32), np.array([0, 1], np.int32)
    return backend.forward(Batch(ids, zero, starts, zero[None], zero, prompt_lengths=zero + 1)).tobytes()


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
        patch.setattr(backend, "_run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
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
