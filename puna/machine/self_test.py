"""Tests the GPUs in a child with a time limit and parses its answer; the child is `puna.backends.torch.self_test`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from puna.machine.child import Answer, ask
from puna.machine.cuda_versions import Version
from puna.machine.host import Host

MODULE = "puna.backends.torch.self_test"
LIMIT_S = 60.0  # importing PyTorch takes 3 to 15 s from a cold disk, the first kernel about as long to compile
ALL_REDUCE_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class CheckedGpu:
    """A GPU and its test results. Checks are "ok" or an error text; rates are GB/s, 0 if not measured."""

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
class SelfTest:
    """The child's answer. If it cannot be parsed, only `failure` is set."""

    failure: str = ""
    problem: str = ""
    cure: str = ""
    torch: str = ""
    cuda: str = ""
    triton: str = ""
    nccl: str = ""
    gpus: tuple[CheckedGpu, ...] = ()
    num_peers: int = 0  # ordered pairs of GPUs that access each other's memory


CHECKS = ("memory", "product", "kernel")


def self_test(host: Host) -> SelfTest:
    """Run the child once."""
    return understood(ask(host, MODULE, limit_s=LIMIT_S))


def all_reduce(host: Host) -> str:
    """ "ok", or what is wrong with a sum over all GPUs."""
    answer = ask(host, MODULE, "all-reduce", limit_s=ALL_REDUCE_LIMIT_S)
    return answer.problem or answer.text("all_reduce") or "it gave no result"


def understood(answer: Answer) -> SelfTest:
    """
    >>> understood(Answer(problem="it did not end within 60 s")).failure
    'it did not end within 60 s'
    >>> understood(Answer({"torch": 3, "devices": [{}]})).gpus[0].name
    ''
    """
    return SelfTest(
        failure=answer.problem,
        problem=answer.text("problem"),
        cure=answer.text("cure"),
        torch=answer.text("torch"),
        cuda=answer.text("cuda"),
        triton=answer.text("triton"),
        nccl=answer.text("nccl"),
        gpus=tuple(_gpu(Answer(told)) for told in _list(answer.facts.get("devices")) if isinstance(told, dict)),
        num_peers=len(_list(answer.facts.get("peers"))),
    )


def _gpu(told: Answer) -> CheckedGpu:
    return CheckedGpu(
        number=_whole(told, "number"),
        name=told.text("name"),
        capability=_capability(told.facts.get("capability")),
        has_code=told.facts.get("has_code") is True,
        problem=told.text("problem"),
        cure=told.text("cure"),
        checks=tuple((name, told.text(name)) for name in CHECKS if name in told.facts),
        memory_gb_per_s=told.number("memory_gb_per_s") or 0.0,
        host_gb_per_s=told.number("host_gb_per_s") or 0.0,
        free_bytes=_whole(told, "free_bytes"),
        total_bytes=_whole(told, "total_bytes"),
    )


def _whole(told: Answer, name: str) -> int:
    return int(told.number(name) or 0)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _capability(value: object) -> Version | None:
    numbers = [number for number in _list(value) if isinstance(number, int)]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None
