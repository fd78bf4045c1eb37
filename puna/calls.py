"""What a call takes: prompts or chats, sampling parameters, and what else changes it; and what is made of it for the runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from puna import checks
from puna.errors import UsageError
from puna.messages import Messages
from puna.opening import NO_OPENING, Opening
from puna.processors import LogitsProcessor
from puna.request import SamplingParams, SamplingSettings
from puna.sampling import TokenSampler
from puna.schemas import JsonSchema
from puna.units import counted

ONE_PROMPT = "a text, or a row of token ids,"
Prompt = str | Sequence[int]
Prompts = Sequence[str] | Sequence[Sequence[int]]
Chat = str | Messages  # a text is one message of the user
Chats = Sequence[str] | Sequence[Messages]
Params = SamplingParams | Sequence[SamplingParams] | None  # one for all prompts, or one each; None: the model's defaults


class CallSettings(SamplingSettings, total=False):
    """Arguments of a call besides the fields of SamplingParams; `LLM.stream` explains them."""

    sampler: TokenSampler | Sequence[TokenSampler] | None
    schema: Any
    logits_processors: LogitsProcessor | Sequence[LogitsProcessor] | None
    opening: str | Sequence[int]


class ChatSettings(CallSettings, total=False):
    """Arguments of a chat besides those of any call; `LLM.encode_chat` explains them."""

    template_args: Mapping[str, Any] | None
    chat_template_kwargs: Mapping[str, Any] | None
    continue_final_message: bool | None


class PromptJob(NamedTuple):
    """One prompt, ready for `Runner.submit`."""

    prompt_ids: list[int]
    params: SamplingParams
    sampler: TokenSampler | None
    processors: tuple[LogitsProcessor, ...] = ()
    opening: Opening = NO_OPENING


BESIDE_FIELDS = CallSettings.__annotations__.keys() - SamplingSettings.__annotations__.keys()
CHAT_SETTINGS = ChatSettings.__annotations__.keys() - CallSettings.__annotations__.keys()


def is_prompt(given: Any) -> bool:
    """Whether `given` is one prompt (text or a row of ids), not a list of prompts. UsageError for anything else."""
    if isinstance(given, str):
        return True
    items = checks.row("the prompt", given, f"{ONE_PROMPT} or a list of such prompts,")
    return len(items) > 0 and not isinstance(items[0], str) and not checks.is_row(items[0])


def is_conversation(given: Any) -> bool:
    """Whether `given` is one conversation (text or messages), not a list of them. UsageError for anything else."""
    if isinstance(given, str):
        return True
    items = checks.row("the chat", given, "a text, a list of messages, or a list of such chats,")
    return len(items) > 0 and isinstance(items[0], Mapping)


def schema_of(settings: Mapping[str, Any]) -> dict[str, JsonSchema]:
    """What `schema` sets: the field `json_schema`."""
    given = settings.get("schema")
    if given is not None and settings.get("json_schema") is not None:
        raise UsageError("schema and json_schema are two names of one argument", hint="Give one of them.")
    return {} if given is None else {"json_schema": JsonSchema.of("schema", given)}


def as_conversation(given: Chat) -> Messages:
    """A chat as messages. UsageError for a text without a word; a message in a list may be empty, as other programs send it."""
    if not isinstance(given, str):
        return given
    if not given.strip():
        raise UsageError("the question is empty", hint="Give a question, or use --raw to continue an empty text.")
    return [{"role": "user", "content": given}]


def require_one_each(what: str, given: Sequence[Any], count: int) -> None:
    if len(given) != count:
        noun, *rest = what.split(" ", 1)
        words = " ".join((counted(len(given), noun), *rest))
        raise UsageError(f"{words} for {counted(count, 'prompt')}", hint="Give one, or one each.")
