"""What clients ask of a model before they use it: its size, family, type of weights, and what it can do."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from puna import formats, hub
from puna.chat import unread_args
from puna.infill import has_infill
from puna.llm import LLM
from puna.model.spec import ModelConfig
from puna.model.weights import tensor_shapes
from puna.server.models import ServedModel
from puna.thinking import tags_of


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """`digest` names the model's sizes, for clients that compare; it is no digest of its weights."""

    num_bytes: int
    num_parameters: int
    family: str
    weight_type: str  # of most of its bytes
    max_context: int
    digest: str
    template: str
    capabilities: tuple[str, ...]
    sizes: Mapping[str, int]

    @property
    def size_word(self) -> str:
        """The number of parameters as Ollama writes it.

        >>> ModelFacts(0, 134_515_008, "", "", 0, "", "", (), {}).size_word
        '134.5M'
        """
        unit, letter = (10**9, "B") if self.num_parameters >= 10**9 else (10**6, "M")
        return f"{self.num_parameters / unit:.1f}{letter}"


def facts_of(model: ServedModel) -> ModelFacts:
    """Of a model that is loaded, or from the headers of its files. Takes its time: call it in a thread."""
    if model.llm is not None:
        llm = model.llm
        types = Counter[str]()
        for placement in llm.plan.placements:
            types[placement.type] += placement.bytes
        return _facts(llm.model, types, llm.plan.max_context, llm.chat_template, _can_infill(llm))
    checkpoint = formats.open_checkpoint(hub.resolve(model.source))
    types = Counter[str]()
    for tensor in checkpoint.tensors.values():
        types[tensor.type.name] += tensor.data.nbytes
    return _facts(checkpoint.config, types, checkpoint.config.max_context, checkpoint.chat_template, False)


def _facts(config: ModelConfig, types: Mapping[str, int], max_context: int, template: str | None, can_infill: bool) -> ModelFacts:
    sizes = {
        "block_count": config.num_layers,
        "embedding_length": config.hidden_size,
        "context_length": max_context,  # clients take it for what they can use
        "vocab_size": config.vocab_size,
    }
    thinks, calls = tags_of(template) is not None, template is not None and not unread_args(("tools",), template)
    abilities = {"completion": True, "tools": calls, "insert": can_infill, "thinking": thinks}
    return ModelFacts(
        num_bytes=sum(types.values()),
        num_parameters=sum(map(prod, tensor_shapes(config).values())),
        family=config.architecture,
        weight_type=max(types, key=lambda name: types[name], default=""),
        max_context=max_context,
        digest=hashlib.sha256(repr((config, sorted(types.items()))).encode()).hexdigest(),
        template=template or "",
        capabilities=tuple(name for name, has in abilities.items() if has),
        sizes=sizes,
    )


def _can_infill(llm: LLM) -> bool:
    return llm.tokenizer is not None and has_infill(llm.tokenizer)
