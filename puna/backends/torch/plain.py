"""A layer's operations in plain torch, on any device: each computes what the Triton kernel of the same name does.

Each row is computed by itself, with the sums of `exact`, so that its bits depend on its own numbers only. That is slow, because
each step dequantises every matrix; it serves tests, and machines without Triton.
"""

from __future__ import annotations

import operator
from functools import reduce

import torch

from puna.backends.torch.exact import glu, products, rms_norm, row_sums, softcap, softmax
from puna.backends.torch.kv import LayerKV
from puna.backends.torch.layer import ExpertWeights
from puna.backends.torch.step import Step
from puna.backends.torch.weights import Bias, Matrix, Norm, dequantize
from puna.batch import SamplingBatch
from puna.model.spec import Activation, Experts, ModelConfig

READS_HOST = True  # attention loops over rows by their positions
PROMPTS_APART = False


def reserve(model: ModelConfig, max_rows: int, device: torch.device) -> None:
    """Nothing to do: no memory is kept between operations."""


def embed(matrix: Matrix, ids: torch.Tensor) -> torch.Tensor:
    """The rows of token ids.  # (tokens,) -> (tokens, columns), float32"""
    return matrix.dequantize_rows(ids)


def matvec(matrix: Matrix, x: torch.Tensor, bias: Bias = None) -> torch.Tensor:
    """W x (+ bias) for each row of x.  # (tokens, columns) -> (tokens, rows), float32"""
    if not len(x):
        return x.new_zeros((0, matrix.rows))
    y = products(dequantize(matrix).unsqueeze(0), x.float().unsqueeze(0))[0]
    return y if bias is None else y + bias


def norm_matvec(
    x: torch.Tensor, norm: Norm, eps: float, matrices: tuple[Matrix, ...], biases: tuple[Bias, ...], many: bool = False
) -> torch.Tensor:
    """Multiply x, normed where `norm` is given, by stacked matrices.  # (tokens, columns) -> (tokens, all rows)"""
    normed = x if norm is None else rms_norm(x, norm, eps)
    return torch.cat([matvec(matrix, normed, bias) for matrix, bias in zip(matrices, biases, strict=True)], dim=1)


def rope(x: torch.Tensor, cos_sin: torch.Tensor) -> torch.Tensor:
    """Rotate each pair (x[2i], x[2i+1]) (arXiv 2104.09864).  # (tokens, heads, head_dim), (tokens, 2, head_dim / 2)"""
    cos, sin = cos_sin[:, :1], cos_sin[:, 1:]
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=3).flatten(2)


