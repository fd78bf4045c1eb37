"""A layer's operations, and who computes them: `plain` everywhere, the Triton kernels on CUDA."""

from __future__ import annotations

import importlib
import os
from typing import Protocol, cast

import torch

from puna.backends.torch.kv import LayerKV
from puna.backends.torch.layer import ExpertWeights
from puna.backends.torch.step import Step
from puna.backends.torch.triton_support import problems
from puna.backends.torch.weights import Bias, Matrix, Norm
from puna.batch import SamplingBatch
from puna.model.spec import Activation, ModelConfig
from puna.progress import SILENT, Reporter


class Ops(Protocol):
    """What `model.py` needs from a module of operations. x and results are float32; a row's bits depend on the row alone.

    `many`: use the way that is fast for many rows. Each way sums in its own order, so a row's way must follow from the row
    alone.
    """

    READS_HOST: bool  # whether results depend on numbers on the host, so that a step cannot be recorded

    PROMPTS_APART: bool  # whether `many` changes bits

    def reserve(self, model: ModelConfig, max_rows: int, device: torch.device) -> None:
        """Allocate the working memory for steps of up to `max_rows` generated tokens."""

    def embed(self, matrix: Matrix, ids: torch.Tensor) -> torch.Tensor:
        """The rows of token ids.  # (tokens,) -> (tokens, columns)"""

    def norm_matvec(
        self,
        x: torch.Tensor,
        norm: Norm,
        eps: float,
        matrices: tuple[Matrix, ...],
        biases: tuple[Bias, ...],
        many: bool = False,
    ) -> torch.Tensor:
        """Multiply x, normed where `norm` is given, by stacked matrices.  # -> (tokens, all rows)"""

    def rope_write(
        self,
        qkv: torch.Tensor,
        num_heads: int,
        head_norms: tuple[torch.Tensor, torch.Tensor] | None,
        eps: float,
        kv: LayerKV,
        step: Step,
        tables: tuple[int, int] = (0, 0),
    ) -> torch.Tensor:
        """Norm and rotate q and k, write K and V to their pages; returns q.  # -> (tokens, heads, head_dim)

        `head_norms`: weights for each head (head_dim,), or for all heads together. `tables`: which of the step's rotate q and k.
        """

    def attend(self, q: torch.Tensor, kv: LayerKV, window: int, step: Step, scale: float = 0.0, cap: float = 0.0) -> torch.Tensor:
        """Softmax attention of each row to its sequence's positions up to its own.  # -> (tokens, heads * head_dim)

        `window`, `scale`, `cap`: see `AttentionSpec`; 0 stands for its defaults.
        """

    def matvec_add(
        self, x: torch.Tensor, matrix: Matrix, bias: Bias, residual: torch.Tensor | None, many: bool = False
    ) -> torch.Tensor:
        """W x (+ bias) (+ residual).  # (tokens, columns) -> (tokens, rows)"""

    def glu_matvec_add(
        self,
        gate_up: torch.Tensor,
        matrix: Matrix,
        bias: Bias,
        residual: torch.Tensor | None,
        many: bool = False,
        activation: Activation = "silu",
    ) -> torch.Tensor:
        """W (activation(gate) * up) (+ bias) (+ residual).  # (tokens, 2 ffn_size) -> (tokens, rows)"""

    def experts_add(
        self,
        x: torch.Tensor,
        norm: Norm,
        eps: float,
        experts: ExpertWeights,
        residual: torch.Tensor | None,
        many: bool = False,
    ) -> torch.Tensor:
        """The outputs of each token's experts for x, normed where `norm` is given, each times its weight, summed in the router's
        order (+ residual).  # (tokens, hidden_size) -> (tokens, hidden_size)"""

    def norm_add(self, x: torch.Tensor, norm: torch.Tensor, eps: float, residual: torch.Tensor) -> torch.Tensor:
        """residual + the normed x.  # (tokens, hidden_size) -> (tokens, hidden_size)"""

    def sample(self, logits: torch.Tensor, sampling: SamplingBatch, last_ids: torch.Tensor) -> torch.Tensor:
        """Sample each row's next id as `SamplingBatch.sample_row` does; -1 if the row is not finite.  # -> (rows,) int32

        `last_ids` are those that the previous step sampled. The logits' later content is undefined: they may be edited in place.
        """


def choose(device: torch.device, report: Reporter = SILENT) -> Ops:
    """The kernels, on CUDA if Triton runs or on the CPU under Triton's interpreter; else plain torch."""
    if device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1":
        lines = problems(device)
        if not lines:
            return _module("kernels")
        for line in lines:
            report.notice(line)
    return _module("plain")


def _module(name: str) -> Ops:
    """Import late: Triton takes a second to import, and is not everywhere."""
    return cast(Ops, importlib.import_module(f"puna.backends.torch.{name}"))
