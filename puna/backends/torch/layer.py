"""The weights of one layer in the form that operations take, and how a checkpoint's tensors get to a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from puna.backends.torch.blob import num_bytes
from puna.backends.torch.kv import LayerKV
from puna.backends.torch.weights import Bias, Matrix, load_matrix, load_vector, stacked
from puna.formats.base import Tensor
from puna.progress import Reporter

Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's weights. Matrices that multiply the same vector are stacked."""

    attn_norm: torch.Tensor
    qkv: tuple[Matrix, ...]
    qkv_bias: tuple[Bias, ...]
    head_norms: tuple[torch.Tensor, torch.Tensor] | None
    o: Matrix
    o_bias: Bias
    ffn_norm: torch.Tensor
    gate_up: tuple[Matrix, ...]
    gate_up_bias: tuple[Bias, ...]
    down: Matrix
    down_bias: Bias
    kv: LayerKV
    window: int

    @property
    def num_bytes(self) -> int:
        """Bytes of its weights."""
        sizes: list[int] = []

        def note(weight: torch.Tensor) -> torch.Tensor:
            sizes.append(num_bytes(weight))
            return weight

        self.mapped(note)
        return sum(sizes)

    def mapped(self, change: Change) -> Layer:
        """A copy with every weight changed, in a fixed order; K and V stay."""

        def biases(given: tuple[Bias, ...]) -> tuple[Bias, ...]:
            return tuple(None if bias is None else change(bias) for bias in given)

        def matrix(given: Matrix) -> Matrix:
            return replace(given, planes={name: change(plane) for name, plane in given.planes.items()})

        def matrices(given: tuple[Matrix, ...]) -> tuple[Matrix, ...]:
            return tuple(map(matrix, given))

        norms = self.head_norms
        return replace(
            self,
            attn_norm=change(self.attn_norm),
            qkv=matrices(self.qkv),
            qkv_bias=biases(self.qkv_bias),
            head_norms=None if norms is None else (change(norms[0]), change(norms[1])),
            o=matrix(self.o),
            o_bias=biases((self.o_bias,))[0],
            ffn_norm=change(self.ffn_norm),
            gate_up=matrices(self.gate_up),
            gate_up_bias=biases(self.gate_up_bias),
            down=matrix(self.down),
            down_bias=biases((self.down_bias,))[0],
        )


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

    def layer(self, number: int, kv: LayerKV, window: int, device: torch.device) -> Layer:
        begin = f"layers.{number}."

        def matrices(*names: str) -> tuple[Matrix, ...]:
            return tuple(self.matrix(begin + name, device) for name in names)

        def biases(*names: str) -> tuple[Bias, ...]:
            return tuple(self.vector(begin + name, device) if begin + name in self._tensors else None for name in names)

        q_norm, k_norm = biases("q_norm", "k_norm")
        qkv, qkv_bias = stacked(matrices("q_proj", "k_proj", "v_proj"), biases("q_bias", "k_bias", "v_bias"))
        gate_up, gate_up_bias = stacked(matrices("gate_proj", "up_proj"), biases("gate_bias", "up_bias"))
        o_bias, down_bias = biases("o_bias", "down_bias") if self._adds_bias else (None, None)
        return Layer(
            attn_norm=self.vector(begin + "attn_norm", device),
            qkv=qkv,
            qkv_bias=qkv_bias,
            head_norms=None if q_norm is None or k_norm is None else (q_norm, k_norm),
            o=self.matrix(begin + "o_proj", device),
            o_bias=o_bias,
            ffn_norm=self.vector(begin + "ffn_norm", device),
            gate_up=gate_up,
            gate_up_bias=gate_up_bias,
            down=self.matrix(begin + "down_proj", device),
            down_bias=down_bias,
            kv=kv,
            window=window,
        )

    def _count(self, tensor: Tensor) -> None:
        self._done += tensor.num_bytes
        self._report.progress("loading weights", self._done, self._total, "bytes")
