"""The table of backends. A module is imported only when its backend is created, so that `import puna` stays light."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

from puna import install
from puna.backends.base import Backend, BackendSpec, ProcessRank
from puna.config import EngineConfig
from puna.errors import DeviceError, Terminated, UsageError, first_line
from puna.plan import RESIDENT_BLOCKS, Layout
from puna.progress import SILENT, Reporter

# How a torch device keeps weights without loss.
BLOCKS = {name: name for name in ("Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")}
FLOATS = {name: name for name in ("F32", "F16", "BF16")}
ROUTER = {"router": "F32"}  # small, and a rounded one chooses other experts
TORCH_KV = ("bf16", "f16", "f32", "int8")
# A GPU is for the model. Prompt chunks of 1024 tokens keep it busy. Three buffers of logits: what a recorded step computes, where
# it leaves them, and those of a step with prompts. A prompt's own logits are few unless it is scored; those are not counted.
GPU = partial(
    Layout,
    kv_types=TORCH_KV,
    offloads=True,
    kv_share=0.9,
    max_batch=256,
    chunk_tokens=1024,
    logits_copies=3,
    attention_shares=32,
)

BACKENDS: Mapping[str, BackendSpec] = {
    "cpu": BackendSpec(
        module="puna.backends.cpu.model",
        layouts={
            "as-is": Layout(
                resident_types={name: name for name in RESIDENT_BLOCKS},
                other="Q8_0",
                kv_types=("f16", "f32", "int8"),
                row_multiple=8,
                vector_multiple=32,
                value_multiple=16,
            )
        },
    ),
    "reference": BackendSpec(
        module="puna.backends.reference",
        layouts={"as-is": Layout(resident_types={}, other="F32", kv_types=("f32",))},
    ),
    "torch": BackendSpec(
        module="puna.backends.torch.model",
        fills_kv=True,
        layouts={
            "as-is": GPU(FLOATS | BLOCKS, other="Q8_0"),
            "int8": GPU(BLOCKS, other="Q8_0", better=ROUTER),
            "int4": GPU(
                {name: name for name in BLOCKS if name.startswith("Q4")},
                other="Q4_1",
                better={"embed": "Q8_0", "lm_head": "Q8_0", **ROUTER},  # four bits cost these the most
            ),
        },
    ),
}

# Kind of device -> backend. The text after a colon is a number, which the backend reads.
DEVICES: Mapping[str, str] = {"cpu": "cpu", "reference": "reference", "torch": "torch", "cuda": "torch"}
SHARED = {"cpu": "torch"}  # the device to use where several processes share a model
NVIDIA_DRIVER = (
    Path("/proc/driver/nvidia/version"),
    Path("/usr/lib/wsl/lib/libcuda.so.1"),  # in WSL the driver is that of Windows
    Path("C:/Windows/System32/nvcuda.dll"),
)
ABSENT = "which is not installed"


def choose_device(config: EngineConfig, report: Reporter = SILENT) -> EngineConfig:
    """Replace "auto" by a device, and report why: a usable GPU if there is one, else the CPU.

    Raises DeviceError if `config.require_gpu` is set and there is none. Imports torch only where an NVIDIA driver is found.
    """
    kind = config.device.partition(":")[0]
    if kind == "auto":
        kind = "cuda" if _has_gpu(config, report) else "cpu"
    elif config.require_gpu and kind != "cuda":
        raise UsageError(f"a GPU is required, but the device is {config.device}", hint="Use --device cuda or drop --require-gpu.")
    if ProcessRank.from_env().size > 1:
        kind = SHARED.get(kind, kind)
        if DEVICES[kind] != "torch":
            raise UsageError(
                f"several processes cannot share a model on the device {kind}", hint="Use --device torch or --device cuda."
            )
    return config if config.device.startswith(kind) else replace(config, device=kind)


def _has_gpu(config: EngineConfig, report: Reporter) -> bool:
    if not (config.require_gpu or _has_driver()):
        return False
    try:
        _module("cuda").require_gpu()
    except DeviceError as error:
        if config.require_gpu:
            raise
        report.notice(f"using the CPU instead: {error.line}")
        return False
    return True


def require_device(config: EngineConfig) -> None:
    """DeviceError if the settings ask for a GPU that cannot be used, so that nothing is fetched for it in vain.

    Where several processes share a model, each looks at its own GPU when it makes its backend.
    """
    if ProcessRank.from_env().size == 1 and (config.require_gpu or config.device.startswith("cuda")):
        device = choose_device(config).device
        _module("cuda").require_gpu(int(device.partition(":")[2] or 0))


def _has_driver() -> bool:
    return any(path.exists() for path in NVIDIA_DRIVER)


def backend_spec(device: str) -> BackendSpec:
    """The row of the table for a device.

    >>> backend_spec("cuda:1").module
    'puna.backends.torch.model'
    """
    return BACKENDS[DEVICES[device.partition(":")[0]]]


def create_backend(config: EngineConfig, report: Reporter = SILENT) -> Backend:
    """Make the backend that `config.device` names. Nothing is loaded yet."""
    backend: Backend = _module(config.device.partition(":")[0]).create(config, report)
    return backend


def begin_to_compile(config: EngineConfig, weight_types: Callable[[], Sequence[str]]) -> None:
    """Let a device compile its kernels in the background while a model is fetched. `weight_types` returns the types of the
    model's matrices, the embedding's first, or none. It is not called for devices that compile nothing beforehand."""
    if DEVICES[config.device.partition(":")[0]] == "cpu" and (types := weight_types()):
        kv_types = BACKENDS["cpu"].layouts["as-is"].kv_types
        _module("cpu").begin_to_compile(types, kv_types[0] if config.kv_type == "auto" else config.kv_type)


def _module(kind: str) -> ModuleType:
    """The module of the backend of a kind of device."""
    backend = DEVICES[kind]
    with _stdout_to_stderr():
        try:
            return importlib.import_module(BACKENDS[backend].module)
        except (KeyboardInterrupt, Terminated):  # a person ends puna
            raise
        except BaseException as error:  # a damaged package may also leave by SystemExit
            if backend != "torch" or (problem := _torch_problem(error)) is None:
                raise
            raise (_no_gpu_by_torch(problem) if kind == "cuda" else _no_cpu_by_torch(problem)) from error


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """What is printed in the block, by C too, goes to stderr: a package's greeting would stand before an answer, or in JSON."""
    if (kept := _kept_stdout()) is None:
        yield
        return
    try:
        with suppress(OSError):  # the program has no stderr
            os.dup2(2, 1)
        yield
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _kept_stdout() -> int | None:
    """Another number for where stdout goes; None for a program without stdout, in which 1 may be any file."""
    if sys.stdout is None:
        return None
    try:
        sys.stdout.flush()
        return os.dup(1)
    except OSError:
        return None


