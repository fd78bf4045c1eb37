"""OpenAI's `/v1/embeddings`, and `/v1/rerank` (Jina's and Cohere's form, which llama-server and vLLM speak)."""

from __future__ import annotations

import base64
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from starlette.requests import Request
from starlette.types import ASGIApp

from puna.pooling import Floats
from puna.server.fields import Fields, ignored_header
from puna.server.replies import WholeReply
from puna.server.service import Endpoint, Service
from puna.server.wires.base import WireRoute
from puna.server.wires.openai_shapes import HINTS, error_body


class EmbeddingFields(Fields):
    """The body of `/v1/embeddings`. The openai client asks for base64 unless told otherwise."""

    HINTS: ClassVar[frozenset[str]] = HINTS

    input: str | list[str] | list[int] | list[list[int]]
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)

    def inputs(self) -> list[Any]:
        if isinstance(self.input, str):
            return [self.input]
        return [self.input] if self.input and isinstance(self.input[0], int) else list(self.input)


class RerankFields(Fields):
    """The body of `/v1/rerank`."""

    query: str
    documents: list[str | dict[str, Any]] = Field(min_length=1, max_length=2048)
    model: str = ""
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = False

    def texts(self) -> list[str]:
        return [one if isinstance(one, str) else str(one.get("text", "")) for one in self.documents]


def written(vector: Floats, encoding: str) -> list[float] | str:
    """A vector as JSON: numbers, or little-endian float32 in base64."""
    if encoding == "float":
        return [float(number) for number in vector]
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def embeddings(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        fields = EmbeddingFields.read(await service.read_json(request))
        name = service.models.named(fields.model).name

        async def body() -> dict[str, Any]:
            found = await service.embed(fields.model, fields.inputs(), fields.dimensions)
            data = [
                {"object": "embedding", "index": index, "embedding": written(vector, fields.encoding_format)}
                for index, vector in enumerate(found.vectors)
            ]
            usage = {"prompt_tokens": found.num_tokens, "total_tokens": found.num_tokens}
            return {"object": "list", "data": data, "model": name, "usage": usage}

        return WholeReply(body(), error_body, headers=ignored_header(fields.ignored()))

    return service.answered(answer, error_body)


def rerank(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        fields = RerankFields.read(await service.read_json(request))
        texts = fields.texts()

        async def body() -> dict[str, Any]:
            found = await service.rerank(fields.model, fields.query, texts, fields.top_n)
            results: list[dict[str, Any]] = [{"index": one.index, "relevance_score": one.score} for one in found]
            if fields.return_documents:
                results = [{**one, "document": {"text": texts[one["index"]]}} for one in results]
            return {"model": service.models.named(fields.model).name, "object": "list", "results": results}

        return WholeReply(body(), error_body)

    return service.answered(answer, error_body)


ROUTES = (
    WireRoute("/v1/embeddings", embeddings, fields=EmbeddingFields),
    *(WireRoute(path, rerank, fields=RerankFields) for path in ("/v1/rerank", "/rerank", "/reranking", "/v1/reranking")),
)
