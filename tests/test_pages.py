"""Pages: none is lost, none has two owners, and only published pages are found again."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from puna.pages import Pages


def filled(pages: Pages, token_ids: list[int]) -> list[int]:
    """Reserve and publish the full pages of a sequence, after what is known of it."""
    held = pages.match(token_ids)
    for index in range(len(held), len(token_ids) // pages.page_size):
        held.append(pages.reserve())
        pages.publish(held, index, token_ids[index * pages.page_size : (index + 1) * pages.page_size])
    return held


def test_a_known_beginning_is_found_page_by_page() -> None:
    pages = Pages(8, 2)
    held = filled(pages, [1, 2, 3, 4, 5])
    assert len(held) == 2
    assert pages.match([1, 2, 3, 4, 9, 9]) == held
    assert pages.match([1, 2, 9, 9]) == held[:1]
    assert pages.match([9, 2, 3, 4]) == []


def test_the_same_ids_after_another_beginning_are_another_page() -> None:
    pages = Pages(8, 2)
    filled(pages, [1, 2, 7, 7])
    assert pages.match([7, 7]) == []
    other = filled(pages, [3, 4, 7, 7])
    assert pages.match([3, 4, 7, 7]) == other


def test_equal_hashes_are_not_taken_for_equal_ids() -> None:
    assert hash(-1) == hash(-2)
    pages = Pages(4, 1)
    filled(pages, [-1])
    assert pages.match([-2]) == []


def test_the_page_unused_for_longest_is_evicted_and_ends_before_beginnings() -> None:
    pages = Pages(4, 1)
    first = filled(pages, [1, 2])
    pages.release(first)
    second = filled(pages, [5, 6])
    pages.release(second)
    assert pages.num_free == 0 and pages.num_cached == 4
    assert pages.reserve() == first[1]
    assert pages.match([1, 2]) == first[:1]
    assert pages.match([5, 6]) == second


def test_a_continuation_of_an_evicted_page_is_not_found_under_its_successor() -> None:
    pages = Pages(3, 1)
    held = filled(pages, [1, 2])
    pages.release(held[:1])  # the beginning is let go first, against the rule, and evicted
    pages.release([pages.reserve()])
    taken = [pages.reserve(), pages.reserve()]
    pages.publish(taken, 0, [9])
    assert pages.match([9, 2]) == taken[:1]


def test_two_sequences_that_compute_the_same_page_continue_one_chain() -> None:
    pages = Pages(8, 1)
    one, two = [pages.reserve()], [pages.reserve()]
    pages.publish(one, 0, [1])
    pages.publish(two, 0, [1])
    two.append(pages.reserve())
    pages.publish(two, 1, [2])
    assert pages.match([1, 2]) == [one[0], two[1]]
    pages.release(two)
    assert pages.num_free == 6, "the twin's page is of no use to anybody"


def test_forgotten_pages_are_not_found() -> None:
    pages = Pages(4, 1)
    held = filled(pages, [1, 2])
    pages.forget(held[:1])
    assert pages.match([1, 2]) == []
    pages.release(held)
    pages.check()
    assert pages.num_available == 4


def test_reserving_from_nothing_is_an_error() -> None:
    pages = Pages(1, 1)
    pages.reserve()
    with pytest.raises(IndexError):
        pages.reserve()


class Walk(RuleBasedStateMachine):
    """Random sequences over a tiny alphabet, so that beginnings are shared and pages run out."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = Pages(10, 2)
        self.sequences: list[tuple[list[int], list[int]]] = []

    @rule(token_ids=st.lists(st.integers(0, 1), min_size=2, max_size=9))
    def add(self, token_ids: list[int]) -> None:
        held = self.pages.match(token_ids)
        needed = len(token_ids) // 2 - len(held)
        if needed > self.pages.num_available:
            self.pages.release(held)
            return
        for index in range(len(held), len(held) + needed):
            held.append(self.pages.reserve())
            self.pages.publish(held, index, token_ids[2 * index : 2 * index + 2])
        self.sequences.append((token_ids, held))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), forget=st.booleans())
    def finish(self, data: st.DataObject, forget: bool) -> None:
        _, held = self.sequences.pop(data.draw(st.integers(0, len(self.sequences) - 1)))
        if forget:
            self.pages.forget(held)
        self.pages.release(held)

    @invariant()
    def every_page_is_in_one_state(self) -> None:
        self.pages.check()
        used = {page for _, held in self.sequences for page in held}
        assert len(used) + self.pages.num_free + self.pages.num_cached == 10
        assert self.pages.num_available == 10 - len(used)

    @invariant()
    def a_page_is_shared_only_by_equal_beginnings(self) -> None:
        contents: dict[int, list[int]] = {}
        for token_ids, held in self.sequences:
            for index, page in enumerate(held):
                assert contents.setdefault(page, token_ids[: 2 * index + 2]) == token_ids[: 2 * index + 2]


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=100, stateful_step_count=30, deadline=None, derandomize=True)


def test_pages_of_another_prefix_key_are_not_found() -> None:
    pages = Pages(8, 2)
    ids = [1, 2, 3, 4]
    for prefix_key in (0, 70):
        held = [pages.reserve(), pages.reserve()]
        for index in range(2):
            pages.publish(held, index, ids[2 * index : 2 * index + 2], prefix_key)
        assert pages.match(ids, prefix_key) == held
    assert pages.match(ids, 71) == []