def _torch_problem(error: BaseException) -> str | None:
    """Why PyTorch cannot be imported; None if it was: then the error is a bug."""
    if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "triton"):
        return f"{error.name}, {ABSENT}"
    lacks_a_part = isinstance(error, ModuleNotFoundError) and str(error.name).startswith("torch.")
    if hasattr(sys.modules.get("torch"), "__version__") and not lacks_a_part:
        return None
    return f"PyTorch is installed but does not start: {first_line(error, with_kind=True)}"


def _no_gpu_by_torch(problem: str) -> DeviceError:
    """The error for a GPU. Without a driver PyTorch cannot help, and its packages for GPUs are gigabytes."""
    if not _has_driver():
        return DeviceError(
            "there is no NVIDIA card here, or its driver is not loaded",
            hint="Use --device cpu. `puna doctor --device cuda` says which of the two it is.",
        )
    tested = "or use --device cpu. `puna doctor --device cuda` tests it all."
    if problem.endswith(ABSENT):
        return DeviceError(f"GPUs need {problem}", hint=f"Install it: {install.extra_command('gpu')}, {tested}")
    return DeviceError(problem, hint=f"Install it again: {install.again('torch')}, {tested}")


def _no_cpu_by_torch(problem: str) -> DeviceError:
    """The error for PyTorch on the CPU. The doctor knows the command for the small build, without the libraries of GPUs."""
    words = f"PyTorch on the CPU needs {problem}" if problem.endswith(ABSENT) else problem
    return DeviceError(words, hint="Use --device cpu, or install it: `puna doctor --device torch` shows the command.")
