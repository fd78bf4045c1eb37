"""Settings from the environment: what a variable may hold, and what is said of one that may not."""

from __future__ import annotations

import pytest

from puna.config import ConfigError, EngineConfig


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        *(("THREADS", text, "a whole number") for text in ("", "--5", "-", "1.5", "0x2", " 3", "1_0", "٣", "\n", "9" * 5000)),
        ("THREADS", "-1", "must lie in 0..256"),
        ("MAX_CONTEXT", "9" * 18, "must lie in"),
        ("PREFIX_CACHE", "yes", "allowed: 0, 1"),
        ("DEVICE", "tpu", "allowed: auto, cpu, reference"),
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


def test_good_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"THREADS": "3", "PREFIX_CACHE": "0", "KV_TYPE": "f16", "MAX_CONTEXT": "0099"}.items():
        monkeypatch.setenv(f"PUNA_{name}", text)
    config = EngineConfig.from_env()
    assert (config.threads, config.prefix_cache, config.kv_type, config.max_context) == (3, False, "f16", 99)
