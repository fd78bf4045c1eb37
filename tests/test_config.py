"""Settings from the environment and RoPE settings: allowed values, and errors for others."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from puna.config import EngineConfig, EngineSettings
from puna.errors import ConfigError
from puna.model.rope import RopeConfig
from tests.documented import documented_fields, documented_highest


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        *(("THREADS", text, "a whole number") for text in ("", "--5", "-", "1.5", "0x2", " 3", "1_0", "٣", "\n", "9" * 5000)),
        ("THREADS", "-1", "must lie in 0..256"),
        ("MAX_CONTEXT", "9" * 18, "must lie in"),
        ("PREFIX_CACHE", "yes", "allowed: 0, 1"),
        ("DEVICE", "tpu", "allowed: auto, cpu, cuda"),
        ("KV_TYPE", "", "allowed: auto"),
        ("PAGE_SIZE", "17", "multiple of 16"),
    ],
    ids=lambda value: ascii(value[:10]),
)
def test_a_bad_variable_is_named_with_what_is_allowed(monkeypatch: pytest.MonkeyPatch, name: str, text: str, words: str) -> None:
    monkeypatch.setenv(f"PUNA_{name}", text)
    with pytest.raises(ConfigError, match=words) as caught:
        EngineConfig.from_env()
    assert len(caught.value.message) < 200 and f"PUNA_{name}" in caught.value.hint


def test_the_hint_names_a_variable_only_where_the_value_comes_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_THREADS", "3")
    for given in ({"device": "gpu"}, {"threads": "two"}, {"kv_type": "f64"}):
        with pytest.raises(ConfigError) as caught:
            EngineConfig.from_env(**given)
        assert caught.value.hint == "" and not getattr(caught.value, "__notes__", [])
    monkeypatch.setenv("PUNA_DEVICE", "gpu")
    with pytest.raises(ConfigError, match="device is 'gpu'") as caught:
        EngineConfig.from_env(threads=2)
    assert caught.value.hint == "Change or unset PUNA_DEVICE."


def test_good_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"THREADS": "+3", "PREFIX_CACHE": "0", "KV_TYPE": "f16", "MAX_CONTEXT": "0099"}.items():
        monkeypatch.setenv(f"PUNA_{name}", text)
    config = EngineConfig.from_env()
    assert (config.threads, config.prefix_cache, config.kv_type, config.max_context) == (3, False, "f16", 99)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scaling": "su"}, "rope scaling is 'su'"),
        ({"factor": 0.0}, "rope factor is 0.0"),
        ({"beta_fast": math.nan}, "beta_fast is nan"),
        ({"scaling": "yarn", "theta": 1.0}, "rope_theta is 1"),
        ({"scaling": "llama3", "low_freq_factor": 4.0}, "must differ"),
    ],
)
def test_a_rotary_setting_out_of_range_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RopeConfig(**changes)


def test_prompts_beyond_the_original_context_are_families_of_their_own_under_dynamic_scaling_only() -> None:
    dynamic = RopeConfig(scaling="dynamic", factor=2.0, original_context=64)
    assert [dynamic.prefix_key(length) for length in (1, 64, 65, 80)] == [0, 0, 65, 80]
    assert RopeConfig(scaling="yarn", factor=2.0, original_context=64).prefix_key(80) == 0


def test_the_keyword_arguments_are_the_fields() -> None:
    assert list(EngineSettings.__annotations__) == [field.name for field in fields(EngineConfig)]
    assert get_type_hints(EngineSettings) == get_type_hints(EngineConfig)


def test_help_says_of_every_field_what_it_means_and_the_default() -> None:
    assert documented_fields(EngineConfig) == {field.name: getattr(EngineConfig(), field.name) for field in fields(EngineConfig)}


def test_the_highest_value_that_help_names_is_the_highest_that_is_taken() -> None:
    highest = documented_highest(EngineConfig)
    assert highest == {"threads": 256, "max_batch": 4096, "max_queue": 1 << 20}
    for name, value in highest.items():
        assert getattr(EngineConfig(**{name: value}), name) == value  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=name):
            EngineConfig(**{name: value + 1})  # type: ignore[arg-type]


def test_speculation_is_one_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_SPECULATION", "off")
    assert EngineConfig.from_env().speculation == "off" and EngineConfig().speculation == "auto"
    with pytest.raises(ConfigError, match="speculation is 'often'; allowed: auto, off, ngram"):
        EngineConfig(speculation="often")  # type: ignore[arg-type]


def test_a_draft_model_is_a_name_or_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_DRAFT_MODEL", "small.gguf")
    assert EngineConfig.from_env().draft_model == "small.gguf"
    with pytest.raises(ConfigError, match="draft_model is 3; a model's name or path is needed"):
        EngineConfig(draft_model=3)  # type: ignore[arg-type]


def test_whose_sampling_defaults_is_one_of_two() -> None:
    assert EngineConfig(sampling_defaults="puna").sampling_defaults == "puna"
    with pytest.raises(ConfigError, match="sampling_defaults is 'mine'; allowed: model, puna"):
        EngineConfig(sampling_defaults="mine")  # type: ignore[arg-type]
