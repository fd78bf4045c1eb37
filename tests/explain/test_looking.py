"""What is seen inside the model fits together: queries and keys give the weights, of families with norms and windows too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from puna.explain.looking import InnerView
from puna.formats import open_checkpoint
from tests.explain.live_models import tiny_file
from tests.fakes import random_checkpoint
from tests.families import FAMILIES, VOCAB_SIZE, WINDOW

KINDS = ["qwen3", "mistral", "gemma2", "olmo2"]


def require_consistent(view: InnerView) -> None:
    for layer in range(view.model.num_layers):
        for row in range(len(view.ids)):
            heard: list[np.ndarray] = []
            mixed = view.attended(layer, row, heard.append)
            np.testing.assert_allclose(heard[0], view.weights(layer, row), atol=1e-6)
            np.testing.assert_allclose(view.weights(layer, row).sum(axis=1), 1, atol=1e-5)
            assert mixed.shape == (view.model.num_heads, view.model.head_dim)


def test_of_a_plain_model(tmp_path: Path) -> None:
    view = InnerView(open_checkpoint(tiny_file(tmp_path)), [5, 9, 33, 7, 60])
    require_consistent(view)
    shares = view.head(1, 3)
    assert [sum(one is not None for one in row) for row in shares] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_of_families_with_norms_windows_and_caps(kind: str) -> None:
    ids = np.random.default_rng(3).integers(0, VOCAB_SIZE, WINDOW + 5).tolist()
    view = InnerView(random_checkpoint(FAMILIES[kind].config, seed=3), ids)
    require_consistent(view)
    windows = {layer.attention.window for layer in view.model.layers} - {0}
    assert all(view.weights(layer, len(ids) - 1).shape[1] in {len(ids), *windows} for layer in range(view.model.num_layers))
