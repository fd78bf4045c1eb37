"""The application as a whole."""

from __future__ import annotations

from tests.server.serving import RunningServer


def test_a_wrong_method_is_told_all_that_the_path_allows(server: RunningServer) -> None:
    answer = server.request("PUT", "/v1/responses/x")
    assert answer.status == 405 and answer.headers["allow"] == "DELETE, GET, HEAD"
