"""The servers that the clients talk to. A client that is not installed skips its tests: `make clients` has them all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.serving import RunningServer, quick_model, serving, tiny_model
from tests.server.standins import WITH_TOOLS


@pytest.fixture(scope="package")
def server() -> Iterator[RunningServer]:
    """A tiny random model named "tiny"; a quick one named "caller", with more context and a template that reads tools."""
    with serving(tiny_model(), quick_model("caller", WITH_TOOLS, 1024)) as running:
        yield running
