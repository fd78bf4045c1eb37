"""Which tokens run in this step: decode first, then chunks of prompts. Knows token counts and page ids. Knows no arrays, no
text, no device.

Requests are served in the order of their arrival: `running` and `waiting` are both sorted by it, and every running request
came before every waiting one. When pages run out, the latest running request gives up its pages and waits again at the front; its
tokens are computed anew later. So the earliest request always moves on, and every request becomes the earliest one day.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from puna.pages import Pages
from puna.request import Request


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens first..last-1 of one request, to be computed in this step."""

    request: Request
    first: int
    last: int

    @property
    def num_logits(self) -> int:
        """How many of these tokens, the last ones, have logits that are wanted."""
        return max(0, self.last - max(self.first, self.request.logits_from))

    @property
    def is_whole(self) -> bool:
        """Whether these tokens reach the sequence's end, so that a next one is to be chosen."""
        return self.last == self.request.num_tokens


@dataclass(slots=True)
class Room:
    """What a step has left for prompts, beside a token and its logits for each request that decodes."""

    tokens: int
    logits: int

    def last(self, request: Request) -> int:
        """Where the next chunk of a prompt ends."""
        return min(
            request.num_tokens,
            request.num_computed + self.tokens,
            max(request.num_computed, request.logits_from) + self.logits,
        )

    def taken_by(self, works: list[Work]) -> list[Work]:
        self.tokens -= sum(work.last - work.first for work in works)
        self.logits -= sum(work.num_logits for work in works)
        return works


class Scheduler:
    """Holds the requests that are neither finished nor aborted.

    `max_tokens` is the number of token rows of a step, `max_logits` that of those whose logits are wanted, `max_sequences` (at
    most either) that of running requests. The pages must be able to hold the longest sequence alone.
    """

    def __init__(
        self, pages: Pages, *, max_tokens: int, max_sequences: int, max_logits: int | None = None, prefix_cache: bool = True
    ) -> None:
        self.pages = pages
        self.running: list[Request] = []
        self.waiting: deque[Request] = deque()
        self._max_tokens = max_tokens
        self._max_logits = max_tokens if max_logits is None else max_logits
        self._max_sequences = min(max_sequences, max_tokens, self._max_logits)
        self._prefix_cache = prefix_cache

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, request: Request) -> None:
        """Queue a request with at least one token."""
        self.waiting.append(request)

    def remove(self, request: Request, *, forget: bool = False) -> None:
        """Take a request out, whatever its state, and release its pages. `forget`: their content is wrong. Idempotent."""
        if forget:
            self.pages.forget(request.page_ids)
        self._release(request)
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)

    def schedule(self) -> list[Work]:
        """The next step's work, pages reserved. Not empty while a request wants more tokens."""
        decodes = list(map(_is_decoding, self.running))
        room = Room(self._max_tokens - sum(decodes), self._max_logits - sum(decodes))
        works: list[Work] = []
        for request, is_decoding in zip(self._still_running(), decodes):
            if is_decoding:
                works += self._continue(request, request.num_tokens)
            else:
                works += room.taken_by(self._continue(request, room.last(request)))
        while room.tokens > 0 and self._admit():
            works += room.taken_by(self._continue(self.running[-1], room.last(self.running[-1])))
        return works

    def advance(self, works: list[Work]) -> None:
        """Note that the work is done, or asked of the device: whoever asks next finds the K and V of its tokens in the pages."""
        for work in works:
            work.request.num_computed = work.last

    def publish(self, works: list[Work]) -> None:
        """Let later requests find the pages that the work has filled, now that all their ids are known."""
        for work in works if self._prefix_cache else ():
            if work.request.page_ids and work.request.num_computed >= work.last:  # else it was preempted, or ended
                self._publish(work)

    def _continue(self, request: Request, last: int) -> list[Work]:
        """The next tokens of a running request, up to `last`: none, where there are none, or where it is preempted."""
        first = request.num_computed
        if last <= first or not request.wants_more or not self._reserve(request, last):
            return []
        return [Work(request, first, last)]

    def _still_running(self) -> Iterator[Request]:
        """The earliest first; for their pages the latest may be preempted meanwhile."""
        index = 0
        while index < len(self.running):
            yield self.running[index]
            index += 1

    def _reserve(self, request: Request, num_tokens: int) -> bool:
        """Pages for `num_tokens` tokens. The latest requests are preempted for them; False where that meets `request` itself."""
        missing = self.pages.pages_for(num_tokens) - len(request.page_ids)
        while missing > self.pages.num_available:
            latest = self.running.pop()
            self._release(latest)
            self.waiting.appendleft(latest)
            if latest is request:
                return False
        request.page_ids.extend(self.pages.reserve() for _ in range(missing))
        return True

    def _admit(self) -> bool:
        """Move the first waiting request to the running ones, if there is room for all its tokens.

        One page per running request is left for what they decode, lest the newcomer be preempted at once.
        """
        if not self.waiting or len(self.running) >= self._max_sequences:
            return False
        request = self.waiting[0]
        self._match(request)
        missing = self.pages.pages_for(request.num_tokens) - len(request.page_ids)
        if self.running and missing + len(self.running) > self.pages.num_available:
            self._release(request)
            return False
        self.running.append(self.waiting.popleft())
        return True

    def _match(self, request: Request) -> None:
        """Start from what the prefix cache holds. Tokens whose logits are wanted, the last one always, are computed."""
        if not self._prefix_cache:
            return
        request.page_ids = self.pages.match(request.token_ids(0, request.logits_from), request.family)
        request.num_computed = len(request.page_ids) * self.pages.page_size
        if not request.output_ids:
            request.num_cached = request.num_computed

    def _publish(self, work: Work) -> None:
        size = self.pages.page_size
        for index in range(work.first // size, work.last // size):
            token_ids = work.request.token_ids(index * size, (index + 1) * size)
            self.pages.publish(work.request.page_ids, index, token_ids, work.request.family)

    def _release(self, request: Request) -> None:
        self.pages.release(request.page_ids)
        request.page_ids = []
        request.num_computed = 0


def _is_decoding(request: Request) -> bool:
    return request.num_tokens - request.num_computed == 1
