"""puna's own wire for looking into answers: `/trace` shows each step of one, and `/rank` how likely texts are at any place of it.

Nothing is kept between two requests: each brings its prompt, and the ids of the answer so far. The K and V of both are in the
prefix cache, so that to look at one step costs about one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field
from starlette.requests import Request
from starlette.types import ASGIApp

from puna.glassbox.own_text import text_in_place_of
from puna.glassbox.receipt import BESIDE_RESULT
from puna.glassbox.record import MAX_PROMPT_TOKENS, step_recorder, trace_of, used_filters
from puna.glassbox.recorder import StepRecorder
from puna.glassbox.trace import Trace
from puna.llm import LLM
from puna.score import OptionScore
from puna.server.conversation import as_conversation
from puna.server.fields import Fields, ignored_header
from puna.server.job import Job, JobOpening
from puna.server.reasoning import Effort, ReasoningWish, hears
from puna.server.refusals import invalid
from puna.server.replies import WholeReply, dumps
from puna.server.running_job import RunningJob
from puna.server.service import Endpoint, Service
from puna.server.wires.base import WireRoute
from puna.server.wires.openai_chat import constraint_of
from puna.server.wires.openai_shapes import HINTS, SETTINGS, SHAPE, biases, error_body, finite

WIRE = "glassbox"
MAX_IDS = 1 << 20  # of an answer
MAX_TOP = 1000
MAX_CANDIDATES = 20_000  # of a trace: some 3 MB of JSON
MAX_OPTIONS, MAX_OPTION_CHARACTERS = 64, 4096
NO_TOOLS = "give the prompt as token ids: a stream tells them with return_token_ids"
ONE_SAMPLE = ("n", "max_tokens", "n_predict")  # settings that mean nothing here


class StepFields(Fields):
    """What the bodies of both routes have: a prompt, and the answer to it so far."""

    REFUSED: ClassVar[Mapping[str, str]] = {"tools": NO_TOOLS, "tool_choice": NO_TOOLS}

    messages: list[dict[str, Any]] = []
    prompt: str | list[int] = ""
    model: str = ""
    token_ids: list[int] = Field([], max_length=MAX_IDS)
    chat_template_kwargs: dict[str, Any] = {}
    reasoning_effort: Effort | None = None

    def require_one_prompt(self) -> None:
        """Refusal unless there is one."""
        if bool(self.messages) == bool(self.prompt):
            raise invalid("messages", "give messages or a prompt" + (", not both" if self.messages else ""))

    def job_of(self, settings: Mapping[str, Any], traced_from: int | None = None) -> Job:
        """The prompt, with the answer as what it opens with."""
        self.require_one_prompt()
        opening = JobOpening(self.token_ids, "token_ids", traced_from if self.token_ids else None)
        given: dict[str, Any] = {"prompt": self.prompt}
        if self.messages:
            wish = ReasoningWish(effort=self.reasoning_effort)
            given = {"messages": [as_conversation(one) for one in self.messages], "reasoning": wish}
        return Job(WIRE, self.model, settings=settings, template_args=self.chat_template_kwargs, opening=opening, **given)

    def unheeded(self, template: str | None) -> list[str]:
        """Names of what changes nothing for the model of a chat template."""
        is_heard = not self.reasoning_effort or (bool(self.messages) and hears(template))
        return self.ignored() if is_heard else [*self.ignored(), "reasoning_effort"]


class TraceFields(StepFields):
    """The body of `/trace`: the answer is run again, and its steps from `first` to `last` are told (docs/trace.schema.json).

    `last` is the place after the last step; None: after the last of `token_ids`. Beyond these, tokens are sampled.
    """

    SETTINGS: ClassVar[Mapping[str, str]] = {name: own for name, own in SETTINGS.items() if name not in ONE_SAMPLE}
    HINTS: ClassVar[frozenset[str]] = HINTS - {"reasoning_effort"}
    REFUSED: ClassVar[Mapping[str, str]] = {**StepFields.REFUSED, **dict.fromkeys(ONE_SAMPLE, "send last")}

    logit_bias: dict[str, float] = {}
    response_format: dict[str, Any] = {}
    first: int = Field(0, ge=0, le=MAX_IDS)
    last: int | None = Field(None, ge=1, le=MAX_IDS)
    top: int = Field(10, ge=0, le=MAX_TOP)  # candidates that each stage shows; 0: no stages
    prompt_tokens: int = Field(0, ge=0, le=MAX_PROMPT_TOKENS)  # of the prompt, that the trace shows

    def job(self) -> Job:
        """The internal request. Refusal for steps that there are not."""
        self.require_one_prompt()
        end = len(self.token_ids) if self.last is None else self.last
        if not self.first < end:
            raise invalid("first", f"first is {self.first}, and the steps end at {end}; give token_ids, or a last after it")
        if self.first > len(self.token_ids):
            raise invalid(
                "first", f"first is {self.first}, and token_ids holds {len(self.token_ids)}; it lies in these, or follows"
            )
        own = {**self.settings, **constraint_of(self.response_format), "max_tokens": end}
        if self.logit_bias:
            own["logit_bias"] = biases(self.logit_bias)
        seen = self.model_copy(update={"token_ids": self.token_ids[:end]})
        return seen.job_of(own, self.first)


class RankFields(StepFields):
    """The body of `/rank`: texts of which any could follow, as they are. `in_place_of`: the text of the token in whose place a
    person has typed them; then `own_text.py` says what they mean.
    """

    SETTINGS: ClassVar[Mapping[str, str]] = {name: name for name in ("lora_name", "cache_salt", "priority", "timeout")}

    options: list[str] = Field(min_length=1, max_length=MAX_OPTIONS)
    in_place_of: str | None = Field(None, max_length=MAX_OPTION_CHARACTERS)

    def checked_options(self) -> list[str]:
        for number, option in enumerate(self.options):
            if not 0 < len(option) <= MAX_OPTION_CHARACTERS:
                problem = f"options.{number} has {len(option)} characters; 1 to {MAX_OPTION_CHARACTERS} are allowed"
                raise invalid(f"options.{number}", problem)
        if self.in_place_of is None:
            return self.options
        return [text_in_place_of(self.in_place_of, option) for option in self.options]


class TraceWriter:
    """Writes a watched run as the JSON of its trace."""

    def __init__(self, run: RunningJob, recorder: StepRecorder, fields: TraceFields, model: str) -> None:
        self._run, self._recorder, self._fields, self._model = run, recorder, fields, model

    async def whole(self) -> bytes:
        await self._run.drained()
        return await asyncio.to_thread(lambda: dumps(self._trace().as_json()).encode())

    def _trace(self) -> Trace:
        run, first = self._run, self._fields.first
        given = run.job.prompt if isinstance(run.job.prompt, str) else None
        traced = replace(run.llm.traced_model, path=self._model)  # no path of the server is told
        filters = tuple(used_filters(run.params, has_processors=False))
        whole = trace_of(run.completion, run.params, self._recorder, traced, filters, given=given, tokenizer_s=run.prepare_s)
        shown = whole.prompt.tokens[: self._fields.prompt_tokens]
        prompt = replace(whole.prompt, tokens=shown, num_left_out=whole.prompt.num_tokens - len(shown))
        settings = {name: value for name, value in whole.settings.items() if name not in BESIDE_RESULT}
        return replace(whole, steps=whole.steps[first:], prompt=prompt, settings=settings)


def trace(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        fields = TraceFields.read(await service.read_json(request))
        recorders: list[StepRecorder] = []

        def watch(llm: LLM) -> StepRecorder:
            recorders.append(step_recorder(llm.traced_model, fields.top, MAX_CANDIDATES))
            return recorders[0]

        run = await service.begin(fields.job(), watch)
        run.ignored = fields.unheeded(run.llm.chat_template)
        writer = TraceWriter(run, recorders[0], fields, service.models.named(fields.model).name)
        return WholeReply(writer.whole(), SHAPE.error_body, run.close, run.headers)

    return service.answered(answer, error_body)


def rank(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        fields = RankFields.read(await service.read_json(request))
        job, options = fields.job_of({**fields.settings, "max_tokens": None}), fields.checked_options()

        async def body() -> dict[str, Any]:
            scores = await service.score(job, options)
            best = sorted(range(len(options)), key=lambda number: scores[number].logprob, reverse=True)
            results = [_ranked(number, options[number], scores[number]) for number in best]
            return {"model": service.models.named(fields.model).name, "results": results}

        return WholeReply(body(), error_body, headers=ignored_header(fields.ignored()))

    return service.answered(answer, error_body)


def _ranked(index: int, text: str, score: OptionScore) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprob": finite(score.logprob),
        "mean_logprob": finite(score.mean_logprob),
        "token_ids": list(score.token_ids),
        "token_logprobs": list(map(finite, score.token_logprobs)),
        "is_greedy": score.is_greedy,
    }


ROUTES = (WireRoute("/trace", trace, fields=TraceFields), WireRoute("/rank", rank, fields=RankFields))
