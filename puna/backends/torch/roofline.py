"""The roofline of a torch device, measured. `puna bench` compares its speeds with it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from puna.backends.base import Roofline


def measure(device: torch.device) -> Roofline:
    """Bytes read, and operations in the types of the products: bf16 also for int8 weights, which become bf16."""
    on_gpu = device.type == "cuda"
    count = 1 << (28 if on_gpu else 26)  # 1 GiB on a GPU: larger than its L2, and small beside a model
    data = torch.ones(count, dtype=torch.float32, device=device)
    read_s = best_seconds(data.max, device)
    del data
    return Roofline(
        read_bytes_per_s=4 * count / read_s,
        int8_ops_per_s=_product(torch.bfloat16, 8192 if on_gpu else 512, device),
        f32_ops_per_s=_product(torch.float32, 4096 if on_gpu else 1024, device),
    )


def _product(dtype: torch.dtype, size: int, device: torch.device) -> float:
    a, b = (torch.randn((size, size), dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / best_seconds(lambda: a @ b, device)


def best_seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """The shortest of several runs, until the device is done."""

    def once() -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    once()
    return min(once() for _ in range(repeats))
