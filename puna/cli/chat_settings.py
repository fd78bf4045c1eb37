"""What /set changes: the sampling parameters that a person may want to try in a conversation."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from puna.cli.numerals import typed_real, typed_whole
from puna.cli.options import typed_range
from puna.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from puna.request import SamplingParams

NONE = "none"
READ = {int: typed_whole, float: typed_real}

# Field of SamplingParams -> the kind of its value, and what it does.
SETTINGS: dict[str, tuple[type[int | float], str]] = {
    "max_tokens": (int, "tokens of an answer at most; none: no limit"),
    "temperature": (float, "0: always the most likely token"),
    "top_k": (int, "sample from the k most likely tokens; 0: off"),
    "top_p": (float, "sample from tokens that together have probability p; 1: off"),
    "min_p": (float, "sample from tokens with p times the best one's probability; 0: off"),
    "typical_p": (float, "sample from the most typical tokens, up to probability p; 1: off"),
    "top_n_sigma": (float, "drop logits n standard deviations below the best; 0: off"),
    "xtc_probability": (float, "how often XTC drops the likeliest tokens; 0: off"),
    "xtc_threshold": (float, "what XTC calls likely"),
    "dynatemp_range": (float, "vary the temperature by up to this; 0: off"),
    "dynatemp_exponent": (float, "how the temperature follows the entropy"),
    "mirostat": (int, "2: mirostat 2 instead of top_k, top_p ...; 0: off"),
    "mirostat_tau": (float, "the mean surprise that mirostat aims at, in bits"),
    "mirostat_eta": (float, "how fast mirostat adapts"),
    "adaptive_target": (float, "prefer tokens near this probability; -1: off"),
    "adaptive_decay": (float, "how long adaptive-p remembers"),
    "repetition_penalty": (float, "above 1: fewer tokens of prompt and answer; 1: off"),
    "presence_penalty": (float, "above 0: fewer tokens that the answer has; 0: off"),
    "frequency_penalty": (float, "the same, by how often they occur; 0: off"),
    "penalty_last_n": (int, "how many tokens the penalties count; -1: all"),
    "dry_multiplier": (float, "above 0: DRY avoids to continue repetitions; 0: off"),
    "dry_base": (float, "how the DRY penalty grows with a repetition's length"),
    "dry_allowed_length": (int, "repetitions shorter than this are allowed"),
    "dry_penalty_last_n": (int, "how many tokens DRY looks back; -1: all"),
    "thinking_budget": (int, "tokens of thinking at most, for models that think; none: no limit"),
    "seed": (int, "the same seed gives the same answer; none: a new one each time"),
}
OPTIONAL = ("max_tokens", "thinking_budget", "seed")


def changed(params: SamplingParams, text: str) -> SamplingParams:
    """`params` with "NAME VALUE" applied. UsageError for a name that is not in the table, or a value outside its range.

    >>> from puna.request import SamplingParams
    >>> changed(SamplingParams(), "temperature 0.2").temperature
    0.2
    """
    name, words = name_in(text), text.replace("=", " ").split()
    if name not in SETTINGS:
        from puna.request import SamplingSettings

        if name in SamplingSettings.__annotations__:
            raise UsageError(f"/set cannot change {name}", hint="Give its flag when the chat starts: see `puna chat --help`.")
        raise UsageError(
            f"there is no setting {name!r}", hint=did_you_mean(name, SETTINGS) or f"Settings: {', '.join(SETTINGS)}."
        )
    if len(words) != 2:
        raise UsageError(f"/set {name} needs one value: {range_of(name)}", hint=f"/set {name} {getattr(params, name)}")
    return replace(params, **{name: _value(name, words[1])})


def name_in(text: str) -> str:
    """The setting that "NAME VALUE" names, however it is spelled.

    >>> name_in("--top-p=0.9"), name_in("Temperature 1")
    ('top_p', 'temperature')
    """
    return (text.replace("=", " ").split() or [""])[0].lstrip("-").replace("-", "_").lower()


def on_or_off(text: str) -> bool:
    """The value of "thinking on" or "thinking off". UsageError for another one."""
    words = text.replace("=", " ").lower().split()
    if words[1:] not in (["on"], ["off"]):
        raise UsageError(f"{words[0]} is on or off", hint=f"/set {words[0]} off")
    return words[1] == "on"


def _value(name: str, text: str) -> Any:
    if name in OPTIONAL and text.lower() == NONE:
        return None
    value = READ[SETTINGS[name][0]](text)
    low, high = typed_range(name)
    if value is None or not low <= value <= high:
        raise UsageError(f"{name} is {reprlib.repr(text)}; it must be {range_of(name)}")
    return value


def range_of(name: str) -> str:
    """The values that a setting may have, in words."""
    low, high = typed_range(name)
    kind = "a whole number" if SETTINGS[name][0] is int else "a number"
    return f"{kind}, {_plain(low)} to {_plain(high)}" + (f", or {NONE}" if name in OPTIONAL else "")


def line(params: SamplingParams, name: str) -> str:
    """A setting: its value and its range."""
    value = getattr(params, name)
    return f"{name} = {NONE if value is None else _plain(value)}   ({range_of(name)})"


def lines(params: SamplingParams) -> Iterator[str]:
    """Every setting, and what it does."""
    for name, (_, about) in SETTINGS.items():
        yield line(params, name)
        yield f"    {about}"


def _plain(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)
