"""The application as a whole."""

from __future__ import annotations

import pytest

from tests.server.serving import RunningServer


@pytest.mark.parametrize("name", ["", " ", "a ", "\t", "é", "\r\nx: y", "\x00", "x" * 5000])
def test_a_field_may_have_any_name(server: RunningServer, name: str) -> None:
    """The answer's head names it, as far as a header can."""
    answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "zz": 1, name: 1})
    assert answer.status == 200 and answer.headers["x-puna-ignored"].startswith("zz,")


def test_a_wrong_method_is_told_all_that_the_path_allows(server: RunningServer) -> None:
    answer = server.request("PUT", "/v1/responses/x")
    assert answer.status == 405 and answer.headers["allow"] == "DELETE, GET, HEAD"
