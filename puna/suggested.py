"""The sampling that a model's files suggest (`generation_config.json`, GGUF's `general.sampling` keys) -> SamplingParams.

The keys mean what they mean in transformers' `generate`, but for the order of the filters, which is llama.cpp's unless the caller
gives another (`SamplingParams.samplers`). Each is applied, has no effect here, or is reported as not applied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from puna.errors import UsageError
from puna.request import checked_setting

MIROSTAT = ("mirostat", "mirostat_tau", "mirostat_eta")
# They have an effect only with `do_sample`.
DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold", *MIROSTAT)
# Key -> field of SamplingParams.
APPLIED = {
    **{name: name for name in (*DRAWING, "repetition_penalty", "penalty_last_n")},
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "suppress_tokens": "suppress_ids",
    "begin_suppress_tokens": "begin_suppress_ids",
    "stop_strings": "stop",
}
# Values with which a key has no effect (transformers' and llama.cpp's defaults).
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "temperature": (1.0,),
    "top_k": (0, 50),
    "top_p": (1.0,),
    "min_p": (0.0,),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "encoder_repetition_penalty": (1.0,),
    "typical_p": (1.0,),
    "guidance_scale": (1.0,),
    "xtc_threshold": (0.1,),
    "mirostat_tau": (5.0,),
    "mirostat_eta": (0.1,),
    "max_length": (20,),
}
# Keys that change no token of a single sequence, and keys that other modules read.
WITHOUT_EFFECT = frozenset(
    {
        *("do_sample", "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version"),
        *("_from_model_config", "use_cache", "cache_implementation", "cache_config", "max_cache_len", "low_memory"),
        *("return_legacy_cache", "prefill_chunk_size", "compile_config", "disable_compile", "continuous_batching_config"),
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
        *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
        *("assistant_lookbehind", "target_lookbehind", "assistant_early_exit", "assistant_ensemble_weight", "use_mtp"),
        *("speculation_type", "prompt_lookup_num_tokens", "max_matching_ngram_size", "remove_invalid_values"),
        *("early_stopping", "length_penalty", "renormalize_logits", "chat_format", "max_window_size", "generation_kwargs"),
    }
)
OFF: Mapping[str, Any] = {"mirostat": 0, "penalty_last_n": -1, "typical_p": 1.0, "xtc_probability": 0.0}  # not worth a word
TURNED_OFF = "--sampling-defaults puna turns this off"


@dataclass(frozen=True, slots=True)
class Suggested:
    """A model's suggestions. `settings`: fields of SamplingParams; `ignored`: keys that are not applied, with values."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    source: str = ""

    def lines(self, overridden: Collection[str] = ()) -> Iterator[str]:
        """Notices for a person; the caller gave the fields `overridden`."""
        told = {name: value for name, value in self.settings.items() if name not in overridden and name != "stop_ids"}
        applied = ", ".join(_words(name, value) for name, value in told.items())
        if applied:
            yield f"sampling as {self.source} suggests: {applied}; {TURNED_OFF}"
        if self.ignored:
            yield f"not applied of {self.source}: {', '.join(self.ignored)}"


NOTHING = Suggested()


def suggested(generation: Mapping[str, Any], source: str, vocab_size: int, max_context: int) -> Suggested:
    """The suggestions of `generation`, with the names of `generation_config.json`. Nothing is refused."""
    values = {key: value for key, value in generation.items() if value is not None}
    settings, ignored = _drawing(values)
    for key, value in values.items():
        if key in APPLIED and key not in DRAWING:
            _apply(key, APPLIED[key], value, settings, ignored)
        elif key == "max_length":
            ignored += [] if isinstance(value, int) and value >= max_context else _unless_neutral(key, value)
        elif key not in DRAWING and key not in WITHOUT_EFFECT and key != "bad_words_ids":
            ignored += _unless_neutral(key, value)
    if "bad_words_ids" in values:  # last, because they extend the suppressed ids
        _ban(values["bad_words_ids"], values.get("eos_token_id"), settings, ignored)
    _drop_unknown_ids(settings, ignored, vocab_size)
    told = {name: value for name, value in settings.items() if value != () and OFF.get(name) != value}
    return Suggested(told, tuple(ignored), source)


def _drawing(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings of `do_sample`. Without it sampling is greedy, whatever the temperature."""
    given = {key: values[key] for key in DRAWING if key in values}
    settings: dict[str, Any] = {}
    ignored: list[str] = []
    if values.get("do_sample") is True:
        settings["temperature"] = 1.0
        for key, value in given.items():
            _apply(key, key, max(value, 0) if key == "top_k" and type(value) is int else value, settings, ignored)
        return settings, ignored
    without = "do_sample is false" if "do_sample" in values else "there is no do_sample"
    told = [f"{words} ({without})" for key, value in given.items() for words in _unless_neutral(key, value)]
    is_asked = values.get("do_sample") is False and not values.get("_from_model_config")
    return ({"temperature": 0.0} if told or is_asked else {}), told


def _apply(key: str, name: str, value: Any, settings: dict[str, Any], ignored: list[str]) -> None:
    try:
        settings[name] = checked_setting(name, value)
    except UsageError:
        ignored.append(_words(key, value))


def _ban(sequences: Any, ends: Any, settings: dict[str, Any], ignored: list[str]) -> None:
    """Suppress words of one token (except end of text, as in transformers), and ban longer ones."""
    rows = sequences if isinstance(sequences, list) else [sequences]
    ends = ends if isinstance(ends, list) else [ends]
    single = [row[0] for row in rows if isinstance(row, list) and len(row) == 1 and row[0] not in ends]
    _apply("bad_words_ids", "suppress_ids", [*settings.get("suppress_ids", ()), *single], settings, ignored)
    longer = [row for row in rows if not isinstance(row, list) or len(row) != 1]
    if longer:
        _apply("bad_words_ids", "bad_words_ids", longer, settings, ignored)


def _drop_unknown_ids(settings: dict[str, Any], ignored: list[str], vocab_size: int) -> None:
    for name in ("suppress_ids", "begin_suppress_ids"):
        ids = settings.get(name, ())
        settings |= {name: tuple(dict.fromkeys(i for i in ids if 0 <= i < vocab_size))} if ids else {}
        if any(not 0 <= i < vocab_size for i in ids):
            ignored.append(f"{name} outside the vocabulary")
    words = settings.get("bad_words_ids", ())
    settings |= {"bad_words_ids": tuple(row for row in words if all(0 <= i < vocab_size for i in row))} if words else {}
    if any(not 0 <= i < vocab_size for row in words for i in row):
        ignored.append("bad_words_ids outside the vocabulary")


def _unless_neutral(key: str, value: Any) -> list[str]:
    is_neutral = value in NEUTRAL[key] if key in NEUTRAL else not value
    return [] if is_neutral else [_words(key, value)]


_SHOWN: Mapping[type, Callable[[Any], str]] = {
    float: lambda value: f"{value:g}",
    tuple: lambda value: f"({len(value)} entries)",
    list: lambda value: f"({len(value)} entries)",
    dict: lambda value: f"({len(value)} entries)",
    str: lambda value: repr(value[:40]),
}


def _words(name: str, value: Any) -> str:
    """
    >>> _words("temperature", 0.6), _words("suppress_ids", (1, 2)), _words("do_sample", True)
    ('temperature 0.6', 'suppress_ids (2 entries)', 'do_sample true')
    """
    shown = str(value).lower() if isinstance(value, bool) else _SHOWN.get(type(value), lambda it: str(it)[:40])(value)
    return f"{name[:40]} {shown}"
