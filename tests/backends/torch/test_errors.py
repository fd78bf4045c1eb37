"""A device that fails: at each allocation of loading, in a step, in a recording, and when its result is read."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from puna.backends import BACKENDS, create_backend
from puna.backends.base import Backend
from puna.backends.torch import errors, graph
from puna.backends.torch.model import SampledTokens, TorchBackend
from puna.config import EngineConfig
from puna.errors import DeviceError, InsufficientMemoryError, PunaError
from puna.formats.base import Checkpoint, Tensor
from puna.plan import GPU_RESERVED_BYTES, Plan, advice, make_plan
from puna.units import GIB, parse_bytes
from tests.conformance.test_backends import forward, loaded, plan_of
from tests.fakes import random_checkpoint, tiny_config

CONFIG = tiny_config(qkv_bias=True, num_layers=2)
CUDA_FULL = "CUDA out of memory. Tried to allocate 86.00 MiB. GPU 0 has a total capacity of 11.99 GiB of which 0 bytes are free."
CPU_FULL = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes. "
    "Error code 12 (Cannot allocate memory)"
)
ASYNCHRONOUS = "\nCUDA kernel errors might be asynchronously reported at some other API call.\nFor debugging consider ..."

# An error -> its class for people, what stands in its line, what stands in its hint.
FULL, BROKEN = InsufficientMemoryError, DeviceError
ERRORS: dict[str, tuple[BaseException, type[PunaError], str, str]] = {
    "card full": (torch.OutOfMemoryError(CUDA_FULL), FULL, "torch ran out of memory {doing}: CUDA out of memory", "Take --"),
    "card full, said by a kernel": (RuntimeError("CUDA error: out of memory" + ASYNCHRONOUS), FULL, "torch ran out", "Take --"),
    "cuBLAS full": (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), FULL, "torch ran out", "Take --"
    ),
    "Triton full": (RuntimeError("Triton Error [CUDA]: out of memory"), FULL, "torch ran out of memory", "Take --"),
    "main memory full": (RuntimeError(CPU_FULL), FULL, "this machine ran out of memory {doing}: DefaultCPUAllocator", "Take --"),
    "numpy full": (MemoryError("Unable to allocate 8.00 GiB for an array"), FULL, "this machine ran out", "Take --"),
    "map refused": (OSError(12, "Cannot allocate memory"), FULL, "this machine ran out of memory {doing}: [Errno 12]", "Take --"),
    "no word": (MemoryError(), FULL, "this machine ran out of memory {doing}: MemoryError", "Take --"),
    "illegal access": (
        RuntimeError("CUDA error: an illegal memory access was encountered" + ASYNCHRONOUS), BROKEN, "torch failed {doing}: CUDA",
        "Start puna again",
    ),
    "ECC": (RuntimeError("CUDA error: uncorrectable ECC error encountered"), BROKEN, "failed {doing}", "Start puna again"),
    "launch": (RuntimeError("CUDA error: unspecified launch failure"), BROKEN, "failed {doing}", "Start puna again"),
    "time": (RuntimeError("CUDA error: the launch timed out and was terminated"), BROKEN, "failed {doing}", "Start puna again"),
    "lost": (RuntimeError("CUDA error: GPU is lost"), BROKEN, "failed {doing}", "Start puna again"),
    "driver": (RuntimeError("CUDA driver error: invalid argument"), BROKEN, "failed {doing}", "Start puna again"),
    "Triton": (RuntimeError("Triton Error [CUDA]: an illegal memory access"), BROKEN, "failed", "Start puna again"),
}  # fmt: skip
each_error = pytest.mark.parametrize("name", ERRORS)


def require_told(error: PunaError, name: str, doing: str) -> None:
    """Two good lines."""
    _, kind, line, hint = ERRORS[name]
    assert type(error) is kind and line.format(doing=doing) in error.typed.message and hint in error.typed.hint
    assert doing in error.message
    assert max(len(error.message), len(error.hint)) < 300 and "\n" not in error.message + error.hint


class Failing(TorchDispatchMode):  # type: ignore[misc]
    """Counts operations whose result is new memory, and raises `error` in the place of number `at`."""

    MAKES = (
        "empty",
        "zeros",
        "cat",
        "clone",
        "_to_copy",
        "empty_like",
        "full",
        "new_empty",
        "stack",
        "to",
        "contiguous",
        "copy_",
    )

    def __init__(self, at: int, error: BaseException | None) -> None:
        super().__init__()
        self.at, self.error, self.count = at, error, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.removeprefix("aten::") in self.MAKES:
            self.count += 1
            if self.count == self.at and self.error is not None:
                raise self.error
        return func(*args, **(kwargs or {}))


@pytest.fixture
def few_objects() -> Iterator[None]:
    """What is alive already is not looked at again and again."""
    gc.freeze()
    yield
    gc.unfreeze()


def tensors_alive() -> set[int]:
    gc.collect()
    return {id(one) for one in gc.get_objects() if type(one) is torch.Tensor}


def torch_backend(num_offloaded: int = 0, **settings: Any) -> tuple[Backend, Checkpoint, Plan]:
    checkpoint = random_checkpoint(CONFIG, "F16", seed=1)
    config = EngineConfig(device="torch", threads=1, page_size=16, **settings)
    backend = create_backend(config)
    return backend, checkpoint, plan_of(checkpoint, config, backend).offloading(num_offloaded)


@pytest.mark.usefixtures("few_objects")
@pytest.mark.parametrize("num_offloaded", [0, 1])
def test_memory_that_runs_out_at_any_allocation_of_loading_is_told_and_given_back(num_offloaded: int) -> None:
    backend, checkpoint, plan = torch_backend(num_offloaded)
    with Failing(0, None) as counted:
        backend.load(checkpoint, plan)
    backend.close()
    before = tensors_alive()
    assert counted.count > 30
    for at in range(1, counted.count + 1):
        error = torch.OutOfMemoryError(CUDA_FULL)
        with Failing(at, error), pytest.raises(InsufficientMemoryError) as told:
            backend.load(checkpoint, plan)
        assert tensors_alive() <= before, f"tensors stay alive after allocation {at}, while the error is held"
        require_told(told.value, "card full", "while loading the model")
        assert told.value.hint.startswith('Take weights="int8", ')
    smaller, _, smaller_plan = torch_backend(weights="int8")
    smaller.load(checkpoint, smaller_plan)
    assert np.isfinite(forward(smaller, ([1, 2, 3], 0, [0]))).all()
    smaller.close()


@each_error
def test_each_error_of_a_device_is_told_while_loading(name: str) -> None:
    backend, checkpoint, plan = torch_backend()
    with Failing(7, ERRORS[name][0]), pytest.raises(PunaError) as told:
        backend.load(checkpoint, plan)
    require_told(told.value, name, "while loading the model")
    backend.close()


@each_error
def test_each_error_of_a_device_is_told_in_a_step_and_when_its_result_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ERRORS[name][0]

    with loaded("torch", random_checkpoint(CONFIG)) as backend:
        monkeypatch.setattr(TorchBackend, "_pass", fail)
        with pytest.raises(PunaError) as told:
            forward(backend, ([1], 0, [0]))
        require_told(told.value, name, "in a step of 1 tokens")


@each_error
def test_each_error_is_told_when_a_sampled_token_is_read(name: str) -> None:
    class Lost:
        device = torch.device("cpu")

        def tolist(self) -> Any:
            raise ERRORS[name][0]

    reading = SampledTokens(Lost(), lambda: errors.translated("torch", "in a step of 1 tokens", lambda: "Take --x."))
    with pytest.raises(PunaError) as told:
        reading.token_ids()
    require_told(told.value, name, "in a step of 1 tokens")


@pytest.mark.parametrize(
    "mistake", [RuntimeError("The size of tensor a (3) must match"), OSError(2, "No such file"), KeyError("q")]
)
def test_a_mistake_of_punas_own_is_not_made_a_devices(mistake: BaseException) -> None:
    backend, checkpoint, plan = torch_backend()
    with Failing(9, mistake), pytest.raises(type(mistake)) as raised:
        backend.load(checkpoint, plan)
    assert raised.value is mistake


def test_pinned_memory_that_is_refused_is_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, pin_memory: bool, **__: Any) -> Any:
        raise RuntimeError("CUDA error: out of memory" + ASYNCHRONOUS)

    monkeypatch.setattr(torch, "empty", refuse)
    with (
        pytest.raises(InsufficientMemoryError, match="this machine ran out of memory while loading: 4096 bytes of pinned memory"),
        errors.translated("cuda:0", "while loading", lambda: ""),
    ):
        errors.empty_bytes(4096, pinned=True)


def test_an_error_keeps_no_tensor_alive_that_a_frame_held() -> None:
    def work() -> None:
        held = torch.ones(3)
        kept.append(weakref.ref(held))
        raise torch.OutOfMemoryError(CUDA_FULL)

    kept: list[Any] = []
    with pytest.raises(InsufficientMemoryError) as told, errors.translated("cuda:0", "here", lambda: ""):
        work()
    gc.collect()
    assert kept[0]() is None and told.value.__cause__ is not None


# ---- recordings -----------------------------------------------------------------------------------------------------------


class Recorder:
    """Records by keeping the function; fails while recording, or when the recording is asked again."""

    def __init__(self, record: BaseException | None = None, replay: BaseException | None = None) -> None:
        self.errors = record, replay

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        if self.errors[0] is not None:
            raise self.errors[0]
        return self._replay(work)

    def _replay(self, work: Callable[[], object]) -> Callable[[], object]:
        def replay() -> object:
            if self.errors[1] is not None:
                raise self.errors[1]
            return work()

        return replay


@contextmanager
def recorded(recorder: graph.Recorder) -> Iterator[Backend]:
    with loaded("torch", random_checkpoint(CONFIG)) as backend:
        assert isinstance(backend, TorchBackend)
        plan = plan_of(random_checkpoint(CONFIG), EngineConfig(device="torch", page_size=16), backend)
        backend._graphs = backend._new_graphs(recorder, CONFIG, plan)
        yield backend


def decode(backend: Backend, position: int) -> None:
    forward(backend, ([1], position, [0]), prompt_length=1)


def test_an_error_of_a_replay_is_told_and_one_of_recording_costs_speed_only() -> None:
    with recorded(Recorder(replay=RuntimeError("CUDA error: an illegal memory access was encountered"))) as backend:
        decode(backend, 1)
        with pytest.raises(DeviceError, match="torch failed in a step of 1 tokens: CUDA error: an illegal memory access"):
            decode(backend, 2)
    with recorded(Recorder(record=RuntimeError("operation not permitted when stream is capturing"))) as backend:
        decode(backend, 1)
        decode(backend, 2)
        assert backend._graphs._most_rows == -1  # type: ignore[attr-defined]
    with recorded(Recorder(replay=RuntimeError("a mistake of puna's"))) as backend:
        decode(backend, 1)
        with pytest.raises(RuntimeError, match="a mistake"):
            decode(backend, 2)


# ---- what to do -----------------------------------------------------------------------------------------------------------


def test_each_next_step_works_when_it_is_typed_and_takes_less() -> None:
    """From the file's weights to fewer bits, to layers in main memory, to a smaller context, to the end.

    A context that is halved under a budget makes room for more layers on the device: the budget is kept, and may be lowered next.
    """
    checkpoint = random_checkpoint(tiny_config(num_layers=12, max_context=1024, hidden_size=256, ffn_size=1024), "F16", seed=1)
    settings: dict[str, Any] = {"max_context": 1024, "max_batch": 1, "chunk_tokens": 16}
    reserved = 1 << 20
    steps, totals = [], []
    for _ in range(12):
        engine = EngineConfig(device="torch", page_size=16, **settings)
        free = (engine.vram or GIB) - reserved
        plan = make_plan(checkpoint.config, checkpoint.tensors, replace(engine, vram=0), BACKENDS["torch"].layouts, free)
        totals.append(plan.total_bytes if not engine.vram else free)
        said = advice(plan, checkpoint.config, checkpoint.tensors, ("int8", "int4"), reserved)
        flag, _, value = said.removeprefix("Take ").partition(",")[0].removesuffix(" or close other programs").partition(" ")
        steps.append(flag)
        if flag == "a":
            break
        read: Any = {"--weights": str, "--max-context": int, "--vram": parse_bytes}[flag]
        settings[flag.removeprefix("--").replace("-", "_")] = read(value)
    print(steps, totals)
    assert steps[:2] == ["--weights", "--weights"] and steps[-1] == "a" and "--max-context" in steps
    assert all(after <= before for before, after in pairwise(totals)) and totals[-1] < totals[0] / 8, totals
    assert steps[:3] == ["--weights", "--weights", "--vram"]


def test_a_card_is_told_a_budget_with_which_layers_stay_in_main_memory() -> None:
    config = tiny_config(num_layers=32, hidden_size=256, ffn_size=512, num_heads=8, num_kv_heads=2, head_dim=32, max_context=512)
    checkpoint = random_checkpoint(config, "Q4_1", seed=1)
    engine = EngineConfig(device="cuda", page_size=16, max_batch=1, chunk_tokens=16)
    layouts = BACKENDS["torch"].layouts
    plan = make_plan(config, checkpoint.tensors, engine, layouts, GIB)
    said = advice(plan, config, checkpoint.tensors, ("int8", "int4"), GPU_RESERVED_BYTES)
    assert said.startswith("Take --vram 5") and "layers stay in main memory" in said
    budget = parse_bytes(said.split()[2].rstrip(","))
    smaller = make_plan(config, checkpoint.tensors, engine, layouts, budget - GPU_RESERVED_BYTES)
    assert smaller.num_offloaded > 0 and smaller.total_bytes < plan.total_bytes


# ---- main memory, under the other backends ----------------------------------------------------------------------------------


class Short:
    """Counts what loading asks numpy for through `names` of modules and `Tensor.dequantize`; fails at number `at`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.count, self.at = 0, at
        from puna.backends.cpu import model, packing

        for holder, name in ((model, "aligned_zeros"), (packing, "aligned_zeros"), (packing, "_pack"), (model, "_padded_vector"),
                             (Tensor, "dequantize"), (np, "zeros")):  # fmt: skip
            monkeypatch.setattr(holder, name, self._counted(getattr(holder, name)))

    def _counted(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                raise MemoryError("Unable to allocate 8.00 GiB for an array with shape (1, 2) and data type float32")
            return work(*args, **kwargs)

        return counted


@pytest.mark.parametrize("device", ["cpu", "reference"])
def test_main_memory_that_runs_out_at_any_allocation_of_loading_is_told(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = random_checkpoint(CONFIG, "F16", seed=1)
    config = EngineConfig(device=device, threads=1, page_size=16)
    backend = create_backend(config)
    plan = plan_of(checkpoint, config, backend)
    with monkeypatch.context() as patched:
        counted = Short(patched, 0)
        backend.load(checkpoint, plan)
        backend.close()
    for at in range(1, counted.count + 1):
        with monkeypatch.context() as patched, pytest.raises(InsufficientMemoryError) as told:
            Short(patched, at)
            backend.load(checkpoint, plan)
        assert "this machine ran out of memory while loading the model: Unable to allocate 8.00 GiB" in told.value.message
        assert told.value.hint.startswith("Take ") and "`puna plan MODEL` lists what fits." in told.value.hint
        assert not any(vars(backend).get(name) for name in ("_arrays", "_matrices", "_weights", "_keys"))
    backend.load(checkpoint, plan)
    assert np.isfinite(forward(backend, ([1, 2], 0, [0]))).all()
    backend.close()
    assert counted.count > 5
