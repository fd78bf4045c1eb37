"""What tools change in a job: the prompt and the form of its answer before it runs, and the events of its calls while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from puna.errors import UsageError
from puna.llm import LLM
from puna.request import CONSTRAINTS, FinishReason, SamplingParams, StepOutput
from puna.schemas import JsonSchema
from puna.server.events import CallPiece, Event, Piece
from puna.server.job import Job
from puna.server.refusals import invalid
from puna.server.tools import format_of
from puna.server.tools.base import CallPart, CallReader, ForTemplate, TextPart, Tool, ToolFormat, ToolUse, require_callable


def told_of_tools(template: str | None, job: Job) -> ForTemplate:
    """The conversation as the template of a model takes it, and the variables in which it takes the tools.

    With tool_choice "none" the model does not hear of the tools: small ones write calls in any guise. In a conversation that has
    calls it does, so that its prefix stays in the cache, and its answer may not begin as a call does.
    """
    require_callable(job.tools)
    if not job.tools and not any(one.get("tool_calls") or one.get("role") == "tool" for one in job.messages):
        return ForTemplate(job.messages, {})
    return format_of(template, job.tools).for_template(template, job.messages, () if _is_hidden(job) else job.tools)


def _is_hidden(job: Job) -> bool:
    return job.tool_choice == "none" and not any(message.get("tool_calls") for message in job.messages)


def held_to_tools(llm: LLM, job: Job, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by which an answer has calls in the model's own form, or none.

    With a JSON schema for the answer, it is calls or such JSON; where no call may come, the schema is all.
    """
    if not job.tools or _is_hidden(job) or (not job.may_call and _constraint_in(settings)):
        return {}
    answer = _schema_of(settings.get("json_schema"), settings.get("json_object", False))
    others = {name: value for name, value in settings.items() if name not in ("json_schema", "json_object")}
    if other := _constraint_in(others):
        raise invalid("tools", f"tools and {other} together are not possible; leave one out")
    known, controls = format_of(llm.chat_template, job.tools), {} if llm.tokenizer is None else llm.tokenizer.special_tokens
    grammar = known.grammar(ToolUse(job.tools, job.tool_choice, job.has_parallel_calls, answer), controls)
    _require_possible(llm, job.tools, grammar)
    shown = (*settings.get("shown_ids", ()), *known.marks(controls))
    return {"json_schema": None, "json_object": False, "grammar": grammar, "shown_ids": shown}


def _constraint_in(settings: Mapping[str, Any]) -> str | None:
    return next((name for name in CONSTRAINTS if settings.get(name)), None)


def _schema_of(json_schema: Any, is_object: bool) -> JsonSchema | None:
    given = {"type": "object"} if is_object else json_schema
    return None if given is None else JsonSchema.of("json_schema", given)


def _require_possible(llm: LLM, tools: Sequence[Tool], grammar: str) -> None:
    """Compile a grammar. If it is refused, a Refusal names the tool whose schema is the reason."""
    constraints = llm.engine.admission.constraints
    try:
        constraints.require(SamplingParams(grammar=grammar))
    except UsageError as of_all:
        for tool in tools:
            try:
                constraints.require(SamplingParams(json_schema=tool.arguments()))
            except UsageError as error:
                raise tool.refused(f"cannot be enforced: {error.line}") from None
        raise invalid("tools", f"tools: {of_all.line}") from None


class Calling:
    """Tells the texts and calls in the outputs of a running job."""

    def __init__(self, known: ToolFormat, tools: Sequence[Tool]) -> None:
        self._format, self._tools = known, tools
        self.notice = known.notice
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
