"""Joins the pages in memory with those on disk: saves what the scheduler publishes, and loads what a prompt finds.

Saving never delays a step: a thread copies a page out of the backend's memory while the engine goes on. A page may be evicted and
overwritten meanwhile; its lease (`Pages.lease`) then differs after the copy, and the copy is dropped. Pages that hold an infinite
number or NaN are not saved. Loading happens between two steps, some pages at a time.

On a CPU the thread would take its time from the steps. So a page waits until no request runs; but not for long, because a process
may be killed, and not when many wait, because they are evicted.

A page is loaded only if that is cheaper than to compute it, by what both have cost so far. This holds for prompts, and for a
request that was preempted: its pages stay in memory until they are evicted, and then are here.

Every answer is right without stored pages. So whatever fails here is told, and no request ends because of it: what cannot be
saved (the disk is full) leaves what can be found; where finding or loading fails, nothing is found or saved any more.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np

from puna.backends.base import Backend, PageBytes
from puna.config import EngineConfig
from puna.errors import ConfigError, PunaError, first_line
from puna.formats.base import Checkpoint
from puna.formats.digest import KnownDigests, StoppedError, content_digest
from puna.page_store import PAGES, Page, PageStore, first_name, ids_as_bytes, key_of, next_name, open_folder
from puna.pages import Pages
from puna.paths import typed_path
from puna.plan import Plan
from puna.progress import SILENT, Reporter
from puna.request import Request

T = TypeVar("T")

DIGESTS = "digests.json"
SMALL_MODEL_BYTES = 1 << 28  # its digest takes some tenths of a second; of a larger one, it is computed beside the first requests
LOAD_S = 0.02  # how long a step may load pages
LOAD_BYTES = 1 << 25  # the same before it is known how fast that is
SAVE_AFTER_S = 5.0  # how long a page waits for the engine to be idle
MOST_WAITING = 4  # pages are saved at once while more than 1 / MOST_WAITING of those in memory wait
LEARN = 1.1  # the factor by which one measurement moves a cost: one hiccup of a busy machine decides nothing
FORGET = 0.97  # ... and by which loading is trusted again each time that it is not chosen: a disk that was slow is tried again
MAX_QUEUED = 1 << 16  # pages that wait to be saved; more are not saved
LEAST_TOKENS = 2  # pages of tokens, of which a step is long enough to tell what a page costs
NICENESS = 10  # a tenth of another thread's share; with 19, closing took seconds on a busy machine
# KV type -> the bits of +inf and -inf, and the integers among which these and NaN are the largest. In int8, a scale that is not
# finite makes the request fail that wrote it.
INFINITIES: Mapping[str, tuple[tuple[type[np.integer[Any]], int], ...]] = {
    "f32": ((np.int32, 0x7F800000), (np.uint32, 0xFF800000)),
    "f16": ((np.int16, 0x7C00), (np.uint16, 0xFC00)),
    "bf16": ((np.int16, 0x7F80), (np.uint16, 0xFF80)),
}


def is_finite(page: Page, kv_type: str) -> bool:
    """Whether a page holds only finite numbers.

    >>> is_finite(np.float32([1, -2]).view(np.uint8), "f32"), is_finite(np.float16([1, -np.inf]).view(np.uint8), "f16")
    (True, False)
    """
    return all(int(page.view(kind).max()) < infinity for kind, infinity in INFINITIES.get(kv_type, ()))


class LoadOrCompute:
    """What a page costs, in seconds: to load it, and to compute it. Both are running medians, as those of `StepCosts`.

    >>> costs = LoadOrCompute(load_s=0.001)
    >>> costs.loads  # what computing costs is not known yet
    True
    >>> costs.computed(0.0005)
    >>> costs.loads, costs.loads
    (False, False)
    >>> any(costs.loads for _ in range(30))  # it is tried again
    True
    """

    def __init__(self, load_s: float) -> None:
        self.load_s, self.compute_s = load_s, 0.0

    @property
    def loads(self) -> bool:
        """Whether to load what is stored. Each no makes a later yes more likely."""
        pays = not self.compute_s or self.load_s <= self.compute_s
        self.load_s *= 1 if pays else FORGET
        return pays

    def loaded(self, seconds: float) -> None:
        self.load_s = _moved(self.load_s, seconds)

    def computed(self, seconds: float) -> None:
        self.compute_s = _moved(self.compute_s, seconds)


def _moved(median: float, seconds: float) -> float:
    return seconds if not median else median * (LEARN if seconds > median else 1 / LEARN)


@dataclass(frozen=True, slots=True)
class _Source:
    """A page in memory that is to be saved. It still is what it was as long as its lease is the same."""

    pages: Pages
    page: int
    lease: int
    due: float  # when to save it though requests run; on the clock of time.monotonic
    name: str  # in the store
    ids: bytes
    index: int  # in its sequence


StoreWork = Callable[[PageStore], None]


class StoredPages:
    """A `PageSource` of the scheduler. One thread calls the public methods.

    `open_store` returns the store, or None if it is no longer needed; it may take long. Until then nothing is found.
    """

    def __init__(
        self,
        backend: Backend,
        plan: Plan,
        open_store: Callable[[Callable[[], bool]], PageStore],
        report: Reporter = SILENT,
        *,
        at_once: bool = True,
    ) -> None:
        """`at_once`: open the store now, else in the thread that saves."""
        self._backend, self._report = backend, report
        self._kv_type, self._page_size = plan.kv_type, plan.page_size
        self._pages_read = backend.read_pages([0])
        self._page_s = LOAD_S * self._pages_read.nbytes / LOAD_BYTES  # how long loading a page takes
        self._page_saved = np.empty_like(self._pages_read)
        self._costs = LoadOrCompute(self._page_s)
        self._pages: Pages | None = None
        self.checks_pages = plan.kv_type in INFINITIES
        self._is_idle = True
        self._forgotten: set[str] = set()  # names of pages that are wrong, and will be removed
        self._notices: deque[str] = deque()  # of what has failed; not yet reported
        self._is_open = True
        self._is_broken = False
        self._open_store = open_store
        self._store: PageStore | None = open_store(lambda: True) if at_once else None
        self._start()
        atexit.register(self.close)

    # ---- what the scheduler calls ------------------------------------------------------------------------------------------

    def attach(self, pages: Pages) -> None:
        self._pages = pages

    def set_idle(self, is_idle: bool) -> None:
        self._is_idle = is_idle
        if is_idle and self._waiting:
            self._do(_wake)

    @property
    def loads_per_step(self) -> int:
        return max(1, int(LOAD_S / self._page_s))

    def find(self, request: Request, first: int, last: int) -> int:
        return self._guarded(lambda: self._find(request, first, last), first)

    def _find(self, request: Request, first: int, last: int) -> int:
        if first == last or not self._has(self._name(request, first)) or not self._costs.loads:
            return first
        while first < last and self._has(self._name(request, first)):
            first += 1
        return first

    def _has(self, name: str) -> bool:
        if self._store is None or self._is_broken or name in self._forgotten:
            return False
        return self._store.has(name)

    def load(self, request: Request, first: int) -> int:
        return self._guarded(lambda: self._load(request, first), 0)

    def _load(self, request: Request, first: int) -> int:
        start, last = time.perf_counter(), len(request.page_ids)
        pages = self._buffer(last - first)
        end = next((index for index in range(first, last) if not self._read(request, index, pages[index - first])), last)
        if end > first:
            self._backend.write_pages(request.page_ids[first:end], pages[: end - first])
            self._page_s = (time.perf_counter() - start) / (end - first)
            self._costs.loaded(self._page_s)
            self._do(partial(self._touch, request.page_names[first:end], first))
        return end - first

    def save(self, request: Request, index: int) -> None:
        self._guarded(lambda: self._keep(request, index), None)

    def _keep(self, request: Request, index: int) -> None:
        """Let a page wait until it is saved."""
        self._require_thread()
        pages, page = self._pages, request.page_ids[index]
        if pages is not None and not self._is_broken and len(self._waiting) < MAX_QUEUED:
            name, ids, due = self._name(request, index), self._ids(request, index), time.monotonic() + SAVE_AFTER_S
            self._waiting.append(_Source(pages, page, pages.lease(page), due, name, ids, index))
            if len(self._waiting) in (1, self._most_waiting + 1):
                self._do(_wake)

    def forget(self, request: Request) -> None:
        self._forgotten.update(request.page_names)
        self._guarded(lambda: self._do(partial(self._remove, list(request.page_names))), None)

    def note(self, num_tokens: int, seconds: float) -> None:
        if num_tokens >= LEAST_TOKENS * self._page_size:
            self._costs.computed(seconds * self._page_size / num_tokens)

    def _guarded(self, work: Callable[[], T], otherwise: T) -> T:
        """The result of `work`. If it fails: `otherwise`, and nothing is found or saved from now on."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - the answers are right without it
            if not self._is_broken:
                self._note_failure("is not used any more", error)
            self._is_broken = True
            return otherwise

    def _note_failure(self, what: str, error: Exception) -> None:
        reason = error.line if isinstance(error, PunaError) else first_line(error)
        self._notices.append(f"--cache-dir {what}: {reason}")

    def close(self) -> None:
        """Save what waits, and end the thread: afterwards it reads no page. Idempotent."""
        if self._is_open and self._process == os.getpid():
            self._is_open = False
            atexit.unregister(self.close)
            self._queue.put(None)
            self._thread.join()
            self.tell()

    def tell(self) -> None:
        """Report once what has failed. Called where no answer is being shown."""
        while self._notices:
            self._report.notice(self._notices.popleft())

    def _buffer(self, count: int) -> PageBytes:
        """Memory for pages on their way. It is used again: the system takes longer to give memory than to fill it."""
        if len(self._pages_read) < count:
            self._pages_read = np.empty((count, self._pages_read.shape[1]), np.uint8)
        return self._pages_read

    def _read(self, request: Request, index: int, into: Page) -> bool:
        return self._store is not None and self._store.read(self._name(request, index), self._ids(request, index), into)

    def _name(self, request: Request, index: int) -> str:
        """The name of a request's page. The names of earlier ones are kept with the request."""
        names = request.page_names
        while len(names) <= index:
            before = names[-1] if names else first_name(request.prefix_key)
            names.append(next_name(before, self._ids(request, len(names)), self._num_generated(request, len(names))))
        return names[index]

    def _ids(self, request: Request, index: int) -> bytes:
        return ids_as_bytes(request.token_ids(index * self._page_size, (index + 1) * self._page_size))

    def _num_generated(self, request: Request, index: int) -> int:
        """How many tokens of a page were generated, if the backend computes those otherwise."""
        if self._pages is None or not self._backend.prompts_apart:
            return 0
        return self._pages.num_generated(index, request.prompt_length)

    # ---- the thread that saves ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._process = os.getpid()
        self._queue: SimpleQueue[StoreWork | None] = SimpleQueue()
        self._waiting: deque[_Source] = deque()  # the thread takes the first
        self._thread = threading.Thread(target=self._run, args=(self._queue,), name="puna-page-store", daemon=True)
        self._thread.start()

    def _do(self, work: StoreWork) -> None:
        self._require_thread()
        self._queue.put(work)

    def _require_thread(self) -> None:
        if self._process != os.getpid():  # a forked child has none yet
            self._start()

    def _run(self, queue: SimpleQueue[StoreWork | None]) -> None:
        _yield_to_others()
        try:
            store = self._store = self._store or self._open_store(lambda: self._is_open)
            while (work := self._next(queue)) is not None:
                work(store)
            self._save_all(store)
        except StoppedError:
            pass
        except Exception as error:  # noqa: BLE001 - the answers are right without it
            self._note_failure("keeps no more pages", error)
            while self._is_open and queue.get() is not None:
                self._waiting.clear()

    def _next(self, queue: SimpleQueue[StoreWork | None]) -> StoreWork | None:
        """What to do next: what was asked for, else save the first page that waits, once it is time. None: end."""
        try:
            return queue.get(timeout=self._delay())
        except Empty:
            return self._save_first

    def _delay(self) -> float | None:
        """Seconds until the first page that waits is to be saved; None if none waits."""
        if not self._waiting:
            return None
        is_time = self._is_idle or len(self._waiting) > self._most_waiting
        return 0.0 if is_time else max(0.0, self._waiting[0].due - time.monotonic())

    @property
    def _most_waiting(self) -> int:
        return 0 if self._pages is None else self._pages.num_pages // MOST_WAITING

    def _save_all(self, store: PageStore) -> None:
        while self._waiting:
            self._save_first(store)

    def _save_first(self, store: PageStore) -> None:
        source = self._waiting.popleft()
        if store.touch(source.name, source.index) or not self._holds(source):
            return
        page = self._backend.read_pages([source.page], self._page_saved)[0]
        if self._holds(source) and is_finite(page, self._kv_type):
            store.write(source.name, source.ids, page)

    def _holds(self, source: _Source) -> bool:
        return source.pages is self._pages and source.pages.lease(source.page) == source.lease

    def _touch(self, names: list[str], first: int, store: PageStore) -> None:
        for index, name in enumerate(names, first):
            store.touch(name, index)

    def _remove(self, names: list[str], store: PageStore) -> None:
        store.remove(names)
        self._forgotten.difference_update(names)


