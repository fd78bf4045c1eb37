"""`/v1/models` has Anthropic's shape for Anthropic's clients, and OpenAI's for all others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.serving import RunningServer, quick_model, serving

VERSION = {"anthropic-version": "2023-06-01"}
NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def three() -> Iterator[RunningServer]:
    with serving(*map(quick_model, NAMES)) as running:
        yield running


def listed(server: RunningServer, query: str = "") -> Any:
    return server.get(f"/v1/models{query}", VERSION).json


def test_a_model_has_what_clients_read(three: RunningServer) -> None:
    first = listed(three)["data"][0]
    assert first == three.get("/v1/models/a", VERSION).json
    assert (first["type"], first["id"], first["display_name"], first["lifecycle"]) == ("model", "a", "a", "active")
    assert first["max_input_tokens"] == three.llm.plan.max_context and first["created_at"].endswith("Z")


@pytest.mark.parametrize(
    ("query", "names", "has_more"),
    [
        ("", "abc", False),
        ("?limit=2", "ab", True),
        ("?limit=2&after_id=b", "c", False),
        ("?limit=1&before_id=c", "b", True),
        ("?before_id=b", "a", False),
        ("?after_id=c", "", False),
    ],
)
def test_lists_have_pages(three: RunningServer, query: str, names: str, has_more: bool) -> None:
    page = listed(three, query)
    assert [one["id"] for one in page["data"]] == list(names) and page["has_more"] is has_more
    assert (page["first_id"], page["last_id"]) == ((names[0], names[-1]) if names else (None, None))


@pytest.mark.parametrize("query", ["?limit=0", "?limit=x", "?limit=1001", "?after_id=z", "?before_id="])
def test_wrong_pages_are_refused_by_name(three: RunningServer, query: str) -> None:
    answer = three.get(f"/v1/models{query}", VERSION)
    assert answer.status == 400 and answer.json["type"] == "error"
    assert query[1:].partition("=")[0] in answer.json["error"]["message"]


def test_the_others_get_openais_shape(three: RunningServer) -> None:
    assert three.get("/v1/models").json["object"] == "list"
    assert three.get("/v1/models/b").json["object"] == "model"


def test_errors_have_the_shape_of_the_client(three: RunningServer) -> None:
    for path, status in (("/v1/models/z", 404), ("/v1/nowhere", 404)):
        assert three.get(path, VERSION).json["type"] == "error" and three.get(path).json.keys() == {"error"}
        assert three.get(path, VERSION).status == status
    wrong_method = three.request("PUT", "/v1/models", {}, VERSION)
    assert wrong_method.status == 405 and wrong_method.headers["allow"] == "GET, HEAD"
