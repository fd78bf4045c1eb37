"""A card without code: the way out is for its age."""

from __future__ import annotations

import pytest

from puna.causes import find


@pytest.mark.parametrize(
    ("card", "kind", "first"),
    [
        ("Tesla P100-PCIE-16GB|sm_60", "too-old", "cu126"),
        ("RTX 5090|sm_120", "too-new", "get_arch_list"),
        ("A100|sm_80", "", "get_arch"),
    ],
)
def test_the_cure_is_for_the_age_of_the_card(card: str, kind: str, first: str) -> None:
    name, capability = card.split("|")
    told = find(f"{name} with CUDA capability {capability} is not compatible with the current PyTorch installation.")[0].explain()
    assert told.kind == kind and first in told.cure[0]
    if kind == "too-old":
        assert "RTX 50" not in " ".join(told.cure) and not told.remedy
