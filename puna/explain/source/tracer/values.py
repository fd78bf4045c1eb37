"""What a traced program finds beside tensors: the model, its tokenizer and sizes, and its own functions and objects."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from puna.explain.source.tracer.limits import BeyondError, RunBudget
from puna.explain.source.tracer.tensors import IdList, TracedTensor

PAD_ID = -1  # of Meta's tokenizers: no token


class LanguageModel(Protocol):
    """The model whose numbers a trace shows."""

    name: str

    vocab_size: int
    max_context: int
    bos_id: int
    eos_id: int

    @property
    def stop_ids(self) -> Sequence[int]: ...

    @property
    def sizes(self) -> Mapping[str, int | float]:
        """Sizes of the model, by our names."""

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """The logits after each token.  # (len(ids), vocab_size)"""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def piece(self, token_id: int) -> str:
        """The text that a token adds."""


@dataclass(eq=False, slots=True)
class ModelOutput:
    """What a model's call returned: the logits themselves, a tuple with them, or an object that has them."""

    logits: TracedTensor
    past: PastTokens
    kind: ClassVar[str] = "the model's output"

    def __iter__(self) -> Any:
        return iter((self.logits, self.past))


@dataclass(eq=False, slots=True)
class PastTokens:
    """Stands for a K/V cache: how many positions it holds."""

    length: int
    kind: ClassVar[str] = "K/V cache"


START_NAMES = frozenset({"start_pos", "input_pos", "pos", "position", "start", "offset", "prev_pos"})
PAST_NAMES = frozenset({"past_key_values", "past", "cache", "kv_cache", "layer_past", "past_kv"})
IGNORED_NAMES = frozenset({"use_cache", "return_dict", "targets", "labels", "mask", "attention_mask", "position_ids"})
TOKEN_NAMES = ("tokens", "input_ids", "idx", "ids", "x", "inputs")


