"""The scheduler: decode first, prompts in chunks, no request starves, no page is lost."""

from __future__ import annotations

import random
from typing import Any

import pytest

from puna.pages import Pages
from puna.request import FinishReason, Request, SamplingParams
from puna.scheduler import AGING, ScheduledChunk, Scheduler


def request(request_id: int, num_tokens: int, token_id: int | None = None) -> Request:
    """Of ids that nobody else has, unless `token_id` is given."""
    return Request(request_id, [1000 * request_id if token_id is None else token_id] * num_tokens, SamplingParams())


def scheduler(num_pages: int = 16, page_size: int = 4, max_tokens: int = 8, max_sequences: int = 4, **more: Any) -> Scheduler:
    return Scheduler(Pages(num_pages, page_size), max_tokens=max_tokens, max_sequences=max_sequences, **more)


def step(it: Scheduler) -> list[ScheduledChunk]:
    """Schedule, compute, and give each sequence that reached its end a next token."""
    chunks = it.schedule()
    it.advance(chunks)
    it.publish(chunks)
    for chunk in chunks:
        if chunk.request.needs_prompt_logprobs:
            owed = len(chunk.request.prompt_ids) - len(chunk.request.prompt_logprobs)
            chunk.request.prompt_logprobs += [None] * min(chunk.num_logits, owed)
        if chunk.is_last:
            chunk.request.output_ids.append(chunk.request.id)
    return chunks


def spans(chunks: list[ScheduledChunk]) -> list[tuple[int, int, int]]:
    return [(chunk.request.id, chunk.first, chunk.last) for chunk in chunks]


def test_a_long_prompt_is_computed_in_chunks_and_wants_logits_at_its_end() -> None:
    it = scheduler()
    it.add(request(1, 19))
    chunks = [step(it)[0] for _ in range(4)]
    assert spans(chunks) == [(1, 0, 8), (1, 8, 16), (1, 16, 19), (1, 19, 20)]
    fresh = scheduler()
    fresh.add(request(1, 9))
    first = fresh.schedule()
    assert not first[0].is_last
    fresh.advance(first)
    fresh.publish(first)
    assert fresh.schedule()[0].is_last


def test_decoding_goes_on_beside_a_long_prompt_which_gets_half_a_step() -> None:
    it = scheduler()
    it.add(request(1, 3))
    step(it)
    it.add(request(2, 20))
    assert spans(step(it)) == [(1, 3, 4), (2, 0, 4)]
    assert spans(step(it)) == [(1, 4, 5), (2, 4, 8)]


def test_an_earlier_prompt_leaves_a_row_to_a_later_decode() -> None:
    it = scheduler(max_tokens=4)
    it.add(request(1, 3))
    it.add(request(2, 1))
    step(it)
    it.running[0].output_ids += [1] * 9  # as if it had to be computed anew
    assert spans(step(it)) == [(1, 3, 5), (2, 1, 2)]


def test_several_short_prompts_share_a_step() -> None:
    it = scheduler()
    for i in (1, 2, 3):
        it.add(request(i, 3))
    assert spans(step(it)) == [(1, 0, 3), (2, 0, 3), (3, 0, 2)]


def test_no_more_sequences_run_than_allowed() -> None:
    it = scheduler(max_sequences=2)
    for i in (1, 2, 3):
        it.add(request(i, 1))
    assert spans(step(it)) == [(1, 0, 1), (2, 0, 1)]
    it.remove(it.running[0])
    assert spans(step(it)) == [(2, 1, 2), (3, 0, 1)]


def test_a_prompt_waits_until_there_are_pages_and_nobody_overtakes_it() -> None:
    it = scheduler(num_pages=4)
    it.add(request(1, 8))
    step(it)
    it.add(request(2, 12))
    it.add(request(3, 1))
    assert spans(step(it)) == [(1, 8, 9)]
    it.remove(it.running[0])
    assert [r.id for r in it.waiting] == [2, 3]
    assert spans(step(it)) == [(2, 0, 8)]


