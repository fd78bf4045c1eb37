"""Flags that several commands share. A flag that is not given is None: the dataclasses hold the defaults."""

from __future__ import annotations

import json
import re
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
    from puna.cli.remote import RemoteLLM
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


class Duration(click.ParamType[float]):
    """A time in seconds, or with units; `math.inf` below 0."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from puna.units import parse_duration

        told = parse_duration(value) if isinstance(value, str) else value
        if told is None:
            raise UsageError(
                f"{_flag(param, 'the time')} is {reprlib.repr(value)}; write a time such as 90s, 10m or 1h; -1: for ever"
            )
        return float(told)


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
        raise UsageError(error.typed.message, hint=_without_equals_sign(value, param)) from None


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


class HeadedOption(click.Option):
    """An option that `HeadedCommand` lists under a heading."""

    heading = "Options"


class HeadedCommand(click.Command):
    """A command whose help lists its options under headings, in the order in which they were added."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = dict[str, list[tuple[str, str]]]()
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and (record := param.get_help_record(ctx)):
                heading = param.heading if isinstance(param, HeadedOption) else OUTPUT
                sections.setdefault(heading, []).append((f"{record[0]:<{USAGE_WIDTH}}", record[1]))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows, col_max=USAGE_WIDTH)


USAGE_WIDTH = 25  # cells of "--template-arg NAME=VALUE"; a longer one has its text on the next line


F = TypeVar("F", bound=Callable[..., Any])

option = partial(click.option, cls=HeadedOption)

