"""What /set changes: the sampling parameters that a person may want to try in a conversation."""

from __future__ import annotations

import json
import re
import reprlib
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from puna.cli.numerals import typed_real, typed_whole
from puna.cli.options import sampling_settings, typed_range
from puna.cli.width import cut
from puna.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from puna.request import SamplingParams

NONE = "none"
READ = {int: typed_whole, float: typed_real}

# Number of SamplingParams -> its kind, and what it does.
SETTINGS: dict[str, tuple[type[int | float], str]] = {
    "max_tokens": (int, "tokens of an answer at most; none: no limit"),
    "min_tokens": (int, "an answer does not end before so many tokens"),
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
    "num_keep": (int, "with context_shift: the first tokens, which it never drops"),
    "timeout": (float, "seconds of an answer at most; none: no limit"),
}
OPTIONAL = ("max_tokens", "thinking_budget", "seed", "timeout")


class TypedForm(NamedTuple):
    """How a setting that is no number is typed."""

    form: str  # what is allowed, in words
    example: str
    read: Callable[[str], Any]  # what is typed -> a value as the flag's; UsageError for what cannot be one


def _words(text: str) -> list[str]:
    r"""The words of a line; quotes hold them together, and \n is a line end.

    >>> _words(r'"User:" "\n\n" stop')
    ['User:', '\n\n', 'stop']
    """
    try:
        words = shlex.split(text.replace("\\n", "\n"))
    except ValueError as error:
        raise UsageError(f"{reprlib.repr(text)} cannot be read: {str(error).lower()}", hint="Close the quotes.") from None
    return words


def _ids(text: str) -> list[int | str]:
    """Token ids with spaces or commas between them; a word that is none stays, and is refused as such."""
    words = text.replace(",", " ").split()
    return [word if (number := typed_whole(word)) is None else int(number) for word in words]


def _flag(text: str) -> bool:
    if text.lower() not in ON_OFF:
        raise UsageError(f"{reprlib.repr(text)} is neither on nor off")
    return ON_OFF[text.lower()]


ON_OFF = {"on": True, "off": False}
FLAG = TypedForm("on or off", "on", _flag)
TEXTS = TypedForm("quoted texts, or none", '"one text" another', _words)
IDS = TypedForm("token ids, or none", "17 4", _ids)
BIASES = TypedForm("ID=BIAS ..., or none", "17=-2.5 4=1", str.split)
SEQUENCES = TypedForm("ID,ID ..., or none", "17,4 9", str.split)
ORDER = TypedForm("names with ; between, or none", "temperature;top_k;top_p", str)
PATTERN = TypedForm("a regular expression, or none", "(19|20)[0-9]{2}", str)
SCHEMA = TypedForm("FILE, a JSON schema, or none", "city.json", str)
GRAMMAR = TypedForm("FILE, a grammar, or none", 'root ::= "yes" | "no"', str)
ADAPTER = TypedForm("a NAME of --lora-modules, or none", "sql", str)

# Other field of SamplingParams -> its kind, and what it does.
OTHERS: dict[str, tuple[TypedForm, str]] = {
    "stop": (TEXTS, "an answer ends before the first of these"),
    "stop_ids": (IDS, "an answer ends at any of these"),
    "ignore_eos": (FLAG, "go on where the model would end its answer"),
    "include_stop_str_in_output": (FLAG, "keep the stop text at the end of the answer"),
    "context_shift": (FLAG, "in a full context, drop the older half and go on"),
    "samplers": (ORDER, "the filters that run, in this order"),
    "dry_sequence_breakers": (TEXTS, "DRY: no repetition reaches over these"),
    "banned_strings": (TEXTS, "no answer holds one of these"),
    "bad_words_ids": (SEQUENCES, "no answer goes on with one of these sequences"),
    "suppress_ids": (IDS, "tokens that are never sampled"),
    "logit_bias": (BIASES, "what is added to the logits of tokens"),
    "json_schema": (SCHEMA, "an answer is JSON that follows it"),
    "json_object": (FLAG, "an answer is a JSON object"),
    "regex": (PATTERN, "an answer matches it as a whole"),
    "choice": (TEXTS, "an answer is one of these"),
    "grammar": (GRAMMAR, "an answer is what it allows (Lark or GBNF)"),
    "lora_name": (ADAPTER, "which adapter changes the model"),
}
NAMES = (*SETTINGS, *OTHERS)


