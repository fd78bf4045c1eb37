"""KV pages: which sequences hold which pages, and the prefix cache. Integers only.

A page is free (no content), used (held by one or more sequences), or cached (held by none, its content known). The content of a
full page is identified by its token ids and the page before it, back to the first: ids are compared, never only hashes. Where a
device computes generated tokens otherwise than prompts, the number of generated tokens in the page belongs to its identity.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

Before = int | tuple[Hashable]  # identity of the previous page; before the first one, the prefix-cache key
Content = tuple[Before, tuple[int, ...], int]  # (what comes before, the page's token ids, how many of them were generated)

UNKNOWN = -1  # identity of a page whose content is not known


class Pages:
    """Free list, reference counts and prefix cache over `num_pages` pages of `page_size` tokens.

    >>> pages = Pages(num_pages=3, page_size=2)
    >>> held = [pages.reserve(), pages.reserve()]
    >>> pages.publish(held, 0, [7, 8])
    True
    >>> pages.release(held)
    >>> pages.num_free, pages.num_cached
    (2, 1)
    >>> pages.match([7, 8, 9]) == held[:1]
    True
    """

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(range(num_pages - 1, -1, -1))
        self._references = [0] * num_pages
        self._leases = [0] * num_pages
        self._cached: OrderedDict[int, None] = OrderedDict()  # in the order of release; the first is evicted first
        self._identity = [UNKNOWN] * num_pages
        self._content: dict[int, Content] = {}  # of the pages that `match` can find
        self._known: dict[Content, int] = {}  # the inverse map
        self._last_identity = 0

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_available(self) -> int:
        """Pages that `reserve` can give: free and cached ones."""
        return len(self._free) + len(self._cached)

    def pages_for(self, num_tokens: int) -> int:
        """How many pages hold `num_tokens` tokens."""
        return -(-num_tokens // self.page_size)

    def reserve(self) -> int:
        """A free page; if there is none, evict the least recently used cached page.

        Raises IndexError if `num_available` is 0; the scheduler checks that first.
        """
        if not self._free and self._cached:
            self._evict()
        page = self._free.pop()
        self._references[page] = 1
        self._leases[page] += 1
        return page

    def lease(self, page: int) -> int:
        """A number that changes when a page may be overwritten, because another sequence has it, or its content is wrong."""
        return self._leases[page]

    def match(self, token_ids: Sequence[int], prefix_key: Hashable = 0, prompt_length: int | None = None) -> list[int]:
        """Hold the cached pages of the longest prefix of `token_ids`, whole pages only.

        `prompt_length`: tokens from there on are generated; None: that makes no difference.
        """
        held: list[int] = []
        before: Before = (prefix_key,)
        for first in range(0, len(token_ids) - self.page_size + 1, self.page_size):
            ids = tuple(token_ids[first : first + self.page_size])
            page = self._known.get((before, ids, self.num_generated(len(held), prompt_length)))
            if page is None:
                break
            self._hold(page)
            held.append(page)
            before = self._identity[page]
        return held

    def publish(
        self,
        page_ids: Sequence[int],
        index: int,
        token_ids: Sequence[int],
        prefix_key: Hashable = 0,
        prompt_length: int | None = None,
    ) -> bool:
        """Record that page `page_ids[index]` of a sequence is full and holds `token_ids`; whether `match` finds it now.

        If another page is known with the same content, `match` keeps finding that one, and later pages continue it.
        """
        before: Before = (prefix_key,) if index == 0 else self._identity[page_ids[index - 1]]
        if before == UNKNOWN:
            return False
        page, content = page_ids[index], (before, tuple(token_ids), self.num_generated(index, prompt_length))
        twin = self._known.setdefault(content, page)
        if twin == page:
            self._last_identity += 1
            self._content[page] = content
            self._identity[page] = self._last_identity
        else:
            self._identity[page] = self._identity[twin]
        return twin == page

    def num_generated(self, index: int, prompt_length: int | None) -> int:
        """How many tokens of a sequence's page `index` were generated; 0 for a `prompt_length` of None.

        >>> [Pages(1, page_size=4).num_generated(index, prompt_length=6) for index in (0, 1, 2)]
        [0, 2, 4]
        """
        if prompt_length is None:
            return 0
        return min(max((index + 1) * self.page_size - prompt_length, 0), self.page_size)

    def release(self, page_ids: Sequence[int]) -> None:
        """Release a sequence's pages, the last first, so that the cache evicts a prefix after its continuations."""
        for page in reversed(page_ids):
            self._references[page] -= 1
            if self._references[page] == 0:
                self._retire(page)

    def forget(self, page_ids: Sequence[int]) -> None:
        """Remove these pages from the cache, because their content is wrong. They stay held."""
        for page in page_ids:
            self._unpublish(page)
            self._leases[page] += 1

    def check(self) -> None:
        """Assert the invariants; for tests."""
        used = {page for page, count in enumerate(self._references) if count > 0}
        free, cached = set(self._free), set(self._cached)
        assert len(free) == len(self._free), "a page is free twice"
        assert min(self._references, default=0) >= 0, "a page was released too often"
        assert not (free & cached or free & used or cached & used), "a page is in two states"
        assert free | cached | used == set(range(self.num_pages)), "a page is lost"
        assert cached <= set(self._content) and not free & set(self._content), "a page's content is in the wrong state"
        assert self._known == {content: page for page, content in self._content.items()}, "the two maps of contents differ"

    def _hold(self, page: int) -> None:
        self._references[page] += 1
        self._cached.pop(page, None)

    def _retire(self, page: int) -> None:
        if page in self._content:
            self._cached[page] = None
        else:
            self._identity[page] = UNKNOWN
            self._free.append(page)

    def _evict(self) -> None:
        page, _ = self._cached.popitem(last=False)
        self._unpublish(page)
        self._free.append(page)

    def _unpublish(self, page: int) -> None:
        content = self._content.pop(page, None)
        if content is not None:
            del self._known[content]
        self._identity[page] = UNKNOWN
