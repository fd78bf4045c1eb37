"""The weights of one layer in the form that operations take, and how a checkpoint's tensors get to a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch

from puna.backends.torch.kv import LayerKV
from puna.backends.torch.lora import LayerAdapters
from puna.backends.torch.staging import num_bytes
from puna.backends.torch.weights import Bias, Matrix, Norm, load_matrix, load_vector, stacked
from puna.formats.base import Tensor
from puna.model.spec import AttentionSpec, Dense, Experts, LayerSpec
from puna.progress import Reporter

ADDED_ONCE = ("o_bias", "down_bias")  # after the sum over ranks: by the first rank

Change = Callable[[torch.Tensor], torch.Tensor]
Matrices = Callable[..., tuple[Matrix, ...]]  # by role
Vectors = Callable[..., tuple[torch.Tensor | None, ...]]


@dataclass(frozen=True, slots=True)
class DenseWeights:
    spec: Dense
    gate_up: tuple[Matrix, ...]
    gate_up_bias: tuple[Bias, ...]
    down: Matrix
    down_bias: Bias


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """The matrices of all experts lie one below the other."""

    spec: Experts
    router: Matrix  # (count, hidden_size)
    gate: Matrix  # (count * size, hidden_size)
    up: Matrix
    down: Matrix  # (count * hidden_size, size)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's weights, its K and V, and what its attention computes. Matrices that multiply the same vector are stacked."""

    attn_norm: Norm
    qkv: tuple[Matrix, ...]
    qkv_bias: tuple[Bias, ...]
    head_norms: tuple[torch.Tensor, torch.Tensor] | None  # of q and k: (head_dim,), or as long as all heads together
    o: Matrix
    o_bias: Bias
    attn_post_norm: Norm
    ffn_norm: Norm
    ffn: DenseWeights | ExpertWeights
    ffn_post_norm: Norm
    kv: LayerKV
    attention: AttentionSpec
    tables: tuple[int, int]  # numbers of the rotary tables of q and k
    adapters: LayerAdapters = ()

    @property
    def weights(self) -> list[torch.Tensor]:
        """In the order of `mapped`."""
        found: list[torch.Tensor] = []

        def note(weight: torch.Tensor) -> torch.Tensor:
            found.append(weight)
            return weight

        self.mapped(note)
        return found

    @property
    def num_bytes(self) -> int:
        """Bytes of its weights."""
        return sum(map(num_bytes, self.weights))

    def mapped(self, change: Change) -> Layer:
        """A copy with every weight changed, in a fixed order; K and V stay."""
        mapped: Layer = _mapped_fields(self, change)
        return mapped


def _mapped_fields(weights: Any, change: Change) -> Any:
    return replace(weights, **{field.name: _mapped(getattr(weights, field.name), change) for field in fields(weights)})


def _mapped(value: Any, change: Change) -> Any:
    match value:
        case torch.Tensor():
            return change(value)
        case Matrix():
            return replace(value, planes={name: change(plane) for name, plane in value.planes.items()})
        case tuple():
            return tuple(_mapped(one, change) for one in value)
        case DenseWeights() | ExpertWeights():
            return _mapped_fields(value, change)
        case _:
            return value


class Loader:
    """Moves tensors to a device, reporting progress.

    `types`: of each matrix on the device. `adds_bias`: whether this rank adds the biases (only the first does).
    """

    def __init__(self, tensors: Mapping[str, Tensor], types: Mapping[str, str], adds_bias: bool, report: Reporter) -> None:
        self._tensors, self._types, self._adds_bias, self._report = tensors, types, adds_bias, report
        self._total, self._done = sum(tensor.num_bytes for tensor in tensors.values()), 0

    def matrix(self, name: str, device: torch.device) -> Matrix:
        tensor = self._tensors[name]
        made = load_matrix(tensor, self._types[name], device)
        self._count(tensor)
        return made

    def vector(self, name: str, device: torch.device) -> torch.Tensor:
        self._count(self._tensors[name])
        return load_vector(self._tensors[name], device)

    def layer(self, number: int, spec: LayerSpec, tables: tuple[int, int], kv: LayerKV, device: torch.device) -> Layer:
        """`tables`: numbers of the rotary tables of q and k."""
        matrices, vectors = partial(self._matrices, number, device), partial(self._vectors, number, device)
        qkv, qkv_bias = stacked(matrices("q_proj", "k_proj", "v_proj"), vectors("q_bias", "k_bias", "v_bias"))
        q_norm, k_norm = vectors("q_norm", "k_norm")
        attn_norm, attn_post_norm, ffn_norm, ffn_post_norm = vectors("attn_norm", "attn_post_norm", "ffn_norm", "ffn_post_norm")
        (o,), (o_bias,) = matrices("o_proj"), vectors("o_bias")
        ffn = self._dense(spec.ffn, matrices, vectors) if isinstance(spec.ffn, Dense) else self._experts(spec.ffn, matrices)
        return Layer(
            attn_norm=attn_norm,
            qkv=qkv,
            qkv_bias=qkv_bias,
            head_norms=None if q_norm is None or k_norm is None else (q_norm, k_norm),
            o=o,
            o_bias=o_bias,
            attn_post_norm=attn_post_norm,
            ffn_norm=ffn_norm,
            ffn=ffn,
            ffn_post_norm=ffn_post_norm,
            kv=kv,
            attention=spec.attention,
            tables=tables,
        )

    def _dense(self, spec: Dense, matrices: Matrices, vectors: Vectors) -> DenseWeights:
        gate_up, gate_up_bias = stacked(matrices("gate_proj", "up_proj"), vectors("gate_bias", "up_bias"))
        return DenseWeights(spec, gate_up, gate_up_bias, *matrices("down_proj"), *vectors("down_bias"))

    def _experts(self, spec: Experts, matrices: Matrices) -> ExpertWeights:
        return ExpertWeights(spec, *matrices("router", "gate_experts", "up_experts", "down_experts"))

    def _matrices(self, layer: int, device: torch.device, *roles: str) -> tuple[Matrix, ...]:
        return tuple(self.matrix(f"layers.{layer}.{role}", device) for role in roles)

    def _vectors(self, layer: int, device: torch.device, *roles: str) -> tuple[torch.Tensor | None, ...]:
        """None for those that the layer does not have, or that only another rank adds."""
        names = (f"layers.{layer}.{role}" for role in roles)
        return tuple(self.vector(name, device) if self._has(name) else None for name in names)

    def _has(self, name: str) -> bool:
        return name in self._tensors and (self._adds_bias or not name.endswith(ADDED_ONCE))

    def _count(self, tensor: Tensor) -> None:
        self._done += tensor.num_bytes
        self._report.progress("loading weights", self._done, self._total, "bytes")
