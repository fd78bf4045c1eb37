"""What several tests share: real model files, where this machine has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from puna import hub


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The default model from puna's cache; nothing is fetched here."""
    model = hub.CATALOGUE[hub.DEFAULT_MODEL]
    if not hub.is_cached(model):
        pytest.skip("the default model is not in the cache: run `puna pull` first")
    return model.target
