"""The errors whose ids clients were told."""

from __future__ import annotations

from puna.errors import DeviceError
from puna.server.failures import MAX_CHARACTERS, MAX_KEPT, Failures
from puna.server.ids import new_id


def told(name: str) -> str:
    return f"the server failed; its log has the error under {name}"


def test_an_error_is_found_by_what_the_client_was_told() -> None:
    failures, name = Failures(), new_id("req_")
    failures.remember(told(name), DeviceError("cuda:0 failed: CUDA error: unknown error"))
    assert (failures.text_of(told(name)) or "").endswith("CUDA error: unknown error\n")
    assert failures.text_of(told(new_id("req_"))) is None and failures.text_of("") is None


def test_words_without_an_id_are_not_kept() -> None:
    failures = Failures()
    failures.remember("the memory is full", MemoryError())
    assert not failures._texts


def test_only_the_last_ones_are_kept_and_of_each_its_end() -> None:
    failures, names = Failures(), [new_id("req_") for _ in range(MAX_KEPT + 1)]
    for name in names:
        failures.remember(told(name), ValueError(f"{'x' * MAX_CHARACTERS} {name}"))
    assert [failures.text_of(told(name)) is None for name in names] == [True] + [False] * MAX_KEPT
    text = failures.text_of(told(names[-1])) or ""
    assert len(text) == MAX_CHARACTERS and names[-1] in text
