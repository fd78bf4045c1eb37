"""Flags that several commands share. A flag that is not given is None: the dataclasses hold the defaults."""

from __future__ import annotations

import json
import reprlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from puna.cli.fetch import Confirm, offer
from puna.cli.numerals import typed_real, typed_whole
from puna.cli.terminal import argument_text
from puna.errors import ConfigError, TemplateError, UsageError, did_you_mean, first_line

if TYPE_CHECKING:
    from puna.checks import Check
    from puna.config import EngineConfig
    from puna.formats.base import Checkpoint
    from puna.llm import LLM
    from puna.progress import Reporter
    from puna.request import SamplingParams


class Utf8(click.types.StringParamType):
    """A text on the command line."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return argument_text(value, _flag(param, "the text"))


class Size(click.ParamType[int]):
    """A number of bytes, with or without a unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from puna.config import read_setting

        return value if isinstance(value, int) else int(read_setting(_flag(param, "the size"), "Bytes", value))


class Whole(click.ParamType[int]):
    """A whole number of at least `low`."""

    name = "whole number"

    def __init__(self, low: int | None = None) -> None:
        self._low = low

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from puna.checks import whole

        return int(_checked(partial(whole, low=self._low), typed_whole, value, param))


class Sampling(click.ParamType[float]):
    """A number for the field of SamplingParams that the flag is named after."""

    name = "sampling"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from puna.checks import real, whole

        assert param is not None and param.name is not None
        low, high = typed_range(param.name)
        if isinstance(low, int):
            return int(_checked(partial(whole, low=low, high=int(high)), typed_whole, value, param))
        return float(_checked(partial(real, low=low, high=high), typed_real, value, param))


LOWEST = {"max_tokens": 1}  # SamplingParams also has 0, to score a prompt; who types a command wants an answer


def typed_range(name: str) -> tuple[float, float]:
    """(least, greatest) value of a numeric sampling parameter that a person may type.

    >>> typed_range("max_tokens"), typed_range("top_p")
    ((1, 134217728), (0.0, 1.0))
    """
    from puna.request import allowed_range

    limits = allowed_range(name)
    assert limits is not None
    return LOWEST.get(name, limits[0]), limits[1]


def _checked(check: Check, read: Callable[[str], float | None], value: Any, param: click.Parameter | None) -> Any:
    """The number that a text means. UsageError, which names the flag and what is allowed, if `check` refuses it."""
    number = read(value) if isinstance(value, str) else value  # a default is no text
    try:
        return check(_flag(param, "the number"), value if number is None else number)  # the check refuses a text
    except UsageError as error:
        raise UsageError(error.message, hint=_without_equals_sign(value, param)) from None


def _without_equals_sign(value: Any, param: click.Parameter | None) -> str:
    """What to type for `-n=5`, whose value is "=5": only a long flag has an equals sign."""
    if param is None or not str(value).startswith("="):
        return ""
    return f"Write {param.opts[0]} {str(value)[1:] or param.metavar}."


def _flag(param: click.Parameter | None, otherwise: str) -> str:
    """A flag as errors name it: "-n (--max-tokens)"."""
    if param is None:
        return otherwise
    first, *others = param.opts
    return f"{first} ({', '.join(others)})" if others else first


F = TypeVar("F", bound=Callable[..., Any])

