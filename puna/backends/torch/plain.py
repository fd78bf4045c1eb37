"""A layer's operations in plain torch, on any device: each computes what the Triton kernel of the same name does.

Each row is computed by itself, with the sums of `exact`, so that its bits depend on its own numbers only. That is slow, because
each step dequantises every matrix; it serves tests, and machines without Triton.
"""

from __future__ import annotations

import torch

from puna.backends.torch.exact import products, rms_norm, silu, softmax
from puna.backends.torch.kv import LayerKV
from puna.backends.torch.step import Step
from puna.backends.torch.weights import Bias, Matrix, dequantize
from puna.model.spec import ModelConfig
from puna.request import Choices
from puna.sampling import choose_row

READS_HOST = True  # attention loops over rows by their positions


def reserve(model: ModelConfig, max_rows: int, device: torch.device) -> None:
    """Nothing to do: no memory is kept between operations."""


def embed(matrix: Matrix, ids: torch.Tensor) -> torch.Tensor:
    """The rows of token ids.  # (tokens,) -> (tokens, columns), float32"""
    return matrix.take(ids)


def matvec(matrix: Matrix, x: torch.Tensor, bias: Bias = None) -> torch.Tensor:
    """W x (+ bias) for each row of x.  # (tokens, columns) -> (tokens, rows), float32"""
    if not len(x):
        return x.new_zeros((0, matrix.rows))
    y = products(dequantize(matrix).unsqueeze(0), x.float().unsqueeze(0))[0]
    return y if bias is None else y + bias


def norm_matvec(
    x: torch.Tensor, norm: torch.Tensor, eps: float, matrices: tuple[Matrix, ...], biases: tuple[Bias, ...], many: bool = False
) -> torch.Tensor:
    """Multiply the normed x by stacked matrices.  # (tokens, columns) -> (tokens, all rows)"""
    normed = rms_norm(x, norm, eps)
    return torch.cat([matvec(matrix, normed, bias) for matrix, bias in zip(matrices, biases, strict=True)], dim=1)


def rope(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Rotate each pair (x[2i], x[2i+1]) (arXiv 2104.09864).  # (tokens, heads, head_dim), (tokens, 2, head_dim / 2)"""
    cos, sin = turns[:, :1], turns[:, 1:]
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=3).flatten(2)


def rope_write(
    qkv: torch.Tensor, num_heads: int, head_norms: tuple[torch.Tensor, torch.Tensor] | None, eps: float, kv: LayerKV, step: Step
) -> torch.Tensor:
    """Norm (where the model does) and rotate q and k, write K and V to their pages; returns q.

    qkv (tokens, (heads + 2 kv_heads) * head_dim) -> (tokens, heads, head_dim)
    """
    heads = qkv.unflatten(1, (-1, kv.keys.numbers.shape[3]))
    num_kv_heads = (heads.shape[1] - num_heads) // 2
    q, k, v = heads.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    if head_norms is not None:
        q, k = rms_norm(q, head_norms[0], eps), rms_norm(k, head_norms[1], eps)
    kv.keys.write(step.slots, rope(k, step.turns))
    kv.values.write(step.slots, v)
    return rope(q, step.turns)


def attend(q: torch.Tensor, kv: LayerKV, window: int, step: Step) -> torch.Tensor:
    """Softmax attention of each row to its sequence's positions up to its own.  # (tokens, heads, head_dim) -> the same, flat"""
    if not len(q):
        return q.flatten(1)
    return torch.stack([_attend_row(row, kv, window, *step.place(i)) for i, row in enumerate(q)])


def _attend_row(q: torch.Tensor, kv: LayerKV, window: int, position: int, pages: torch.Tensor) -> torch.Tensor:
    first, last = max(0, position + 1 - window) if window else 0, position + 1
    page_size = kv.keys.numbers.shape[2]
    skipped = first // page_size  # pages before the window are not read
    pages, first, last = pages[skipped : position // page_size + 1], first - skipped * page_size, last - skipped * page_size
    keys, values = kv.keys.read(pages, first, last), kv.values.read(pages, first, last)
    groups = q.unflatten(0, (len(keys), -1))  # (kv_heads, heads of the group, head_dim)
    shares = softmax(products(keys, groups) * q.shape[1] ** -0.5)  # (kv_heads, heads of the group, positions)
    return products(values.transpose(1, 2), shares).flatten()


def matvec_add(x: torch.Tensor, matrix: Matrix, bias: Bias, residual: torch.Tensor | None, many: bool = False) -> torch.Tensor:
    """W x (+ bias) (+ residual).  # (tokens, columns) -> (tokens, rows)"""
    y = matvec(matrix, x, bias)
    return y if residual is None else residual + y


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up (arXiv 2002.05202).  # (tokens, 2 ffn_size) -> (tokens, ffn_size)"""
    gate, up = gate_up.chunk(2, dim=1)
    return silu(gate) * up


def swiglu_matvec_add(
    gate_up: torch.Tensor, matrix: Matrix, bias: Bias, residual: torch.Tensor | None, many: bool = False
) -> torch.Tensor:
    """W swiglu(gate, up) (+ bias) (+ residual).  # (tokens, 2 ffn_size) -> (tokens, rows)"""
    return matvec_add(swiglu(gate_up), matrix, bias, residual)


def choose(logits: torch.Tensor, choices: Choices, chosen: torch.Tensor) -> torch.Tensor:
    """Sample each row's next id as `puna.sampling` does; -1 if the row is not finite.  # (rows, vocab_size) -> (rows,)"""
    before: list[int] = chosen.tolist()
    ids = [choose_row(row, choices, i, before) for i, row in enumerate(logits.cpu().numpy())]
    return torch.tensor(ids, dtype=torch.int32, device=logits.device)
