"""The torch backend: one forward pass on a GPU, or on the CPU; alone, or as one of several ranks that share a model.

A layer is five operations; `plain` has them in torch, `kernels` in Triton (`ops.py` chooses). With several ranks each holds
a part of every matrix (`formats/shards.py` says which), and their results are summed twice in a layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch

from puna.backends.base import DeviceInfo, DeviceLimits, ProcessPlace
from puna.backends.torch import device as devices
from puna.backends.torch import limits, parallel
from puna.backends.torch.kv import LayerKV, allocate
from puna.backends.torch.layouts import LAYOUTS
from puna.backends.torch.ops import Ops, choose
from puna.backends.torch.parallel import Ranks
from puna.backends.torch.step import Step, make_step
from puna.backends.torch.weights import Bias, Matrix, load_matrix, load_vector, stacked
from puna.config import EngineConfig, ModelConfig
from puna.errors import DeviceError
from puna.formats.base import Checkpoint, Tensor
from puna.plan import Layout, Plan
from puna.report import SILENT, Reporter
from puna.request import Batch, Logits


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer, as the operations take them."""

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


class TorchBackend:
    """See `backends/base.py` for the contract."""

    def __init__(self, device: torch.device, info: DeviceInfo, ranks: Ranks, ops: Ops) -> None:
        self.info = info
        self._device = device
        self._ranks = ranks
        self._ops = ops
        self._model: ModelConfig | None = None

    # ---- loading ----------------------------------------------------------------------------------------------------

    def load(self, checkpoint: Checkpoint, plan: Plan, report: Reporter = SILENT) -> None:
        model = checkpoint.config
        loader = _Loader(checkpoint.tensors, LAYOUTS[plan.weights], self._device, self._ranks.place.rank == 0, report)
        pages = allocate(model, plan, self._device)
        self._embed = loader.matrix("embed")
        self._layers = [loader.layer(f"layers.{i}.", pages[i], model.window_of(i)) for i in range(model.num_layers)]
        self._final_norm = loader.vector("final_norm")
        self._lm_head = self._embed if model.tie_embeddings else loader.matrix("lm_head")
        self._first_id = sum(self._ranks.each(self._embed.rows)[: self._ranks.place.rank])
        self._page_size = plan.page_size
        self._model = model
        if self._ranks.place.rank > 0:
            self._follow()

    # ---- running ----------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Logits:
        self._ranks.tell(batch)
        with torch.inference_mode():
            return self._forward(batch)

    def _follow(self) -> NoReturn:
        """Of a rank that is not the first: take part in every step of the first one, and end with it."""
        while (batch := self._ranks.hear()) is not None:
            with torch.inference_mode():
                self._forward(batch)
        self.close()
        raise SystemExit(0)

    def _forward(self, batch: Batch) -> Logits:
        model = self._loaded()
        step = make_step(batch, model.rope, model.head_dim, self._page_size, self._device)
        x = self._embedded(step)
        for layer in self._layers:
            x = self._block(model, layer, x, step)
        logits = self._ops.norm_matvec(x[step.logit_rows], self._final_norm, model.norm_eps, (self._lm_head,), (None,))
        gathered = self._ranks.gather(logits)
        return np.array(gathered.cpu().numpy(), np.float32)

    def _embedded(self, step: Step) -> torch.Tensor:
        """(tokens, hidden_size). Each rank knows the tokens of its part of the vocabulary."""
        ids = step.token_ids - self._first_id
        known = (ids >= 0) & (ids < self._embed.rows)
        rows = self._ops.embed(self._embed, ids.clamp(0, self._embed.rows - 1))
        return self._ranks.sum(torch.where(known.unsqueeze(1), rows, torch.zeros_like(rows)))

    def _block(self, model: ModelConfig, layer: Layer, x: torch.Tensor, step: Step) -> torch.Tensor:
        """One layer.  # (tokens, hidden_size) -> (tokens, hidden_size)"""
        eps, first = model.norm_eps, self._ranks.place.rank == 0
        qkv = self._ops.norm_matvec(x, layer.attn_norm, eps, layer.qkv, layer.qkv_bias)
        q = self._ops.rope_write(qkv, model.num_heads, layer.head_norms, eps, layer.kv, step)
        attended = self._ops.attend(q, layer.kv, layer.window, step)
        x = self._ranks.sum(self._ops.matvec_add(attended, layer.o, layer.o_bias, x if first else None))
        gate_up = self._ops.norm_matvec(x, layer.ffn_norm, eps, layer.gate_up, layer.gate_up_bias)
        return self._ranks.sum(self._ops.swiglu_matvec_add(gate_up, layer.down, layer.down_bias, x if first else None))

    def limits(self) -> DeviceLimits:
        return limits.measure(self._device)

    def close(self) -> None:
        self._ranks.close()
        if self._model is not None:
            self._model = None
            del self._embed, self._layers, self._final_norm, self._lm_head

    def _loaded(self) -> ModelConfig:
        if self._model is None:
            raise DeviceError("the model is not loaded, or was closed")
        return self._model


