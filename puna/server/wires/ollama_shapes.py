"""What Ollama's routes share: errors, times, durations, options. Shapes: its docs/api.md and docs/openapi.yaml (2026)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from puna.completion import Timing
from puna.errors import UsageError
from puna.request import checked_setting
from puna.server.fields import Fields
from puna.server.refusals import Refusal
from puna.server.running_job import RunningJob

LATEST = ":latest"
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

# Ollama's option -> the field of SamplingParams that it sets.
OPTIONS: Mapping[str, str] = {
    **{name: name for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "presence_penalty", "frequency_penalty")},
    **{name: name for name in ("mirostat", "mirostat_tau", "mirostat_eta", "seed", "stop")},
    "repeat_penalty": "repetition_penalty",
    "repeat_last_n": "penalty_last_n",
    "num_predict": "max_tokens",
    "num_keep": "num_keep",
}
# How Ollama runs a model: these change no answer here.
OPTION_HINTS = (
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "numa", "use_mmap", "use_mlock", "low_vram", "f16_kv"),
    *("logits_all", "vocab_only", "embedding_only", "tfs_z", "penalize_newline"),
)
UNLIMITED = (-1, -2)  # of num_predict: until the model ends, or until the context is full


def error_body(refusal: Refusal) -> dict[str, Any]:
    return {"error": refusal.message}


def name_of(given: str) -> str:
    """A model's name without Ollama's default tag."""
    return given.removesuffix(LATEST)


def settings_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of SamplingParams that options set. Refusal (400) for a wrong value."""
    settings = {}
    for name, value in options.items():
        own = OPTIONS.get(name)
        if own is None or value is None:
            continue
        if name == "num_predict" and value in UNLIMITED:
            value = None
        try:
            settings[own] = checked_setting(own, value, f"options.{name}")
        except UsageError as error:
            raise Refusal(400, error.line, field=f"options.{name}", code="invalid_value") from None
    return settings


def ignored_options(options: Mapping[str, Any]) -> list[str]:
    """Options about how Ollama runs a model, which change no answer here: num_ctx, num_gpu, use_mmap ..."""
    return [f"options.{name}" for name, value in options.items() if name not in OPTIONS and value is not None]


def seconds(given: str | float | None) -> float | None:
    """A keep_alive: a number of seconds, or a text such as "5m"; below 0: for ever (None).

    >>> seconds("5m"), seconds(30), seconds("1h30m"), seconds(-1)
    (300.0, 30.0, 5400.0, None)
    """
    if given is None:
        return None
    if isinstance(given, str):
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", given)
        if given.strip().lstrip("-").isdecimal():
            given = float(given)
        elif not parts or "".join(map("".join, parts)) != given.strip().lstrip("-"):
            raise Refusal(400, f'keep_alive is {given[:40]!r}; seconds, or a text such as "5m", is needed', field="keep_alive")
        else:
            total = sum(float(number) * UNITS[unit] for number, unit in parts)
            given = -total if given.strip().startswith("-") else total
    return None if given < 0 else float(given)


def now() -> str:
    """The time as Ollama writes it (RFC 3339)."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def counts(run: RunningJob, load_s: float) -> dict[str, Any]:
    """Counts, and durations in nanoseconds, of a job that has ended."""
    usage, request = run.usage, run.handle.request
    timing = None if request is None else Timing.of(run.handle, request)
    first_s, total_s = (0.0, 0.0) if timing is None else (timing.first_token_s, timing.total_s)
    return {
        "total_duration": _ns(load_s + total_s),
        "load_duration": _ns(load_s),
        "prompt_eval_count": usage.prompt,
        "prompt_eval_duration": _ns(first_s),
        "eval_count": usage.output,
        "eval_duration": _ns(total_s - first_s),
    }


def _ns(duration_s: float) -> int:
    return max(0, int(duration_s * 1e9))


def format_settings(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """What `format` sets: "json", or a JSON schema."""
    if given is None or given == "":
        return {}
    if given == "json":
        return {"json_object": True}
    if isinstance(given, Mapping):
        return {"json_schema": dict(given)}
    raise Refusal(400, f'format is {given[:40]!r}; "json" or a JSON schema is needed', field="format", code="invalid_value")


class OllamaFields(Fields):
    """What all bodies of Ollama's share."""

    model: str = ""
    keep_alive: str | float | int | None = None
    options: dict[str, Any] = {}

    def ignored(self) -> list[str]:
        return [*super().ignored(), *ignored_options(self.options)]

    @classmethod
    def classes(cls) -> dict[str, str]:
        used = {name: "used" if name == own else f"used as `{own}`" for name, own in OPTIONS.items()}
        options = {**dict.fromkeys(OPTION_HINTS, "hint"), **used}
        return {**super().classes(), **{f"options.{name}": what for name, what in options.items()}}
