"""The thread team: no step at any time loses a wake-up, whatever its number of threads; closing ends every thread."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.backends import create_backend
from puna.backends.base import Backend
from puna.backends.cpu.job import share
from puna.backends.cpu.threads import Team
from puna.batch import Batch
from puna.config import EngineConfig, KVType
from puna.formats.base import Checkpoint
from tests.conformance.test_backends import FAMILY_SIZES, ODD_SIZES, loaded, plan_of
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
        for pause in rng.uniform(0, 0.016, 250):
            time.sleep(pause)
            assert one_token(backend, 5) == expected


@dataclass
class Fixed:
    """In the place of a policy: the numbers of threads in turn."""

    counts: Iterator[int]

    def threads_for(self, rows: int) -> int:
        return next(self.counts)

    def note(self, rows: int, seconds: float) -> None: ...


@contextmanager
def with_threads(checkpoint: Checkpoint, counts: Iterable[int], **settings: Any) -> Iterator[Backend]:
    """A backend whose steps run on these numbers of threads, over and over."""
    wanted = list(counts)
    with loaded("cpu", checkpoint, threads=max(wanted), **settings) as backend:
        backend._policy = Fixed(cycle(wanted))  # type: ignore[attr-defined]
        yield backend


TEXT = list(range(3, 43))


def logits_of(backend: Backend) -> list[bytes]:
    """Of a prompt, and of tokens after it: long enough for two spans of attention."""
    pages = list(range(len(TEXT) // 16 + 2))
    found = [backend.step(Batch.of([chunk_of(TEXT, 0, pages, num_logits=2, prompt_length=len(TEXT))])).logits().tobytes()]
    for at in range(len(TEXT), len(TEXT) + 4):
        found.append(
            backend.step(Batch.of([chunk_of([at], at, pages, num_logits=1, prompt_length=len(TEXT))])).logits().tobytes()
        )
    return found


def test_each_step_may_have_its_own_number_of_threads() -> None:
    """Threads join and leave between steps, some of them while they look for the next one: the bits are those of one thread."""
    counts = [int(n) for n in np.random.default_rng(3).integers(1, 9, 300)]
    print("seed 3", counts)
    with with_threads(CHECKPOINT, [1]) as alone, with_threads(CHECKPOINT, counts) as backend:
        expected = [one_token(alone, token) for token in range(8)]
        assert [one_token(backend, i % 8) for i in range(300)] == [expected[i % 8] for i in range(300)]


@pytest.mark.parametrize("threads", [pytest.param(n, marks=[] if n in (2, 3, 8, 64) else pytest.mark.full) for n in range(2, 65)])
def test_any_number_of_threads_gives_the_bits_of_one(threads: int) -> None:
    """Most matrices have fewer groups of rows than these threads: some have nothing to do."""
    with with_threads(CHECKPOINT, [1]) as alone, with_threads(CHECKPOINT, [threads]) as backend:
        assert logits_of(backend) == logits_of(alone)


@pytest.mark.full
@pytest.mark.parametrize("kv", ["f16", "int8"])
@pytest.mark.parametrize("shape", [*ODD_SIZES, *FAMILY_SIZES])
def test_any_model_has_the_bits_of_one_thread(shape: str, kv: KVType) -> None:
    checkpoint = random_checkpoint((ODD_SIZES | FAMILY_SIZES)[shape], "Q8_0", seed=2)
    with with_threads(checkpoint, [1], kv=kv) as alone, with_threads(checkpoint, [5, 64, 2, 11, 33], kv=kv) as backend:
        assert logits_of(backend) == logits_of(alone)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 8, 63, 64, 256])
def test_shares_cover_everything_once(threads: int) -> None:
    python_share: Any = getattr(share, "py_func", share)
    for n in range(300):
        shares = [python_share(n, thread, threads) for thread in range(threads)]
        assert [i for first, last in shares for i in range(first, last)] == list(range(n))


def test_a_thread_without_a_part_in_the_steps_stays_parked() -> None:
    with with_threads(CHECKPOINT, [3]) as backend:
        one_token(backend, 1)
        team: Team = backend._team  # type: ignore[attr-defined]
        backend._policy = Fixed(cycle([2]))  # type: ignore[attr-defined]
        until = time.monotonic() + 30
        while not team.parked[2] and time.monotonic() < until:
            one_token(backend, 1)
        one_token(backend, 1)
        assert team.parked[2] and backend._policy  # type: ignore[attr-defined]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_model_uses_no_processor_time() -> None:
    """All threads park after a step; a parked thread uses no time of the CPU, however long it waits."""
    with with_threads(CHECKPOINT, [4]) as backend:
        one_token(backend, 1)
        team: Team = backend._team  # type: ignore[attr-defined]
        until = time.monotonic() + 30
        while not all(team.parked[1:]) and time.monotonic() < until:
            time.sleep(0.01)
        ids = [thread.native_id for thread in threading.enumerate() if thread.name.startswith("puna-")]
        before = [_ticks(number) for number in ids]
        time.sleep(0.3)
        assert len(ids) == 3 and [_ticks(number) for number in ids] == before


def _ticks(thread: int | None) -> list[str]:
    """Time of the CPU that a thread of this process has used, user's and system's."""
    return Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()[11:13]


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
        patch.setattr(backend, "_runs", [lambda: (_ for _ in ()).throw(KeyboardInterrupt)] * 2)
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
