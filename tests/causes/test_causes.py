"""Real error texts, variants in other words, and unrelated texts: each gives the right cause, or none."""

from __future__ import annotations

import random
import re
import time
from typing import Any

import pytest

from puna.causes import CAUSES, SURE, find, search
from puna.causes.base import Explanation
from puna.causes.reading import read
from puna.explain.topics import TOPICS
from puna.machine.why import CONCEPTS
from tests.causes.corpus import texts

TEXTS, RECENT, VARIANTS, UNRELATED = texts("texts"), texts("recent"), texts("variants"), texts("unrelated")
NAMES = {cause.name for cause in CAUSES}
TIMES = 2.0  # seconds of the processor for 10 MB: a busy machine makes none of it slower
MIB = 1 << 20


def first(text: str) -> str | None:
    matches = find(text)
    return matches[0].cause.name if matches and matches[0].confidence >= SURE else None


def wrong(entries: list[dict[str, Any]]) -> list[str]:
    """For each wrong result: the expected cause, the found cause, and the text."""
    found = [(entry.get("cause"), first(entry["text"]), entry["text"]) for entry in entries]
    return [f"wanted {want}, found {got}: {text.strip()[:100]!r}" for want, got, text in found if want != got]


def test_every_real_text_gets_its_cause() -> None:
    errors = wrong(TEXTS)
    assert len(TEXTS) >= 60 and not errors, "\n".join([f"{len(errors)} of {len(TEXTS)} wrong", *errors])


def test_every_text_of_2025_and_2026_gets_its_cause() -> None:
    errors = wrong(RECENT)
    assert len(RECENT) >= 120 and not errors, "\n".join([f"{len(errors)} of {len(RECENT)} wrong", *errors])


def test_at_most_two_of_forty_variants_are_taken_for_another() -> None:
    errors = wrong(VARIANTS)
    assert len(VARIANTS) >= 40 and len(errors) <= 2, "\n".join([f"{len(errors)} of {len(VARIANTS)} wrong", *errors])


def test_unrelated_texts_are_not_known() -> None:
    errors = wrong(UNRELATED)
    assert len(UNRELATED) >= 20 and not errors, "\n".join([f"{len(errors)} of {len(UNRELATED)} wrong", *errors])


def test_the_data_names_causes_and_sources() -> None:
    for entry in [*TEXTS, *RECENT, *VARIANTS]:
        assert entry["cause"] in NAMES, entry
    assert all(entry["source"] for entry in [*TEXTS, *RECENT]) and {entry["met"] for entry in RECENT} == {"before", "after"}


def test_a_wording_is_found_round_its_anchor_where_it_is_found_in_the_whole_text() -> None:
    """The fast search for a wording finds what the slow one finds."""
    print("seed 7")
    lowers = [read(entry["text"]).lower for entry in [*TEXTS, *RECENT, *UNRELATED]]
    lowers += ["\n".join(random.Random(7 + i).sample(lowers, 6)) for i in range(20)]
    for _, wordings in search._wordings():
        for wording in wordings:
            for lower in lowers:
                if wording.anchor in lower:
                    short = [found.span() for found in search._matches(wording, lower)]
                    assert short == [found.span() for found in wording.pattern.finditer(lower)], wording.text


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_no_cause_tells_people_to_install_puna_from_an_index(cause: Any) -> None:
    told = cause.explain({})
    assert not re.search(r"pip install '?puna", " ".join((told.cause, told.instead, *told.cure)))


def test_each_concept_is_a_topic_that_puna_explains() -> None:
    assert {cause.concept for cause in CAUSES} - {""} <= set(TOPICS) and set(CONCEPTS.values()) - {""} <= set(TOPICS)


