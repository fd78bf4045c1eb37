"""Fixtures of all rooms."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small real files, which is no part of the repository."""
    folder = Path(os.environ.get("PUNA_TEST_DATA", ROOT / "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip("the shared test data is not here; PUNA_TEST_DATA may name its folder")
    return folder
