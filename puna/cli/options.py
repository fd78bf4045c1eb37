"""The flags that commands share. A flag that is not given is None: the dataclasses hold the defaults."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from puna.cli.terminal import argument_text
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.config import EngineConfig
    from puna.llm import LLM
    from puna.report import Reporter
    from puna.request import SamplingParams


class Utf8(click.types.StringParamType):
    """A text on the command line."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return argument_text(value, param.opts[0] if param else "the text")


class Size(click.ParamType[int]):
    """A number of bytes, with or without a unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from puna.config import read_setting

        return value if isinstance(value, int) else int(read_setting(param.opts[0] if param else "the size", "Bytes", value))


F = TypeVar("F", bound=Callable[..., Any])

_SAMPLING = (
    click.option("-n", "--max-tokens", type=int, help="Generate at most N tokens [256; chat 1024]."),
    click.option("--min-tokens", type=int, help="Do not end before this many tokens [0]."),
    click.option("--temperature", type=float, help="0: always the most likely token [0; chat 0.7]."),
    click.option("--top-k", type=int, help="Only the k most likely tokens [0: off]."),
    click.option("--top-p", type=float, help="Only the most likely tokens that together reach p [1: off; chat 0.95]."),
    click.option("--min-p", type=float, help="Only tokens with p times the best one's probability [0: off]."),
    click.option("--repetition-penalty", type=float, help="Above 1: against tokens of prompt and answer [1: off]."),
    click.option("--presence-penalty", type=float, help="Against tokens of the answer, once [0: off]."),
    click.option("--frequency-penalty", type=float, help="Against tokens of the answer, by count [0: off]."),
    click.option("--logit-bias", multiple=True, metavar="ID=BIAS", help="Add to a token's logit; repeatable."),
    click.option(
        "--suppress-id", "suppress_ids", multiple=True, type=int, metavar="ID", help="Never sample this token; repeatable."
    ),
    click.option("--seed", type=int, help="The same seed draws the same tokens."),
    click.option("--stop", multiple=True, type=Utf8(), metavar="TEXT", help="End before this text; repeatable."),
    click.option("--stop-id", "stop_ids", multiple=True, type=int, metavar="ID", help="End at this token; repeatable."),
    click.option("--ignore-eos", is_flag=True, default=None, help="Go on where the model would stop."),
    click.option(
        "--sampling-defaults",
        metavar="WHOSE",
        help="Of flags not given: model (what its files suggest, if anything) or puna [model].",
    ),
)

_ENGINE = (
    click.option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 ...; torch: the CPU by PyTorch."),
    click.option("--require-gpu", is_flag=True, default=None, help="Fail rather than go on with the CPU."),
    click.option("--vram", type=Size(), metavar="SIZE", help="Use at most this much device memory, e.g. 12GiB."),
    click.option("--weights", metavar="TYPE", help="auto, as-is, int8 or int4; auto: as in the file, if that fits."),
    click.option("--threads", type=int, help="0: one per core."),
    click.option("--max-context", type=int, help="Tokens of prompt and answer; 0: the model's own limit."),
    click.option("--kv-type", metavar="TYPE", help="auto, bf16, f16, f32 or int8."),
)

json_option = click.option("--json", "as_json", is_flag=True, help="One line of JSON on stdout.")
tokenizer_option = click.option(
    "--tokenizer", type=click.Path(path_type=Path), help="Tokenizer file, or a folder with one, where the model has it apart."
)
template_option = click.option("--template", metavar="NAME", help="llama2, llama3 or chatml, instead of the model's own.")
template_arg_option = click.option(
    "--template-arg",
    "template_args",
    multiple=True,
    type=Utf8(),
    metavar="NAME=VALUE",
    help="Set a variable of the chat template, such as enable_thinking=false; repeatable.",
)
system_option = click.option("--system", type=Utf8(), metavar="TEXT", help="System message.")


def sampling_options(function: F) -> F:
    """Add the flags of SamplingParams."""
    return _add(_SAMPLING, function)


def engine_options(function: F) -> F:
    """Add the flags of EngineConfig."""
    return _add(_ENGINE, function)


def _add(options: tuple[Callable[[F], F], ...], function: F) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def sampling_settings(flags: dict[str, Any]) -> dict[str, Any]:
    """The fields of SamplingParams that were asked for. UsageError for a value outside its range."""
    from puna.request import SamplingParams

    names = {field.name for field in fields(SamplingParams)}
    given = {name: value for name, value in flags.items() if name in names and value not in (None, ())}
    if "logit_bias" in given:
        given["logit_bias"] = dict(map(_parse_bias, given["logit_bias"]))
    SamplingParams(**given)
    return given


# Fields that belong together: where the model's files say one of them, puna's own defaults for the others do not go with it.
TOGETHER = frozenset({"temperature", "top_k", "top_p", "min_p"})
DRAWN = ("top_k", "top_p", "min_p", "seed")  # without effect where the most likely token is taken


def sampling_params(
    llm: LLM, given: Mapping[str, Any], report: Reporter, defaults: Mapping[str, Any] = MappingProxyType({})
) -> SamplingParams:
    """What the flags say, else what the model's files suggest, which is told, else `defaults`, else those of SamplingParams."""
    from puna.request import SamplingParams

    suggested = dict(llm.suggested.settings)
    for line in llm.suggested.lines(given):
        report.notice(line)
    apart = TOGETHER if TOGETHER & suggested.keys() else frozenset()
    own = {name: value for name, value in defaults.items() if name not in apart}
    params = SamplingParams(**{**own, **suggested, **given})
    for name in DRAWN if params.temperature == 0 else ():
        if name in given:
            report.notice(f"--{name.replace('_', '-')} has no effect: at temperature 0 nothing is drawn")
    return params


