"""What tools change in a job: the prompt and the form of its answer before it runs, and the events of its calls while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from puna.errors import UsageError
from puna.llm import LLM
from puna.messages import Messages
from puna.request import FinishReason, SamplingParams, StepOutput
from puna.schemas import JsonSchema
from puna.server.events import CallPiece, Event, Piece
from puna.server.job import Job
from puna.server.refusals import Refusal
from puna.server.tools import format_of
from puna.server.tools.base import CallPart, CallReader, TextPart, Tool, ToolFormat, ToolUse, require_callable


class Held(NamedTuple):
    """A chat whose answer is held to the tools: what `LLM.chat_jobs` is given."""

    messages: Messages
    settings: dict[str, Any]
    template_args: dict[str, Any]


def held_to_tools(llm: LLM, job: Job, settings: Mapping[str, Any]) -> Held:
    """The conversation as the model's template takes it, and the settings by which calls have the model's own form.

    With a JSON schema for the answer, it is calls or such JSON; where no call may come, the schema is all.
    """
    require_callable(job.tools)
    known, held = format_of(llm.chat_template), {**settings}
    if job.may_call or not _constraint_in(held):
        answer = _schema_of(held.pop("json_schema", None), held.pop("json_object", False))
        if other := _constraint_in(held):
            raise Refusal(400, f"tools and {other} together are not possible; leave one out", field="tools", code="invalid_value")
        controls = {} if llm.tokenizer is None else llm.tokenizer.special_tokens
        held["grammar"] = known.grammar(ToolUse(job.tools, job.tool_choice, job.has_parallel_calls, answer), controls)
        _require_possible(llm, job.tools, held["grammar"])
    messages, tools = known.for_template(job.messages, job.tools)
    return Held(messages, held, {} if tools is None else {"tools": tools})


def _constraint_in(settings: Mapping[str, Any]) -> str | None:
    return next((name for name in ("json_schema", "json_object", "regex", "choice", "grammar") if settings.get(name)), None)


def _schema_of(json_schema: Any, is_object: bool) -> JsonSchema | None:
    given = {"type": "object"} if is_object else json_schema
    return None if given is None else JsonSchema.of("json_schema", given)


def _require_possible(llm: LLM, tools: Sequence[Tool], grammar: str) -> None:
    """Compile a grammar. If it is refused, a Refusal names the tool whose schema is the reason."""
    constraints = llm.engine.admission.constraints
    try:
        constraints.require(SamplingParams(grammar=grammar))
    except UsageError:
        for tool in tools:
            try:
                constraints.require(SamplingParams(json_schema=tool.arguments()))
            except UsageError as error:
                raise tool.refused(f"cannot be enforced: {error.line}") from None
        raise


class Calling:
    """Tells the texts and calls in the outputs of a running job."""

    def __init__(self, known: ToolFormat, tools: Sequence[Tool]) -> None:
        self._format, self._tools = known, tools
        self._readers: dict[int, CallReader] = {}
        self._has_text: set[int] = set()
        self._has_calls: set[int] = set()

    def events(self, output: StepOutput, has_thought: bool) -> Iterator[Event]:
        """`has_thought`: the sample began with thoughts; the line ends between these and the answer belong to neither."""
        index = output.index
        if index not in self._readers:
            self._readers[index] = self._format.reader(self._tools)
        text = output.text.lstrip() if has_thought and index not in self._has_text else output.text
        if text:
            self._has_text.add(index)
        parts = [*self._readers[index].feed(text), *(self._readers[index].end() if output.finish_reason is not None else ())]
        said = "".join(part.text for part in parts if isinstance(part, TextPart))
        if said or output.reasoning or output.logprobs:
            yield Piece(index, said, output.reasoning, output.token_ids, output.logprobs)
        for part in parts:
            if isinstance(part, CallPart):
                self._has_calls.add(index)
                yield CallPiece(index, part.call, part.arguments, self._format.new_id() if part.name else "", part.name)

    def reason(self, output: StepOutput) -> str:
        """Why a sample ended: length before tool_calls before stop (CLIENTS.md B5). A stop text may have cut a call."""
        is_whole = output.index in self._has_calls and not self._readers[output.index].is_inside
        return "tool_calls" if output.finish_reason is FinishReason.STOP and is_whole else str(output.finish_reason)