def test_the_latest_gives_up_its_pages_and_comes_back_first() -> None:
    it = scheduler(num_pages=5)
    it.add(request(1, 8))
    it.add(request(2, 4))
    it.add(request(3, 4))
    for _ in range(3):
        step(it)
    assert [r.id for r in it.running] == [1, 2]  # 3 + 2 pages
    it.running[0].output_ids += [1] * 4
    step(it)
    assert [r.id for r in it.running] == [1]
    assert [r.id for r in it.waiting] == [2, 3]
    assert it.waiting[0].num_computed == 0 and it.waiting[0].page_ids == []


def test_a_shared_beginning_is_computed_once() -> None:
    it = scheduler()
    it.add(request(1, 8, token_id=7))
    step(it)
    it.add(request(2, 9, token_id=7))
    assert spans(step(it)) == [(1, 8, 9), (2, 8, 9)]
    assert it.running[1].num_cached == 8
    assert it.running[1].page_ids[:2] == it.running[0].page_ids[:2]


def test_the_last_token_of_a_known_prompt_is_computed_all_the_same() -> None:
    it = scheduler()
    it.add(request(1, 8, token_id=7))
    step(it)
    it.remove(it.running[0])
    it.add(request(2, 8, token_id=7))
    assert spans(step(it)) == [(2, 4, 8)]


def test_without_the_prefix_cache_everything_is_computed() -> None:
    it = scheduler(prefix_cache=False)
    it.add(request(1, 8, token_id=7))
    step(it)
    it.remove(it.running[0])
    assert it.pages.num_cached == 0
    it.add(request(2, 8, token_id=7))
    assert spans(step(it)) == [(2, 0, 8)]


def test_removing_twice_or_a_stranger_is_harmless() -> None:
    it = scheduler()
    it.add(request(1, 8))
    step(it)
    gone = it.running[0]
    it.remove(gone)
    it.remove(gone)
    it.remove(request(9, 3))
    it.pages.check()
    assert not it.has_work and it.pages.num_available == 16


