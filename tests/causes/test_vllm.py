"""vLLM: the share of a card that would start, from the numbers of its text."""

from __future__ import annotations

import pytest

from puna.causes import find
from puna.causes.vllm import share_that_starts


@pytest.mark.parametrize(
    ("free", "capacity"), [("31.44", "47.38 GiB"), ("23.5", "23.99 GiB"), ("2.0", "24 GiB"), ("10,5", "12,0 GiB")]
)
def test_the_share_that_is_named_would_start(free: str, capacity: str) -> None:
    share = float(share_that_starts(free, capacity))
    assert share * float(capacity.split()[0].replace(",", ".")) < float(free.replace(",", "."))


def test_the_share_is_told_from_the_numbers_of_the_text() -> None:
    text = (
        "ValueError: Free memory on device (31.44/47.38 GiB) on startup is less than desired GPU memory utilization (0.95, "
        "45.01 GiB)."
    )
    assert any(step.endswith("--gpu-memory-utilization 0.65") for step in find(text)[0].explain().cure)