def read_template_args(texts: Sequence[str]) -> dict[str, Any]:
    """Variables of a chat template: values are read as JSON, and are texts where they are none.

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
    except ValueError:
        return text


def engine_config(flags: dict[str, Any], report: Reporter) -> EngineConfig:
    """The EngineConfig from flags, then the environment, then the defaults."""
    from puna.backends.base import usable_cores
    from puna.config import EngineConfig

    names = {field.name for field in fields(EngineConfig)}
    config = EngineConfig.from_env(**{name: value for name, value in flags.items() if name in names})
    if config.threads > (cores := usable_cores()):
        report.notice(f"{config.threads} threads on {cores} cores: more threads than cores run slower; 0 takes one per core")
    return config


def load_model(model: str | None, flags: dict[str, Any], report: Reporter) -> LLM:
    """Load MODEL with the flags of the command."""
    from puna.llm import LLM
    from puna.machine import history
    from puna.plan import GIB

    template, variables = _built_in_template(flags.get("template")), read_template_args(flags.get("template_args") or ())
    llm = LLM.load(model, engine_config(flags, report), tokenizer=flags.get("tokenizer"), report=report)
    if llm.footprint is not None:
        taken, predicted = llm.footprint.actual_bytes / GIB, llm.footprint.predicted_bytes / GIB
        report.notice(f"{llm.plan.line(llm.backend.info.free_bytes)}; loading took {taken:.2f} GiB of {predicted:.2f} planned")
        history.remember(llm)
    llm.chat_template = template or llm.chat_template
    llm.template_args = variables
    return llm


def announce_template(llm: LLM, report: Reporter) -> None:
    """Say which template a conversation gets where the model has none, and it is guessed."""
    from puna.chat import guessed_template

    name = None if llm.chat_template or llm.tokenizer is None else guessed_template(llm.tokenizer.special_tokens)
    if name is not None:
        report.notice(f"no chat template in the model; using {name} (--template names another)")


def _built_in_template(name: str | None) -> str | None:
    from puna.chat import BUILT_IN

    if name is None or name in BUILT_IN:
        return name
    raise UsageError(f"--template is {name!r}; built in are: {', '.join(BUILT_IN)}")


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
                hint=f'Put it behind: {text} "..."; the default model is named {hub.DEFAULT_MODEL}.',
            )
        case (text,):
            return None, text
        case (model, text):
            return model, text
    given = "nothing" if not words else f"{len(words)} words"
    raise UsageError(f"[MODEL] {rest} is needed; {given} came", hint=f'Put a {rest} of several words into quotes: "...".')


def _parse_bias(text: str) -> tuple[int, float]:
    token_id, _, bias = text.partition("=")
    try:
        return int(token_id), float(bias)
    except ValueError:
        raise UsageError(f"--logit-bias is {text!r}; ID=BIAS is needed, for example 17=-2.5") from None