def _wake(store: PageStore) -> None:
    """Makes the thread look whether a page waits."""


def _yield_to_others() -> None:
    """Let this thread run where the threads that compute leave the cores idle. Linux has a priority for each thread."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


# ---- opening -------------------------------------------------------------------------------------------------------------


def open_stored_pages(
    checkpoint: Checkpoint, backend: Backend, plan: Plan, config: EngineConfig, report: Reporter = SILENT
) -> StoredPages | None:
    """The pages in `config.cache_dir`; None without one, or if the backend's pages cannot be read. ConfigError if it is bad."""
    if not config.cache_dir:
        return None
    if not config.prefix_cache:
        report.notice("--cache-dir has no effect: the prefix cache is off")
        return None
    if not backend.kv_arithmetic:
        report.notice("--cache-dir has no effect with several processes: each holds only its part of a page")
        return None
    folder = prepared_folder(config)
    page_bytes = backend.read_pages([0]).nbytes
    if config.cache_size < 2 * page_bytes:
        raise ConfigError("cache_size", f"is {config.cache_size}; a page of this model takes {page_bytes} bytes")
    known = KnownDigests(folder / PAGES / DIGESTS)
    digest = known.find(checkpoint)
    is_small = sum(tensor.num_bytes for tensor in checkpoint.tensors.values()) <= SMALL_MODEL_BYTES

    def open_store(is_needed: Callable[[], bool]) -> PageStore:
        facts = _facts(digest or _digest(checkpoint, known, is_needed), backend, plan)
        return PageStore(folder, key_of(facts), page_bytes, config.cache_size, _about(checkpoint, backend, plan))

    return StoredPages(backend, plan, open_store, report, at_once=digest is not None or is_small)


