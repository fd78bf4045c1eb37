"""puna explain FILE[:SYMBOL]: a Python source, taken apart block by block."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

from puna.cli.explain_tour import BACK, END, answer_to, question
from puna.cli.interrupts import ending_soon
from puna.cli.options import load_model
from puna.cli.terminal import TerminalReporter, print_json, tell
from puna.cli.width import report_width
from puna.errors import PunaError, UsageError
from puna.explain.words import FRAME, Words

if TYPE_CHECKING:
    from puna.explain.source.explained import ExplainedSource
    from puna.explain.source.reading import SourceText
    from puna.explain.source.tracer.values import LanguageModel
    from puna.formats.base import Checkpoint

LEAST_WEIGHTS = 1_000_000_000  # fewer know little of programs, as `puna why --ask` has it


def explain_source(place: str, flags: dict[str, Any], language: str, ask: str | None, *, whole: bool, as_json: bool) -> None:
    """Explain the source at `place`, FILE or FILE:SYMBOL, or - for standard input. Nothing of it is executed.

    flags: the model on which its loops are run as data; ask: a model, or an address, that adds prose; whole: do not stop after
    each page, and explain every function of a long file.
    """
    from puna.cli.source_view import pages
    from puna.explain.source.explaining import explain_text

    with ending_soon():
        source, symbol = _source(place)
        with ExitStack() as open_models:
            report = explain_text(source, symbol, partial(_loaded, flags, open_models), whole=whole)
        if ask is not None:
            _ask(report, ask)
        if as_json:
            print_json(report.as_json())
            return
        shown = list(pages(report, report_width(sys.stdout), place.removesuffix(f":{symbol}")))
        if whole or not (sys.stdin.isatty() and sys.stdout.isatty()):
            print("\n\n".join("\n".join(page).rstrip() for page in shown), flush=True)
        else:
            _walk(shown, Words(language, FRAME))


def _source(place: str) -> tuple[SourceText, str | None]:
    """The text of a place, and the name of the function that is asked for."""
    from puna.cli.source_view import STANDARD_INPUT
    from puna.cli.standard_input import read_all
    from puna.explain.source.reading import MAX_BYTES, read_source, require_small, source_of
    from puna.explain.source.symbols import split_target

    if place == STANDARD_INPUT:
        text = read_all(MAX_BYTES + 1)  # characters; a pipe may have no end
        require_small(len(text), "standard input")
        return source_of(text, "standard input"), None
    path, symbol = split_target(place)
    return read_source(path), symbol


def _walk(shown: list[list[str]], frame: Words) -> None:
    """Show the pages one at a time: the next, the one before, until the person has enough."""
    number = 0
    while number < len(shown):
        print("\n".join(shown[number]).rstrip(), flush=True)
        if number == len(shown) - 1:
            return
        print()
        answer = answer_to(f"{number + 1}/{len(shown)} {question(frame, has_back=number > 0)}")
        if answer in END:
            return
        number = max(0, number - 1) if answer in BACK else number + 1


# ---- models -----------------------------------------------------------------------------------------------------------------


def _loaded(flags: dict[str, Any], open_models: ExitStack) -> LanguageModel | None:
    """The model on which loops are run. If none was named and the default one cannot be had: None, which is told."""
    from puna.explain.source.engine_model import EngineModel

    settings = {"tokenizer": flags["tokenizer"], "prefix_cache": False}
    try:
        with TerminalReporter() as report:
            return EngineModel(open_models.enter_context(load_model(flags["model"], settings, report, needs_template=False)))
    except PunaError as error:
        if flags["model"] is not None:
            raise
        tell(f"puna: values are left out, because the default model is not here: {error.typed.message}", "Fetch it: puna pull")
        return None


def _ask(report: ExplainedSource, ask: str) -> None:
    """Add the prose of a model, by its name or by the address of a server."""
    from puna.explain.source.asking import ask_about

    opened = _server_answers(ask) if ask.startswith(("http://", "https://")) else _local_answers(ask)
    with TerminalReporter() as reporter, opened as (answer, who):
        ask_about(report, answer, who, partial(reporter.progress, f"{who} explains"))


@contextmanager
def _local_answers(name: str) -> Iterator[tuple[Callable[[str], str], str]]:
    from puna.config import EngineConfig
    from puna.explain.source.asking import MAX_TOKENS
    from puna.llm import LLM

    with TerminalReporter() as report:
        llm = LLM.load(name, EngineConfig.from_env(), tokenizer=None, report=report, check=partial(_tell_size, name, report))
    with llm:
        if llm.chat_template is None:
            raise UsageError(
                f"{name} has no chat template, so it cannot answer", hint="With --ask, name a model for conversations."
            )
        yield lambda question: llm.chat(question, max_tokens=MAX_TOKENS).text, llm.path.name


def _tell_size(name: str, report: TerminalReporter, checkpoint: Checkpoint) -> None:
    """Warn of a model that is too small to explain code."""
    size = sum(prod(tensor.shape) for tensor in checkpoint.tensors.values())
    if size < LEAST_WEIGHTS:
        report.notice(f"{name} has {size / 1e9:.2g} billion weights, which are few to explain code: its words may mislead")


@contextmanager
def _server_answers(address: str) -> Iterator[tuple[Callable[[str], str], str]]:
    """Any server with OpenAI's chat completions. "#NAME" at the end of the address names the model; else it is the first one."""
    from puna.cli.server_link import ServerError, ServerLink
    from puna.explain.source.asking import MAX_TOKENS

    url, _, name = address.partition("#")
    try:
        link = ServerLink(url, os.environ.get("PUNA_API_KEY"))
        name = name or _first_model(link.get("/v1/models"))
    except PunaError as error:
        raise _about_ask(error) from None

    def answer(question: str) -> str:
        body = {"model": name, "messages": [{"role": "user", "content": question}], "max_tokens": MAX_TOKENS}
        try:
            return str(link.post("/v1/chat/completions", body)["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError):
            raise ServerError(f"{url} answers otherwise than OpenAI's chat completions do") from None
        except PunaError as error:
            raise _about_ask(error) from None

    yield answer, f"{name} at {url}"


def _first_model(listed: object) -> str:
    match listed:
        case {"data": [{"id": str() as name}, *_]}:
            return name
    raise UsageError("the server of --ask lists no model", hint="Name one: --ask URL#MODEL")


def _about_ask(error: PunaError) -> PunaError:
    """An error of the link in the words of this command's flag."""
    message, hint = (
        text.replace("--server", "--ask").replace("--api-key KEY, or the variable PUNA_API_KEY", "PUNA_API_KEY")
        for text in error.typed
    )
    return type(error)(message, hint=hint) if type(error) in (UsageError,) else UsageError(message, hint=hint)
