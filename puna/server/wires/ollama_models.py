"""Ollama's routes about models: tags, ps, show, version, and the embeddings. Models come by `puna pull`, never by a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from puna.server.fields import Fields, ignored_header
from puna.server.model_facts import ModelFacts, facts_of
from puna.server.models import ServedModel
from puna.server.refusals import Refusal
from puna.server.replies import WholeReply
from puna.server.service import Endpoint, Service
from puna.server.times import rfc3339
from puna.server.wires.base import WireRoute
from puna.server.wires.ollama_shapes import LATEST, OllamaFields, error_body, name_of, parameters_of

VERSION = "0.35.0"  # the version of Ollama's API that these routes speak; clients compare it
FOREVER_S = 100 * 365 * 86400.0  # what clients are told of a model that stays loaded
BY_HAND = ("pull", "push", "create", "copy", "delete", "blobs/{digest}")  # what only a person at the machine does


class ShowFields(Fields):
    """The body of `/api/show`. Older clients, and Continue, say `name`."""

    HINTS: ClassVar[frozenset[str]] = frozenset({"verbose", "system", "template", "options"})

    model: str = ""
    name: str = ""


class EmbedFields(OllamaFields):
    """The body of `/api/embed`."""

    OPTIONS: ClassVar[Mapping[str, str]] = {}

    input: str | list[str]
    dimensions: int | None = None
    truncate: bool = True


class OldEmbedFields(OllamaFields):
    """The body of `/api/embeddings`, the older route: one prompt."""

    OPTIONS: ClassVar[Mapping[str, str]] = {}

    prompt: str


def details(facts: ModelFacts) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": facts.family,
        "families": [facts.family],
        "parameter_size": facts.size_word,
        "quantization_level": facts.weight_type,
    }


async def entry(model: ServedModel) -> dict[str, Any]:
    """A model in a list."""
    facts = await asyncio.to_thread(facts_of, model)
    name = model.name if ":" in model.name else model.name + LATEST
    return {"name": name, "model": name, "size": facts.num_bytes, "digest": facts.digest, "details": details(facts)}


def tags(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        listed = [{**await entry(model), "modified_at": rfc3339(model.created_at)} for model in service.models.all]
        return JSONResponse({"models": listed})

    return service.answered(answer, error_body)


def loaded(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        return JSONResponse({"models": [await _running(model) for model in service.models.all if model.llm is not None]})

    return service.answered(answer, error_body)


async def _running(model: ServedModel) -> dict[str, Any]:
    llm = model.llm
    if llm is None:
        return {}
    left_s = FOREVER_S if model.expires_at is None else min(FOREVER_S, model.expires_at - time.monotonic())
    on_gpu = llm.plan.total_bytes if llm.backend.info.name.startswith("cuda") else 0
    more = {"expires_at": rfc3339(time.time() + left_s), "size_vram": on_gpu, "context_length": llm.plan.max_context}
    return {**await entry(model), "size": llm.plan.total_bytes, **more}


def show(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        fields = ShowFields.read(await service.read_json(request))
        model = service.models.named(name_of(fields.model or fields.name))
        facts = await asyncio.to_thread(facts_of, model)
        info: dict[str, Any] = {"general.architecture": facts.family, "general.parameter_count": facts.num_parameters}
        info |= {f"{facts.family}.{name}": value for name, value in facts.sizes.items()}
        return JSONResponse(
            {
                "modelfile": "",
                "parameters": parameters_of({} if model.llm is None else model.llm.suggested.settings, facts.max_context),
                "template": facts.template + (" {{ .Suffix }}" if "insert" in facts.capabilities else ""),
                "details": details(facts),
                "model_info": info,
                "capabilities": list(facts.capabilities),
                "modified_at": rfc3339(model.created_at),
            }
        )

    return service.answered(answer, error_body)


def version(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        return JSONResponse({"version": VERSION})

    return service.answered(answer, error_body)


def embed(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        fields = EmbedFields.read(await service.read_json(request))
        fields.keep_model(service.models)
        texts = [fields.input] if isinstance(fields.input, str) else fields.input
        started = time.perf_counter()

        async def body() -> dict[str, Any]:
            found = await service.embed(name_of(fields.model), texts, fields.dimensions, truncates=fields.truncate)
            took_ns = int((time.perf_counter() - started) * 1e9)
            told = {"total_duration": took_ns, "load_duration": 0, "prompt_eval_count": found.num_tokens}
            return {"model": fields.model, "embeddings": found.vectors.tolist(), **told}

        return WholeReply(body(), error_body, headers=ignored_header(fields.ignored()))

    return service.answered(answer, error_body)


def embed_one(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        fields = OldEmbedFields.read(await service.read_json(request))
        fields.keep_model(service.models)

        async def body() -> dict[str, Any]:
            found = await service.embed(name_of(fields.model), [fields.prompt], None, truncates=True)
            return {"embedding": found.vectors[0].tolist()}

        return WholeReply(body(), error_body, headers=ignored_header(fields.ignored()))

    return service.answered(answer, error_body)


def by_hand(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        raise Refusal(403, "no request changes the models of this server; type puna pull MODEL on its machine")

    return service.answered(answer, error_body)


ROUTES = (
    WireRoute("/api/tags", tags, "GET"),
    WireRoute("/api/ps", loaded, "GET"),
    WireRoute("/api/version", version, "GET"),
    WireRoute("/api/show", show, fields=ShowFields),
    WireRoute("/api/embed", embed, fields=EmbedFields),
    WireRoute("/api/embeddings", embed_one, fields=OldEmbedFields),
    *(WireRoute(f"/api/{name}", by_hand, "DELETE" if name == "delete" else "POST") for name in BY_HAND),
)
