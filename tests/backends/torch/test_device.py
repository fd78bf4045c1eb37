"""Error texts for faulty GPUs, tested on machines without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import puna.backends
from puna.backends import choose_device, create_backend
from puna.backends.torch import device as devices
from puna.config import EngineConfig
from puna.errors import DeviceError, UsageError
from puna.progress import KeepingReporter


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As if the installed PyTorch had CUDA, and there were one RTX 5090."""
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "NVIDIA GeForce RTX 5090")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (12, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90", "sm_120"])
    return monkeypatch


def refused(device: str = "cuda") -> DeviceError:
    with pytest.raises(DeviceError) as caught:
        create_backend(EngineConfig(device=device))
    assert caught.value.hint and "\n" not in caught.value.line
    return caught.value


def test_a_pytorch_without_cuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "was built without CUDA" in refused().message


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver",
            "driver is older than the installed PyTorch needs",
        ),
        ("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", "there is no NVIDIA driver"),
        ("No CUDA GPUs are available", "CUDA finds no card"),
        ("CUDA unknown error - this may be due to an incorrectly set up environment", "lost while the machine slept"),
        ("Something new\nwith two lines", "CUDA does not start: Something new"),
        ("", "it gives no reason"),
    ],
)
def test_the_words_of_cuda_are_explained(words: str, problem: str, cuda_build: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError(words)

    cuda_build.setattr(torch.cuda, "init", fail)
    assert problem in refused().message


def test_a_card_that_is_full_from_the_start_is_told(cuda_build: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device) -> None:
        raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")

    cuda_build.setattr(torch.cuda, "set_device", fail)
    error = refused()
    assert error.message == "the GPU's memory is full" and "nvidia-smi" in error.hint


def test_a_number_beyond_the_cards_is_told(cuda_build: pytest.MonkeyPatch) -> None:
    assert "the device is cuda:3, but this machine has 1 CUDA devices" in refused("cuda:3").message


def test_a_wheel_without_code_for_the_card_is_told(cuda_build: pytest.MonkeyPatch) -> None:
    """CUDA starts, and the first kernel would die (RTX 5090 with an older PyTorch)."""
    cuda_build.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    error = refused()
    assert "(2." in error.message and "sm_80, sm_90) has no code for NVIDIA GeForce RTX 5090, which is sm_120" in error.message


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((9, 0), ["sm_90"], True),
        ((9, 0), ["sm_90a"], True),
        ((8, 9), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((12, 0), ["sm_90"], False),
        ((12, 1), ["compute_120"], True),
        ((6, 1), ["sm_70", "compute_70"], False),
        ((10, 3), ["sm_100"], True),
        ((9, 0), [], False),
    ],
)
def test_code_runs_on_cards_of_its_major_version(capability: tuple[int, int], built_for: list[str], runs: bool) -> None:
    assert devices.runs_on(capability, built_for) is runs


def test_a_gpu_that_cannot_be_used_is_told_before_the_cpu_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    report = KeepingReporter()
    monkeypatch.setattr(puna.backends, "NVIDIA_DRIVER", (tmp_path / "none",))
    assert choose_device(EngineConfig(), report).device == "cpu" and report.texts == []
    monkeypatch.setattr(puna.backends, "NVIDIA_DRIVER", (tmp_path,))
    assert choose_device(EngineConfig(), report).device == "cpu"
    assert report.texts[0].startswith("using the CPU instead: the installed PyTorch")
    with pytest.raises(DeviceError, match="built without CUDA"):
        choose_device(EngineConfig(require_gpu=True), report)


def test_a_required_gpu_and_another_device_contradict() -> None:
    with pytest.raises(UsageError, match="a GPU is required, but the device is torch"):
        choose_device(EngineConfig(device="torch", require_gpu=True))


def test_a_gpu_is_taken_where_there_is_one(cuda_build: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cuda_build.setattr(puna.backends, "NVIDIA_DRIVER", (tmp_path,))
    assert choose_device(EngineConfig()).device == "cuda"
    assert choose_device(EngineConfig(device="cuda:0")).device == "cuda:0"


def test_the_reference_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="several processes cannot share a model on the device reference"):
        choose_device(EngineConfig(device="reference"))


@pytest.mark.parametrize(("given", "taken"), [("auto", "torch"), ("cpu", "torch"), ("torch", "torch")])
def test_several_processes_share_a_model_through_torch(given: str, taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(puna.backends, "NVIDIA_DRIVER", ())
    assert choose_device(EngineConfig(device=given)).device == taken
