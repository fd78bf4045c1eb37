"""A layer's operations as Triton kernels, with the signatures of `plain`; on the CPU under TRITON_INTERPRET=1.

A row has the same bits alone, in a chunk and in any batch. Prompt tokens go through tiles of many rows, generated ones through
other kernels, and each way sums in one order.
"""

from __future__ import annotations

from puna.backends.torch.kernels.attention import attend, reserve
from puna.backends.torch.kernels.dequantize import embed
from puna.backends.torch.kernels.experts import experts_add
from puna.backends.torch.kernels.matvec import glu_matvec_add, matvec_add, norm_matvec
from puna.backends.torch.kernels.norm import norm_add
from puna.backends.torch.kernels.rope import rope_write
from puna.backends.torch.kernels.sampling import sample

READS_HOST = False  # except for prompts
PROMPTS_APART = True  # matvec and gemm sum in another order

__all__ = [
    "PROMPTS_APART", "READS_HOST", "attend", "embed", "experts_add", "glu_matvec_add", "matvec_add", "norm_add", "norm_matvec",
    "reserve", "rope_write", "sample",
]  # fmt: skip
