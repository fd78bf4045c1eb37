"""Sums, products, exp and roots whose bits depend on their inputs only: not on threads, other rows, addresses or the CPU.

BLAS, softmax, mean, exp and sqrt of torch do not promise this on a CPU. MKL and oneDNN split a sum by the number of threads, and
choose kernels by the CPU, the shape and the alignment. ATen computes the last elements of a range with a different exp.
MKL's sqrt of float32 is wrong in the last bit for 0.6 % of all significands. So this module uses only operations that IEEE 754
defines to the last bit (add, subtract, multiply, divide, round, convert), each on single elements. Sums are elementwise
additions in an order that depends on the length only. `tests/backends/torch/test_exact.py` lists what a forward pass may use.

A GPU keeps cuBLAS, softmax and silu, with one row per call: there, calls of the same shape return the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from puna.model.spec import Activation

TILE = 1 << 18  # products held at a time: 1 MiB, which stays in a core's cache
LARGEST = 700.0  # exp(700) is finite in float64; exp(-700) is 0 in float32
TERMS = tuple(1 / math.factorial(i) for i in range(10))  # exp's series; for |r| <= ln(2) / 2 the remainder is below 1e-11
EXPONENT_OF_ONE, SIGNIFICAND_BITS = 1023, 52  # of float64
ROOT_GUESS = 0x5FE6EB50C7B537A9  # (this - half of a float64's bits) are the bits of its inverse square root within 3.4 %
ROOT_STEPS = 4  # of Newton's method, each of which squares the error


def row_sums(terms: torch.Tensor) -> torch.Tensor:
    """Sums along the last axis, which must not be empty; overwrites `terms`.  # (..., n) -> (...)

    Adds the upper part to the lower part, whose size is a power of two, until one number is left.

    >>> row_sums(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])).tolist()
    [15.0]
    """
    count = terms.shape[-1]
    while count > 1:
        half = 1 << ((count - 1).bit_length() - 1)
        terms[..., : count - half].add_(terms[..., half:count])  # `+=` of a slice would copy the sums once more
        count = half
    return terms[..., 0]


def products(weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """W x for each head's matrix W and each of its rows x, float32.

    # (heads, n, columns), (heads, rows, columns) -> (heads, rows, n)
    """
    if rows.device.type == "cpu":
        return _products(weights, rows)
    if len(weights) > 1:
        return torch.bmm(rows, weights.transpose(1, 2))
    return torch.stack([torch.mv(weights[0], row.clone()) for row in rows[0]]).unsqueeze(0)  # clones have the same alignment


def _products(weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    heads, n, columns = weights.shape
    made = rows.new_empty((heads, rows.shape[1], n))
    width = max(1, min(n, TILE // (heads * columns)))
    height = max(1, TILE // (heads * columns * width))
    for top in range(0, rows.shape[1], height):
        some = rows[:, top : top + height].unsqueeze(2)
        for left in range(0, n, width):
            terms = some * weights[:, left : left + width].unsqueeze(1)  # (heads, some rows, some of n, columns)
            made[:, top : top + height, left : left + width] = row_sums(terms)
    return made


def exp(x: torch.Tensor) -> torch.Tensor:
    """e to the power of x: the nearest float32 or its neighbour. NaN stays NaN.

    Computes 2**k * series(r) in float64, where x = k ln(2) + r; builds 2**k from its bits.

    >>> exp(torch.tensor([0.0, 1.0, -200.0, 200.0])).tolist()
    [1.0, 2.7182817459106445, 0.0, inf]
    """
    return _exp64(x).float()


def _exp64(x: torch.Tensor) -> torch.Tensor:
    x = x.double().clamp(-LARGEST, LARGEST)
    k = torch.round(x * (1 / math.log(2)))
    r = x - k * math.log(2)
    series = torch.full_like(r, TERMS[-1])
    for term in reversed(TERMS[:-1]):
        series = series * r + term  # two operations, each rounded: torch cannot fuse them
    return series * ((k.long() + EXPONENT_OF_ONE) << SIGNIFICAND_BITS).view(torch.float64)


def softmax(x: torch.Tensor) -> torch.Tensor:
    """Softmax along the last axis, float32."""
    if x.device.type != "cpu":
        return torch.softmax(x, dim=-1)
    shares = exp(x - x.amax(dim=-1, keepdim=True))
    return shares / row_sums(shares.clone()).unsqueeze(-1)


def silu(x: torch.Tensor) -> torch.Tensor:
    """x / (1 + e**-x), float32 (arXiv 1702.03118)."""
    if x.device.type != "cpu":
        return F.silu(x)
    return (x / (1 + _exp64(-x))).float()


def gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU in its tanh form (arXiv 1606.08415), float32.

    0.5 x (1 + tanh(u)) = x / (1 + e**-2u)
    """
    if x.device.type != "cpu":
        return F.gelu(x, approximate="tanh")
    x = x.double()
    u = (x + 0.044715 * (x * x * x)) * math.sqrt(2 / math.pi)
    return (x / (1 + _exp64(-2 * u))).float()


ACTIVATIONS: Mapping[Activation, Callable[[torch.Tensor], torch.Tensor]] = {"silu": silu, "gelu": gelu}


def glu(gate_up: torch.Tensor, activation: Activation = "silu") -> torch.Tensor:
    """activation(gate) * up (arXiv 2002.05202).  # (tokens, 2 ffn_size) -> (tokens, ffn_size)"""
    gate, up = gate_up.chunk(2, dim=1)
    return ACTIVATIONS[activation](gate) * up


def softcap(x: torch.Tensor, cap: float) -> torch.Tensor:
    """cap * tanh(x / cap), float32 (Gemma 2, arXiv 2408.00118); a cap of 0 keeps x as it is.

    >>> softcap(torch.tensor([0.0, 2.0, -1000.0]), 5.0).tolist()
    [0.0, 1.8997448682785034, -5.0]
    """
    if not cap:
        return x
    if x.device.type != "cpu":
        return (x / cap).tanh_().mul_(cap)  # in place: logits are large
    power = _exp64(x.double() * (2 / cap))
    return (cap * ((power - 1) / (power + 1))).float()


def inverse_root(x: torch.Tensor) -> torch.Tensor:
    """1 / sqrt(x) of positive finite float32 numbers: the nearest float32 or its neighbour. NaN stays NaN.

    >>> inverse_root(torch.tensor([1.0, 4.0, 0.01])).tolist()
    [1.0, 0.5, 10.0]
    """
    x = x.double()
    root = (ROOT_GUESS - (x.view(torch.int64) >> 1)).view(torch.float64)
    for _ in range(ROOT_STEPS):
        root = root * (1.5 - x * 0.5 * root * root)
    return root.float()


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / rms(x) * weight along the last axis (arXiv 1910.07467)."""
    mean = row_sums(x * x).unsqueeze(-1) / x.shape[-1]
    return x * inverse_root(mean + eps) * weight