def qk_norm(heads: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMS norm of each head, or of all together if `weight` has their size.  # (tokens, heads, head_dim), (head_dim,) or all"""
    return rms_norm(heads.flatten(1).unflatten(1, (-1, len(weight))), weight, eps).view(heads.shape)


def rope_write(
    qkv: torch.Tensor,
    num_heads: int,
    head_norms: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
    kv: LayerKV,
    step: Step,
    tables: tuple[int, int] = (0, 0),
) -> torch.Tensor:
    """Norm (where the model does) and rotate q and k, write K and V to their pages; returns q.

    qkv (tokens, (heads + 2 kv_heads) * head_dim) -> (tokens, heads, head_dim)
    """
    heads = qkv.unflatten(1, (-1, kv.keys.numbers.shape[3]))
    num_kv_heads = (heads.shape[1] - num_heads) // 2
    q, k, v = heads.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    if head_norms is not None:
        q, k = qk_norm(q, head_norms[0], eps), qk_norm(k, head_norms[1], eps)
    kv.keys.write(step.slots, rope(k, step.cos_sin[tables[1]]))
    kv.values.write(step.slots, v)
    return rope(q, step.cos_sin[tables[0]])


def attend(q: torch.Tensor, kv: LayerKV, window: int, step: Step, scale: float = 0.0, cap: float = 0.0) -> torch.Tensor:
    """Softmax attention of each row to its sequence's positions up to its own.  # (tokens, heads, head_dim) -> the same, flat"""
    if not len(q):
        return q.flatten(1)
    scale = scale or q.shape[2] ** -0.5
    return torch.stack([_attend_row(row, kv, window, scale, cap, *step.position_and_pages(i)) for i, row in enumerate(q)])


def _attend_row(
    q: torch.Tensor, kv: LayerKV, window: int, scale: float, cap: float, position: int, pages: torch.Tensor
) -> torch.Tensor:
    first, last = max(0, position + 1 - window) if window else 0, position + 1
    page_size = kv.keys.numbers.shape[2]
    skipped = first // page_size  # pages before the window are not read
    pages, first, last = pages[skipped : position // page_size + 1], first - skipped * page_size, last - skipped * page_size
    keys, values = kv.keys.read(pages, first, last), kv.values.read(pages, first, last)
    groups = q.unflatten(0, (len(keys), -1))  # (kv_heads, heads of the group, head_dim)
    shares = softmax(softcap(products(keys, groups) * scale, cap))  # (kv_heads, heads of the group, positions)
    return products(values.transpose(1, 2), shares).flatten()


def matvec_add(x: torch.Tensor, matrix: Matrix, bias: Bias, residual: torch.Tensor | None, many: bool = False) -> torch.Tensor:
    """W x (+ bias) (+ residual).  # (tokens, columns) -> (tokens, rows)"""
    y = matvec(matrix, x, bias)
    return y if residual is None else residual + y


def glu_matvec_add(
    gate_up: torch.Tensor,
    matrix: Matrix,
    bias: Bias,
    residual: torch.Tensor | None,
    many: bool = False,
    activation: Activation = "silu",
) -> torch.Tensor:
    """W (activation(gate) * up) (+ bias) (+ residual).  # (tokens, 2 ffn_size) -> (tokens, rows)"""
    return matvec_add(glu(gate_up, activation), matrix, bias, residual)


def norm_add(x: torch.Tensor, norm: torch.Tensor, eps: float, residual: torch.Tensor) -> torch.Tensor:
    """residual + the normed x.  # (tokens, columns)"""
    return residual + rms_norm(x, norm, eps)


def route(logits: torch.Tensor, experts: Experts) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token's experts, the most probable first, and the weight of each (arXiv 1701.06538).

    (tokens, experts) -> numbers (tokens, top_k), weights (tokens, top_k). On a tie the lower expert comes first.

    >>> route(torch.tensor([[0.0, 2.0, 0.0, 2.0]]), Experts(size=8, count=4, top_k=3))[0].tolist()
    [[1, 3, 0]]
    """
    chosen = logits.sort(dim=1, descending=True, stable=True).indices[:, : experts.top_k]
    shares = softmax(logits).gather(1, chosen)
    return chosen, shares / row_sums(shares.clone()).unsqueeze(1) if experts.normalises else shares


def experts_add(
    x: torch.Tensor, norm: Norm, eps: float, experts: ExpertWeights, residual: torch.Tensor | None, many: bool = False
) -> torch.Tensor:
    """The outputs of each token's experts, each times its weight, summed in the router's order (+ residual).

    Each expert computes all its tokens at once, in the order of the experts; the sums wait until all are there.
    """
    h = x if norm is None else rms_norm(x, norm, eps)
    chosen, shares = route(matvec(experts.router, h), experts.spec)
    outputs = h.new_empty((*chosen.shape, h.shape[1]))
    for expert in chosen.unique().tolist():
        tokens, ranks = (chosen == expert).nonzero(as_tuple=True)
        outputs[tokens, ranks] = _expert(experts, expert, h[tokens])
    y = reduce(operator.add, (outputs * shares.unsqueeze(2)).unbind(1))
    return y if residual is None else residual + y


def _expert(experts: ExpertWeights, number: int, x: torch.Tensor) -> torch.Tensor:
    """One expert's feed-forward part.  # (tokens, hidden_size) -> (tokens, hidden_size)"""
    gate, up, down = (matrix.part(number, experts.spec.count) for matrix in (experts.gate, experts.up, experts.down))
    gate_up = torch.cat([matvec(gate, x), matvec(up, x)], dim=1)
    return glu_matvec_add(gate_up, down, None, None, activation=experts.spec.activation)


def sample(logits: torch.Tensor, sampling: SamplingBatch, last_ids: torch.Tensor) -> torch.Tensor:
    """Sample each row's next id as `puna.sampling` does; -1 if the row is not finite.  # (rows, vocab_size) -> (rows,)"""
    before: list[int] = last_ids.tolist()
    ids = [sampling.sample_row(i, row, before) for i, row in enumerate(logits.cpu().numpy())]
    return torch.tensor(ids, dtype=torch.int32, device=logits.device)