@pytest.mark.parametrize("seed", range(60))
def test_a_random_walk_loses_no_page_and_ends(seed: int) -> None:
    """Random sizes, arrivals, aborts. The longest sequence just fits; each request must end in bounded time."""
    print("seed", seed)
    rng = random.Random(seed)
    page_size, longest = rng.choice([1, 2, 4]), rng.randint(4, 40)
    num_pages = -(-longest // page_size) + rng.randint(0, 8)
    more = {"max_logits": rng.randint(1, 12), "prefix_cache": rng.random() < 0.7}
    it = scheduler(num_pages, page_size, rng.randint(1, 12), rng.randint(1, 8), **more)
    ends: dict[int, int] = {}
    total = 0
    for number in range(rng.randint(1, 15)):
        num_prompt = rng.randint(1, longest - 1)
        ends[number] = rng.randint(num_prompt + 1, longest)
        total += ends[number] + 1
        params = SamplingParams(prompt_logprobs=rng.choice([None, None, 0]))
        it.add(Request(number, [rng.randint(0, 1) for _ in range(num_prompt)], params))
    for _ in range(total * 4):
        if not it.has_work:
            break
        earliest = (it.running or it.waiting)[0]
        before = max(earliest.num_computed, 0)
        chunks = step(it)
        check(it, chunks, num_pages)
        assert earliest.num_computed > before, "the earliest request must always move on"
        for r in tuple(it.running):
            if r.num_tokens >= ends[r.id]:
                it.remove(r)
        if rng.random() < 0.05 and it.has_work:
            it.remove(rng.choice([*it.running, *it.waiting]), forget=rng.random() < 0.3)
    assert not it.has_work, "the walk did not end"
    it.pages.check()
    assert it.pages.num_available == num_pages


def check(it: Scheduler, chunks: list[ScheduledChunk], num_pages: int) -> None:
    it.pages.check()
    assert chunks
    assert sum(c.last - c.first for c in chunks) <= it._max_tokens
    assert sum(c.num_logits for c in chunks) <= it._max_logits
    assert len(it.running) <= it._max_sequences
    assert [r.id for r in (*it.running, *it.waiting)] == sorted(r.id for r in (*it.running, *it.waiting))
    assert all(r.page_ids == [] and r.num_computed == 0 for r in it.waiting)
    assert all(c.request in it.running and c.request.num_computed <= len(c.request.page_ids) * it.pages.page_size for c in chunks)
    written = [page for c in chunks for page in c.request.page_ids[c.first // it.pages.page_size :]]
    assert len(written) == len(set(written)), "two sequences write one page"
    held = {page for r in it.running for page in r.page_ids}
    assert len(held) + it.pages.num_available == num_pages


class Stored:
    """Pages outside memory, by their ids. Some of those that it finds cannot be loaded."""

    def __init__(self, rng: random.Random, page_size: int) -> None:
        self.known: set[tuple[int, ...]] = set()
        self.rng, self.page_size, self.loads_per_step, self.loaded = rng, page_size, rng.randint(1, 4), 0
        self.checks_pages, self.is_idle = rng.random() < 0.7, True

    def attach(self, pages: Pages) -> None:
        pass

    def set_idle(self, is_idle: bool) -> None:
        self.is_idle = is_idle

    def _ids(self, request: Request, index: int) -> tuple[int, ...]:
        return tuple(request.token_ids(0, (index + 1) * self.page_size))

    def find(self, request: Request, first: int, last: int) -> int:
        while first < last and self._ids(request, first) in self.known:
            first += 1
        return first

    def load(self, request: Request, first: int) -> int:
        assert len(request.page_ids) - first <= self.loads_per_step
        count = len(request.page_ids) - first - (self.rng.random() < 0.2)
        self.loaded += count
        return count

    def save(self, request: Request, index: int) -> None:
        if self.rng.random() < 0.8:
            self.known.add(self._ids(request, index))

    def forget(self, request: Request) -> None:
        self.known.clear()


@pytest.mark.parametrize("seed", range(40))
def test_a_walk_with_pages_outside_memory_loses_no_page_and_ends(seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    page_size, longest = rng.choice([1, 2, 4]), rng.randint(8, 40)
    num_pages = -(-longest // page_size) + rng.randint(0, 4)
    source = Stored(rng, page_size)
    it = scheduler(num_pages, page_size, rng.randint(2, 12), rng.randint(1, 6), source=source)
    ends: dict[int, int] = {}
    for number in range(rng.randint(4, 20)):
        num_prompt = rng.randint(longest // 2, longest - 1)
        ends[number] = rng.randint(num_prompt + 1, longest)
        it.add(Request(number, [rng.randint(0, 1) if i > 6 else 0 for i in range(num_prompt)], SamplingParams()))
    for _ in range(20_000):
        if not it.has_work:
            break
        earliest = (it.running or it.waiting)[0]
        before = earliest.num_computed
        decoding = [r for r in it.running if r.num_tokens - r.num_computed == 1 and r.num_stored <= len(r.page_ids)]
        chunks = step(it)
        it.pages.check()
        assert not source.is_idle
        assert earliest.num_computed > before or earliest.num_stored <= len(earliest.page_ids)
        assert all(any(c.request is r for c in chunks) for r in decoding if r in it.running), "loading stopped another request"
        assert all(r.page_ids == [] and r.num_computed == r.num_stored == 0 for r in it.waiting)
        for r in tuple(it.running):
            if r.num_tokens >= ends[r.id]:
                it.remove(r, forget=rng.random() < 0.05)
    assert not it.has_work and source.is_idle, "the walk did not end"
    assert it.pages.num_available == num_pages


def test_stored_pages_are_loaded_and_counted() -> None:
    source = Stored(random.Random(0), 4)
    it = scheduler(source=source)
    first = request(1, 14, token_id=7)
    source.rng.random = lambda: 0.5  # type: ignore[method-assign]
    it.add(first)
    step(it)
    step(it)
    it.remove(first)
    fresh = scheduler(source=source)
    source.loads_per_step = 2
    fresh.add(request(2, 14, token_id=7))
    assert step(fresh) == []
    assert spans(step(fresh)) == [(2, 12, 14)]
    assert fresh.running[0].num_cached == 12 and source.loaded == 3


@pytest.mark.parametrize("checks_pages", [False, True])
def test_the_pages_of_half_a_prompt_are_saved_once_if_the_source_looks_at_them(checks_pages: bool) -> None:
    source = Stored(random.Random(0), 4)
    source.checks_pages, saved = checks_pages, []
    source.save = lambda request, index: saved.append(index)  # type: ignore[method-assign]
    it = scheduler(max_tokens=6, source=source)
    it.add(request(1, 14))
    step(it)
    assert saved == ([0] if checks_pages else [])
    step(it)
    assert saved == ([0, 1, 2] if checks_pages else []) and it.pages.num_cached == 0
    for _ in range(4):
        step(it)
    assert saved == [0, 1, 2, 3], "also those of the answer"


# ---- fairness: priorities, long prompts, overload -----------------------------------------------------------------------


def ranked(request_id: int, num_tokens: int, priority: int) -> Request:
    return Request(request_id, [1000 * request_id] * num_tokens, SamplingParams(priority=priority))


def test_a_lower_priority_number_starts_first_and_equals_as_they_came() -> None:
    it = scheduler(max_sequences=1)
    for number, priority in enumerate([0, 1, -1, 0, -1]):
        it.add(ranked(number, 2, priority))
    order = []
    while it.has_work:
        order.append(step(it)[0].request.id)
        it.remove(it.running[0])
    assert order == [2, 4, 0, 3, 1]


def test_the_last_of_the_lowest_priority_gives_up_its_pages() -> None:
    it = scheduler(num_pages=5)
    for number, priority in enumerate([0, 2, 1, 2]):
        it.add(ranked(number, 3, priority))
    left: list[int] = []
    for _ in range(12):
        before = list(it.running)
        step(it)
        left += [r.id for r in reversed(before) if r not in it.running and r.id not in left]
    assert left == [1, 2]
    assert [r.rank for r in it.waiting] == sorted(r.rank for r in it.waiting)


def test_what_ranks_before_a_prompt_takes_its_next_chunk() -> None:
    it = scheduler(num_pages=40)
    it.add(ranked(1, 80, 0))
    step(it)
    it.add(ranked(2, 10, -1))
    it.add(ranked(3, 10, 0))
    assert spans(step(it)) == [(2, 0, 8)]
    assert spans(step(it)) == [(2, 8, 10), (1, 8, 14)]


def test_a_low_priority_is_overtaken_by_those_of_its_first_steps_only() -> None:
    """One request of priority 3 among a stream of requests of priority 0 that never ends: it starts after 3 * AGING steps."""
    it = scheduler(max_sequences=1, num_pages=64)
    it.add(ranked(0, 1, 3))
    for number in range(1, 4000):
        it.add(ranked(number, 1, 0))
        chunk = step(it)[0]
        if chunk.request.id == 0:
            break
        if chunk.is_last:
            it.remove(chunk.request)
    assert number == 3 * AGING + 1


@pytest.mark.parametrize("length", [9, 100, 1000])
def test_a_long_prompt_holds_decoding_up_for_no_step(length: int) -> None:
    """In scheduled tokens: each step computes a token of each decoding request, and no more than the budget in all."""
    it = scheduler(num_pages=600, max_tokens=32, max_sequences=6)
    for number in range(4):
        it.add(request(number, 2))
    step(it)
    it.add(request(9, length))
    while it.running[-1].id != 9 or it.running[-1].num_computed < length:
        chunks = step(it)
        assert [(c.request.id, c.last - c.first) for c in chunks[:4]] == [(number, 1) for number in range(4)]
        assert sum(c.last - c.first for c in chunks) <= 32


@pytest.mark.parametrize("seed", range(8))
def test_under_overload_nobody_waits_three_times_the_median(seed: int) -> None:
    """100 requests at once on 8 slots. The wait is counted in steps, from the arrival to the first chunk."""
    rng = random.Random(seed)
    it = scheduler(num_pages=400, page_size=16, max_tokens=256, max_sequences=8)
    ends = {number: rng.randint(32, 256) for number in range(100)}
    for number in ends:
        it.add(request(number, rng.randint(32, 256)))
    begun: dict[int, int] = {}
    for now in range(1 << 20):
        if not it.has_work:
            break
        for chunk in step(it):
            begun.setdefault(chunk.request.id, now)
        for one in [r for r in it.running if len(r.output_ids) >= ends[r.id]]:
            it.remove(one)
    waits = sorted(begun.values())
    assert len(waits) == 100 and waits[-1] <= 3 * waits[50], waits


@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(60, 2000), marks=pytest.mark.full)], ids=str)
def test_random_walks_with_priorities_lose_no_page_and_end(seeds: range) -> None:
    """Submit, cancel, fail, finish, preempt, evict in any order: pages stay whole, the first always moves on, everybody ends."""
    for seed in seeds:
        random_walk(seed)


def random_walk(seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    page_size, longest = rng.choice([1, 2, 4]), rng.randint(4, 40)
    num_pages = -(-longest // page_size) + rng.randint(0, 8)
    it = scheduler(num_pages, page_size, rng.randint(1, 12), rng.randint(1, 8), prefix_cache=rng.random() < 0.7)
    ends: dict[int, int] = {}
    made: list[Request] = []
    for number in range(rng.randint(60, 120)):
        if rng.random() < 0.25 and len(ends) < 20:
            num_prompt = rng.randint(1, longest - 1)
            ends[number] = rng.randint(num_prompt + 1, longest)
            params = SamplingParams(priority=rng.randint(-2, 2))
            made.append(Request(number, [rng.randint(0, 1) for _ in range(num_prompt)], params))
            if rng.random() < 0.3:
                made[-1].leader = rng.choice([None, *made[:-1]])
                made[-1].prompt_ids = list(made[-1].leader.prompt_ids) if made[-1].leader else made[-1].prompt_ids
                ends[number] = max(ends[number], len(made[-1].prompt_ids) + 1)
            it.add(made[-1])
        walk(it, ends, rng)
        check_order(it, num_pages)
    for _ in range(20000):
        if not it.has_work:
            break
        walk(it, ends, rng)
    check_order(it, num_pages)
    assert not it.has_work and it.pages.num_available == num_pages


def walk(it: Scheduler, ends: dict[int, int], rng: random.Random) -> None:
    """A step, or what may happen between two."""
    match rng.randrange(12):
        case 0 if it.has_work:
            gone = rng.choice([*it.running, *it.waiting])
            it.remove(gone, forget=rng.random() < 0.3)
            gone.finish_reason = FinishReason.ABORT
        case 1 if it.has_work and rng.random() < 0.1:
            waiting = it.disband()
            it.__init__(Pages(it.pages.num_pages, it.pages.page_size), max_tokens=it._max_tokens, max_sequences=it._max_sequences)  # type: ignore[misc]
            for one in waiting:
                it.add(one)
        case _:
            first = it.running[0] if it.running else None
            before = first.num_computed if first else 0
            step(it)
            assert first is None or first not in it.running or first.num_computed > before or it.running[0] is not first
    for one in [r for r in it.running if r.num_tokens >= ends[r.id]]:
        it.remove(one)
        one.finish_reason = FinishReason.LENGTH


def check_order(it: Scheduler, num_pages: int) -> None:
    it.pages.check()
    for several in (it.running, it.waiting):
        assert [r.rank for r in several] == sorted(r.rank for r in several)
    assert all(r.page_ids == [] for r in it.waiting)
    held = {page for r in it.running for page in r.page_ids}
    assert len(held) + it.pages.num_available == num_pages
