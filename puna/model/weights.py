"""The roles of a model's weights: one table says of each its shape, how it is cut over ranks, whether its rows are rotary pairs,
its class in the plan, and when it is there. Everything else that knows weights by name derives from it.

A weight's name is its role's, with `layers.N.` before it if every layer has one. Matrices are (rows, columns), y = W x; those of
experts (experts, rows, columns).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from puna.model.spec import Dense, Experts, LayerSpec, ModelConfig

Shape = tuple[int, ...]
Direction = Literal["rows", "columns", "whole"]


class Cut(NamedTuple):
    """How a weight is split over processes (Shoeybi et al. 2019, arXiv 1909.08053)."""

    direction: Direction
    by_heads: bool = False  # K/V heads: repeated if there are more parts than heads


ROWS, COLUMNS, WHOLE = Cut("rows"), Cut("columns"), Cut("whole")
KV_ROWS, KV_COLUMNS = Cut("rows", by_heads=True), Cut("columns", by_heads=True)


class Role(NamedTuple):
    """A row of the table. A vector is one row, so its numbers are cut as columns; one that is added after a sum over ranks stays
    whole: only the first rank adds it."""

    name: str
    class_: str  # in the plan
    cut: Cut
    shape: Callable[[ModelConfig, LayerSpec], Shape]
    is_there: Callable[[LayerSpec], bool] = lambda layer: True
    is_rotary: bool = False  # its rows, or the numbers of a vector, are heads of rotary pairs
    is_of_experts: bool = False  # a matrix for each expert, of which a token uses some


def _hidden(model: ModelConfig, layer: LayerSpec) -> Shape:
    return (model.hidden_size,)


def _vocabulary(model: ModelConfig, layer: LayerSpec) -> Shape:
    return (model.vocab_size, model.hidden_size)


def _of_q(model: ModelConfig, layer: LayerSpec) -> Shape:
    return (model.q_size, model.hidden_size)


def _of_kv(model: ModelConfig, layer: LayerSpec) -> Shape:
    return (model.kv_size, model.hidden_size)


def _into_ffn(model: ModelConfig, layer: LayerSpec) -> Shape:
    return (layer.ffn.size, model.hidden_size)


def _out_of_ffn(model: ModelConfig, layer: LayerSpec) -> Shape:
    return (model.hidden_size, layer.ffn.size)


def _of_experts(shape: Callable[[ModelConfig, LayerSpec], Shape]) -> Callable[[ModelConfig, LayerSpec], Shape]:
    return lambda model, layer: (_experts(layer).count, *shape(model, layer))


def _experts(layer: LayerSpec) -> Experts:
    assert isinstance(layer.ffn, Experts)
    return layer.ffn


def _head_norm(heads: Callable[[ModelConfig], int]) -> Callable[[ModelConfig, LayerSpec], Shape]:
    return lambda model, layer: (model.head_dim * (heads(model) if layer.attention.qk_norm == "full" else 1),)


def _is_dense(layer: LayerSpec) -> bool:
    return isinstance(layer.ffn, Dense)


def _has_experts(layer: LayerSpec) -> bool:
    return isinstance(layer.ffn, Experts)


def _has_ffn_bias(layer: LayerSpec) -> bool:
    return isinstance(layer.ffn, Dense) and layer.ffn.bias


def _has_qkv_bias(layer: LayerSpec) -> bool:
    return layer.attention.qkv_bias


def _has_o_bias(layer: LayerSpec) -> bool:
    return layer.attention.o_bias


def _norms_q_and_k(layer: LayerSpec) -> bool:
    return layer.attention.qk_norm != "none"


def _norms_before(layer: LayerSpec) -> bool:
    return layer.norms_before


def _norms_after(layer: LayerSpec) -> bool:
    return layer.norms_after


EMBEDDING, OUTPUT, ATTENTION, FFN, EXPERTS, OTHERS = (
    "embedding", "output", "attention", "feed-forward", "experts", "norms and biases",
)  # fmt: skip

EMBED = Role("embed", EMBEDDING, ROWS, _vocabulary)
FINAL_NORM = Role("final_norm", OTHERS, WHOLE, _hidden)
LM_HEAD = Role("lm_head", OUTPUT, ROWS, _vocabulary)  # absent if it is the embedding
LAYER_ROLES: tuple[Role, ...] = (
    Role("attn_norm", OTHERS, WHOLE, _hidden, _norms_before),
    Role("q_proj", ATTENTION, ROWS, _of_q, is_rotary=True),
    Role("k_proj", ATTENTION, KV_ROWS, _of_kv, is_rotary=True),
    Role("v_proj", ATTENTION, KV_ROWS, _of_kv),
    Role("o_proj", ATTENTION, COLUMNS, lambda model, layer: (model.hidden_size, model.q_size)),
    Role("ffn_norm", OTHERS, WHOLE, _hidden, _norms_before),
    Role("gate_proj", FFN, ROWS, _into_ffn, _is_dense),
    Role("up_proj", FFN, ROWS, _into_ffn, _is_dense),
    Role("down_proj", FFN, COLUMNS, _out_of_ffn, _is_dense),
    Role("q_bias", OTHERS, COLUMNS, lambda model, layer: (model.q_size,), _has_qkv_bias, is_rotary=True),
    Role("k_bias", OTHERS, KV_COLUMNS, lambda model, layer: (model.kv_size,), _has_qkv_bias, is_rotary=True),
    Role("v_bias", OTHERS, KV_COLUMNS, lambda model, layer: (model.kv_size,), _has_qkv_bias),
    Role("o_bias", OTHERS, WHOLE, _hidden, _has_o_bias),
    Role("gate_bias", OTHERS, COLUMNS, lambda model, layer: (layer.ffn.size,), _has_ffn_bias),
    Role("up_bias", OTHERS, COLUMNS, lambda model, layer: (layer.ffn.size,), _has_ffn_bias),
    Role("down_bias", OTHERS, WHOLE, _hidden, _has_ffn_bias),
    Role("q_norm", OTHERS, WHOLE, _head_norm(lambda model: model.num_heads), _norms_q_and_k, is_rotary=True),
    Role("k_norm", OTHERS, WHOLE, _head_norm(lambda model: model.num_kv_heads), _norms_q_and_k, is_rotary=True),
    Role("attn_post_norm", OTHERS, WHOLE, _hidden, _norms_after),
    Role("ffn_post_norm", OTHERS, WHOLE, _hidden, _norms_after),
    Role("router", EXPERTS, WHOLE, lambda model, layer: (_experts(layer).count, model.hidden_size), _has_experts),
    Role("gate_experts", EXPERTS, ROWS, _of_experts(_into_ffn), _has_experts, is_of_experts=True),
    Role("up_experts", EXPERTS, ROWS, _of_experts(_into_ffn), _has_experts, is_of_experts=True),
    Role("down_experts", EXPERTS, COLUMNS, _of_experts(_out_of_ffn), _has_experts, is_of_experts=True),
)
ROLES: dict[str, Role] = {role.name: role for role in (EMBED, FINAL_NORM, LM_HEAD, *LAYER_ROLES)}


def role_of(name: str) -> Role:
    """The role of the weight `name`.

    >>> role_of("layers.3.o_proj").cut.direction
    'columns'
    """
    return ROLES[name.rpartition(".")[2]]


def layer_of(name: str) -> int | None:
    """The layer of the weight `name`; None for one outside the layers.

    >>> layer_of("layers.3.o_proj"), layer_of("embed")
    (3, None)
    """
    return int(name.split(".")[1]) if name.startswith("layers.") else None


def active_share(model: ModelConfig, name: str) -> float:
    """The share of a weight that one token uses: of experts, those that the router chooses."""
    layer = layer_of(name)
    ffn = None if layer is None else model.layers[layer].ffn
    return ffn.top_k / ffn.count if isinstance(ffn, Experts) and role_of(name).is_of_experts else 1.0


def weights_of(model: ModelConfig) -> Iterator[tuple[str, Role, LayerSpec | None]]:
    """Name, role and layer of every weight: the embedding, the final norm, the output matrix, then layer by layer."""
    yield EMBED.name, EMBED, None
    yield FINAL_NORM.name, FINAL_NORM, None
    if not model.tie_embeddings:
        yield LM_HEAD.name, LM_HEAD, None
    for number, layer in enumerate(model.layers):
        yield from ((f"layers.{number}.{role.name}", role, layer) for role in LAYER_ROLES if role.is_there(layer))


def adaptable(model: ModelConfig) -> dict[str, Shape]:
    """Name -> shape of the matrices that a LoRA adapter may change: those that multiply each token's activations."""
    return {
        name: role.shape(model, layer or model.layers[0])
        for name, role, layer in weights_of(model)
        if role.class_ in (ATTENTION, FFN, OUTPUT)
    }


def tensor_shapes(model: ModelConfig) -> dict[str, Shape]:
    """Name -> shape of every weight."""
    return {name: role.shape(model, layer or model.layers[0]) for name, role, layer in weights_of(model)}
