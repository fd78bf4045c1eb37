"""The programs take turns, the first question is a warm-up, and ratios are of runs that followed each other."""

from __future__ import annotations

from puna.peers.pairs import RatePair, alternate, summary


def test_the_programs_take_turns_and_the_other_one_comes_first_each_time() -> None:
    asked, heard = list[str](), list[int]()

    def answering(name: str, rate: float):  # type: ignore[no-untyped-def]
        def answer(question: int) -> float:
            asked.append(f"{name}{question}")
            return rate * question

        return answer

    pairs = alternate(answering("puna", 6.0), answering("peer", 3.0), [1, 2, 3], heard.append)
    assert asked == ["puna1", "peer1", "peer2", "puna2", "puna3", "peer3"]
    assert pairs == [RatePair(12.0, 6.0), RatePair(18.0, 9.0)] and heard == [0, 1, 2, 3]


def test_the_ratio_is_the_median_of_the_pairs_and_not_the_ratio_of_the_medians() -> None:
    told = summary([RatePair(10.0, 1.0), RatePair(20.0, 10.0), RatePair(30.0, 30.0)])
    assert (told["puna"], told["peer"], told["ratio"], told["min"], told["max"]) == (20.0, 10.0, 2.0, 1.0, 10.0)
