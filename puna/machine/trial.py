"""The trial of the GPUs, run in a child with a limit, and its answer as types; the child is `puna.backends.torch.trial`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from puna.machine.cuda_versions import Version
from puna.machine.host import Host, Output

MODULE = "puna.backends.torch.trial"
LIMIT_S = 60.0  # importing PyTorch takes 3 to 15 s from a cold disk, the first kernel about as long to compile
ALL_REDUCE_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class TriedGpu:
    """A GPU and what came of trying it. Checks are "ok" or words; rates are GB/s, 0 where they were not measured."""

    number: int
    name: str
    capability: Version | None
    has_code: bool
    problem: str
    cure: str
    checks: tuple[tuple[str, str], ...]
    memory_gb_per_s: float
    host_gb_per_s: float
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Trial:
    """What the child told. `failure` is in the place of all else where it told nothing that can be read."""

    failure: str = ""
    problem: str = ""
    cure: str = ""
    torch: str = ""
    cuda: str = ""
    architectures: tuple[str, ...] = ()
    triton: str = ""
    nccl: str = ""
    gpus: tuple[TriedGpu, ...] = ()
    num_peers: int = 0  # ordered pairs of GPUs that reach each other's memory


CHECKS = ("memory", "product", "kernel")


def trial(host: Host) -> Trial:
    """Run it, once."""
    return understood(host.run(sys.executable, "-m", MODULE, limit_s=LIMIT_S), LIMIT_S)


def all_reduce(host: Host) -> str:
    """ "ok", or what is wrong with a sum over all GPUs."""
    answer = host.run(sys.executable, "-m", MODULE, "all-reduce", limit_s=ALL_REDUCE_LIMIT_S)
    told, failure = _told(answer, ALL_REDUCE_LIMIT_S)
    return failure or _text(told, "all_reduce") or "it told nothing"


def understood(answer: Output | None, limit_s: float) -> Trial:
    """
    >>> understood(Output(1, "", "ImportError: libcudart.so.12: cannot open shared object file"), 60).failure
    'ImportError: libcudart.so.12: cannot open shared object file'
    """
    told, failure = _told(answer, limit_s)
    if failure:
        return Trial(failure=failure)
    peers = told.get("peers")
    devices = told.get("devices")
    return Trial(
        problem=_text(told, "problem"),
        cure=_text(told, "cure"),
        torch=_text(told, "torch"),
        cuda=_text(told, "cuda"),
        architectures=tuple(map(str, _list(told.get("architectures")))),
        triton=_text(told, "triton"),
        nccl=_text(told, "nccl"),
        gpus=tuple(_gpu(device) for device in _list(devices) if isinstance(device, dict)),
        num_peers=len(_list(peers)),
    )


def _told(answer: Output | None, limit_s: float) -> tuple[dict[str, Any], str]:
    """The JSON of the last line that is an object, or why there is none."""
    if answer is None:
        return {}, "Python could not be started"
    if answer.timed_out:
        return {}, f"it did not end within {limit_s:.0f} s"
    for line in reversed(answer.text.splitlines()):
        try:
            told: Any = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict):
            return told, ""
    said = [line.strip() for line in answer.errors.splitlines() if line.strip()]
    return {}, said[-1][:300] if said else f"it ended with {answer.code} and said nothing"


def _gpu(told: dict[str, Any]) -> TriedGpu:
    return TriedGpu(
        number=int(_real(told, "number")),
        name=_text(told, "name"),
        capability=_capability(told.get("capability")),
        has_code=told.get("has_code") is True,
        problem=_text(told, "problem"),
        cure=_text(told, "cure"),
        checks=tuple((name, _text(told, name)) for name in CHECKS if name in told),
        memory_gb_per_s=_real(told, "memory_gb_per_s"),
        host_gb_per_s=_real(told, "host_gb_per_s"),
        free_bytes=int(_real(told, "free_bytes")),
        total_bytes=int(_real(told, "total_bytes")),
    )


def _text(told: dict[str, Any], name: str) -> str:
    value = told.get(name)
    return value if isinstance(value, str) else ""


def _real(told: dict[str, Any], name: str) -> float:
    value = told.get(name)
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e15 else 0.0


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _capability(value: object) -> Version | None:
    numbers = [number for number in _list(value) if isinstance(number, int)]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None
