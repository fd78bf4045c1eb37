"""Causes applied to a machine: its commands, its card, its memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from puna.causes import CAUSES
from puna.machine import why as module
from puna.machine.distribution import distribution_of
from puna.machine.host import Output
from puna.machine.remedies import REMEDIES
from puna.machine.why import has_nvidia_card, why
from tests.causes.corpus import texts

OUT_OF_MEMORY = (
    "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 86.00 MiB (GPU 0; 11.69 GiB total capacity; "
    "9.70 GiB already allocated; 59.19 MiB free; 9.70 GiB reserved in total by PyTorch)"
)
KILLED = "Signal 9 (SIGKILL) received by PID 2198"
CARD = {"/sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n"}
NO_CARD = {"/sys/bus/pci/devices/0000:00:02.0/vendor": "0x8086\n"}
UBUNTU = {"/etc/os-release": "ID=ubuntu\n", "/proc/sys/kernel/osrelease": "6.8.0-45-generic\n"}
WSL = {"/proc/sys/kernel/osrelease": "5.15.153.1-microsoft-standard-WSL2\n", "/dev/dxg": ""}
MEMORY = {"/proc/meminfo": "MemTotal:        8388608 kB\nMemAvailable:    1048576 kB\n"}


@dataclass(frozen=True)
class FakeHost:
    """A machine with the given files."""

    files: Mapping[str, str] = field(default_factory=dict)
    system: str = "Linux"
    environ: Mapping[str, str] = field(default_factory=dict)

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def exists(self, path: str) -> bool:
        return path in self.files

    def may(self, path: str, mode: int) -> bool:
        return path in self.files

    def listing(self, path: str) -> list[str]:
        return sorted({name.removeprefix(f"{path}/").split("/")[0] for name in self.files if name.startswith(f"{path}/")})

    def run(self, *command: str, limit_s: float = 3.0) -> Output | None:
        return None


@pytest.mark.parametrize("entry", [e for e in texts("texts") if "kind" in e], ids=lambda entry: entry["source"])
def test_kinds_of_exhausted_memory_are_told_apart(entry: dict[str, str]) -> None:
    diagnosis = why(entry["text"], FakeHost())
    assert diagnosis is not None and diagnosis.kind == entry["kind"], diagnosis


def test_the_story_gets_its_matrix_and_what_cannot_help() -> None:
    diagnosis = why(OUT_OF_MEMORY, FakeHost(CARD | UBUNTU))
    assert diagnosis is not None and diagnosis.kind == "weights"
    assert diagnosis.cause.startswith("86.0 MiB is one 4096 x 11008 half-precision matrix of llama-2-7b")
    assert "12.55 GiB and the GPU has 11.69 GiB" in diagnosis.cause
    assert "--weights int8" in diagnosis.instead


@pytest.mark.parametrize(
    ("text", "concept"),
    [
        (OUT_OF_MEMORY, "quantisation"),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "attention"),  # scores of 32 heads for 4096 x 4096 tokens
        ("CUDA out of memory. Tried to allocate 56.00 GiB (GPU 0; 11.69 GiB total capacity)", "attention"),
        ("CUDA out of memory.", "quantisation"),
        ("ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory\nllama_kv_cache: failed", "kv-cache"),
        (KILLED, "quantisation"),
        ("RuntimeError: Found no NVIDIA driver on your system.", ""),
    ],
)
def test_the_concept_is_that_of_what_the_memory_was_for(text: str, concept: str) -> None:
    diagnosis = why(text, FakeHost())
    assert diagnosis is not None and diagnosis.concept == concept, diagnosis


def test_settings_that_fit_are_asked_for_with_the_model_and_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str, int]] = []

    def ways(model: object, file_type: str, device_bytes: int) -> tuple[str, ...]:
        asked.append((getattr(model, "ffn_size", 0), file_type, device_bytes))
        return ("--weights int8",)

    monkeypatch.setattr(module, "ways_to_fit", ways)
    diagnosis = why(OUT_OF_MEMORY, FakeHost())
    assert diagnosis is not None and diagnosis.settings == ("--weights int8",)
    assert asked == [(11008, "F16", int(11.69 * (1 << 30)))]


@pytest.mark.parametrize(
    ("host", "there"),
    [
        (FakeHost(CARD), True),
        (FakeHost(NO_CARD), False),
        (FakeHost(WSL), True),
        (FakeHost(system="Darwin"), False),
        (FakeHost(), None),
        (FakeHost(system="Windows"), None),
    ],
)
def test_whether_there_is_a_card(host: FakeHost, there: bool | None) -> None:
    assert has_nvidia_card(host) is there


def test_without_a_card_the_text_is_another_machines() -> None:
    diagnosis = why("RuntimeError: Found no NVIDIA driver on your system.", FakeHost(NO_CARD | UBUNTU))
    assert diagnosis is not None and diagnosis.here.startswith("This machine has no NVIDIA card")
    assert diagnosis.remedy is None and diagnosis.cure


@pytest.mark.parametrize(
    "text",
    [
        "ggml_vulkan: Device memory allocation of size 8753520640 failed.\nggml_gallocr_reserve_n_impl: failed to allocate "
        "Vulkan0 buffer of size 8753520640",
        "ggml_metal_graph_compute: command buffer 1 failed with status 5\nerror: Insufficient Memory "
        "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        "RuntimeError: Configured ROCm binary not found at /x/bitsandbytes/libbitsandbytes_rocm80.so",
    ],
    ids=["vulkan", "metal", "rocm"],
)
def test_a_text_of_another_makers_gpu_says_nothing_of_nvidias(text: str) -> None:
    for host in (FakeHost(NO_CARD | UBUNTU), FakeHost(CARD | UBUNTU)):
        diagnosis = why(text, host)
        assert diagnosis is not None and "NVIDIA" not in diagnosis.here and diagnosis.findings == ()


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("RuntimeError: [metal::malloc] Attempting to allocate 9 bytes which is greater than", "ps -axo pid,rss,comm -m"),
        ("libc++abi: terminating: [METAL] Command buffer execution failed: Insufficient Memory", "ps -axo pid,rss,comm -m"),
        ('File "/Users/me/x.py", line 1\n' + KILLED, "ps -axo pid,rss,comm -m"),
        ('File "C:\\me\\x.py", line 1\nDefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.', "Get-Process"),
        (KILLED, "ps -eo pid,rss,comm --sort=-rss"),
    ],
    ids=["metal", "command buffer", "a Mac's folder", "a folder of Windows", "unknown"],
)
def test_the_commands_are_those_of_the_system_that_the_text_is_from(text: str, command: str) -> None:
    diagnosis = why(text, FakeHost(UBUNTU | MEMORY))
    assert diagnosis is not None and diagnosis.remedy is not None and diagnosis.remedy.commands[0].startswith(command)
    assert (diagnosis.here != "") == (command == "ps -eo pid,rss,comm --sort=-rss")


def test_the_commands_are_those_of_this_system() -> None:
    text = "RuntimeError: Found no NVIDIA driver on your system."
    on_ubuntu, on_arch = (why(text, FakeHost(CARD | files)) for files in (UBUNTU, {"/etc/os-release": "ID=arch\n"}))
    assert on_ubuntu is not None and on_ubuntu.remedy is not None
    assert "sudo ubuntu-drivers install" in on_ubuntu.remedy.commands and on_ubuntu.remedy.needs_reboot
    assert on_arch is not None and on_arch.remedy is not None and "pacman" in on_arch.remedy.commands[0]


def test_in_wsl_the_driver_is_windowss() -> None:
    diagnosis = why("Found no NVIDIA driver on your system", FakeHost(WSL))
    assert diagnosis is not None and diagnosis.remedy is not None and "In Windows" in diagnosis.remedy.commands[0]


def test_what_the_doctor_finds_on_this_machine_stands_beside_the_cause() -> None:
    """Nothing but a card on the bus: no module, no driver."""
    folder = "/sys/bus/pci/devices/0000:01:00.0"
    card = CARD | {f"{folder}/class": "0x030000\n", f"{folder}/device": "0x2786\n"}
    diagnosis = why("RuntimeError: No CUDA GPUs are available", FakeHost(card | UBUNTU))
    assert diagnosis is not None and {finding.state for finding in diagnosis.findings} <= {"error", "warning"}
    assert any(finding.check.startswith("nvidia.") and finding.remedy is not None for finding in diagnosis.findings)


def test_a_killed_process_is_told_with_this_machines_memory() -> None:
    here = why(KILLED, FakeHost(UBUNTU | MEMORY))
    assert here is not None and here.here == "This machine has 8.00 GiB of main memory, 1.00 GiB of it free now."
    in_wsl = why(KILLED, FakeHost(WSL | MEMORY))
    assert in_wsl is not None and in_wsl.here.startswith("WSL has 8.00 GiB")


@pytest.mark.parametrize("meminfo", ["", "MemTotal: many", "MemTotal:\nMemAvailable:\n", "::::"])
def test_a_meminfo_that_is_none_is_not_told(meminfo: str) -> None:
    diagnosis = why(KILLED, FakeHost({"/proc/meminfo": meminfo}))
    assert diagnosis is not None and diagnosis.here == ""


def test_a_variable_that_hides_the_cards_is_named() -> None:
    diagnosis = why("No CUDA GPUs are available", FakeHost(CARD, environ={"CUDA_VISIBLE_DEVICES": ""}))
    assert diagnosis is not None and "CUDA_VISIBLE_DEVICES is ''" in diagnosis.here


def test_other_errors_are_listed_in_short() -> None:
    diagnosis = why(f"{OUT_OF_MEMORY}\n...\nChildFailedError:\n", FakeHost())
    assert diagnosis is not None and [other.name for other in diagnosis.others] == ["child-failed"]


def test_what_the_text_itself_advises_is_told_where_the_cure_does_not() -> None:
    text = "RuntimeError: No CUDA GPUs are available. Please set --fallback-device cpu to go on."
    diagnosis = why(text, FakeHost())
    assert diagnosis is not None and diagnosis.advice == ("Please set --fallback-device cpu to go on.",)
    full = why("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.", FakeHost())
    assert full is not None and full.advice == () and "--gpu-memory-utilization" in " ".join(full.cure)


def test_an_error_beside_which_only_a_report_is_known_is_told_as_unknown() -> None:
    report = "INFO 11-23 11:58:35 [worker.py:9] the check says: no CUDA GPUs are available"
    alone, beside = why(report, FakeHost()), why(f"{report}\nValueError: the colour 7 is not in the palette", FakeHost())
    assert alone is not None and alone.unexplained == ""
    assert beside is not None and beside.name == "no-cuda-gpus"
    assert beside.unexplained == "ValueError: the colour 7 is not in the palette"


def test_an_unknown_text_is_not_known() -> None:
    assert why("Roses are red.", FakeHost()) is None


@pytest.mark.parametrize("files", [UBUNTU, WSL, {"/etc/os-release": "ID=fedora\n"}, {}], ids=["ubuntu", "wsl", "fedora", "other"])
def test_every_remedy_that_a_cause_names_has_words_on_every_system(files: dict[str, str]) -> None:
    host = FakeHost(files)
    wanted = {cause.explain({}).remedy for cause in CAUSES} - {""}
    assert wanted <= REMEDIES.keys()
    for name in wanted:
        found = module._remedy(name, distribution_of(host), host)
        assert found is not None and found.words and "{" not in found.words
