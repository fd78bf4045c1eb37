"""Tests that `test_interpreted.py` shares out to several processes: PUNA_TEST_SHARE=2/3 runs every third, from the second on."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    share, _, count = os.environ.get("PUNA_TEST_SHARE", "1/1").partition("/")
    items[:] = items[int(share) - 1 :: int(count)]