_SAMPLING = (
    click.option("-n", "--max-tokens", type=Sampling(), metavar="N", help="Generate at most N tokens [256; chat 1024]."),
    click.option("--min-tokens", type=Sampling(), metavar="N", help="Do not end before N tokens [0]."),
    click.option(
        "--temperature", type=Sampling(), metavar="T", help="Above 0: sample; 0: take the likeliest token [0; chat 0.7]."
    ),
    click.option("--top-k", type=Sampling(), metavar="K", help="Sample from the K most likely tokens [0: off]."),
    click.option(
        "--top-p", type=Sampling(), metavar="P", help="Sample from the tokens that together reach P [1: off; chat 0.95]."
    ),
    click.option("--min-p", type=Sampling(), metavar="P", help="Drop tokens below P times the best probability [0: off]."),
    click.option("--typical-p", type=Sampling(), metavar="P", help="Sample from the most typical tokens, up to P [1: off]."),
    click.option("--top-n-sigma", type=Sampling(), metavar="N", help="Drop logits N deviations below the best [0: off]."),
    click.option("--xtc-probability", type=Sampling(), metavar="P", help="How often XTC drops the likeliest tokens [0: off]."),
    click.option("--xtc-threshold", type=Sampling(), metavar="P", help="What XTC calls likely [0.1]."),
    click.option("--dynatemp-range", type=Sampling(), metavar="X", help="Vary the temperature by up to X [0: off]."),
    click.option("--dynatemp-exponent", type=Sampling(), metavar="X", help="How it follows the entropy [1]."),
    click.option("--mirostat", type=Sampling(), metavar="N", help="2: mirostat 2 instead of top-k, top-p ... [0: off]."),
    click.option("--mirostat-tau", type=Sampling(), metavar="X", help="Mean surprise that mirostat aims at, in bits [5]."),
    click.option("--mirostat-eta", type=Sampling(), metavar="X", help="How fast mirostat adapts [0.1]."),
    click.option("--adaptive-target", type=Sampling(), metavar="P", help="Prefer tokens near this probability [-1: off]."),
    click.option("--adaptive-decay", type=Sampling(), metavar="X", help="How long adaptive-p remembers [0.9]."),
    click.option("--samplers", type=Utf8(), metavar="A;B;...", help="The filters that run, in order [llama.cpp's]."),
    click.option(
        "--repetition-penalty", type=Sampling(), metavar="X", help="Above 1: avoid tokens of prompt and answer [1: off]."
    ),
    click.option("--presence-penalty", type=Sampling(), metavar="X", help="Avoid tokens that the answer has [0: off]."),
    click.option("--frequency-penalty", type=Sampling(), metavar="X", help="The same, by how often they occur [0: off]."),
    click.option("--penalty-last-n", type=Sampling(), metavar="N", help="Penalties count the last N tokens [-1: all]."),
    click.option("--dry-multiplier", type=Sampling(), metavar="X", help="Above 0: avoid to continue repetitions [0: off]."),
    click.option("--dry-base", type=Sampling(), metavar="X", help="How the DRY penalty grows with their length [1.75]."),
    click.option("--dry-allowed-length", type=Sampling(), metavar="N", help="Shorter repetitions are allowed [2]."),
    click.option("--dry-penalty-last-n", type=Sampling(), metavar="N", help="DRY looks back N tokens; -1: all [64]."),
    click.option(
        "--dry-sequence-breaker",
        "dry_sequence_breakers",
        multiple=True,
        type=Utf8(),
        metavar="TEXT",
        help="No repetition reaches over this text; repeatable.",
    ),
    click.option(
        "--banned-string", "banned_strings", multiple=True, type=Utf8(), metavar="TEXT", help="Never write this; repeatable."
    ),
    click.option("--bad-words-ids", multiple=True, metavar="ID,ID", help="Never write these tokens in a row; repeatable."),
    click.option("--logit-bias", multiple=True, metavar="ID=BIAS", help="Add BIAS to a token's logit; repeatable."),
    click.option(
        "--suppress-id", "suppress_ids", multiple=True, type=Whole(), metavar="ID", help="Never sample this token; repeatable."
    ),
    click.option("--seed", type=Sampling(), metavar="N", help="Draw the same tokens each time."),
    click.option("--stop", multiple=True, type=Utf8(), metavar="TEXT", help="Stop before this text; repeatable."),
    click.option("--stop-id", "stop_ids", multiple=True, type=Whole(), metavar="ID", help="Stop at this token; repeatable."),
    click.option("--include-stop-str-in-output", is_flag=True, default=None, help="Keep the stop text at the end of the answer."),
    click.option(
        "--context-shift", is_flag=True, default=None, help="In a full context, drop the older half and go on [stop there]."
    ),
    click.option("--num-keep", type=Sampling(), metavar="N", help="With --context-shift: never drop the first N tokens [0]."),
    click.option("--thinking-budget", type=Sampling(), metavar="N", help="End the model's thinking after N tokens [no limit]."),
    click.option("--lora-name", type=Utf8(), metavar="NAME", help="Answer with this adapter of --lora-modules."),
    click.option("--timeout", type=Sampling(), metavar="S", help="End after S seconds, with the text so far."),
    click.option("--ignore-eos", is_flag=True, default=None, help="Do not stop at the model's end-of-text token."),
    click.option("--json-schema", type=Utf8(), metavar="FILE|TEXT", help="Answer with JSON that follows this JSON schema."),
    click.option("--json-object", is_flag=True, default=None, help="Answer with a JSON object."),
    click.option("--regex", type=Utf8(), metavar="REGEX", help="Answer with a text that matches REGEX as a whole."),
    click.option("--choice", multiple=True, type=Utf8(), metavar="TEXT", help="Answer with one of these texts; repeatable."),
    click.option("--grammar", type=Utf8(), metavar="FILE", help="Answer with what a grammar allows (Lark or GBNF)."),
    click.option(
        "--sampling-defaults", metavar="WHOSE", help="Take unset flags from the model's files (model) or not (puna) [model]."
    ),
)

