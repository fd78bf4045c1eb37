"""Where the model of a command runs: in this process, or in a running `puna serve` (--server)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from puna.cli.options import engine_config, load_model, read_template_args, set_thinking
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.cli.remote import RemoteLLM
    from puna.llm import LLM
    from puna.progress import Reporter

OF_SERVER = ("tokenizer", "template")  # flags that the server decides, besides the fields of EngineConfig
OF_REQUEST = ("sampling_defaults",)  # a field of EngineConfig that a request decides


def open_model(model: str | None, flags: dict[str, Any], report: Reporter, *, needs_template: bool) -> LLM | RemoteLLM:
    """The model of --server, where that is given; else MODEL, loaded with the flags of the command."""
    if not flags["server"]:
        return load_model(model, flags, report, needs_template=needs_template)
    from puna.cli.remote import RemoteLLM
    from puna.cli.server_link import ServerLink

    _refuse_flags_of_server(flags)
    template_args = read_template_args(flags["template_args"])
    config = engine_config({name: flags[name] for name in OF_REQUEST}, report)
    link = ServerLink(flags["server"], flags["api_key"])
    llm = RemoteLLM(link, model or "", ignores_suggestions=config.sampling_defaults == "puna")
    llm.template_args = template_args
    if flags["no_thinking"]:
        set_thinking(llm, False)
    return llm


def _refuse_flags_of_server(flags: Mapping[str, Any]) -> None:
    from puna.config import EngineConfig

    names = {*OF_SERVER, *(one.name for one in fields(EngineConfig))}.difference(OF_REQUEST)
    if given := [name for name in flags if name in names and flags[name] not in (None, (), False)]:
        shown = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(
            f"{shown} cannot be set with --server: the model is loaded there already",
            hint="Give it to `puna serve` when it starts, or leave --server (PUNA_SERVER) out.",
        )
