"""What Ollama's routes share: errors, times, durations, options. Shapes: its docs/api.md and docs/openapi.yaml (2026)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from puna.completion import Timing
from puna.errors import UsageError
from puna.request import checked_setting
from puna.server.fields import Fields
from puna.server.models import Models
from puna.server.refusals import Refusal, invalid
from puna.server.replies import NDJSON, ReplyShape, ndjson
from puna.server.running_job import RunningJob
from puna.units import parse_duration

LATEST = ":latest"

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


def failed(refusal: Refusal) -> bytes:
    """The last line of a stream that failed."""
    return ndjson(error_body(refusal))


SHAPE = ReplyShape(error_body, failed, NDJSON)


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
            raise invalid(f"options.{name}", error.line) from None
    return settings


def parameters_of(settings: Mapping[str, Any], max_context: int) -> str:
    """`parameters` of `/api/show`: options in lines, as in a Modelfile. Continue reads `num_ctx` and `stop`.

    >>> parameters_of({"temperature": 0.7, "stop": ("a b",)}, 2048)
    'num_ctx 2048\\ntemperature 0.7\\nstop "a b"'
    """
    lines = [f"num_ctx {max_context}"]
    for name, own in OPTIONS.items():
        value = settings.get(own)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        lines += [f"{name} {json.dumps(one, ensure_ascii=False)}" for one in values]
    return "\n".join(lines)


def seconds(given: str | float | None) -> float | None:
    """A keep_alive: a number of seconds, or a text such as "5m"; below 0: for ever (None).

    >>> seconds("5m"), seconds(30), seconds("1h30m"), seconds(-1)
    (300.0, 30.0, 5400.0, None)
    """
    if given is None:
        return None
    told = parse_duration(given) if isinstance(given, str) else math.inf if given < 0 else float(given)
    if told is None:
        raise invalid("keep_alive", f'keep_alive is {str(given)[:40]!r}; seconds, or a text such as "5m", is needed')
    return None if told == math.inf else told


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
    raise invalid("format", f'format is {given[:40]!r}; "json" or a JSON schema is needed')


class OllamaFields(Fields):
    """What all bodies share that make Ollama run a model. `OPTIONS`: those that mean something there."""

    OPTIONS: ClassVar[Mapping[str, str]] = OPTIONS

    model: str = ""
    keep_alive: str | float | int | None = None
    options: dict[str, Any] = {}

    def ignored(self) -> list[str]:
        others = [name for name, value in self.options.items() if name not in self.OPTIONS and value is not None]
        return [*super().ignored(), *(f"options.{name}" for name in others)]

    def keep_model(self, models: Models) -> None:
        """Let the model stay loaded for as long as the request says."""
        if self.keep_alive is not None:
            models.named(name_of(self.model)).keep_alive_s = seconds(self.keep_alive)

    @classmethod
    def classes(cls) -> dict[str, str]:
        used = {name: "used" if name == own else f"used as `{own}`" for name, own in cls.OPTIONS.items()}
        options = {**dict.fromkeys((*OPTION_HINTS, *OPTIONS), "hint"), **used}
        return {**super().classes(), **{f"options.{name}": what for name, what in options.items()}}
