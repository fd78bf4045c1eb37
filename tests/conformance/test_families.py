"""Every family computes what transformers computes: logits of random tiny models within 1e-4, relative to the row's largest."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from puna.backends.base import Backend
from puna.batch import Logits
from puna.formats.base import Checkpoint
from tests.conformance.test_backends import forward, loaded
from tests.families import FAMILIES, ORIGINAL_CONTEXT, VOCAB_SIZE, WINDOW

TOLERANCE = 1e-4
LENGTHS = (1, 17, 300)
CHUNK = 128
PAGES = list(range(20))  # of 16 tokens
assert max(LENGTHS) > 4 * max(ORIGINAL_CONTEXT, WINDOW)
CASES = [(name, device) for name, family in FAMILIES.items() for device in family.devices]


class Loaded(NamedTuple):
    """A family's model on a device."""

    name: str
    backend: Backend


@lru_cache(maxsize=1)
def made(name: str) -> tuple[Any, Checkpoint]:
    model = FAMILIES[name].transformers_model(seed=5)
    return model, FAMILIES[name].checkpoint(model)


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    """Tests of one model stand side by side, so it is loaded once; what others left in its pages is overwritten, or not read."""
    name, device = request.param
    with loaded(device, made(name)[1], kv="f32") as backend:
        yield Loaded(name, backend)


cases = pytest.mark.parametrize("model", CASES, indirect=True, ids="-".join)


def ids_of(length: int) -> list[int]:
    ids: list[int] = np.random.default_rng(length).integers(0, VOCAB_SIZE, length).tolist()
    return ids


@lru_cache(maxsize=len(LENGTHS) + 1)  # once for all devices
def expected_logits(name: str, length: int, prompt: int) -> Logits:
    """Of every token: those of the prompt in one pass, then one by one with the keys and values kept."""
    import torch

    (model, _), ids = made(name), ids_of(length)
    with torch.no_grad():
        out = model(torch.tensor([ids[:prompt]]), use_cache=True)
        rows = [out.logits[0].numpy()]
        for token in ids[prompt:]:
            out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
            rows.append(out.logits[0].numpy())
    return np.concatenate(rows)


def require_equal(found: Logits, expected: Logits) -> None:
    error = np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)
    print("largest relative error:", error.max(), "at row", error.argmax())
    assert error.max() < TOLERANCE


@pytest.mark.parametrize("length", LENGTHS)
@cases
def test_a_prompt_has_the_logits_of_transformers(model: Loaded, length: int) -> None:
    ids = ids_of(length)
    found = [
        forward(model.backend, (ids[first : first + CHUNK], first, PAGES), prompt_length=length)
        for first in range(0, length, CHUNK)
    ]
    require_equal(np.concatenate(found), expected_logits(model.name, length, length))


@cases
def test_tokens_after_the_prompt_have_the_logits_of_transformers(model: Loaded) -> None:
    """Steps begin before the window and the original context are full, and end past both."""
    prompt, ids = 30, ids_of(110)
    rows = [forward(model.backend, (ids[:prompt], 0, PAGES), prompt_length=prompt)]
    rows += [forward(model.backend, ([ids[i]], i, PAGES), prompt_length=prompt) for i in range(prompt, len(ids))]
    require_equal(np.concatenate(rows), expected_logits(model.name, len(ids), prompt))
