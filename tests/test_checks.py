"""Settings classes refuse an unknown name in words, and stay ordinary dataclasses."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

import puna
from puna import EngineConfig, SamplingParams, checks
from puna.errors import ContextLengthError, UsageError
from puna.llm import LLM
from puna.perplexity import perplexity
from tests.fakes import ByteTokenizer, FakeBackend, make_plan, random_checkpoint, tiny_config


def is_settings(kind: object) -> bool:
    """Whether people make it themselves: a dataclass whose fields all have a default."""
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return False
    missing = dataclasses.MISSING
    return all(field.default is not missing or field.default_factory is not missing for field in dataclasses.fields(kind))


SETTINGS: list[Any] = [kind for name in puna.__all__ if is_settings(kind := getattr(puna, name))]
SAMPLES = [SamplingParams(temperature=0.5, stop=["a"]), EngineConfig(device="cpu", threads=2)]


def test_the_settings_of_the_package_are_found() -> None:
    assert {EngineConfig, SamplingParams} <= set(SETTINGS)


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_an_unknown_name_is_refused_with_the_nearest_and_all_known_ones(kind: Any) -> None:
    name = dataclasses.fields(kind)[0].name
    for make in (kind, lambda **given: dataclasses.replace(kind(), **given)):
        with pytest.raises(UsageError, match=f"^unknown setting '{name}x'") as caught:
            make(**{f"{name}x": 1})
        assert caught.value.hint.startswith(f"Did you mean {name}") and dataclasses.fields(kind)[-1].name in caught.value.hint
        assert caught.value.__suppress_context__  # one error is shown, not two


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_another_wrong_call_keeps_pythons_words(kind: Any) -> None:
    with pytest.raises(TypeError, match="positional argument"):
        kind(*range(len(dataclasses.fields(kind)) + 1))


def test_type_checkers_still_know_the_fields() -> None:
    """mypy is strict here: it would report these remarks as unused if it accepted any name."""
    with pytest.raises(UsageError, match="Did you mean temperature"):
        SamplingParams(temprature=0.2)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="Did you mean threads"):
        EngineConfig(thread=2)  # type: ignore[call-arg]


def test_an_unknown_name_is_refused_even_if_its_value_says_nothing() -> None:
    with pytest.raises(UsageError, match="unknown setting 'thread'"):
        EngineConfig.from_env(thread=None)


MISPLACED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "'temperature' is no setting of EngineConfig": (puna.LLM, {"temperature": 1}, "Give it to each call, such as generate(...)"),
    "'max_tokens' is no setting of EngineConfig": (EngineConfig, {"max_tokens": 9}, "or to SamplingParams(...)."),
    "'device' is no setting of SamplingParams": (SamplingParams, {"device": "cpu"}, "Give it to LLM(...), which loads a model"),
    "'threads' is no setting of SamplingParams": (
        partial(dataclasses.replace, SamplingParams()),
        {"threads": 2},
        "EngineConfig(...).",
    ),
}


@pytest.mark.parametrize("words", MISPLACED)
def test_a_setting_that_belongs_elsewhere_is_told_its_place(words: str) -> None:
    make, given, place = MISPLACED[words]
    with pytest.raises(UsageError, match=f"^{words}\n") as caught:
        make(**given)
    assert place in caught.value.hint


@pytest.mark.parametrize("made", SAMPLES, ids=lambda made: type(made).__name__)
def test_settings_are_ordinary_frozen_dataclasses(made: Any) -> None:
    for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), dataclasses.replace(made)):
        assert again == made and hash(again) == hash(made)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, dataclasses.fields(made)[0].name, None)
    parameters = inspect.signature(type(made)).parameters
    assert list(parameters) == [field.name for field in dataclasses.fields(made)]


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_construction_looks_at_no_name_unless_python_refuses_one(kind: Any) -> None:
    called: list[str] = []
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name))
    try:
        kind()
    finally:
        sys.setprofile(None)
    assert "__post_init__" in called and "unknown_setting" not in called


class Mute:
    """Its text is an error."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("value", [10**5000, [10**5000], "x" * 10**6, ["x"] * 10**6, Mute(), [Mute()], np.zeros(9)], ids=type)
def test_any_value_is_shown_in_a_short_line(value: object) -> None:
    assert len(checks.shown(value)) < 300 and "\n" not in checks.shown(value)


def test_ids_are_counted_before_they_are_copied() -> None:
    with pytest.raises(ContextLengthError, match=r"1000000000000 tokens.* 128"):
        checks.prompt_ids("the prompt", range(10**12), "a row", 128)
    assert checks.prompt_ids("the prompt", range(128), "a row", 128) == list(range(128))


class CountedRange:
    """A row of any length, which nobody may read to its end."""

    def __init__(self, length: int) -> None:
        self.length, self.num_read = length, 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        self.num_read += 1
        assert self.num_read < 1000, "it is copied"
        return 1


Sequence.register(CountedRange)


@pytest.mark.parametrize("ids", [range(10**9), range(10**20), CountedRange(1 << 30)], ids=["range", "longer than any", "row"])
def test_every_function_that_takes_ids_counts_them_first(ids: Any) -> None:
    plan = make_plan()
    llm = LLM.from_parts(random_checkpoint(tiny_config()), ByteTokenizer(), FakeBackend(plan), plan, EngineConfig())
    calls: list[Callable[[], object]] = [
        lambda: llm.decode(ids),
        lambda: llm.encode(ids),
        lambda: llm.generate([ids]),
        lambda: llm.generate(ids),
        lambda: llm.embed([ids]),
        lambda: llm.score([ids], [[1]]),
        lambda: llm.score("a", [ids]),
        lambda: llm.beam_search(ids),
        lambda: perplexity(llm, ids),
        lambda: SamplingParams(stop_ids=ids),
        lambda: SamplingParams(bad_words_ids=[ids]),
        lambda: SamplingParams(bad_words_ids=ids),
        lambda: SamplingParams(choice=ids),
    ]
    with llm:
        for call in calls:
            with pytest.raises((UsageError, ContextLengthError)) as caught:
                call()
            assert len(str(caught.value)) < 300
