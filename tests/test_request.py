"""SamplingParams: accepted values, their stored form, and errors for the rest."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import fields
from typing import Any, get_type_hints

import numpy as np
import pytest

from puna.errors import UsageError
from puna.request import _CHECKS, SAMPLERS, Biases, SamplingParams, SamplingSettings
from tests.documented import documented_fields, documented_highest

TAKEN: list[tuple[str, Any, Any]] = [
    ("stop", "abc", ("abc",)),
    ("stop", ["a", "b"], ("a", "b")),
    ("stop_ids", [1, np.int64(2)], (1, 2)),
    ("stop_ids", np.array([1, 2]), (1, 2)),
    ("stop_ids", frozenset({7}), (7,)),
    ("logit_bias", {np.int32(3): np.float32(0.5)}, {3: 0.5}),
    ("max_tokens", np.int64(5), 5),
    ("max_tokens", None, None),
    ("temperature", np.float32(0.5), 0.5),
    ("temperature", 1, 1.0),
    ("seed", (1 << 64) - 1, (1 << 64) - 1),
]

NO_WHOLE: list[Any] = [True, 1.0, "1", [], math.nan, -1, 1 << 70]
NO_NUMBER: list[Any] = [True, None, "1", [], math.nan, math.inf, -1000, 10**400, 1j]
REFUSED: list[tuple[str, Any]] = [
    *[(name, value) for name in ("max_tokens", "top_k", "seed", "logprobs") for value in NO_WHOLE],
    *[(name, value) for name in ("temperature", "top_p", "min_p", "repetition_penalty") for value in NO_NUMBER],
    *[(name, value) for name in ("presence_penalty", "frequency_penalty") for value in NO_NUMBER],
    *[("ignore_eos", value) for value in ("no", None, 0, 1)],
    *[("stop", value) for value in (None, 5, iter(["a"]), b"a", {"a": 1}, [5], [None], ["a"] * 17)],
    *[("stop_ids", value) for value in (None, 5, iter([1]), "ab", b"ab", {1: 2}, ["a"], (1.5,), [True], [None])],
    *[("logit_bias", value) for value in (None, [1], "a", {"1": 1}, {1: "x"}, {1.5: 1}, {True: 1}, {1: True}, {1: None})],
    ("logit_bias", dict.fromkeys(range(1025), 1.0)),
    *[(name, range(1 << 40)) for name in ("stop_ids", "suppress_ids", "begin_suppress_ids")],  # counted, and not copied
    *[(name, value) for name in ("suppress_ids", "begin_suppress_ids") for value in (None, 5, "ab", [True], [1.5])],
    *[("min_tokens", value) for value in NO_WHOLE],
]


@pytest.mark.parametrize("name", [name for name in _CHECKS if name not in ("json_schema", "separate_reasoning")])
def test_a_number_that_python_does_not_print_is_refused_too(name: str) -> None:
    values: tuple[Any, ...] = (10**5000, [10**5000])
    for value in values:
        with pytest.raises(UsageError, match="a number of thousands of digits>"):
            SamplingParams(**{name: value})


def test_ids_are_counted_before_they_are_copied() -> None:
    with pytest.raises(UsageError, match=r"^each of bad_words_ids holds 1099511627776 ids; at most 1024 are allowed$"):
        SamplingParams(bad_words_ids=[range(1 << 40)])


def test_every_field_is_checked() -> None:
    assert list(_CHECKS) == [field.name for field in fields(SamplingParams)]


@pytest.mark.parametrize(("name", "given", "kept"), TAKEN, ids=str)
def test_a_value_is_kept_in_pythons_own_type(name: str, given: Any, kept: Any) -> None:
    found = getattr(SamplingParams(**{name: given}), name)
    assert found == kept and type(found) is (Biases if isinstance(kept, dict) else type(kept))


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=lambda value: repr(value).partition(" object at")[0][:30])
def test_a_value_that_is_not_allowed_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^{name}.*(needed|allowed|whole numbers)$"):
        SamplingParams(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("stop", ["a", ""], r"stop 1 \(''\) has 0 characters; 1 to 256 are allowed"),
        ("stop", ["x" * 257], r"stop 0 \('xxx.*'\) has 257 characters"),
        ("stop", ["a\ud83e"], r"stop 0 holds the lone surrogate U\+D83E at character 1"),
        ("logit_bias", {1: 0.0, 5: math.nan}, "logit_bias of id 5 is nan; a finite number is needed"),
        ("max_tokens", -1, r"max_tokens is -1; a whole number in 0\.\.134217728 is needed"),
        ("ignore_eos", "no", "ignore_eos is 'no'; True or False is needed"),
    ],
)
def test_the_words_name_the_fault(name: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SamplingParams(**{name: value})


def test_each_check_leaves_the_default_as_it_is() -> None:
    """So that no default needs to be checked."""
    for name, check in _CHECKS.items():
        default = getattr(SamplingParams(), name)
        made = check(name, default)
        assert (made, type(made)) == (default, type(default)), name


def test_the_keyword_arguments_are_the_fields() -> None:
    assert list(SamplingSettings.__annotations__) == [field.name for field in fields(SamplingParams)]
    assert get_type_hints(SamplingSettings) == get_type_hints(SamplingParams)


def test_help_says_of_every_field_what_it_means_what_is_allowed_and_the_default() -> None:
    assert documented_fields(SamplingParams) == {
        field.name: getattr(SamplingParams(), field.name) for field in fields(SamplingParams)
    }


def test_the_highest_value_that_help_names_is_the_highest_that_is_taken() -> None:
    highest = documented_highest(SamplingParams)
    assert len(highest) == 30 and highest["seed"] == (1 << 64) - 1
    for name, value in highest.items():
        assert getattr(SamplingParams(**{name: value}), name) == value  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=name):
            SamplingParams(**{name: value + 1})  # type: ignore[arg-type]


def test_samplers_are_spelled_as_in_llama_cpp() -> None:
    assert SamplingParams(samplers="penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature").samplers == SAMPLERS
    assert SamplingParams(samplers=["Top-K", "nucleus", "typical", "temp"]).samplers == ("top_k", "top_p", "typ_p", "temperature")
    assert SamplingParams(samplers="").samplers == () and SamplingParams(samplers=None).samplers is None
    with pytest.raises(UsageError, match=r"samplers holds 'top_l'\nDid you mean .*top_k.* Known: penalties, dry"):
        SamplingParams(samplers=["top_l"])
    for wrong, told in (([1], "a str"), (3, "a list of names"), (["dry", "dry"], "names 'dry' twice")):
        with pytest.raises(UsageError, match=told):
            SamplingParams(samplers=wrong)  # type: ignore[arg-type]


def test_parameters_have_a_hash_are_copied_and_sent_to_other_processes() -> None:
    params = SamplingParams(logit_bias={3: 1.5, 1: 2.0}, stop=["a"], suppress_ids=[7])
    same = SamplingParams(logit_bias={1: 2.0, 3: 1.5}, stop="a", suppress_ids=(7,))
    assert hash(params) == hash(same) and params == same and len({params, same, SamplingParams()}) == 2
    assert hash(SamplingParams()) == hash(SamplingParams())
    for again in (copy.deepcopy(params), pickle.loads(pickle.dumps(params))):
        assert again == params and hash(again) == hash(params)
    with pytest.raises(TypeError):
        params.logit_bias[1] = 0.0  # type: ignore[index]
    assert "logit_bias={3: 1.5, 1: 2.0}" in repr(params)
