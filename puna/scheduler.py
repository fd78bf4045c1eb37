"""Chooses the tokens of each step: decode first, then chunks of prompts. Knows token counts and page ids, but no arrays, no
text, no device.

Requests are served in the order of their ranks: (256 times the priority plus the step of arrival, then the id). So a request of
priority 1 is served before those of priority 0 that arrive 256 steps later: only finitely many can overtake a request, and none
starves. Equal priorities are served first come, first served.

`running` and `waiting` are sorted by rank. The first that waits starts as soon as the pages can hold it; nobody passes it. When
pages run out, the last running request (the lowest priority, then the latest) is preempted: it gives up its pages, waits at its
rank, and is recomputed later. So the first running request always progresses. A request that ranks before one whose prompt is
being computed starts at once, and takes the next chunk.

Decoding requests are in every step: a long prompt holds them up for one chunk at most, and beside them a chunk is half as long.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Protocol

from puna.pages import Pages
from puna.request import Request

AGING = 256  # steps of waiting that are worth one level of priority
by_rank = attrgetter("rank")


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """Tokens first..last-1 of one request, to be computed in this step, and after them its `draft_ids`."""

    request: Request
    first: int
    last: int
    num_logits: int  # how many of these tokens, the last ones, need logits; drafts included
    is_last: bool  # whether these tokens reach the sequence's end, so that the next token is sampled
    draft_ids: tuple[int, ...] = ()  # guesses of the tokens from `last` on; their K and V count once they are accepted

    @property
    def num_hidden(self) -> int:
        """How many of these tokens, the last ones, need hidden states."""
        return max(0, self.last - max(self.first, self.request.hidden_from))


@dataclass(slots=True)
class TokenBudget:
    """What a step has left for prompts and guesses, after one token and its logits per decoding request."""

    tokens: int
    logits: int
    loads: int  # pages that may be loaded
    prompts: int  # how many of the tokens may be a prompt's

    def end_of_chunk(self, request: Request) -> int:
        """The end of the next chunk of a prompt."""
        return min(
            request.num_tokens,
            request.num_computed + self.prompts,
            max(request.num_computed, request.logits_from) + self.logits,
        )

    def spend(self, chunks: list[ScheduledChunk]) -> list[ScheduledChunk]:
        num_tokens = sum(chunk.last - chunk.first for chunk in chunks)
        self.tokens -= num_tokens
        self.prompts -= num_tokens
        self.logits -= sum(chunk.num_logits for chunk in chunks)
        return chunks


class PageSource(Protocol):
    """Pages outside the device's memory: `page_store.py` on disk. It identifies a request's pages by their token ids."""

    checks_pages: bool  # whether it finds infinite numbers and NaN itself, so that it may have the pages of half a prompt

    @property
    def loads_per_step(self) -> int:
        """How many pages can be loaded in less time than a chunk takes."""

    def attach(self, pages: Pages) -> None:
        """These own the device's memory now, and others do no longer. No request runs."""

    def set_idle(self, is_idle: bool) -> None:
        """Take note whether no request runs: then whatever waited for free cores may begin."""

    def find(self, request: Request, first: int, last: int) -> int:
        """The end of the run of stored pages that begins at page `first` of a request, at most `last`."""

    def load(self, request: Request, first: int) -> int:
        """Fill the request's pages from number `first` on; how many of them could be filled."""

    def save(self, request: Request, index: int) -> None:
        """Take note that page `index` of a request is full. Never waits."""

    def forget(self, request: Request) -> None:
        """Remove a request's pages, because their content is wrong."""

    def note(self, num_tokens: int, seconds: float) -> None:
        """A step computed so many tokens, and took so long: what a page costs that is not loaded."""


