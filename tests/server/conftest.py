"""One server for the tests that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.serving import RunningServer, serving


@pytest.fixture(scope="package")
def server() -> Iterator[RunningServer]:
    with serving() as running:
        yield running
