"""A model of a running `puna serve`, for the commands that can use one: it is loaded once for all of them.

`RemoteLLM` has those members of `puna.llm.LLM` that `run` and `chat` use, and answers with the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from puna import __version__
from puna.cli.remote_stream import RemoteStream
from puna.cli.server_link import ServerError, ServerLink
from puna.errors import UsageError
from puna.request import SamplingParams
from puna.suggested import NOTHING, Suggested

# Fields of SamplingParams that its chats and completions do not take.
NOT_SENT = (
    "best_of",
    "processed_logprobs",
    "prompt_logprobs",
    "prompt_logprobs_start",
    "begin_suppress_ids",
    "shown_ids",
    "separate_reasoning",
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Stands for the plan and for the configuration of a model that is loaded elsewhere."""

    max_context: int


def _props(link: ServerLink, name: str) -> dict[str, Any]:
    """What the server tells of a model. ServerError for another program, and for another version of puna."""
    props = link.get(f"/props?model={quote(name)}")
    program = props.get("build_info") if isinstance(props, dict) else None
    if program != f"puna {__version__}":
        what = f"is {program}, and this is {__version__}" if str(program).startswith("puna ") else "is no `puna serve`"
        raise ServerError(f"{link.url} {what}", hint="Start the server with this puna, and give its address: --server URL")
    assert isinstance(props, dict)
    return props


class RemoteLLM:
    """A model by its name on a server; "" is the server's first one. PunaError if the server or the model is not there."""

    tokenizer = None

    def __init__(self, link: ServerLink, name: str, *, ignores_suggestions: bool = False) -> None:
        self._link = link
        props = _props(link, name)
        settings = props["default_generation_settings"]
        self.name: str = props["model_alias"]
        self.path = Path(self.name)
        self.plan, self.model = Sizes(settings["n_ctx"]), Sizes(settings["n_ctx_train"])
        self.chat_template: str | None = props["chat_template"] or None
        self.template_args: Mapping[str, Any] = {}
        self.wants_receipts = False  # of the answers that follow
        suggested = settings["params"]
        self._defaults = SamplingParams(**suggested)
        self.suggested = NOTHING if ignores_suggestions else Suggested(suggested, source="the model")

    def chat_stream(self, messages: Sequence[Mapping[str, Any]], params: SamplingParams) -> RemoteStream:
        """As `LLM.chat_stream`. PunaError if the server refuses the request."""
        body = {"messages": list(messages), "chat_template_kwargs": dict(self.template_args)}
        return self._stream("/v1/chat/completions", body | self._logprobs(params), params)

    def stream(self, prompt: str, params: SamplingParams, suffix: str = "") -> RemoteStream:
        """As `LLM.stream`, and with a suffix the text between both."""
        if params.logprobs is not None:
            raise UsageError("--logprobs with --server is for chats: --raw and --suffix have none", hint="Leave one of them out.")
        return self._stream("/v1/completions", {"prompt": prompt, "suffix": suffix}, params)

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """As `LLM.encode_chat`."""
        args = dict(self.template_args)
        body = {"model": self.name, "messages": list(messages), "chat_template_kwargs": args}
        return list(self._link.post("/tokenize", body)["tokens"])

    def _stream(self, path: str, body: dict[str, Any], params: SamplingParams) -> RemoteStream:
        common = {"model": self.name, "stream": True, "return_token_ids": True, "return_receipt": self.wants_receipts}
        return RemoteStream(self._link.stream(path, body | common | self._settings(params)))

    def _settings(self, params: SamplingParams) -> dict[str, Any]:
        """The fields of a body that make the server sample as `params` say: those that differ from its defaults."""
        own = {one.name: getattr(params, one.name) for one in fields(params)}
        changed = {name: value for name, value in own.items() if value != getattr(self._defaults, name)}
        for name in NOT_SENT:
            if name in changed:
                raise UsageError(f"--{name.replace('_', '-')} is not possible with --server", hint="Leave one of them out.")
        changed |= {"max_tokens": params.max_tokens}  # the server's own default is another one
        written = (_WRITTEN[name](value) if name in _WRITTEN else {name: value} for name, value in changed.items())
        return {key: value for one in written for key, value in one.items()}

    @staticmethod
    def _logprobs(params: SamplingParams) -> dict[str, Any]:
        return {} if params.logprobs is None else {"logprobs": True, "top_logprobs": params.logprobs}

    def close(self) -> None:
        """The server keeps the model."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


# Field of SamplingParams whose JSON is not its value -> what is written for it.
_WRITTEN: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "logprobs": lambda value: {},  # each wire has its own form
    "json_object": lambda value: {"response_format": {"type": "json_object"}},
    "json_schema": lambda value: {"json_schema": value.text},
    "logit_bias": lambda value: {"logit_bias": {str(token_id): bias for token_id, bias in value.items()}},
}
