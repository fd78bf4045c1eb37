"""What only the torch backend does: steps that are cut where memory runs out, budgets, weights in fewer bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from puna.backends.torch.model import TorchBackend
from puna.backends.torch.step import halves
from puna.errors import InsufficientMemoryError
from puna.request import Batch
from tests.conformance.test_backends import forward, loaded, random_ids
from tests.fakes import random_checkpoint, tiny_config

CONFIG = tiny_config()


class Small:
    """A device on which more than `limit` token rows do not fit into one step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
        self.sizes: list[int] = []
        whole = TorchBackend._forward

        def held(backend: TorchBackend, batch: Batch) -> Any:
            self.sizes.append(len(batch.token_ids))
            if len(batch.token_ids) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 86.00 MiB")
            return whole(backend, batch)

        monkeypatch.setattr(TorchBackend, "_forward", held)


@pytest.mark.parametrize("limit", [1, 2, 3, 11, 40])
def test_a_step_that_does_not_fit_is_made_in_parts(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = random_checkpoint(CONFIG, seed=1)
    pieces = [(random_ids(CONFIG, n, seed=n), 0, [2 * i, 2 * i + 1]) for i, n in enumerate((19, 1, 1, 7, 12))]
    with loaded("torch", checkpoint) as backend:
        expected = forward(backend, *pieces)
        last = forward(backend, *pieces, last_only=True)
    with loaded("torch", checkpoint) as backend:
        small = Small(monkeypatch, limit)
        assert np.array_equal(forward(backend, *pieces), expected)
        tried = len(small.sizes)
        assert np.array_equal(forward(backend, *pieces, last_only=True), last)
        assert max(small.sizes[tried:]) <= limit, "what was learnt is kept"


def test_a_single_token_that_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded("torch", random_checkpoint(CONFIG)) as backend:
        Small(monkeypatch, 0)
        with pytest.raises(InsufficientMemoryError, match="ran out of memory in a step of 1 tokens: CUDA out of memory"):
            forward(backend, ([1, 2, 3], 0, [0]))


@pytest.mark.parametrize("at", range(1, 9))
def test_halves_hold_all_rows_once(at: int) -> None:
    batch = Batch(
        token_ids=np.arange(9, dtype=np.int32),
        positions=np.array([0, 1, 2, 7, 3, 4, 5, 6, 7], np.int32),
        starts=np.array([0, 3, 4, 9], np.int32),
        page_tables=np.array([[0], [1], [2]], np.int32),
        logit_rows=np.array([2, 3, 8], np.int32),
        prompt_lengths=np.array([3, 7, 8], np.int32),
    )
    seen = []
    for first, part in zip((0, at), halves(batch, at), strict=True):
        lengths = np.diff(part.starts)
        assert part.starts[0] == 0 and part.starts[-1] == len(part.token_ids) and lengths.min() > 0
        assert len(part.page_tables) == len(part.prompt_lengths) == len(lengths)
        pages = np.repeat(part.page_tables[:, 0], lengths)
        seen += list(zip(part.token_ids.tolist(), part.positions.tolist(), pages.tolist(), strict=True))
        assert set(part.logit_rows + first) <= {2, 3, 8}
    assert seen == list(zip(range(9), batch.positions.tolist(), [0, 0, 0, 1, 2, 2, 2, 2, 2], strict=True))