_ENGINE = (
    click.option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 ..., or torch (PyTorch on the CPU)."),
    click.option("--require-gpu", is_flag=True, default=None, help="Fail if no GPU can be used."),
    click.option("--vram", type=Size(), metavar="SIZE", help="Use at most this much GPU memory, e.g. 12GiB."),
    click.option("--weights", metavar="TYPE", help="auto, as-is, int8 or int4 [auto: as in the file if they fit]."),
    click.option("--threads", type=Whole(), metavar="N", help="CPU threads [0: one per core]."),
    click.option("--max-context", type=Whole(), metavar="N", help="Limit prompt and answer to N tokens [0: the model's limit]."),
    click.option("--kv-type", metavar="TYPE", help="Type of the K/V cache: auto, bf16, f16, f32 or int8."),
    click.option("--lora", multiple=True, metavar="PATH[=SCALE]", help="Merge a LoRA adapter into the weights; repeatable."),
    click.option(
        "--lora-modules", multiple=True, metavar="NAME=PATH", help="Load a LoRA adapter that --lora-name chooses; repeatable."
    ),
    click.option("--speculation", metavar="HOW", help="Check guesses, for speed: auto, off or ngram [auto: ngram on a CPU]."),
    click.option("--draft-model", type=Utf8(), metavar="MODEL", help="A small model of the same vocabulary guesses tokens."),
)

