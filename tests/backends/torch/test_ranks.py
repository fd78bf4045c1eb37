"""Ranks compute what families have beyond LLaMA's block. They are threads here; `test_parallel.py` has processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import pytest
import torch

from puna.backends.base import ProcessRank
from puna.backends.torch import plain
from puna.backends.torch.device import describe
from puna.backends.torch.model import TorchBackend
from puna.backends.torch.parallel import Alone
from puna.batch import Batch
from puna.config import EngineConfig
from puna.formats.base import Checkpoint
from puna.formats.shards import part_of
from tests.conformance.test_backends import EXACT, FAMILY_SIZES, forward, loaded, plan_of, random_ids, require_close
from tests.fakes import random_checkpoint

CPU = torch.device("cpu")
CONFIG = EngineConfig(device="torch", page_size=16, kv_type="f32")
TIMEOUT_S = 60


class Meeting:
    """Where threads exchange what they have."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._sent: list[Any] = [None] * size
        self._barrier = threading.Barrier(size, timeout=TIMEOUT_S)

    def all(self, rank: int, own: Any) -> list[Any]:
        self._sent[rank] = own
        self._barrier.wait()
        sent = list(self._sent)
        self._barrier.wait()
        return sent


class Thread(Alone):
    """See `parallel.Ranks`."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.process = ProcessRank(rank, meeting.size, rank, meeting.size)
        self._all = partial(meeting.all, rank)

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        return reduce(torch.add, self._all(x))

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(self._all(x), dim=1)

    def each(self, number: int) -> list[int]:
        return self._all(number)

    def tell(self, batch: Batch | None) -> None:
        if self.process.rank == 0:
            self._all(batch)

    def hear(self) -> Batch | None:
        heard: Batch | None = self._all(None)[0]
        return heard

    def close(self) -> None:
        self.tell(None)


@contextmanager
def two_ranks(checkpoint: Checkpoint) -> Iterator[TorchBackend]:
    """The first of two ranks that share a model."""
    meeting = Meeting(2)

    def load(rank: int) -> TorchBackend:
        ranks, part = Thread(meeting, rank), part_of(checkpoint, rank, 2)
        backend = TorchBackend(CPU, describe(CPU, CONFIG, ranks), ranks, plain)
        backend.load(part, plan_of(part, CONFIG, backend))
        return backend

    def follow() -> None:
        with suppress(SystemExit):  # as a process ends
            load(1)

    follower = threading.Thread(target=follow)
    follower.start()
    first = load(0)
    yield first
    first.close()
    follower.join(TIMEOUT_S)


@pytest.mark.parametrize("shape", ["like-gemma", "norms-after", "two-ropes", "scaled-queries", "gelu"])
def test_two_ranks_have_the_references_logits(shape: str) -> None:
    whole = FAMILY_SIZES[shape]
    layers = tuple(replace(layer, ffn=replace(layer.ffn, size=64)) for layer in whole.layers)
    checkpoint = random_checkpoint(replace(whole, layers=layers, num_heads=4, num_kv_heads=2, vocab_size=61), seed=1)
    ids = random_ids(checkpoint.config, 21)
    with two_ranks(checkpoint) as backend, loaded("reference", checkpoint) as reference:
        require_close(forward(backend, (ids, 0, [0, 1])), forward(reference, (ids, 0, [0, 1])), EXACT)
