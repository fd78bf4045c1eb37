"""OpenAI's `/v1/completions` (https://platform.openai.com/docs/api-reference/completions), with echo, the log-probabilities of
prompts (lm-eval), `suffix`, `n` and `best_of`. A prompt is continued as it is: no chat template is applied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar

from pydantic import Field
from starlette.requests import Request
from starlette.types import ASGIApp

from puna.completion import Completion
from puna.request import TokenLogprob
from puna.server.events import Ended, Piece, Usage
from puna.server.fields import Fields
from puna.server.ids import new_id
from puna.server.job import Job, JobOpening
from puna.server.refusals import invalid
from puna.server.replies import sse
from puna.server.running_job import RunningJob
from puna.server.service import Endpoint, Service
from puna.server.wires.base import WireRoute
from puna.server.wires.openai_chat import FINISH, StreamOptions, constraint_of
from puna.server.wires.openai_shapes import (
    HINTS,
    SETTINGS,
    SHAPE,
    TokenIds,
    biases,
    error_body,
    finite,
    know_model,
    receipts_of,
    usage_body,
)

MAX_PROMPTS = 64


class TextCompletionFields(Fields):
    """The body of a completion."""

    SETTINGS: ClassVar[Mapping[str, str]] = {**SETTINGS, "best_of": "best_of"}
    HINTS: ClassVar[frozenset[str]] = HINTS

    prompt: str | list[str] | list[int] | list[list[int]]
    model: str = ""
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    echo: bool = False
    suffix: str = ""
    logprobs: int | None = Field(None, ge=0, le=20)
    logit_bias: dict[str, float] = {}
    response_format: dict[str, Any] = {}
    return_token_ids: bool = False  # vLLM's; streams only
    return_receipt: bool = False  # the end tells what `puna replay` needs to verify the run
    opening: str | list[int] = ""  # the answer begins with this text, or these ids; they count as generated

    def jobs(self) -> list[Job]:
        """One for each prompt. Refusal for what cannot be done."""
        prompts = self.prompts()
        if not 0 < len(prompts) <= MAX_PROMPTS:
            raise invalid("prompt", f"prompt holds {len(prompts)} prompts; 1 to {MAX_PROMPTS} are allowed")
        if self.suffix and self.echo:
            raise invalid("echo", "echo and suffix together are not possible; leave one out")
        if self.stream and "best_of" in self.settings:
            raise invalid("best_of", "best_of cannot be streamed: which samples are best is known at the end")
        own: dict[str, Any] = {"settings": self._own(), "opening": JobOpening(self.opening), "suffix": self.suffix or None}
        return [Job("openai", self.model, prompt=prompt, defaults={"max_tokens": 16}, **own) for prompt in prompts]

    def prompts(self) -> Sequence[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [self.prompt] if self.prompt and isinstance(self.prompt[0], int) else self.prompt  # type: ignore[return-value]

    def _own(self) -> dict[str, Any]:
        own = {**self.settings, **constraint_of(self.response_format)}
        if self.logit_bias:
            own["logit_bias"] = biases(self.logit_bias)
        if self.logprobs is not None:
            own["logprobs"] = self.logprobs
            if self.echo:
                own["prompt_logprobs"] = self.logprobs
        return own


class Runs(list[RunningJob]):
    """The runs of one request: one for each prompt."""

    @property
    def headers(self) -> dict[str, str]:
        return self[0].headers

    def close(self) -> None:
        for run in self:
            run.close()


class CompletionWriter:
    """Writes runs, one for each prompt, as a completion: as chunks, or whole."""

    def __init__(self, runs: Sequence[RunningJob], model: str, fields: TextCompletionFields) -> None:
        self._runs, self._fields = runs, fields
        self._num = runs[0].params.n
        self._head = {
            "id": new_id("cmpl-"), "object": "text_completion", "created": int(runs[0].began_at), "model": model
        }  # fmt: skip

    @property
    def usage(self) -> Usage:
        each = [run.usage for run in self._runs]
        return Usage(*(sum(getattr(usage, name) for usage in each) for name in ("prompt", "cached", "output", "reasoning")))

    async def chunks(self) -> AsyncIterator[bytes]:
        """The prompts one after the other, as OpenAI's own server writes them by index."""
        for number, run in enumerate(self._runs):
            if self._fields.return_token_ids:
                yield self._chunk(number * self._num, "", **TokenIds(run, True).of_prompt())
            async for index, chunk in self._chunks_of(run):
                yield self._chunk(number * self._num + index, **chunk)
        if self._fields.return_receipt:
            yield sse({**self._head, "choices": [], **await self._receipts()})
        if self._fields.stream_options.include_usage:
            yield sse({**self._head, "choices": [], "usage": usage_body(self.usage)})
        yield sse("[DONE]")

    async def _chunks_of(self, run: RunningJob) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        """(sample, what its next chunk holds). An echo comes when the prompt is computed, with its log-probabilities."""
        unechoed = set(range(self._num)) if self._fields.echo else set()
        ids = TokenIds(run, self._fields.return_token_ids)
        async for event in run.events():
            if isinstance(event, Piece | Ended) and event.index in unechoed:
                unechoed.remove(event.index)
                entries = run.handle.confirm().prompt_logprobs
                yield event.index, {"text": self._echoed(run), "logprobs": self._logprobs(entries, run)}
            if isinstance(event, Piece):
                logprobs = self._logprobs(event.logprobs, run)
                yield event.index, {"text": event.reasoning + event.text, "logprobs": logprobs, **ids.of_piece(event)}
            elif isinstance(event, Ended):
                yield event.index, {"text": "", "reason": FINISH.get(event.reason, event.reason), **ids.at_end(event)}

    async def whole(self) -> dict[str, Any]:
        await asyncio.gather(*(run.drained() for run in self._runs))
        choices = [
            self._choice(run, number * self._num + index, one)
            for number, run in enumerate(self._runs)
            for index, one in enumerate(run.completion.choices)
        ]
        receipts = await self._receipts() if self._fields.return_receipt else {}
        return {**self._head, "choices": choices, "usage": usage_body(self.usage), **receipts}

    async def _receipts(self) -> dict[str, Any]:
        """Of all samples, as the choices are numbered."""
        each = [await receipts_of(run, str(self._head["model"])) for run in self._runs]
        return {"puna_receipts": [receipt for one in each for receipt in one]}

    def _choice(self, run: RunningJob, index: int, one: Completion) -> dict[str, Any]:
        reason = FINISH.get(str(one.finish_reason), str(one.finish_reason))
        echoed, entries = "", list[TokenLogprob | None](one.logprobs)
        if self._fields.echo:
            echoed = self._echoed(run)
            entries = [*one.prompt_logprobs, *one.logprobs]
        logprobs = self._logprobs(entries, run)
        return {"index": index, "text": echoed + one.raw_text, "logprobs": logprobs, "finish_reason": reason}

    def _echoed(self, run: RunningJob) -> str:
        prompt = run.job.prompt
        return prompt if isinstance(prompt, str) else run.llm.decode(prompt or (), skip_special=False)

    def _chunk(self, index: int, text: str, logprobs: Any = None, reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason, **more}
        return sse({**self._head, "choices": [choice]})

    def _logprobs(self, entries: Sequence[TokenLogprob | None], run: RunningJob) -> dict[str, Any] | None:
        """OpenAI's old form: four lists. The first token of an echoed prompt has no log-probability."""
        if self._fields.logprobs is None:
            return None
        first = run.handle.confirm().prompt_ids[:1]
        texts = [run.llm.decode(first, skip_special=False) if entry is None else entry.text for entry in entries]
        return {
            "tokens": texts,
            "token_logprobs": [None if entry is None else finite(entry.logprob) for entry in entries],
            "top_logprobs": [None if entry is None else _top(entry) for entry in entries],
            "text_offset": list(accumulate(map(len, texts), initial=0))[:-1],
        }


def _top(entry: TokenLogprob) -> dict[str, float]:
    """The n most likely tokens by their texts, and the token itself. Of two with one text, the likelier one counts."""
    pairs = [(text, logprob) for (_, logprob), text in zip(entry.top, entry.top_texts)]
    return {text: finite(logprob) for text, logprob in reversed([*pairs, (entry.text, entry.logprob)])}


def endpoint(service: Service) -> Endpoint:
    async def complete(request: Request) -> ASGIApp:
        fields = TextCompletionFields.read(await service.read_json(request))
        runs = Runs()
        try:
            for job in fields.jobs():
                runs.append(await service.begin(job))
            if fields.return_receipt:
                await know_model(runs[0])
        except BaseException:
            runs.close()
            raise
        runs[0].ignored = fields.ignored()
        writer = CompletionWriter(runs, service.models.named(fields.model).name, fields)
        return service.reply(writer, SHAPE, fields.stream, runs)

    return service.answered(complete, error_body)


ROUTES = (WireRoute("/v1/completions", endpoint, fields=TextCompletionFields),)