class _Loader:
    """Takes tensors to the device, and tells how far it is."""

    def __init__(
        self, tensors: Mapping[str, Tensor], layout: Layout, device: torch.device, adds_bias: bool, report: Reporter
    ) -> None:
        self._tensors, self._layout, self._device, self._adds_bias, self._report = tensors, layout, device, adds_bias, report
        self._total, self._done = sum(tensor.num_bytes for tensor in tensors.values()), 0

    def matrix(self, name: str) -> Matrix:
        tensor = self._tensors[name]
        made = load_matrix(tensor, self._layout.resident_type(tensor.type.name, name), self._device)
        self._count(tensor)
        return made

    def vector(self, name: str) -> torch.Tensor:
        self._count(self._tensors[name])
        return load_vector(self._tensors[name], self._device)

    def layer(self, begin: str, kv: LayerKV, window: int) -> Layer:
        def matrices(*names: str) -> tuple[Matrix, ...]:
            return tuple(self.matrix(begin + name) for name in names)

        def biases(*names: str) -> tuple[Bias, ...]:
            return tuple(self.vector(begin + name) if begin + name in self._tensors else None for name in names)

        q_norm, k_norm = biases("q_norm", "k_norm")
        qkv, qkv_bias = stacked(matrices("q_proj", "k_proj", "v_proj"), biases("q_bias", "k_bias", "v_bias"))
        gate_up, gate_up_bias = stacked(matrices("gate_proj", "up_proj"), biases("gate_bias", "up_bias"))
        o_bias, down_bias = biases("o_bias", "down_bias") if self._adds_bias else (None, None)
        return Layer(
            attn_norm=self.vector(begin + "attn_norm"),
            qkv=qkv,
            qkv_bias=qkv_bias,
            head_norms=None if q_norm is None or k_norm is None else (q_norm, k_norm),
            o=self.matrix(begin + "o_proj"),
            o_bias=o_bias,
            ffn_norm=self.vector(begin + "ffn_norm"),
            gate_up=gate_up,
            gate_up_bias=gate_up_bias,
            down=self.matrix(begin + "down_proj"),
            down_bias=down_bias,
            kv=kv,
            window=window,
        )

    def _count(self, tensor: Tensor) -> None:
        self._done += tensor.num_bytes
        self._report.progress("loading weights", self._done, self._total, "bytes")


def create(config: EngineConfig, report: Reporter = SILENT) -> TorchBackend:
    """On the device that `config.device` names; in a process that torchrun started, as one of its ranks."""
    place = ProcessPlace.from_env()
    device = devices.open_device(config, place.local_rank)
    ranks = parallel.join(place, device)
    return TorchBackend(device, devices.describe(device, config, ranks), ranks, choose(device, report))
