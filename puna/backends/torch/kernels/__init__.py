"""A layer's operations as Triton kernels, with the signatures of `plain`; on the CPU under TRITON_INTERPRET=1.

A row has the same bits alone, in a chunk and in any batch. Prompt tokens go through tiles of many rows, generated ones through
other kernels, and each way sums in one order.
"""

from __future__ import annotations

from puna.backends.torch.kernels.attention import attend, reserve
from puna.backends.torch.kernels.matvec import matvec_add, norm_matvec, swiglu_matvec_add
from puna.backends.torch.kernels.rope import rope_write
from puna.backends.torch.kernels.sampling import sample
from puna.backends.torch.kernels.take import embed

READS_HOST = False  # except for prompts

__all__ = ["READS_HOST", "attend", "embed", "matvec_add", "norm_matvec", "reserve", "rope_write", "sample", "swiglu_matvec_add"]