cache_dir_option = click.option(
    "--cache-dir", type=Utf8(), metavar="DIR", help="Keep K and V of prompts here for later starts [nowhere]."
)
_CACHE = (
    cache_dir_option,
    click.option("--cache-size", type=Size(), metavar="SIZE", help="Limit what --cache-dir holds [4GiB]."),
    click.option("--cache-salt", type=Utf8(), metavar="TEXT", help="Share cached prompts only with runs of the same salt."),
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
tokenizer_option = click.option(
    "--tokenizer", type=click.Path(path_type=Path), metavar="PATH", help="Tokenizer file or folder, if the model has none."
)
template_option = click.option("--template", metavar="NAME", help="Chat template: llama2, llama3 or chatml [the model's own].")
template_arg_option = click.option(
    "--template-arg",
    "template_args",
    multiple=True,
    type=Utf8(),
    metavar="NAME=VALUE",
    help="Set a variable of the chat template, such as enable_thinking=false; repeatable.",
)
no_thinking_option = click.option("--no-thinking", is_flag=True, help="Let the model answer without thinking first.")
system_option = click.option("--system", type=Utf8(), metavar="TEXT", help="System message.")


def sampling_options(function: F) -> F:
    """Add the flags of SamplingParams."""
    return _add(_SAMPLING, function)


def engine_options(function: F) -> F:
    """Add the flags of EngineConfig."""
    return _add(_ENGINE, function)


def cache_options(function: F) -> F:
    """Add the flags of the prefix cache on disk."""
    return _add(_CACHE, function)


def _add(options: tuple[Callable[[F], F], ...], function: F) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def sampling_settings(flags: dict[str, Any]) -> dict[str, Any]:
    """The fields of SamplingParams that the flags set. UsageError for a value outside its range."""
    from puna.request import SamplingParams

    names = {field.name for field in fields(SamplingParams)}
    given = {name: value for name, value in flags.items() if name in names and value not in (None, ())}
    if "logit_bias" in given:
        given["logit_bias"] = dict(map(_parse_bias, given["logit_bias"]))
    if "bad_words_ids" in given:
        given["bad_words_ids"] = list(map(_parse_ids, given["bad_words_ids"]))
    if "json_schema" in given and not given["json_schema"].lstrip().startswith("{"):
        given["json_schema"] = _text_of("--json-schema", given["json_schema"])
    if "grammar" in given:
        given["grammar"] = _text_of("--grammar", given["grammar"])
    SamplingParams(**given)
    return given


def _text_of(flag: str, path: str) -> str:
    if not path:
        raise UsageError(f"{flag} is empty", hint="Give the path of a file.")
    try:
        return Path(path).expanduser().read_text("utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{flag} {path} cannot be read: {first_line(error)}", hint="Give the path of a file.") from None


# Fields that belong together: if the model's files set one of them, puna's defaults for the others do not apply.
TOGETHER = frozenset({"temperature", "top_k", "top_p", "min_p"})


def sampling_params(
    llm: LLM, given: Mapping[str, Any], report: Reporter, defaults: Mapping[str, Any] = MappingProxyType({})
) -> SamplingParams:
    """The flags, else the model's suggestions (with a notice), else `defaults`, else those of SamplingParams."""
    from puna.filters import without_effect
    from puna.request import SamplingParams

    suggested = dict(llm.suggested.settings)
    for line in llm.suggested.lines(given):
        report.notice(line)
    apart = TOGETHER if TOGETHER & suggested.keys() else frozenset()
    own = {name: value for name, value in defaults.items() if name not in apart}
    params = SamplingParams(**{**own, **suggested, **given})
    for name, reason in without_effect(params, given):
        report.notice(f"--{name.replace('_', '-')} has no effect {reason}")
    return params


def read_template_args(texts: Sequence[str]) -> dict[str, Any]:
    """Variables of a chat template: a value that is not JSON is a text.

    >>> read_template_args(["enable_thinking=false", "effort=high", "budget=3"])
    {'enable_thinking': False, 'effort': 'high', 'budget': 3}
    """
    from puna.chat import checked_args

    pairs = [text.partition("=") for text in texts]
    if wrong := next((text for text, (_, equals, _) in zip(texts, pairs) if not equals), None):
        raise UsageError(f"--template-arg is {wrong!r}; NAME=VALUE is needed, for example enable_thinking=false")
    return checked_args({name: _json_or_text(value) for name, _, value in pairs})


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # not JSON, or nested too deep
        return text


def engine_config(flags: dict[str, Any], report: Reporter) -> EngineConfig:
    """The EngineConfig: flags come first, then the environment, then the defaults."""
    from puna.config import EngineConfig
    from puna.resources import usable_cores

    names = {field.name for field in fields(EngineConfig)}
    try:
        config = EngineConfig.from_env(**{name: value for name, value in flags.items() if name in names and value != ()})
    except ConfigError as error:
        if error.hint:  # it comes from a variable
            raise
        raise UsageError(f"--{error.field.replace('_', '-')}{error.message.removeprefix(error.field)}") from None
    if config.threads > (cores := usable_cores()):
        report.notice(
            f"{config.threads} threads on {cores} cores: more threads than cores are slower; --threads 0 uses one per core"
        )
    return config


def load_model(model: str | None, flags: dict[str, Any], report: Reporter, *, needs_template: bool) -> LLM:
    """Load MODEL with the flags of the command.

    Before reading weights, refuses a model that cannot read text or, for `needs_template`, has no chat template.
    """
    from puna.llm import LLM
    from puna.machine.planning import history

    template, variables = _built_in_template(flags.get("template")), read_template_args(flags.get("template_args") or ())
    config = engine_config(flags, report)
    refuse_vram_without_gpu(config)
    offer(model, config, report)
    check = partial(require_text, needs_template=needs_template and template is None)
    llm = LLM.load(model, config, tokenizer=flags.get("tokenizer"), report=report, check=check)
    if llm.footprint is not None:
        report.notice(_plan_in_words(llm))
        history.remember(llm)
    llm.chat_template = template or llm.chat_template
    llm.template_args = variables
    if flags.get("no_thinking"):
        set_thinking(llm, False)
    return llm


def set_thinking(llm: LLM, is_on: bool) -> None:
    """Turn a model's thinking on or off for every chat. UsageError if its template has no switch."""
    from puna.thinking import switch

    llm.template_args = {**llm.template_args, **switch(llm.chat_template, is_on)}


def _plan_in_words(llm: LLM) -> str:
    """What the model takes and what it can hold, for a person who never heard of K and V; `puna plan` itemises it."""
    from puna.units import GIB

    info = llm.backend.info
    memory = "GPU memory" if info.name.startswith("cuda") else "memory"
    return (
        f"the model takes {llm.plan.total_bytes / GIB:.2f} of {info.free_bytes / GIB:.2f} GiB of free {memory}; "
        f"question and answer together hold up to {llm.plan.max_context} tokens (words or parts of words)"
    )


def check_model(model: str, report: Reporter, confirm: Confirm, *, needs_template: bool) -> None:
    """Raise PunaError if MODEL cannot be found, or `require_text` refuses it. Asks before fetching. Reads no weights."""
    from puna import hub
    from puna.formats import open_checkpoint

    offer(model, None, report, confirm)
    require_text(open_checkpoint(hub.resolve(model)), needs_template=needs_template)


def require_text(checkpoint: Checkpoint, *, needs_template: bool) -> None:
    """UsageError for a model without a tokenizer; for `needs_template`, TemplateError for one that has no chat template."""
    from puna.chat import BUILT_IN
    from puna.formats import what_to_give

    if checkpoint.tokenizer is None:
        raise UsageError(f"{checkpoint.path} has no tokenizer, so it cannot read text", hint=what_to_give(checkpoint.notices))
    if needs_template and checkpoint.chat_template is None and guessed_template_of(checkpoint) is None:
        raise TemplateError(
            f"{checkpoint.path} has no chat template, and no built-in one fits its vocabulary",
            hint=f"Name one with --template ({', '.join(BUILT_IN)}), or use --raw to continue a text.",
        )


def guessed_template_of(checkpoint: Checkpoint) -> str | None:
    """The built-in template for a model without one, by its control tokens; None if none fits."""
    from puna.chat import guessed_template
    from puna.formats.token_types import CONTROL

    spec = checkpoint.tokenizer
    if spec is None or spec.token_types is None:
        return None
    return guessed_template(
        {token.decode("utf-8", "replace") for token, kind in zip(spec.tokens, spec.token_types) if kind == CONTROL}
    )


def refuse_vram_without_gpu(config: EngineConfig) -> None:
    """UsageError if a limit on GPU memory is given and the model would run on the CPU."""
    from puna.backends import choose_device

    if config.vram and (device := choose_device(config).device).partition(":")[0] != "cuda":
        raise UsageError(
            f"--vram limits the memory of a GPU, but the device is {device}",
            hint="Leave --vram out (and PUNA_VRAM unset). To use less memory: --max-context 2048.",
        )


def announce_template(llm: LLM, report: Reporter) -> None:
    """Report which built-in template is used if the model has none."""
    from puna.chat import guessed_template

    name = None if llm.chat_template or llm.tokenizer is None else guessed_template(llm.tokenizer.special_tokens)
    if name is not None:
        report.notice(f"no chat template in the model; using {name} (--template names another)")


def _built_in_template(name: str | None) -> str | None:
    from puna.chat import BUILT_IN

    if name is None or name in BUILT_IN:
        return name
    raise UsageError(f"--template is {name!r}; built in are: {', '.join(BUILT_IN)}", hint=did_you_mean(name, BUILT_IN))


def split_model(words: tuple[str, ...], rest: str) -> tuple[str | None, str]:
    """[MODEL] REST: one word is REST, two are both.

    >>> split_model(("hello",), "PROMPT")
    (None, 'hello')
    """
    from puna import hub

    match words:
        case (text,) if hub.looks_like_model(text):
            raise UsageError(
                f"{text} is a model, and the {rest} is missing",
                hint=f'Add it: {COMMAND_OF[rest]} {shlex.quote(text)} "..."',
            )
        case (text,):
            return None, text
        case (model, text):
            return model, text
        case ():
            raise UsageError(f"the {rest} is missing", hint=f'For example: {COMMAND_OF[rest]} "What is a llama?"')
    spoken = words[1:] if hub.looks_like_model(words[0]) else words
    raise UsageError(
        f"{len(words)} words were given; at most two are allowed: [MODEL] {rest}",
        hint=f'Put a {rest} of several words in quotes: "{" ".join(spoken)}".',
    )


COMMAND_OF = {"PROMPT": "puna run", "TEXT": "puna tokenize", "text to embed": "puna embed"}


def _parse_ids(text: str) -> list[int]:
    ids = [typed_whole(number.strip()) for number in text.split(",")]
    if None in ids:
        raise UsageError(f"--bad-words-ids is {reprlib.repr(text)}; write ids with commas between them, for example 17,4")
    return [token_id for token_id in ids if token_id is not None]


def _parse_bias(text: str) -> tuple[int, float]:
    token, _, number = text.partition("=")
    token_id, bias = typed_whole(token), typed_real(number)
    if token_id is None or bias is None:
        raise UsageError(f"--logit-bias is {reprlib.repr(text)}; write ID=BIAS, for example 17=-2.5")
    return token_id, bias
