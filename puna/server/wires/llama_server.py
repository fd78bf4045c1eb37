"""llama-server's own routes that clients use (its README, 2026), and lm-eval's `/tokenizer_info`: tokens, templates, infill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from puna import __version__
from puna.completion import Timing
from puna.llm import LLM
from puna.server.conversation import as_conversation
from puna.server.events import Ended, Piece
from puna.server.fields import Fields, ignored_header
from puna.server.job import Job
from puna.server.refusals import Refusal
from puna.server.replies import sse
from puna.server.running_job import RunningJob, prompt_ids
from puna.server.service import Endpoint, Service
from puna.server.wires.base import WireRoute
from puna.server.wires.openai_shapes import HINTS, SETTINGS, SHAPE, biases, error_body
from puna.server.wires.openai_tools import ToolFields
from puna.tokenizers.base import Tokenizer

MAX_TEXT = 4 << 20  # characters of a text to tokenise


class TokenizeFields(Fields):
    """The body of `/tokenize`: llama-server's `content`, or vLLM's `prompt` (lm-eval) or `messages`."""

    content: str = Field("", max_length=MAX_TEXT)
    prompt: str = Field("", max_length=MAX_TEXT)
    messages: list[dict[str, Any]] = []
    chat_template_kwargs: dict[str, Any] = {}
    add_generation_prompt: bool = True
    model: str = ""
    add_special: bool = False
    add_special_tokens: bool | None = None
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeFields(Fields):
    """The body of `/detokenize`."""

    tokens: list[int] = Field(max_length=1 << 20)
    model: str = ""


class TemplateFields(ToolFields):
    """The body of `/apply-template`."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    model: str = ""
    chat_template_kwargs: dict[str, Any] = {}
    add_generation_prompt: bool = True

    def job(self) -> Job:
        return Job(
            wire="llama-server",
            model=self.model,
            messages=[as_conversation(message) for message in self.messages],
            template_args=self.chat_template_kwargs,
            tools=self.functions.tools,
        )


class NativeFields(Fields):
    """The body of `/completion`: a prompt is continued as it is."""

    SETTINGS: ClassVar[Mapping[str, str]] = {name: own for name, own in SETTINGS.items() if name != "n"}
    HINTS: ClassVar[frozenset[str]] = HINTS | {"id_slot", "samplers_seq", "t_max_predict_ms", "n_cache_reuse", "response_fields"}

    prompt: str | list[int] = ""
    model: str = ""
    stream: bool = False
    logit_bias: dict[str, float] = {}

    def job(self) -> Job:
        own = {**self.settings, **({"logit_bias": biases(self.logit_bias)} if self.logit_bias else {})}
        return Job("llama-server", self.model, prompt=self.prompt, settings=own, defaults={"max_tokens": None})


class InfillFields(NativeFields):
    """The body of `/infill`: the text between a prefix and a suffix."""

    input_prefix: str
    input_suffix: str
    input_extra: list[dict[str, Any]] = []

    def job(self) -> Job:
        if self.input_extra:
            raise Refusal(400, "input_extra is not supported; leave it out", field="input_extra", code="unsupported_parameter")
        prefix = self.input_prefix + (self.prompt if isinstance(self.prompt, str) else "")
        return Job("llama-server", self.model, prompt=prefix, suffix=self.input_suffix, settings=self.settings)


class NativeWriter:
    """Writes a job as llama-server's completion."""

    def __init__(self, run: RunningJob) -> None:
        self._run = run

    async def chunks(self) -> AsyncIterator[bytes]:
        async for event in self._run.events():
            if isinstance(event, Piece):
                yield sse({"content": event.reasoning + event.text, "tokens": list(event.token_ids), "stop": False, "index": 0})
            elif isinstance(event, Ended):
                yield sse(self._last("", event))

    async def whole(self) -> dict[str, Any]:
        drained = await self._run.drained()
        return self._last(drained.thoughts() + drained.text(), drained.ends[0])

    def _last(self, text: str, end: Ended) -> dict[str, Any]:
        usage, request = self._run.usage, self._run.handle.confirm()
        timing = Timing.of(self._run.handle, request)
        kind = "limit" if end.reason == "length" else "word" if isinstance(end.stop_reason, str) else "eos"
        decode_ms = 1000 * (timing.total_s - timing.first_token_s)
        return {
            "index": 0,
            "content": text,
            "tokens": list(request.output_ids),
            "stop": True,
            "stop_type": kind,
            "stopping_word": end.stop_reason if isinstance(end.stop_reason, str) else "",
            "truncated": request.num_dropped > 0,
            "tokens_predicted": usage.output,
            "tokens_evaluated": usage.prompt,
            "tokens_cached": usage.cached,
            "timings": {
                "cache_n": usage.cached,
                "prompt_n": usage.prompt - usage.cached,
                "prompt_ms": 1000 * timing.first_token_s,
                "prompt_per_second": timing.prefill_per_s,
                "predicted_n": usage.output,
                "predicted_ms": decode_ms,
                "predicted_per_second": timing.decode_per_s,
            },
        }


def _completing(kind: type[NativeFields]) -> Callable[[Service], Endpoint]:
    def make(service: Service) -> Endpoint:
        async def answer(request: Request) -> ASGIApp:
            fields = kind.read(await service.read_json(request))
            run = await service.begin(fields.job())
            run.ignored = fields.ignored()
            return service.reply(NativeWriter(run), SHAPE, fields.stream, run)

        return service.answered(answer, error_body)

    return make


