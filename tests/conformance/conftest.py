"""Which products of parameters the normal tier runs a third of: in plain torch, types and shapes do not depend on each other."""

from __future__ import annotations

import pytest

from tests.conformance.test_backends import K_QUANTS, KV_TYPES, ODD_SIZES, QUANTS, WIDE_SIZES, Case

THIRDS = ("test_logits_are_the_references", "test_chunks_decode_steps_and_one_shot_agree_bit_for_bit")


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A third of torch's cases stay: any two of (weights, shape), (weights, K and V), (shape, K and V) where all three vary."""
    for item in items:
        if not isinstance(item, pytest.Function) or item.originalname not in THIRDS:
            continue
        case = item.callspec.params["model"]
        assert isinstance(case, Case)
        if case.device == "torch":
            number = [*QUANTS, *K_QUANTS].index(case.quant) + [*ODD_SIZES, *WIDE_SIZES].index(case.shape)
            if (number + KV_TYPES["torch"].index(case.kv)) % 3:
                item.add_marker("full")
