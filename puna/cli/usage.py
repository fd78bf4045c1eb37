"""What a wrong command line is told: an unknown command or option, a missing value, one word too many.

click's errors become puna's: what was given, what is allowed, and the help of the command that was meant.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import click

from puna.cli import foreign
from puna.errors import PunaError, UsageError, did_you_mean


def no_command(words: Sequence[str], commands: Collection[str]) -> PunaError:
    """The error for a first word that is no command."""
    from puna import hub

    name, spoken = words[0], _spoken(words)
    what = f"there is no command {name!r}"
    if name.lower() in foreign.COMMANDS and len(spoken) <= 2:
        is_about = name.lower() == "help" and spoken[-1] in commands
        return UsageError(what, hint=f"puna {spoken[-1]} --help explains it." if is_about else foreign.COMMANDS[name.lower()])
    near = did_you_mean(name, commands)
    if len(spoken) > 1 and not any(map(hub.looks_like_model, spoken)):
        ask = f"To ask that, put it in quotes: puna {_in_quotes(' '.join(spoken))}"
        return UsageError(what, hint=f"{near} {ask}".lstrip() if len(spoken) == 2 and name.islower() else ask)
    if hub.looks_like_model(name):
        return UsageError(f"{name} is a model, not a command", hint=f'Try: puna run {name} "..." or: puna chat {name}')
    return UsageError(what, hint=near or "puna --help lists the commands.")


def _spoken(words: Sequence[str]) -> list[str]:
    """The words before the first option."""
    end = next((number for number, word in enumerate(words) if word.startswith("-")), len(words))
    return list(words[:end])


def _in_quotes(text: str) -> str:
    """
    >>> _in_quotes("What is it?"), _in_quotes("costs $5")
    ('"What is it?"', "'costs $5'")
    """
    return shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'


def in_words(error: click.UsageError, command: click.Command, path: str, words: Sequence[str]) -> UsageError:
    """The error of `command`, which is called by `path` ("puna run"), for the command line `words`."""
    context = error.ctx or click.Context(command, info_name=path)
    match error:
        case click.NoSuchOption():
            return _no_option(error, context, words)
        case click.BadOptionUsage():
            return _bad_value(error, context)
        case click.MissingParameter():
            missing = error.param.make_metavar(context) if error.param is not None else "an argument"
            return UsageError(f"{missing} is missing", hint=_usage(context))
    if (extra := _EXTRA.search(error.message)) is not None:
        return UsageError(f"too many arguments: {extra[1]}", hint=_usage(context))
    return UsageError(error.format_message(), hint=_usage(context))


_EXTRA = re.compile(r"unexpected extra arguments? \((.*)\)$", re.DOTALL)  # click has no class of its own for it


def _usage(context: click.Context) -> str:
    pieces = [piece for piece in context.command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    return f"The form is: {' '.join((context.command_path, *pieces))}. Try: {context.command_path} --help"


def _bad_value(error: click.BadOptionUsage, context: click.Context) -> UsageError:
    """An option without its value, or a switch with one."""
    flag, help_ = error.option_name, f"Try: {context.command_path} --help"
    option = next((one for one in context.command.get_params(context) if flag in one.opts), None)
    if isinstance(option, click.Option) and option.is_flag:
        return UsageError(f"{flag} takes no value", hint=f"Write {flag} alone. {help_}")
    form = f"Write {flag} {option.make_metavar(context)}. " if option is not None else ""
    return UsageError(f"{flag} needs a value", hint=form + help_)


def _no_option(error: click.NoSuchOption, context: click.Context, words: Sequence[str]) -> UsageError:
    """An option that the command does not have. Names similar ones; of other programs only --model, which most have."""
    given = error.option_name
    parameters = context.command.get_params(context)
    known = [flag for parameter in parameters for flag in parameter.opts if isinstance(parameter, click.Option)]
    takes_model = any(foreign.MODEL in parameter.make_metavar(context) for parameter in parameters)
    near = did_you_mean(given, [*known, *(["--model"] if takes_model else [])], prefix="--")
    if near.startswith("Did you mean --model"):
        called = context.command_path.removeprefix("puna ")
        meant = [word.replace(given, "--model", 1) if word.startswith(given) else word for word in words]
        refused = foreign.refused(context.command, called, meant[meant[0] == called :])
        near = "" if refused is None else refused.hint
    return UsageError(f"there is no option {given}", hint=near or f"Try: {context.command_path} --help")


# ---- settings that an error names as Python does


def in_flags(text: str, command: click.Command | None) -> str:
    """The text with the flags of a command in place of the keywords of Python.

    A keyword with "_" is one anywhere; a plain word only where nothing else can be meant.

    >>> flags = ("--json-schema", "--logprobs", "--regex", "--stop-id", "--thinking-budget")
    >>> command = click.Command("run", params=[click.Option([flag]) for flag in flags])
    >>> in_flags("json_schema and regex are given", command), in_flags("regex is refused: a stop text", command)
    ('--json-schema and --regex are given', '--regex is refused: a stop text')
    >>> in_flags("Add logprobs=0. Limit it: thinking_budget=0 (--thinking-budget 0).", command)
    'Add --logprobs 0. Limit it: --thinking-budget 0.'
    """
    flags = {} if command is None else _flags_by_keyword(command)
    said, listing, listed = text.partition("Known: ")  # a list has names of its own
    keyword = rf"(?<![\w'\"/.-])(?P<name>{'|'.join(flags)})\b(?:=(?P<value>\[[^\]]*\]|[^\s,.;)]+))?(?: \((?P<flag>--[^)]*)\))?"
    return (re.sub(keyword, partial(_flag_of, flags), said) if flags else said) + listing + listed


def _flags_by_keyword(command: click.Command) -> dict[str, str]:
    return {str(one.name): max(one.opts, key=len) for one in command.params if isinstance(one, click.Option)}


def _flag_of(flags: Mapping[str, str], found: re.Match[str]) -> str:
    """What stands in the place of a keyword, its value, and its flag in brackets. A word that is no setting here stays."""
    flag = flags[found["name"]]
    if found["flag"]:
        return found["flag"]
    if found["value"]:
        return flag if found["value"] == "True" else f"{flag} {found['value']}"
    is_setting = "_" in found["name"] or (
        _BEFORE.search(found.string[: found.start()]) and _AFTER.match(found.string, found.end())
    )
    return flag if is_setting else found[0]


# What stands around a word that is the subject of a sentence, or what another setting needs.
_BEFORE, _AFTER = re.compile(r"(^|\b(and|but|needs) )$"), re.compile(r" (is|are|and|holds|has|names|needs|both|\d+)\b|[:,]|$")