class Scheduler:
    """Holds the requests that are neither finished nor aborted.

    `max_tokens` is the token budget of a step, `max_logits` limits its rows that need logits, and `max_sequences` (at most
    either) the running requests. The pages must be able to hold the longest sequence alone. `source`: where to find pages that
    are not in memory. `prompts_apart`: the device computes generated tokens otherwise than prompts (`Backend`).
    """

    def __init__(
        self,
        pages: Pages,
        *,
        max_tokens: int,
        max_sequences: int,
        max_logits: int | None = None,
        prefix_cache: bool = True,
        prompts_apart: bool = False,
        source: PageSource | None = None,
    ) -> None:
        self.pages = pages
        self.running: list[Request] = []
        self.waiting: list[Request] = []
        self._num_steps = 0
        self._max_tokens = max_tokens
        self._max_logits = max_tokens if max_logits is None else max_logits
        self._max_sequences = min(max_sequences, max_tokens, self._max_logits)
        self._prefix_cache = prefix_cache
        self._prompts_apart = prompts_apart
        self._source = source if prefix_cache else None
        if source is not None:
            source.attach(pages)

    @property
    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, request: Request) -> None:
        """Queue a request with at least one token."""
        request.rank = (request.params.priority * AGING + self._num_steps, request.id)
        insort(self.waiting, request, key=by_rank)
        self._tell_source()

    def remove(self, request: Request, *, forget: bool = False) -> None:
        """Remove a request in any state and release its pages. `forget`: their content is wrong. Idempotent."""
        if forget:
            self.pages.forget(request.page_ids)
            if self._source is not None:
                self._source.forget(request)
        self._release(request)
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        self._tell_source()

    def _tell_source(self) -> None:
        if self._source is not None:
            self._source.set_idle(not self.has_work)

    def decoding(self) -> list[Request]:
        """The running requests whose next step samples a token, and computes one."""
        return list(filter(_is_decoding, self.running))

    def recompute(self, request: Request) -> None:
        """Compute a request's tokens again, because they are other ones now. It keeps its place in the queue."""
        self._release(request)
        request.page_names = []
        request.is_active = True

    def disband(self) -> list[Request]:
        """After a failed step, whose pages nobody can trust: take all pages from all requests, and return those that the step did
        not touch. It touched those that ran or, if none did, the first that waited.
        """
        waiting = [request for request in self.waiting if not request.num_in_flight]  # else its last token is lost
        for request in (*self.running, *self.waiting):
            request.page_ids, request.draft_ids, request.num_computed = [], [], 0
            request.num_published = request.num_stored = request.num_saved = 0
        return waiting if self.running else waiting[1:]

    def schedule(self) -> list[ScheduledChunk]:
        """The next step's chunks, with their pages reserved. Empty only if no request needs more tokens, or all are loading."""
        self._num_steps += 1
        self._admit_before_prompts()
        decodes = list(map(_is_decoding, self.running))
        budget = self._budget_beside(sum(decodes))
        chunks: list[ScheduledChunk] = []
        for request, is_decoding in zip(self._still_running(), decodes):
            if is_decoding:
                chunks += self._continue(request, request.num_tokens)
            else:
                chunks += self._prefill(request, budget)
        while budget.prompts > 0 and (admitted := self._admit()):
            chunks += self._prefill(admitted, budget)
        return [self._with_drafts(chunk, budget) if chunk.request.draft_ids else chunk for chunk in chunks]

    def _budget_beside(self, num_decodes: int) -> TokenBudget:
        """What a step has beside generated tokens: for prompts half a step at most, as somebody waits for the next of those."""
        loads = 0 if self._source is None else self._source.loads_per_step
        tokens, prompts = self._max_tokens - num_decodes, self._max_tokens // 2 if num_decodes else self._max_tokens
        return TokenBudget(tokens, self._max_logits - num_decodes, loads, min(tokens, prompts))

    def advance(self, chunks: list[ScheduledChunk]) -> None:
        """Count the chunks' tokens as computed once the device was given them: later steps find their K and V in the pages."""
        for chunk in chunks:
            chunk.request.num_computed = chunk.last

    def accept_draft(self, request: Request) -> None:
        """Count a draft as computed: the request's last token, which its row guessed."""
        request.num_accepted += 1
        request.num_computed = request.num_tokens
        if self._prefix_cache:
            self._publish(request, request.num_computed)

    def drop_drafts(self, request: Request) -> None:
        """Release the pages that only rejected drafts needed."""
        needed = self.pages.pages_for(request.num_tokens)
        self.pages.release(request.page_ids[needed:])
        del request.page_ids[needed:]

    def publish(self, chunks: list[ScheduledChunk]) -> None:
        """Put the full pages of sequences that were computed to their ends into the prefix cache. All their ids must be known.

        Not the pages of a prompt before its end: only logits show whether its K and V are finite. The caller looks at them before
        the next `schedule`, and removes the request with `forget` if they are not.
        """
        for chunk in chunks if self._prefix_cache else ():
            if chunk.request.num_computed < chunk.last:  # it was preempted or has ended
                continue
            if chunk.is_last:
                self._publish(chunk.request, chunk.last)
            else:
                self._save_early(chunk.request, chunk.last)

    def keep(self, request: Request, num_tokens: int) -> None:
        """Publish the full pages of a request's first tokens, although its prompt was not computed to its end: the caller has
        looked at their numbers.
        """
        if self._prefix_cache:
            self._publish(request, num_tokens)

    def _prefill(self, request: Request, budget: TokenBudget) -> list[ScheduledChunk]:
        """The next chunk of a prompt; [] while its stored pages are being loaded."""
        if request.num_stored > len(request.page_ids) and not self._load(request, budget):
            return []
        return budget.spend(self._continue(request, budget.end_of_chunk(request)))

    def _continue(self, request: Request, last: int) -> list[ScheduledChunk]:
        """The next tokens of a running request, up to `last`; [] if it has none or is preempted."""
        first = request.num_computed
        if last <= first or not request.is_active or not self._reserve(request, last):
            return []
        num_logits = max(0, last - max(first, request.logits_from))
        return [ScheduledChunk(request, first, last, num_logits, is_last=last == request.num_tokens)]

    def _with_drafts(self, chunk: ScheduledChunk, budget: TokenBudget) -> ScheduledChunk:
        """The chunk with the drafts of its request, as many as fit into what all others have left; preempts nobody."""
        request = chunk.request
        slots = (len(request.page_ids) + self.pages.num_available) * self.pages.page_size - chunk.last
        draft_ids = tuple(request.draft_ids[: max(0, min(budget.tokens, budget.logits, slots))]) if chunk.is_last else ()
        request.draft_ids = []
        self._reserve(request, chunk.last + len(draft_ids))
        budget.tokens -= len(draft_ids)
        budget.logits -= len(draft_ids)
        return replace(chunk, num_logits=chunk.num_logits + len(draft_ids), draft_ids=draft_ids)

    def _still_running(self) -> Iterator[Request]:
        """The running requests, the earliest first. The caller may preempt the latest ones between two."""
        index = 0
        while index < len(self.running):
            yield self.running[index]
            index += 1

    def _reserve(self, request: Request, num_tokens: int) -> bool:
        """Reserve pages for `num_tokens` tokens, preempting the latest requests; False if `request` itself was preempted."""
        if num_tokens <= len(request.page_ids) * self.pages.page_size:
            return True
        missing = self.pages.pages_for(num_tokens) - len(request.page_ids)
        while missing > self.pages.num_available:
            latest = self.running.pop()
            self._release(latest)
            insort(self.waiting, latest, key=by_rank)
            if latest is request:
                return False
        request.page_ids.extend(self.pages.reserve() for _ in range(missing))
        return True

    def _admit_before_prompts(self) -> None:
        """Start what ranks before a running request whose prompt is being computed: it takes the next chunk."""
        while self.waiting and any(one.rank > self.waiting[0].rank and not _is_decoding(one) for one in self.running):
            if self._admit() is None:
                break

    def _admit(self) -> Request | None:
        """Start the first waiting request if the pages can hold all its tokens, and return it.

        One page per running request stays free for decoding, so that the new request is not preempted at once.
        """
        if not self.waiting or len(self.running) >= self._max_sequences or self._waits_for_leader(self.waiting[0]):
            return None
        request = self.waiting[0]
        self._match(request)
        missing = self.pages.pages_for(request.num_tokens) - len(request.page_ids)
        if self.running and missing + len(self.running) > self.pages.num_available:
            self._release(request)
            return None
        insort(self.running, self.waiting.pop(0), key=by_rank)
        self._find_stored(request)
        return request

    def _waits_for_leader(self, request: Request) -> bool:
        """Whether the full pages of the prompt are being computed for another sample of it: they will be in the prefix cache."""
        leader = request.leader
        if leader is None or leader.finish_reason is not None or not self._prefix_cache:
            return False
        return leader.num_published < (len(leader.prompt_ids) - 1) // self.pages.page_size

    def _match(self, request: Request) -> None:
        """Take pages from the prefix cache. Tokens that need logits or hidden states, always the last one, are computed."""
        if not self._prefix_cache:
            return
        ids = request.token_ids(0, request.needed_from)
        request.page_ids = self.pages.match(ids, request.prefix_key, self._prompt_length(request))
        self._count_cached(request)

    def _count_cached(self, request: Request) -> None:
        """All pages of a request that was just matched, or loaded, are full and known."""
        request.num_published = request.num_saved = len(request.page_ids)
        request.num_computed = request.num_published * self.pages.page_size
        if len(request.output_ids) == request.num_opened:
            request.num_cached = request.num_computed

    def _find_stored(self, request: Request) -> None:
        """Count the stored pages that continue those in memory. The store keeps those in memory, too."""
        if self._source is not None:
            first, last = len(request.page_ids), request.needed_from // self.pages.page_size
            for index in range(first):
                self._source.save(request, index)
            request.num_stored = self._source.find(request, first, last)

    def _load(self, request: Request, budget: TokenBudget) -> bool:
        """Load the next stored pages of a prompt into pages of its own, as many as the step allows; whether the rest is to be
        computed now. False too if the request was preempted.
        """
        first = len(request.page_ids)
        last = min(request.num_stored, first + budget.loads)
        if self._source is None or last == first or not self._reserve(request, last * self.pages.page_size):
            return False
        budget.loads -= last - first
        end = first + self._source.load(request, first)
        self.pages.release(request.page_ids[end:])
        del request.page_ids[end:]
        if end < last:
            request.num_stored = end  # the rest is computed
        for index in range(first, end):
            self._publish_page(request, index)
        self._count_cached(request)
        return end >= request.num_stored

    def _prompt_length(self, request: Request) -> int | None:
        return request.prompt_length if self._prompts_apart else None

    def _publish(self, request: Request, num_tokens: int) -> None:
        for index in range(request.num_published, num_tokens // self.pages.page_size):
            if self._publish_page(request, index) and self._source is not None and index >= request.num_saved:
                self._source.save(request, index)
            request.num_published = index + 1

    def _publish_page(self, request: Request, index: int) -> bool:
        size = self.pages.page_size
        token_ids = request.token_ids(index * size, (index + 1) * size)
        return self.pages.publish(request.page_ids, index, token_ids, request.prefix_key, self._prompt_length(request))

    def _save_early(self, request: Request, num_tokens: int) -> None:
        """Save the full pages of a prompt's first `num_tokens` tokens, lest the work be lost if the process is killed."""
        if self._source is not None and self._source.checks_pages:
            for index in range(request.num_saved, num_tokens // self.pages.page_size):
                self._source.save(request, index)
                request.num_saved = index + 1

    def _release(self, request: Request) -> None:
        self.pages.release(request.page_ids)
        request.page_ids = []
        request.draft_ids = []
        request.num_computed = request.num_published = request.num_stored = request.num_saved = 0


def _is_decoding(request: Request) -> bool:
    return request.num_tokens - request.num_computed == 1
