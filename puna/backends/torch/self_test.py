"""GPU self test: `python -m puna.backends.torch.self_test` prints its result as one line of JSON, the last of its output.

`puna doctor` runs it in its own process: a driver may hang, and CUDA may end the process after a fault. Each check compares its
result with the CPU's; a failed one yields its error's text, and the others go on. "all-reduce" sums numbers over the GPUs through
NCCL, which hangs where they cannot reach each other, so it has its own process too.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from puna.backends.torch import plain
from puna.backends.torch.device import require_gpu
from puna.backends.torch.weights import Matrix
from puna.errors import DeviceError, first_line
from puna.units import MIB

FAILURES = (RuntimeError, OSError, ValueError, TypeError, ImportError, AttributeError, AssertionError, subprocess.SubprocessError)
COPY_BYTES, HOST_BYTES, FILL_BYTES = 256 * MIB, 64 * MIB, 1024 * MIB
REPEATS = 8
CLOSE = 0.02  # of the largest number: x in two halves of bf16, weights exact


def look() -> dict[str, Any]:
    """Versions, and the results for each GPU; `problem` and `cure` if there is none to test."""
    told: dict[str, Any] = {
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda or "",
        "triton": _triton_version(),
        "nccl": _nccl_version(),
        "devices": [],
        "peers": [],
    }
    count = _count()
    if not count:
        return told | _reason(lambda: require_gpu(0))
    told["devices"] = [try_gpu(number) for number in range(count)]
    told["peers"] = [[a, b] for a in range(count) for b in range(count) if a != b and torch.cuda.can_device_access_peer(a, b)]
    return told


def all_reduce() -> str:
    """Sum a tensor of each GPU over all GPUs, through NCCL: "ok", or what is wrong."""
    count = _count()
    if count < 2 or not dist.is_nccl_available():
        return f"there are {count} GPUs" if count < 2 else "this PyTorch has no NCCL"
    tensors = [torch.full((MIB,), number + 1.0, device=f"cuda:{number}") for number in range(count)]
    torch.cuda.nccl.all_reduce(tensors)
    expected = float(count * (count + 1) // 2)
    wrong = [number for number, tensor in enumerate(tensors) if not bool((tensor == expected).all())]
    return f"GPUs {wrong} have a different sum" if wrong else "ok"


def try_gpu(number: int) -> dict[str, Any]:
    """A GPU's name and memory, each check's "ok" or error, and rates in GB/s."""
    told: dict[str, Any] = {
        "number": number,
        "name": torch.cuda.get_device_name(number),
        "capability": list(torch.cuda.get_device_capability(number)),
    }
    reason = _reason(lambda: require_gpu(number))
    if reason:
        return told | {"has_code": False} | reason
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    free, total = torch.cuda.mem_get_info(device)
    told |= {"has_code": True, "free_bytes": free, "total_bytes": total}
    told |= {name: outcome(partial(check, device)) for name, check in CHECKS.items()}
    told |= {name: rate(partial(way, device, free)) for name, way in RATES.items()}
    return told


# ---- checks: each says "ok" or what is wrong


def check_memory(device: torch.device) -> str:
    """Allocate, write and read memory."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else FILL_BYTES
    count = min(FILL_BYTES, free // 2) // 4
    filled = torch.full((count,), 3, dtype=torch.int32, device=device)
    return "ok" if bool((filled == 3).all()) else f"some of {count * 4 >> 20} MiB do not hold what was written"


def check_product(device: torch.device) -> str:
    """Multiply matrices of whole numbers in half precision, which is exact."""
    numbers = (torch.arange(256 * 256).reshape(256, 256) * 7 % 5 - 2).to(torch.float32)
    expected = numbers @ numbers.T  # at most 1024: a float16 holds it
    found = (numbers.to(device, torch.float16) @ numbers.T.to(device, torch.float16)).cpu().float()
    return "ok" if torch.equal(found, expected) else f"a matrix product is wrong by up to {(found - expected).abs().max():g}"


def check_kernel(device: torch.device) -> str:
    """Compare one of puna's kernels, compiled here by Triton, with plain PyTorch on the CPU."""
    kernels = importlib.import_module("puna.backends.torch.kernels")
    x = torch.linspace(-1.0, 1.0, 256).reshape(1, 256)
    norm = torch.linspace(0.5, 1.5, 256)
    values = torch.sin(torch.arange(64 * 256, dtype=torch.float32)).reshape(64, 256).to(torch.bfloat16)
    expected = plain.norm_matvec(x, norm, 1e-5, (_matrix(values),), (None,))
    found = kernels.norm_matvec(x.to(device), norm.to(device), 1e-5, (_matrix(values.to(device)),), (None,)).cpu()
    error = float((found - expected).abs().max() / expected.abs().max())
    return "ok" if error < CLOSE else f"a kernel of puna is wrong by {error:.1%}"


CHECKS: dict[str, Callable[[torch.device], str]] = {
    "memory": check_memory,
    "product": check_product,
    "kernel": check_kernel,
}


def _matrix(values: torch.Tensor) -> Matrix:
    """A matrix (rows, columns) of bf16 as `weights` lays it out."""
    return Matrix("BF16", values.shape[0], values.shape[1], {"w": values})


def outcome(check: Callable[[], str]) -> str:
    """What a check returns, or the text of the error that ended it."""
    try:
        return check()
    except FAILURES as error:
        return first_line(error, with_kind=True)
    except Exception as error:  # noqa: BLE001 - Triton's compiler raises errors of its own, by version
        return first_line(error, with_kind=True)


# ---- rates


def memory_rate(device: torch.device, free: int) -> float:
    """GB/s of a GPU's memory: a copy reads and writes each byte."""
    size = min(COPY_BYTES, free // 4)
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _seconds(device, lambda: target.copy_(source)) / 1e9


def host_rate(device: torch.device, free: int) -> float:
    """GB/s from main memory to the GPU's, the way of offloaded weights."""
    size = min(HOST_BYTES, free // 4)
    source = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    target = torch.empty(size, dtype=torch.uint8, device=device)
    return size / _seconds(device, lambda: target.copy_(source, non_blocking=True)) / 1e9


RATES: dict[str, Callable[[torch.device, int], float]] = {"memory_gb_per_s": memory_rate, "host_gb_per_s": host_rate}


def rate(way: Callable[[], float]) -> float:
    """The rate; 0 if it could not be measured."""
    try:
        return round(way(), 1)
    except FAILURES:
        return 0.0


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of one repetition, after a warm-up."""
    work()
    _wait(device)
    begun = time.perf_counter()
    for _ in range(REPEATS):
        work()
    _wait(device)
    return max(time.perf_counter() - begun, 1e-9) / REPEATS


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# ---- versions and words


def _count() -> int:
    try:
        return int(torch.cuda.device_count())
    except FAILURES:
        return 0


def _triton_version() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _nccl_version() -> str:
    if not (dist.is_available() and dist.is_nccl_available()):
        return ""
    try:
        return ".".join(map(str, torch.cuda.nccl.version()))
    except FAILURES:
        return "of an unknown version"


def _reason(attempt: Callable[[], None]) -> dict[str, str]:
    try:
        attempt()
    except DeviceError as error:
        return {"problem": error.typed.message, "cure": error.typed.hint}
    return {}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps({"all_reduce": outcome(all_reduce)} if sys.argv[1:] == ["all-reduce"] else look()) + "\n")