def tokenize(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        fields = TokenizeFields.read(await service.read_json(request))
        async with service.models.using(fields.model) as llm:
            tokens = await asyncio.to_thread(_tokens_of, llm, fields)
            told = {"tokens": tokens, "count": len(tokens), "max_model_len": llm.plan.max_context}
            return await asyncio.to_thread(JSONResponse, told)

    return service.answered(answer, error_body)


def _tokens_of(llm: LLM, fields: TokenizeFields) -> list[Any]:
    ids = _ids_of(llm, fields)
    return [_with_piece(_tokenizer(llm), i) for i in ids] if fields.with_pieces else ids


def _ids_of(llm: LLM, fields: TokenizeFields) -> list[int]:
    if fields.messages:
        messages = [as_conversation(message) for message in fields.messages]
        job = Job("llama-server", messages=messages, template_args=fields.chat_template_kwargs)
        return prompt_ids(llm, job, fields.add_generation_prompt)
    has_ends = fields.add_special if fields.add_special_tokens is None else fields.add_special_tokens
    bos = None if has_ends else False
    return _tokenizer(llm).encode(
        fields.content or fields.prompt, bos=bos, eos=None if has_ends else False, special=fields.parse_special
    )


def _with_piece(tokenizer: Tokenizer, token_id: int) -> dict[str, Any]:
    """A token and its text; its bytes where they are no text."""
    raw = tokenizer.token_bytes(token_id)
    try:
        return {"id": token_id, "piece": raw.decode() or tokenizer.decode([token_id], skip_special=False)}
    except UnicodeDecodeError:
        return {"id": token_id, "piece": list(raw)}


def detokenize(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        fields = DetokenizeFields.read(await service.read_json(request))
        async with service.models.using(fields.model) as llm:
            llm.engine.admission.require_ids("token id", fields.tokens)
            text = await asyncio.to_thread(llm.decode, fields.tokens, skip_special=False)
            return JSONResponse({"content": text, "prompt": text})

    return service.answered(answer, error_body)


def tokenizer_info(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        async with service.models.using("") as llm:
            tokenizer, ends = _tokenizer(llm), _ends(llm)
            names = {**ends, "pad_token": ends["eos_token"], "chat_template": llm.chat_template}
            return JSONResponse({**names, "vocab_size": tokenizer.vocab_size, "model_max_length": llm.plan.max_context})

    return service.answered(answer, error_body)


def _ends(llm: LLM) -> dict[str, str]:
    """The texts of the tokens that begin and end a text; "" for one that there is not."""
    tokenizer = llm.tokenizer
    spelled = {} if tokenizer is None else {i: text for text, i in tokenizer.special_tokens.items()}
    bos, eos = (None, None) if tokenizer is None else (tokenizer.bos_id, tokenizer.eos_id)
    return {"bos_token": "" if bos is None else spelled.get(bos, ""), "eos_token": "" if eos is None else spelled.get(eos, "")}


def apply_template(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        fields = TemplateFields.read(await service.read_json(request))
        async with service.models.using(fields.model) as llm:
            ids = await asyncio.to_thread(prompt_ids, llm, fields.job(), fields.add_generation_prompt)
            prompt = await asyncio.to_thread(llm.decode, ids, skip_special=False)
            return JSONResponse({"prompt": prompt}, headers=ignored_header(fields.ignored()))

    return service.answered(answer, error_body)


def props(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        name = request.query_params.get("model", "")
        async with service.models.using(name) as llm:
            sizes = {"n_ctx": llm.plan.max_context, "n_ctx_train": llm.model.max_context}
            alias = service.models.named(name).name
            return JSONResponse(
                {
                    "default_generation_settings": {**sizes, "params": dict(llm.suggested.settings)},
                    "total_slots": llm.plan.max_sequences,
                    "model_alias": alias,
                    "model_path": alias,  # no path of the server is told
                    **_ends(llm),
                    "chat_template": llm.chat_template or "",
                    "modalities": {"vision": False, "audio": False},
                    "build_info": f"puna {__version__}",
                }
            )

    return service.answered(answer, error_body)


def slots(service: Service) -> Endpoint:
    """What runs, one entry for each sequence that could: monitors count those that are busy. No prompts are told.

    None of a model that is not loaded: a monitor that asks now and then must not keep it in memory.
    """

    async def answer(request: Request) -> ASGIApp:
        llm = service.models.named(request.query_params.get("model", "")).llm
        if llm is None:
            return JSONResponse([])
        busy = sum(len(run.handle.samples) for run in service.running if run.llm is llm)
        context = llm.plan.max_context
        return JSONResponse([{"id": i, "n_ctx": context, "is_processing": i < busy} for i in range(llm.plan.max_sequences)])

    return service.answered(answer, error_body)


def _tokenizer(llm: LLM) -> Tokenizer:
    if llm.tokenizer is None:
        raise Refusal(400, "this model has no tokenizer", code="unsupported_model")
    return llm.tokenizer


complete, infill = _completing(NativeFields), _completing(InfillFields)

ROUTES = (
    WireRoute("/completion", complete, fields=NativeFields),
    WireRoute("/completions", complete, fields=NativeFields),
    WireRoute("/infill", infill, fields=InfillFields),
    WireRoute("/tokenize", tokenize, fields=TokenizeFields),
    WireRoute("/detokenize", detokenize, fields=DetokenizeFields),
    WireRoute("/apply-template", apply_template, fields=TemplateFields),
    WireRoute("/tokenizer_info", tokenizer_info, "GET"),
    WireRoute("/props", props, "GET"),
    WireRoute("/slots", slots, "GET"),
)
