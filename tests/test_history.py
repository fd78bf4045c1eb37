"""The ids so far, and a window over them."""

from __future__ import annotations

import numpy as np

from puna.history import EVERYTHING, History, Occurrences


def test_a_window_holds_the_last_tokens_of_prompt_and_output() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        prompt, output = (rng.integers(0, 9, int(rng.integers(0, 9))).tolist() for _ in range(2))
        window, whole = int(rng.integers(0, 20)), [*prompt, *output]
        history = History(prompt, output)
        assert history.ids(window) == whole[len(whole) - min(window, len(whole)) :]
        assert len(history.last(window).output_ids) == min(window, len(output))
        assert history.ids(EVERYTHING) == history.ids() == whole and history.last(EVERYTHING) is history


def test_occurrences_counted_piece_by_piece_are_those_counted_at_once() -> None:
    rng = np.random.default_rng(5)
    prompt, output = rng.integers(0, 50, 30).tolist(), rng.integers(0, 50, 200).tolist()
    seen = Occurrences(prompt)
    for end in np.sort(rng.integers(0, 201, 40)).tolist():
        seen.count(output[:end])
        assert dict(zip(seen.ids, seen.counts, strict=True)) == {i: output[:end].count(i) for i in {*prompt, *output[:end]}}