def test_there_are_sixty_causes_with_names_of_their_own() -> None:
    assert len(CAUSES) >= 60 and len(NAMES) == len(CAUSES)


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_every_cause_can_be_told_without_any_number(cause: Any) -> None:
    told: Explanation = cause.explain({})
    assert told.cause and told.cure
    assert "{" not in told.cause and told.cause.endswith("."), told.cause
    assert cause.patterns and all(pattern == pattern.lower() for pattern in cause.patterns)


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.name)
def test_every_wording_is_found_where_it_stands(cause: Any) -> None:
    """Unless an earlier cause in the table matches at the same position."""
    values = {
        "int": "7",
        "number": "7.5",
        "size": "7.00 GiB",
        "gib": "7.00 GiB",
        "word": "abc",
        "path": "/a/b/",
        "device": "cuda:7",
        "shape": "7, 8",
        "cudalib": "libcudart.so.12",
        "torch": "_zn3c104cuda9setdeviceei",
        "name": "abc",
        "package": "transformers.abc",
        "part": "transformers.abc",
        "tool": "make",
        "alone": "hffolder",
        "cachepart": "seen_tokens",
        "argument": "dtype",
        "tokenizerpart": "encode_plus",
        "owner": "causallm",
        "own": "_z4moeabc",
        "kernels": "/a/vllm/_c.so",
        "range": "abc<2,>=1",
        "pin": "abc==1.2.3",
        "code": "-7",
        "sign": ">=",
        "bounds": ">=3.9, <4",
        "gfx": "gfx1151",
    }
    for pattern in cause.patterns:
        text = (
            pattern.removeprefix("^")
            .removesuffix("$")
            .replace(" ... ", " and then ")
            .replace(" ~~~ ", " and then\n")
            .replace("...", " ")
        )
        for kind, value in values.items():
            while f":{kind}}}" in text:
                start = text.rindex("{", 0, text.index(f":{kind}}}"))
                text = text[:start] + value + text[text.index("}", start) + 1 :]
        found = [match.cause.name for match in find(text)]
        claimed_before = [name for name in found if [c.name for c in CAUSES].index(name) < CAUSES.index(cause)]
        assert cause.name in found or claimed_before, (pattern, text, found)


def test_numbers_are_lifted_as_they_stand_in_the_text() -> None:
    match = find("AssertionError: Loading a checkpoint for MP=2 but world size is 1")[0]
    assert match.numbers == {"shards": "2", "world": "1"}
    assert "holds 2 consolidated.NN.pth, but the world size is 1" in match.explain().cause


def test_a_cut_text_is_told_without_its_numbers() -> None:
    told = find("a checkpoint for MP=2 but world size is")[0].explain()
    assert "{" not in told.cause and all("{" not in step for step in told.cure)


def test_the_first_error_is_the_root_and_the_others_are_named() -> None:
    log = """
[rank0]: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1) ran for 600 milliseconds
[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB.
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
"""
    assert [match.cause.name for match in find(log)] == ["cuda-out-of-memory", "nccl-timeout", "child-failed"]


def test_a_repeated_error_is_told_once_and_counted() -> None:
    matches = find("RuntimeError: No CUDA GPUs are available\n" * 7)
    assert len(matches) == 1 and matches[0].times == 7


def test_a_part_is_less_sure_than_the_whole() -> None:
    whole = find("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver")[0]
    part = find("SMI has failed because it couldn't communicate with the NVIDIA dri")[0]
    told = find("nvidia-smi fails: NVML driver and library version do not match since the last update")[0]
    assert whole.confidence > part.confidence > told.confidence >= SURE


def test_the_line_that_tells_it_is_shown_in_its_own_letters() -> None:
    match = find("one\n\x1b[31mRuntimeError: No CUDA GPUs are available\x1b[0m\nthree")[0]
    assert match.line == "RuntimeError: No CUDA GPUs are available"


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\0", "\x1b[", "a" * 5000, "\ud800", "ı İ ß"])
def test_odd_texts_are_not_known_and_do_no_harm(text: str) -> None:
    assert find(text) == ()


HOSTILE = {
    "every wording in turn": "\n".join(pattern for cause in CAUSES for pattern in cause.patterns),
    "one line without an end": "cuda out of memory. tried to allocate ",
    "the beginning of a wording with a gap": "gpu 0 has a total capacity of 1 gib of which ",
    "empty lines": "\n",
    "escapes": "\x1b[",
    "prefixes": "[rank0]: 2024-01-01 00:00:00 ",
    "digits": "1.1 ",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_log_of_ten_megabytes_takes_less_than_two_seconds(name: str) -> None:
    piece = HOSTILE[name]
    text = (piece * (10 * MIB // len(piece) + 1))[: 10 * MIB]
    started = time.process_time()
    find(text)
    assert time.process_time() - started < TIMES


def test_the_error_in_the_middle_of_a_huge_log_is_found() -> None:
    lines = [f"2024-01-01 00:00:{i % 60:02} step {i}: 0 errors, cuda memory {i % 97} MiB, nothing failed" for i in range(60_000)]
    lines[31_000] = "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
    text = "\n".join(lines)
    started = time.process_time()
    assert len(text) > 4 * MIB and first(text) == "mixed-devices"
    assert time.process_time() - started < TIMES
