"""Triton support: whether Triton's kernels run on a GPU, and what to do if not; checked once, before a model is loaded.

Triton compiles for the GPU at hand, and for the first kernel a piece of C too: it needs a compiler, Python's headers and a
folder for the results. If one is missing, plain PyTorch computes the operations.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
from pathlib import Path
from subprocess import CalledProcessError

import torch

from puna import install
from puna.backends.base import LEAST_CAPABILITY
from puna.causes import SURE, find
from puna.errors import first_line

PACKAGE = {"win32": "triton-windows"}.get(sys.platform, "triton")
PLAIN = "the GPU computes with plain PyTorch, many times slower"
HEADER = "Python.h"
NUMBERS = 16  # that the smallest kernel writes


def problems(device: torch.device) -> tuple[str, ...]:
    """Lines that say why kernels cannot run, and what to do; none if they can."""
    if importlib.util.find_spec("triton") is None:
        return (f"Triton is not installed: {PLAIN}. {install.pip()} install {PACKAGE}",)
    if device.type != "cuda":  # the interpreter, which compiles nothing
        return ()
    return too_old(torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)) or _tried(device)


def too_old(name: str, capability: tuple[int, int]) -> tuple[str, ...]:
    """
    >>> too_old("NVIDIA GeForce RTX 3060", (8, 6))
    ()
    >>> too_old("Tesla T4", (7, 5))[0].partition(":")[0]
    'Tesla T4 has compute capability 7.5, and Triton needs 8.0 (A100, RTX 30)'
    """
    if capability >= LEAST_CAPABILITY:
        return ()
    has, needs = (".".join(map(str, version)) for version in (capability, LEAST_CAPABILITY))
    return (
        f"{name} has compute capability {has}, and Triton needs {needs} (A100, RTX 30): {PLAIN}",
        "To find out whether the CPU is faster: puna bench MODEL with --device cpu, then with --device cuda.",
    )


def _tried(device: torch.device) -> tuple[str, ...]:
    """Compile and run the smallest kernel. What the GPU itself lacks, such as memory, raises the error that it would later."""
    out = torch.zeros(NUMBERS, dtype=torch.int32, device=device)
    try:
        ran: bool = importlib.import_module("puna.backends.torch.kernels.probe").run(out)
    except Exception as error:  # noqa: BLE001 - Triton's compiler raises errors of its own, by version
        return explained(error)
    return () if ran else (f"Triton's smallest kernel gives wrong numbers: {PLAIN}", "puna doctor tests more.")


def explained(error: Exception) -> tuple[str, str]:
    """Why Triton failed, and what to do.

    >>> explained(RuntimeError("Failed to find C compiler. Please specify via CC environment variable."))[1]
    'sudo apt install gcc python3-dev, or sudo dnf install gcc python3-devel'
    """
    found = find(_words(error))
    if found and found[0].confidence >= SURE:
        told = found[0].explain()
        return f"Triton cannot compile kernels: {PLAIN}. {told.cause}", told.cure[0]
    return (
        f"Triton cannot compile kernels: {PLAIN}. {first_line(error, with_kind=True)}",
        "puna doctor tests more; puna why explains errors.",
    )


def _words(error: Exception) -> str:
    """The error's text, with the usual C compiler message, which goes to standard error, if it applies."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, CalledProcessError) and not (Path(sysconfig.get_paths()["include"]) / HEADER).exists():
        return f"{said}\nfatal error: {HEADER}: No such file or directory"
    return said
