"""puna serve: models behind an HTTP API."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from puna.cli.fetch import offer
from puna.cli.options import (
    MODEL,
    OUTPUT,
    Duration,
    HeadedCommand,
    Size,
    Utf8,
    Whole,
    engine_config,
    engine_options,
    json_option,
    option,
    require_text,
    under,
)
from puna.cli.terminal import TerminalReporter, print_json, tell
from puna.errors import ConfigError, UsageError
from puna.install import extra_command
from puna.paths import prefixes_dir
from puna.units import GIB

if TYPE_CHECKING:
    from puna.server.models import ServedModel
    from puna.server.service import Service
    from puna.server.settings import ServerSettings

FLAGS = {  # of fields that have another name
    "api_keys": "--api-key",
    "allowed_hosts": "--allowed-host",
    "allowed_origins": "--allowed-origin",
    "drain_s": "--drain",
    "keep_alive_s": "--keep-alive",
}


WHO, REQUESTS = "Who may call", "Requests"


@click.command(cls=HeadedCommand)
@click.argument("models", nargs=-1, metavar="[MODEL] ...")
@under(
    WHO,
    option("--host", metavar="ADDRESS", help="Listen here [127.0.0.1: this machine only]."),
    option("--port", type=Whole(low=0), metavar="N", help="Listen on this port; 0: any free one [8000]."),
    option(
        "--api-key",
        "api_keys",
        multiple=True,
        type=Utf8(),
        envvar="PUNA_API_KEY",
        metavar="KEY",
        help="Require this key; repeatable (PUNA_API_KEY).",
    ),
    option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME", help="Let clients call it NAME; repeatable."),
    option("--allowed-origin", "allowed_origins", multiple=True, metavar="ORIGIN", help="Let pages of ORIGIN call; repeatable."),
)
@under(
    REQUESTS,
    option("--max-queue", type=Whole(low=0), metavar="N", help="Let N wait beside those that run [64]."),
    option("--max-tokens", type=Whole(low=1), metavar="N", help="Cap every answer at N tokens [no cap]."),
    option("--drain", "drain_s", type=float, metavar="S", help="At the end, give running ones S seconds [30]."),
    option("--log-prompts", is_flag=True, default=None, help="Also write prompts and answers to the log."),
    option("--cache-dir", type=Utf8(), metavar="DIR", help='K and V of prompts ["prefixes" in puna\'s cache].'),
    option("--cache-size", type=Size(), metavar="SIZE", help="Limit what --cache-dir holds [4GiB]."),
)
@under(
    MODEL,
    option("--alias", "aliases", multiple=True, type=Utf8(), metavar="NAME", help="Another name of the first model; *: any."),
    option("--keep-alive", "keep_alive_s", type=Duration(), metavar="TIME", help="Unload after 10m, 1h ... unused; -1: never."),
)
@engine_options
@under(OUTPUT, json_option)
def command(models: tuple[str, ...], aliases: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Serve models to programs that speak the API of OpenAI, Anthropic or Ollama.
    The first MODEL is loaded now; NAME=MODEL gives one a name of your choice.
    """
    from puna.llm import LLM

    try:
        from puna.server.models import Models
        from puna.server.process import bound_socket, serve
        from puna.server.service import Service
        from puna.server.settings import ServerSettings
    except ModuleNotFoundError as error:
        raise UsageError(f"puna serve needs the package {error.name}", hint=extra_command("serve")) from None
    names = ServerSettings.__dataclass_fields__
    given = {name: value for name, value in flags.items() if name in names and value not in (None, ())}
    settings = _settings(ServerSettings, given)
    listening = bound_socket(settings)
    _log_to_stderr()
    with listening, TerminalReporter() as report:
        config = engine_config({name: value for name, value in flags.items() if name not in names}, report)
        if flags["cache_dir"] is None and not config.cache_dir:
            config = replace(config, cache_dir=prefixes_dir())
        offer(models[0].partition("=")[2] or models[0] if models else None, config, report)
        load = partial(LLM.load, report=report, check=partial(require_text, needs_template=False))
        served = Models(map(_named, models or ("",)), config, aliases, load, settings.keep_alive_s)
        service = Service(served, settings)
        port = listening.getsockname()[1]
        asyncio.run(serve(service, listening, lambda: _tell_ready(service, port, as_json)))
    tell("puna: the server has ended")


def _settings(kind: type[ServerSettings], given: dict[str, Any]) -> ServerSettings:
    """The settings; an error names the flag."""
    try:
        return kind(**given)
    except ConfigError as error:
        flag = FLAGS.get(error.field, f"--{error.field.replace('_', '-')}")
        raise UsageError(f"{flag}{error.typed.message.removeprefix(error.field)}", hint=error.typed.hint) from None


def _log_to_stderr() -> None:
    """A row for each request, and what fails."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("puna.server")
    logger.setLevel(logging.INFO)
    logger.handlers = [handler]
    logger.propagate = False
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # any client can make it warn: of what is no HTTP, of upgrades


def _named(word: str) -> ServedModel:
    from puna.server.models import ServedModel

    name, equals, source = word.partition("=")
    if equals:
        return ServedModel(name, source)
    return ServedModel(_short_name(word), word or None)


def _short_name(word: str) -> str:
    """What clients call a model: the file's name without its ending.

    >>> _short_name("models/tiny-q4_0.gguf"), _short_name("")
    ('tiny-q4_0', 'smollm2-135m')
    """
    from puna.hub import DEFAULT_MODEL

    name = word.rstrip("/").rpartition("/")[2].removesuffix(".gguf") or DEFAULT_MODEL
    return name.removesuffix("-instruct") if name == DEFAULT_MODEL else name  # as `puna models` calls it


def _tell_ready(service: Service, port: int, as_json: bool) -> None:
    model, host = service.models.default, service.settings.host
    llm = model.llm
    assert llm is not None
    address = f"http://{host}:{port}"
    if as_json:
        print_json({"address": address, "port": port, "models": [one.name for one in service.models.all]})
        return
    tell(
        f"{model.name} is served at {address}",
        f"({llm.plan.weights_bytes / GIB:.2f} GiB of weights, context {llm.plan.max_context}, {llm.backend.info.name})",
        *_others(one.name for one in service.models.all if one is not model),
        *_examples(address, model.name, has_key=bool(service.settings.api_keys)),
        "Ctrl-C ends the server.",
    )


def _others(names: Iterable[str]) -> Iterator[str]:
    """A line for the models that are not loaded yet, if there are any.

    >>> list(_others(["code", "small"])), list(_others([]))
    (['Loaded when a request names them: code, small'], [])
    """
    if listed := ", ".join(names):
        yield f"Loaded when a request names them: {listed}"


def _examples(address: str, model: str, has_key: bool) -> Iterator[str]:
    """Commands that try the server; no line is so long that a terminal breaks it inside a text."""
    header, key = ("-H 'x-api-key: KEY' ", "KEY") if has_key else ("", "none")
    yield f"In a browser: {address}"
    yield f"In a terminal: puna chat --server {address}" + (" --api-key KEY" if has_key else "")
    yield "With curl:"
    yield f"  curl {address}/v1/chat/completions {header}\\"
    yield """    -d '{"messages": [{"role": "user", "content": "What is a llama?"}]}'"""
    yield "In Python (pip install openai):"
    yield f"  python -c \"import openai; print(openai.OpenAI(api_key='{key}',"
    yield f"    base_url='{address}/v1').completions.create("
    yield f"    model='{model}', prompt='Llamas are').choices[0].text)\""
