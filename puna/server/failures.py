"""The last errors that clients were told only the id of, so that the page can explain them without telling their texts."""

from __future__ import annotations

import re
import traceback
from collections import OrderedDict
from threading import Lock

MAX_KEPT = 32
MAX_CHARACTERS = 16_000  # of the end of one, where the error is
ID = re.compile(r"\breq_[0-9a-f]{24}\b")


class Failures:
    """Request id -> the text of its error, as the log has it. An id cannot be guessed: who has it was told of that failure."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, str] = OrderedDict()
        self._lock = Lock()

    def remember(self, told: str, error: BaseException) -> None:
        """Keep an error of which the client was `told` the id; nothing if the words hold none."""
        found = ID.search(told)
        if found is None:
            return
        text = "".join(traceback.format_exception(error))[-MAX_CHARACTERS:]
        with self._lock:
            self._texts[found[0]] = text
            while len(self._texts) > MAX_KEPT:
                self._texts.popitem(last=False)

    def text_of(self, told: str) -> str | None:
        """The error whose id is in the words that a client was told; None if there is none, or if it is forgotten."""
        with self._lock:
            return next((self._texts[name] for name in ID.findall(told) if name in self._texts), None)


FAILURES = Failures()