def prepared_folder(config: EngineConfig) -> Path:
    """The folder of `config.cache_dir`, which is made if it is missing. ConfigError if it cannot be used."""
    folder = typed_path(os.fspath(config.cache_dir), "cache_dir").absolute()
    open_folder(folder)
    return folder


def _digest(checkpoint: Checkpoint, known: KnownDigests, is_needed: Callable[[], bool]) -> str:
    digest = content_digest(checkpoint, is_needed)
    with suppress(OSError):
        known.keep(checkpoint, digest)
    return digest


def _facts(digest: str, backend: Backend, plan: Plan) -> dict[str, Any]:
    """All that the bits of a page depend on besides its token ids."""
    return {
        "model": digest,
        "weights": sorted(plan.types.items()),
        "kv_type": plan.kv_type,
        "page_size": plan.page_size,
        "backend": type(backend).__module__,
        "arithmetic": backend.kv_arithmetic,
        "sources": sources_digest(),
    }


@cache
def sources_digest() -> str:
    """A hash of puna's sources that K and V pass through: another version of them finds no page of this one."""
    root, digest = Path(__file__).parent, hashlib.sha256()
    paths = [path for room in ("backends", "formats", "model") for path in sorted((root / room).rglob("*.py"))]
    for path in (*paths, root / "batch.py"):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _about(checkpoint: Checkpoint, backend: Backend, plan: Plan) -> dict[str, Any]:
    """What `puna cache` shows."""
    return {
        "model": checkpoint.config.name or checkpoint.path.name,
        "path": str(checkpoint.path),
        "device": backend.info.name,
        "kv_type": plan.kv_type,
        "page_size": plan.page_size,
    }
