"""Stored responses: within their limits, the least recently used ones go first."""

from __future__ import annotations

from puna.server.stored_responses import StoredResponse, StoredResponses


def response(text: str) -> StoredResponse:
    return StoredResponse({"text": text}, [])


def test_the_least_recently_used_goes_first() -> None:
    stored = StoredResponses(max_count=2)
    for name in ("a", "b"):
        stored.put(name, response(name))
    assert stored.get("a") == response("a")
    stored.put("c", response("c"))
    assert [stored.get(name) is not None for name in "abc"] == [True, False, True]


def test_their_size_is_limited() -> None:
    stored = StoredResponses(max_bytes=100)
    for name in ("a", "b", "c"):
        stored.put(name, response("x" * 40))
    assert [stored.get(name) is not None for name in "abc"] == [False, False, True]
    stored.put("d", response("x" * 200))
    assert [stored.get(name) is not None for name in "cd"] == [False, False]
    stored.put("e", response("x" * 80))
    assert stored.remove("e") and not stored.remove("e")
    stored.put("f", response("x" * 80))
    assert stored.get("f") is not None


def test_items_are_found_as_long_as_their_response() -> None:
    stored = StoredResponses(max_count=1)
    item = {"id": "msg_1", "type": "message"}
    stored.put("a", StoredResponse({"output": [item]}, [item], "one"))
    assert stored.item("msg_1", "one") == item and stored.item("msg_1", "two") is stored.item("msg_2", "one") is None
    stored.put("b", StoredResponse({"output": []}, []))
    assert stored.item("msg_1", "one") is None


def test_another_tenant_neither_finds_nor_removes_it() -> None:
    stored = StoredResponses()
    stored.put("a", StoredResponse({}, [], "one"))
    assert stored.get("a") is stored.get("a", "two") is None
    assert not stored.remove("a", "two") and stored.remove("a", "one")
