"""Which torch device a name means, whether it can be used, and how much memory it has.

"cuda" and "cuda:1" are NVIDIA GPUs; "torch" is the CPU through PyTorch, for tests and for tensor parallelism without GPUs.
"""

from __future__ import annotations

import numpy as np
import torch

from puna.backends.base import DeviceInfo, ProcessRank
from puna.backends.torch.errors import cannot_start
from puna.backends.torch.parallel import Ranks
from puna.config import EngineConfig
from puna.errors import DeviceError
from puna.plan import GPU_RESERVED_BYTES
from puna.resources import cpu_identity, memory_bytes, usable_cores
from puna.units import counted


def open_device(config: EngineConfig, process: ProcessRank) -> torch.device:
    """The device of this process. DeviceError says why a GPU cannot be used, and what to do."""
    if not config.device.startswith("cuda"):
        torch.set_num_threads(config.threads or max(1, usable_cores() // process.local_size))
        return torch.device("cpu")
    number = _number(config.device, process.local_rank)
    require_gpu(number)
    device = torch.device("cuda", number)
    try:
        torch.cuda.set_device(device)
        _limit(device, config.vram)
    except RuntimeError as error:  # the first call that reaches the GPU: it may be full, lost or in exclusive use
        raise cannot_start(error) from error
    return device


def require_gpu(number: int = 0) -> None:
    """Raise DeviceError if GPU `number` cannot be used: it says why, and what to do."""
    _require_cuda()
    if number >= torch.cuda.device_count():
        raise DeviceError(
            f"the device is cuda:{number}, but this machine has {torch.cuda.device_count()} CUDA devices, numbered from 0",
            hint="Choose one of them with --device; with torchrun, start as many processes as there are GPUs.",
        )
    _require_kernels(number)


def describe(device: torch.device, config: EngineConfig, ranks: Ranks) -> DeviceInfo:
    """The device's description, and the least memory that is free on any rank, in bytes."""
    total, free = _memory(device, config.vram, ranks)
    threads = config.threads or usable_cores()
    on_cpu = f"PyTorch {torch.__version__} on the CPU, {counted(threads, 'thread')}"
    words = torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu
    words += f", rank {ranks.process.rank} of {ranks.process.size}" if ranks.process.size > 1 else ""
    name = f"cuda:{device.index}" if device.type == "cuda" else "torch"
    return DeviceInfo(name, words, threads, total, min(ranks.each(free)), ranks.process.rank, ranks.process.size)


def arithmetic(device: torch.device) -> str:
    """What sums on a device depend on besides puna's sources (`Backend.kv_arithmetic`); cosines come from the CPU."""
    versions = f"torch {torch.__version__}, numpy {np.__version__}, {cpu_identity()}"
    if device.type != "cuda":
        return versions
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    return f"{versions}, CUDA {torch.version.cuda}, {name} {capability}"


def _number(name: str, local_rank: int) -> int:
    """With several processes, each uses the GPU of its own local rank."""
    return int(name.partition(":")[2] or local_rank)


def _memory(device: torch.device, vram: int, ranks: Ranks) -> tuple[int, int]:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total, max(0, min(free, vram or free) - GPU_RESERVED_BYTES)  # `_limit` also holds the kernels to the budget
    total, free = memory_bytes()
    return total, free // ranks.process.local_size


def _limit(device: torch.device, vram: int) -> None:
    """Limit the process to a memory budget, as a smaller GPU would."""
    total = torch.cuda.mem_get_info(device)[1]
    if 0 < vram < total:
        torch.cuda.set_per_process_memory_fraction(vram / total, device)


def _require_cuda() -> None:
    if torch.version.cuda is None:
        raise DeviceError(
            f"the installed PyTorch ({torch.__version__}) was built without CUDA",
            hint="Install one with CUDA (https://pytorch.org/get-started), or use --device cpu.",
        )
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        raise cannot_start(error) from error


def _require_kernels(number: int) -> None:
    """Require that the wheel has code for the GPU: CUDA starts without it, and the first kernel fails."""
    name, capability = torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number)
    built_for = torch.cuda.get_arch_list()
    if not runs_on(capability, built_for):
        raise DeviceError(
            f"the installed PyTorch ({torch.__version__}, {', '.join(built_for)}) has no code for {name}, "
            f"which is sm_{capability[0]}{capability[1]}",
            hint="Install a PyTorch that has (https://pytorch.org/get-started), or use --device cpu.",
        )


def runs_on(capability: tuple[int, int], built_for: list[str]) -> bool:
    """Whether a wheel built for these architectures has code for a GPU: machine code of the same major version and no later
    minor one, or PTX ("compute_") of no later version.

    >>> runs_on((12, 0), ["sm_80", "sm_90"]), runs_on((8, 9), ["sm_80", "sm_90"]), runs_on((12, 0), ["sm_90", "compute_90"])
    (False, True, True)
    """
    for architecture in built_for:
        kind, _, number = architecture.partition("_")
        digits = "".join(filter(str.isdigit, number))
        version = int(digits[:-1] or 0), int(digits[-1:] or 0)
        if version <= capability and (kind == "compute" or version[0] == capability[0]):
            return True
    return False