# The help has 49 columns for the text of an option, so that each is one line.
_ANSWER = (
    option("-n", "--max-tokens", type=Sampling(), metavar="N", help="Generate at most N tokens [256; chat 1024]."),
    option("--stop", multiple=True, type=Utf8(), metavar="TEXT", help="Stop before this text; repeatable."),
    option("--timeout", type=Sampling(), metavar="S", help="End after S seconds, with the text so far."),
    option("--thinking-budget", type=Sampling(), metavar="N", help="End its thinking after N tokens [no limit]."),
    option("--context-shift", is_flag=True, default=None, help="Full context: drop the older half and go on."),
    option("--num-keep", type=Sampling(), metavar="N", help="--context-shift keeps the first N tokens [0]."),
    option("--min-tokens", type=Sampling(), metavar="N", help="Do not end before N tokens [0]."),
    option("--stop-id", "stop_ids", multiple=True, type=Whole(), metavar="ID", help="Stop at this token; repeatable."),
    option("--ignore-eos", is_flag=True, default=None, help="Do not stop at the model's end-of-text token."),
    option("--include-stop-str-in-output", is_flag=True, default=None, help="Keep the stop text at the end of the answer."),
)
_SAMPLING = (
    option("--temperature", type=Sampling(), metavar="T", help="0: the likeliest; above: draw [0; chat 0.7]."),
    option("--top-p", type=Sampling(), metavar="P", help="Tokens that together reach P [1; chat 0.95]."),
    option("--top-k", type=Sampling(), metavar="K", help="Draw from the K most likely tokens [0: off]."),
    option("--min-p", type=Sampling(), metavar="P", help="Drop tokens below P times the best one [0: off]."),
    option("--seed", type=Sampling(), metavar="N", help="Draw the same tokens each time."),
    option("--sampling-defaults", metavar="WHOSE", help="puna, or model: as its files suggest [model]."),
    option("--typical-p", type=Sampling(), metavar="P", help="Draw from the most typical, up to P [1: off]."),
    option("--top-n-sigma", type=Sampling(), metavar="N", help="Drop logits N deviations below the best [0: off]."),
    option("--xtc-probability", type=Sampling(), metavar="P", help="How often XTC drops the likeliest [0: off]."),
    option("--xtc-threshold", type=Sampling(), metavar="P", help="What XTC calls likely [0.1]."),
    option("--dynatemp-range", type=Sampling(), metavar="X", help="Vary the temperature by up to X [0: off]."),
    option("--dynatemp-exponent", type=Sampling(), metavar="X", help="How it follows the entropy [1]."),
    option("--mirostat", type=Sampling(), metavar="N", help="2: mirostat 2 in place of top-k ... [0: off]."),
    option("--mirostat-tau", type=Sampling(), metavar="X", help="Bits of surprise that it aims at [5]."),
    option("--mirostat-eta", type=Sampling(), metavar="X", help="How fast it adapts [0.1]."),
    option("--adaptive-target", type=Sampling(), metavar="P", help="Prefer tokens near this probability [-1: off]."),
    option("--adaptive-decay", type=Sampling(), metavar="X", help="How long adaptive-p remembers [0.9]."),
    option("--samplers", type=Utf8(), metavar="A;B;...", help="The filters that run, in order [llama.cpp's]."),
)
_PENALTIES = (
    option("--repetition-penalty", type=Sampling(), metavar="X", help="Avoid tokens of prompt and answer [1: off]."),
    option("--presence-penalty", type=Sampling(), metavar="X", help="Avoid tokens that the answer has [0: off]."),
    option("--frequency-penalty", type=Sampling(), metavar="X", help="The same, by how often they occur [0: off]."),
    option("--penalty-last-n", type=Sampling(), metavar="N", help="Penalties count the last N tokens [-1: all]."),
    option("--dry-multiplier", type=Sampling(), metavar="X", help="Above 0: DRY avoids repetitions [0: off]."),
    option("--dry-base", type=Sampling(), metavar="X", help="How it grows with their length [1.75]."),
    option("--dry-allowed-length", type=Sampling(), metavar="N", help="Shorter repetitions are allowed [2]."),
    option("--dry-penalty-last-n", type=Sampling(), metavar="N", help="DRY looks back N tokens; -1: all [64]."),
    option(
        "--dry-sequence-breaker",
        "dry_sequence_breakers",
        multiple=True,
        type=Utf8(),
        metavar="TEXT",
        help="No repetition reaches over TEXT; repeatable.",
    ),
    option("--banned-string", "banned_strings", multiple=True, type=Utf8(), metavar="TEXT", help="Never write this; repeatable."),
    option("--bad-words-ids", multiple=True, metavar="ID,ID", help="Never write these in a row; repeatable."),
    option("--suppress-id", "suppress_ids", multiple=True, type=Whole(), metavar="ID", help="Never sample this; repeatable."),
    option("--logit-bias", multiple=True, metavar="ID=BIAS", help="Add BIAS to a token's logit; repeatable."),
)
_FORM = (
    option("--json-schema", type=Utf8(), metavar="FILE|TEXT", help="JSON that follows this JSON schema."),
    option("--json-object", is_flag=True, default=None, help="A JSON object."),
    option("--regex", type=Utf8(), metavar="REGEX", help="A text that REGEX matches as a whole."),
    option("--choice", multiple=True, type=Utf8(), metavar="TEXT", help="One of these texts; repeatable."),
    option("--grammar", type=Utf8(), metavar="FILE|TEXT", help="What a grammar allows (Lark or GBNF)."),
)
_DEVICE = (
    option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, torch (PyTorch, CPU) ..."),
    option("--max-context", type=Whole(), metavar="N", help="Tokens of prompt and answer [0: what fits]."),
    option("--threads", type=Whole(), metavar="N", help="At most N CPU threads [0: all that help]."),
    option("--weights", metavar="TYPE", help="auto, as-is, int8 or int4 [auto: what fits]."),
    option("--vram", type=Size(), metavar="SIZE", help="Use at most this much GPU memory, e.g. 12GiB."),
    option("--kv-type", metavar="TYPE", help="auto, bf16, f16, f32, int8 (half; KL 0.003)."),
    option("--require-gpu", is_flag=True, default=None, help="Fail if no GPU can be used."),
    option("--speculation", metavar="HOW", help="Check guesses: auto, off, ngram [auto: on a CPU]."),
    option("--draft-model", type=Utf8(), metavar="MODEL", help="A small model of its vocabulary guesses tokens."),
)
_ADAPTERS = (
    option("--lora", multiple=True, metavar="PATH[=SCALE]", help="Merge a LoRA adapter into it; repeatable."),
    option("--lora-modules", multiple=True, metavar="NAME=PATH", help="Load one for --lora-name; repeatable."),
)

cache_dir_option = click.option(
    "--cache-dir", type=Utf8(), metavar="DIR", help="Keep K and V of prompts here for later starts [nowhere]."
)
_CACHE = (
    option("--cache-dir", type=Utf8(), metavar="DIR", help="Keep K and V of prompts here [nowhere]."),
    option("--cache-size", type=Size(), metavar="SIZE", help="Limit what --cache-dir holds [4GiB]."),
    option("--cache-salt", type=Utf8(), metavar="TEXT", help="Share them only with runs of the same salt."),
)

