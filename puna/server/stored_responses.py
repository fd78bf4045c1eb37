"""Answers that a client may refer to later by their ids: kept in memory, the least recently used ones dropped first."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from puna.server.replies import dumps

MAX_COUNT = 1024
MAX_BYTES = 64 << 20  # of all of them as JSON, which is how they are kept: as objects they could take 25 times as much


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """An answer, and the items of its whole conversation, with its own at the end. Only its tenant finds it."""

    body: dict[str, Any]
    items: Sequence[Mapping[str, Any]]
    tenant: str = ""

    def packed(self) -> bytes:
        return dumps([self.body, list(self.items), self.tenant]).encode()

    @classmethod
    def unpacked(cls, packed: bytes) -> Self:
        return cls(*json.loads(packed))


@dataclass(frozen=True, slots=True)
class Kept:
    """A response as JSON, and what is needed to find it."""

    packed: bytes
    tenant: str
    item_ids: tuple[str, ...]


class StoredResponses:
    """Those of one server.

    >>> stored = StoredResponses(max_count=1)
    >>> stored.put("a", StoredResponse({"n": 1}, [])); stored.put("b", StoredResponse({"n": 2}, [], "x"))
    >>> stored.get("a"), stored.get("b"), stored.get("b", "x").body
    (None, None, {'n': 2})
    """

    def __init__(self, max_count: int = MAX_COUNT, max_bytes: int = MAX_BYTES) -> None:
        self._max_count, self._max_bytes = max_count, max_bytes
        self._known: OrderedDict[str, Kept] = OrderedDict()
        self._response_of: dict[str, str] = {}  # an item of an answer -> the answer
        self._num_bytes = 0

    def put(self, response_id: str, response: StoredResponse) -> None:
        """Keep it; one that is larger than all may be together is not kept."""
        kept = Kept(response.packed(), response.tenant, tuple(_item_ids(response)))
        self._known[response_id] = kept
        self._num_bytes += len(kept.packed)
        self._response_of |= dict.fromkeys(kept.item_ids, response_id)
        while self._known and (len(self._known) > self._max_count or self._num_bytes > self._max_bytes):
            self._drop(next(iter(self._known)))

    def get(self, response_id: str, tenant: str = "") -> StoredResponse | None:
        found = self._known.get(response_id)
        if found is None or found.tenant != tenant:
            return None
        self._known.move_to_end(response_id)
        return StoredResponse.unpacked(found.packed)

    def item(self, item_id: str, tenant: str = "") -> dict[str, Any] | None:
        """An item of an answer."""
        found = self.get(self._response_of.get(item_id, ""), tenant)
        items = [] if found is None else found.body["output"]
        return next((item for item in items if item["id"] == item_id), None)

    def remove(self, response_id: str, tenant: str = "") -> bool:
        """Forget it. False if there is none."""
        found = self._known.get(response_id)
        if found is None or found.tenant != tenant:
            return False
        self._drop(response_id)
        return True

    def _drop(self, response_id: str) -> None:
        kept = self._known.pop(response_id)
        self._num_bytes -= len(kept.packed)
        for item_id in kept.item_ids:
            del self._response_of[item_id]


def _item_ids(response: StoredResponse) -> list[str]:
    return [item["id"] for item in response.body.get("output", ())]