@dataclass(eq=False, slots=True)
class ModelValue:
    """The model as the program sees it: called with tokens, and perhaps with the position of the first one."""

    model: LanguageModel
    rows: list[list[int]] = field(default_factory=list)  # of each row, the tokens that its K/V cache holds
    num_calls: int = 0
    kind: ClassVar[str] = "the model"

    def call(self, args: Sequence[Any], kwargs: Mapping[str, Any], budget: RunBudget) -> ModelOutput:
        """The logits of these tokens.  # (rows, tokens) -> (rows, tokens, vocab_size)"""
        tokens, start = self._asked(args, kwargs)
        array = tokens.array.reshape(1, -1) if tokens.array.ndim == 1 else tokens.array
        if array.ndim != 2 or array.dtype.kind != "i" or not array.size:
            raise BeyondError("a model takes a tensor of token ids, a row for each prompt")
        budget.make((*array.shape, self.model.vocab_size))
        self._require_tokens(array)
        self.num_calls += 1
        self.rows = [[*self._before(row, start), *map(int, ids)] for row, ids in enumerate(array)]
        if len(self.rows[0]) > self.model.max_context:
            raise BeyondError(f"{len(self.rows[0])} tokens; the model holds {self.model.max_context}")
        made = np.stack([self.model.logits(row)[start:] for row in self.rows])
        shaped = made[0] if tokens.array.ndim == 1 else made
        return ModelOutput(TracedTensor(np.asarray(shaped, np.float32)), PastTokens(len(self.rows[0])))

    def _asked(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[TracedTensor, int]:
        """The tokens, and the position of the first one."""
        named = [kwargs[name] for name in TOKEN_NAMES if name in kwargs]
        tokens, *others = [*args, *named] or [None]
        if not isinstance(tokens, TracedTensor):
            raise BeyondError("the model is not called with a tensor of tokens")
        start = 0
        for given in [*others[: len(args)], *(kwargs[name] for name in kwargs if name in START_NAMES | PAST_NAMES)]:
            start = _start(given, start)
        unknown = [name for name in kwargs if name not in {*START_NAMES, *PAST_NAMES, *IGNORED_NAMES, *TOKEN_NAMES}]
        if unknown:
            raise BeyondError(f"the model is called with {unknown[0]}, which the run's does not have")
        mask = kwargs.get("attention_mask")
        if isinstance(mask, TracedTensor) and not mask.array.all():
            raise BeyondError("the model is called with a mask that hides tokens")
        return tokens, start

    def _before(self, row: int, start: int) -> list[int]:
        known = self.rows[row] if row < len(self.rows) else []
        if len(known) < start:
            raise BeyondError(f"the model is called for position {start}, but holds {len(known)} positions of row {row}")
        return known[:start]

    def _require_tokens(self, array: npt.NDArray[Any]) -> None:
        wrong = np.argwhere((array < 0) | (array >= self.model.vocab_size))
        if len(wrong):
            row, position = map(int, wrong[0])
            raise BeyondError(f"the model would get the id {int(array[row, position])}, which is no token of it")


def _start(given: Any, start: int) -> int:
    """The position of the first token, from a number, a tensor of positions, or a cache."""
    if isinstance(given, PastTokens):
        return given.length
    if isinstance(given, TracedTensor) and given.array.size and given.array.dtype.kind == "i":
        return int(given.array.reshape(-1)[0])
    return given if type(given) is int and given >= 0 else start


# Attribute of a configuration -> our name of the size.
SIZE_NAMES: Mapping[str, str] = {
    **dict.fromkeys(
        ("max_seq_len", "block_size", "max_position_embeddings", "n_positions", "n_ctx", "context_length", "max_context",
         "max_seq_length", "sequence_len", "seq_len"), "max_context"),
    **dict.fromkeys(("vocab_size", "padded_vocab_size", "n_words"), "vocab_size"),
    **dict.fromkeys(("dim", "n_embd", "hidden_size", "d_model", "emb_dim"), "hidden_size"),
    **dict.fromkeys(("n_layers", "n_layer", "num_hidden_layers", "num_layers"), "num_layers"),
    **dict.fromkeys(("n_heads", "n_head", "num_attention_heads", "num_heads"), "num_heads"),
    **dict.fromkeys(("n_kv_heads", "n_kv_head", "num_key_value_heads", "num_kv_heads"), "num_kv_heads"),
    **dict.fromkeys(("norm_eps", "rms_norm_eps", "layer_norm_epsilon"), "norm_eps"),
    **dict.fromkeys(("max_batch_size", "batch_size"), "max_batch"),
}  # fmt: skip


@dataclass(eq=False, slots=True)
class ModelSizes:
    """The model's configuration: its sizes by the names that programs use."""

    model: LanguageModel
    kind: ClassVar[str] = "the model's sizes"

    def attribute(self, name: str) -> Any:
        own = {**self.model.sizes, "max_context": self.model.max_context, "vocab_size": self.model.vocab_size}
        if SIZE_NAMES.get(name) in own:
            return own[SIZE_NAMES[name]]
        ids = token_ids_of(self.model)
        if name in ids:
            return ids[name]
        raise BeyondError(f"the size .{name} of the model is not known here")


def token_ids_of(model: LanguageModel) -> dict[str, Any]:
    """The ids that programs ask a tokenizer or a configuration for."""
    return {
        **dict.fromkeys(("eos_id", "eos_token_id", "eot_token"), model.eos_id),
        **dict.fromkeys(("bos_id", "bos_token_id"), model.bos_id),
        **dict.fromkeys(("pad_id", "pad_token_id"), PAD_ID),
        "stop_tokens": sorted(model.stop_ids),
    }


@dataclass(eq=False, slots=True)
class TokenizerValue:
    """The tokenizer as the program sees it."""

    model: LanguageModel
    kind: ClassVar[str] = "the tokenizer"

    def attribute(self, name: str) -> Any:
        own = {**token_ids_of(self.model), "n_words": self.model.vocab_size, "vocab_size": self.model.vocab_size}
        if name in own:
            return own[name]
        raise BeyondError(f".{name} of the tokenizer is not known here")

    def call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """encode(text, bos=..., eos=...), decode(ids), and the call of transformers' tokenizers, whose name is ""."""
        if name == "" and args and isinstance(args[0], str) and kwargs.get("return_tensors") == "pt":
            row = np.array([self.model.encode(args[0][:4096])], np.int64)
            return {"input_ids": TracedTensor(row, is_ids=True), "attention_mask": TracedTensor(np.ones_like(row))}
        given = [*args, *kwargs.values()]
        if name == "encode" and given and isinstance(given[0], str):
            ids = self.model.encode(given[0][:4096])
            with_bos = kwargs.get("bos", args[1] if len(args) > 1 else False) is True and self.model.bos_id >= 0
            return IdList([self.model.bos_id, *ids] if with_bos and ids[:1] != [self.model.bos_id] else ids)
        if name == "decode" and given:
            ids = given[0].array.reshape(-1).tolist() if isinstance(given[0], TracedTensor) else given[0]
            if isinstance(ids, list) and all(type(one) is int and 0 <= one < self.model.vocab_size for one in ids):
                return self.model.decode(ids)
        raise BeyondError(f"tokenizer.{name}(...) with these arguments")


MODEL_NAMES = frozenset({"model", "transformer", "lm", "net", "llm", "decoder", "gpt", "llama", "language_model"})
TOKENIZER_NAMES = frozenset({"tokenizer", "tok", "enc", "encoder"})
SIZES_NAMES = frozenset({"params", "config", "args", "cfg", "hparams", "generation_config"})
DEVICE = "cpu"


@dataclass(eq=False, slots=True)
class SelfValue:
    """`self`: an object of the class around the function, with what such objects hold by their usual names."""

    model: ModelValue
    methods: Mapping[str, ast.FunctionDef]
    attributes: dict[str, Any] = field(default_factory=dict)  # what the function itself set
    kind: ClassVar[str] = "the object itself"

    def attribute(self, name: str) -> Any:
        if name in self.attributes:
            return self.attributes[name]
        return attribute_of_model(self.model, name)


def attribute_of_model(model: ModelValue, name: str) -> Any:
    """An attribute of an object that holds a model, or is one, by its usual name. BeyondError if the name is not usual."""
    if name in MODEL_NAMES:
        return model
    if name in TOKENIZER_NAMES:
        return TokenizerValue(model.model)
    if name in SIZES_NAMES:
        return ModelSizes(model.model)
    if name == "device":
        return DEVICE
    try:
        return ModelSizes(model.model).attribute(name)
    except BeyondError:
        raise BeyondError(f".{name} is not known here") from None


@dataclass(eq=False, slots=True)
class GeneratorValue:
    """torch.Generator: its numbers are puna's own, whatever its seed."""

    kind: ClassVar[str] = "a generator of random numbers"


@dataclass(eq=False, slots=True)
class UserFunction:
    """A function of the source; `owner`: the object whose method it is. `scope`: the names around it."""

    node: ast.FunctionDef | ast.Lambda
    scope: Mapping[str, Any]
    owner: SelfValue | None = None
    kind: ClassVar[str] = "a function of this file"


@dataclass(eq=False, slots=True)
class Unknown:
    """An argument for which puna has no value."""

    name: str
    kind: ClassVar[str] = "unknown"