def changed(params: SamplingParams, text: str) -> SamplingParams:
    """`params` with "NAME VALUE" applied. UsageError for a name that is not in a table, or a value that is not allowed.

    >>> from puna.request import SamplingParams
    >>> changed(SamplingParams(), "temperature 0.2").temperature, changed(SamplingParams(), 'stop "a b" c').stop
    (0.2, ('a b', 'c'))
    """
    name, value = _split(text)
    if name in SETTINGS:
        return replace(params, **{name: _number(params, name, value)})
    if name not in OTHERS:
        raise _unknown(name)
    if not value:
        kind = OTHERS[name][0]
        raise UsageError(f"/set {name} needs a value: {kind.form}", hint=f"/set {name} {kind.example}")
    return replace(params, **_typed(name, value))


def _split(text: str) -> tuple[str, str]:
    """The name of a setting, and what is typed after it."""
    name, _, value = re.sub(r"^([^\s=]*)\s*=?", r"\1 ", text.strip(), count=1).partition(" ")
    return name.lstrip("-").replace("-", "_").lower(), value.strip()


def _number(params: SamplingParams, name: str, value: str) -> Any:
    if len(value.split()) != 1:
        raise UsageError(f"/set {name} needs one value: {range_of(name)}", hint=f"/set {name} {getattr(params, name)}")
    return _value(name, value)


def _typed(name: str, value: str) -> dict[str, Any]:
    """The fields that a setting changes. A value is read as the flag's would be."""
    from puna.request import SamplingParams

    if value.lower() == NONE and OTHERS[name][0] is not FLAG:
        off = SamplingParams()
        return {name: () if OTHERS[name][0] is TEXTS else getattr(off, name)}
    read = OTHERS[name][0].read(value)
    return _without_others(name) | sampling_settings({name: read}) if read is not False else {name: False}


def _without_others(name: str) -> dict[str, Any]:
    """What a new constraint takes the place of: an answer follows one."""
    from puna.request import CONSTRAINTS, SamplingParams

    off = SamplingParams()
    return {other: getattr(off, other) for other in CONSTRAINTS} if name in CONSTRAINTS else {}


def _unknown(name: str) -> UsageError:
    from puna.request import SamplingSettings

    if name in SamplingSettings.__annotations__:
        return UsageError(f"/set cannot change {name}", hint="Give its flag when the chat starts: see `puna chat --help`.")
    return UsageError(f"there is no setting {name!r}", hint=did_you_mean(name, NAMES) or f"Settings: {', '.join(NAMES)}.")


def name_in(text: str) -> str:
    """The setting that "NAME VALUE" names, however it is spelled.

    >>> name_in("--top-p=0.9"), name_in("Temperature 1")
    ('top_p', 'temperature')
    """
    return _split(text)[0]


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
    """A setting: its value, and what is allowed."""
    value, form = getattr(params, name), range_of(name) if name in SETTINGS else OTHERS[name][0].form
    return f"{name} = {_shown(value)}   ({form})"


def lines(params: SamplingParams) -> Iterator[str]:
    """Every setting, and what it does."""
    for name, (_, about) in (SETTINGS | OTHERS).items():
        yield line(params, name)
        yield f"    {about}"


def values_of(name: str) -> tuple[str, ...]:
    """Words that may be typed after a setting's name, where they can be listed."""
    if name == "thinking" or (name in OTHERS and OTHERS[name][0] is FLAG):
        return tuple(ON_OFF)
    return (NONE,) if name in OPTIONAL or name in OTHERS else ()


SHOWN = 30  # cells of a value in a list


def _shown(value: Any) -> str:
    """A value as a person would type it, cut if it is long.

    >>> _shown(("a b", "c")), _shown(None), _shown(True), _shown(0.5)
    ('"a b" "c"', 'none', 'on', '0.5')
    """
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int | float):
        return _plain(value)
    return cut(_shown_text(value) or NONE, SHOWN)


def _shown_text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(json.dumps(one, ensure_ascii=False) for one in value)
    if hasattr(value, "items"):
        return " ".join(f"{token_id}={_plain(bias)}" for token_id, bias in value.items())
    return "" if value is None else " ".join(str(getattr(value, "text", value)).split())


def _plain(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)