json_option = option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
tokenizer_option = option(
    "--tokenizer", type=click.Path(path_type=Path), metavar="PATH", help="Tokenizer file or folder, if it has none."
)
lora_name_option = option("--lora-name", type=Utf8(), metavar="NAME", help="Answer with this one of --lora-modules.")
template_option = option("--template", metavar="NAME", help="llama2, llama3 or chatml [the model's own].")
template_arg_option = option(
    "--template-arg",
    "template_args",
    multiple=True,
    type=Utf8(),
    metavar="NAME=VALUE",
    help="Set a template variable; repeatable.",
)
_SERVER = (
    option("--server", type=Utf8(), envvar="PUNA_SERVER", metavar="URL", help="Ask a running `puna serve` [none]."),
    option("--api-key", type=Utf8(), envvar="PUNA_API_KEY", metavar="KEY", help="The key of --server, if it needs one."),
)
no_thinking_option = option("--no-thinking", is_flag=True, help="Let the model answer without thinking first.")
system_option = option("--system", type=Utf8(), metavar="TEXT", help="System message.")


def under(heading: str, *options: Callable[[F], F]) -> Callable[[F], F]:
    """Add options that the help lists together, under a heading."""

    def add(function: F) -> F:
        for one in reversed(options):
            function = one(function)
            vars(function)["__click_params__"][-1].heading = heading
        return function

    return add


PROMPT, MODEL, OUTPUT = "Prompt", "Model", "Output"


def sampling_options(function: F) -> F:
    """Add the flags of SamplingParams."""
    for heading, options in reversed(_OF_A_REQUEST.items()):
        function = under(heading, *options)(function)
    return function


_OF_A_REQUEST = {
    "Answer": _ANSWER,
    "Sampling": _SAMPLING,
    "Penalties and bans": _PENALTIES,
    "Form of the answer": _FORM,
}


def engine_options(function: F) -> F:
    """Add the flags of EngineConfig."""
    return under("Device and memory", *_DEVICE)(under(MODEL, *_ADAPTERS)(function))


def server_options(function: F) -> F:
    """Add the flags that use the model of a running server."""
    return under(MODEL, *_SERVER)(function)


def cache_options(function: F) -> F:
    """Add the flags of the prefix cache on disk."""
    return under("Cache", *_CACHE)(function)


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
    if "grammar" in given and not GRAMMAR_TEXT.search(given["grammar"]):
        given["grammar"] = _text_of("--grammar", given["grammar"])
    SamplingParams(**given)
    return given


GRAMMAR_TEXT = re.compile(r"::=|^\s*start\s*:", re.MULTILINE)  # GBNF's rules, Lark's first rule; no file name has them
MAX_SHOWN = 80  # characters of a path; a longer one is hardly a path
INLINE = {
    "--json-schema": "A text that begins with { is taken as the schema itself.",
    "--grammar": 'A text with a rule, such as root ::= "yes" | "no" or start: "yes", is taken as the grammar itself.',
}


def _text_of(flag: str, path: str) -> str:
    """The text of a file. UsageError, which says how to give the text itself, if it cannot be read."""
    hint = f"Give the path of a file. {INLINE[flag]}"
    if not path:
        raise UsageError(f"{flag} is empty", hint=hint)
    try:
        return Path(path).expanduser().read_text("utf-8")
    except (OSError, ValueError) as error:
        shown = path if len(path) <= MAX_SHOWN else path[:MAX_SHOWN] + " ..."
        raise UsageError(f"{flag} {shown} cannot be read: {reason_of(error)}", hint=hint) from None


def reason_of(error: OSError | ValueError) -> str:
    """Why a file cannot be read, without its path."""
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)


# Fields that belong together: if the model's files set one of them, puna's defaults for the others do not apply.
TOGETHER = frozenset({"temperature", "top_k", "top_p", "min_p"})


def sampling_params(
    llm: LLM | RemoteLLM, given: Mapping[str, Any], report: Reporter, defaults: Mapping[str, Any] = MappingProxyType({})
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
        raise UsageError(f"--{error.field.replace('_', '-')}{error.typed.message.removeprefix(error.field)}") from None
    if config.threads > (cores := usable_cores()):
        report.notice(
            f"{config.threads} threads on {cores} cores: more threads than cores are slower; --threads 0 uses as many as help"
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


def set_thinking(llm: LLM | RemoteLLM, is_on: bool) -> None:
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


def announce_template(llm: LLM | RemoteLLM, report: Reporter) -> None:
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
                hint=f'Add it: {COMMAND_OF[rest]} {shlex.quote(text)} "..."'
                + (f"; or talk with it: puna chat {shlex.quote(text)}" if rest == "PROMPT" else ""),
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


COMMAND_OF = {
    "PROMPT": "puna run",
    "TEXT": "puna tokenize",
    "text to embed": "puna embed",
    "prompt of the options": "puna score",
    "QUERY": "puna rerank",
}


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
