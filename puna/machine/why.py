"""Why a program failed: the causes that `puna.causes` finds in its text, applied to this machine.

This module adds the commands of this system, whether this machine can have the cause at all, the tensor that an allocation was
for, and settings with which that model fits. The text may come from another machine, so `here` alone speaks of this one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from puna.causes import Match, find
from puna.causes.advice import advice
from puna.causes.base import Explanation, MatchRole, Topic
from puna.causes.memory import Allocation
from puna.causes.reading import read
from puna.machine.cuda_versions import RECOMMENDED, index_of, oldest_driver, written
from puna.machine.distribution import Distribution, distribution_of
from puna.machine.doctor import examine
from puna.machine.finding import Finding, Remedy
from puna.machine.host import Host
from puna.machine.planning.allocations import AllocatedTensor, identify
from puna.machine.planning.fit import ways_to_fit
from puna.machine.probes.base import Patient, Probe
from puna.machine.probes.cuda_wheel import cuda_wheel
from puna.machine.probes.nvidia_card import nvidia_card
from puna.machine.probes.nvidia_module import nvidia_module
from puna.machine.probes.nvidia_rights import nvidia_rights
from puna.machine.probes.nvidia_smi import nvidia_smi
from puna.machine.remedies import remedy
from puna.resources import machine_memory
from puna.units import mib_or_gib

NVIDIA = "0x10de"  # PCI's number of the maker
NEEDS_A_CARD: frozenset[Topic] = frozenset({"cuda", "driver"})
GPU_MEMORY = frozenset({"cuda-out-of-memory", "ggml-out-of-memory", "cublas-out-of-memory"})
ELSEWHERE: dict[tuple[str, Distribution], str] = {("close-programs", "wsl"): "wsl-memory"}  # (remedy, system) -> remedy
# Usual values for a recipe's placeholders if only the text is known.
USUAL = {
    "group": "video",
    "key": "/var/lib/shim-signed/mok/MOK.der",
    "cuda": written(RECOMMENDED[0]),
    "index": index_of(None),
    "package": "580-open",
    "generation": "Blackwell",
    "why": "the driver is then loaded anew",
    "folder": "~/.cache",
}
WANTED = {"update-nvidia-driver": oldest_driver(RECOMMENDED[0]), "wsl-memory": "12GB"}
# The doctor's quick, read-only probes: what they find wrong on this machine is printed beside the cause.
PROBES: tuple[Probe, ...] = (nvidia_card, nvidia_module, nvidia_rights, nvidia_smi, cuda_wheel)
PROBES_LIMIT_S = 5.0
# llama.cpp's next line -> which buffer it was, and which step of the cure is for that buffer
GGML_BUFFERS = {
    "alloc_tensor_range": ("weights", 0),
    "llama_kv_cache": ("kv-cache", 1),
    "gallocr": ("compute-buffer", 2),
    "compute": ("compute-buffer", 2),
}
# Kind of exhausted memory -> the topic of `puna explain` about what the memory was for; other kinds: the cause's own.
CONCEPTS = {
    "weights": "quantisation",
    "kv-cache": "kv-cache",
    "scores": "attention",
    "larger-than-card": "attention",
    "one-large-tensor": "attention",
    "logits": "generate",
    "compute-buffer": "batching",
    **dict.fromkeys(("fragmentation", "other-process", "free-but-refused"), ""),
}
# Words of texts that come from a Mac, or from Windows, and words of GPUs of other makers.
WRITTEN_ON: Mapping[Distribution, re.Pattern[str]] = {
    "macos": re.compile(
        r"metal::|ggml_metal|\bMTL[A-Z]\w|\bMPS backend|\bmps:0|\bmlx\b|\bmlx[_-]|/Users/|macOS|Apple M\d|\.dylib\b"
    ),
    "windows": re.compile(r"\bWinError\b|(?<![\w/])[A-Z]:\\|\b\w+\.dll\b", re.IGNORECASE),
}
OF_MACS = ("metal-", "mlx-", "mps-")  # causes that only Macs have
OTHER_GPU = re.compile(r"vulkan|ggml_metal|metal::|\bmps\b|\bhip\b|rocm|\bgfx\d|sycl|\bxpu\b|radeon|amdgpu", re.IGNORECASE)
NVIDIA_GPU = re.compile(r"cuda|nvidia|nvml|geforce|\brtx\b", re.IGNORECASE)
ANOTHER = "This machine has no NVIDIA card: the text comes from another machine, or this one does not see its card."
MAX_OTHERS = 5


class Other(NamedTuple):
    """Another cause in the same text, in short."""

    name: str
    cause: str
    line: str
    role: MatchRole


@dataclass(frozen=True, slots=True)
class ErrorDiagnosis:
    """Cause and cure of an error text."""

    name: str  # of the cause: stable, for programs
    topic: Topic
    role: MatchRole  # "symptom": a warning; "effect": the report of an error that stands elsewhere
    kind: str  # which of several causes with one wording; "" if unknown
    confidence: float  # 0..1
    line: str  # of the text, as it stands there: not escaped
    cause: str
    cure: tuple[str, ...]
    instead: str  # what puna does
    concept: str = ""  # the topic of `puna explain` that tells how what failed works
    unexplained: str = ""  # the text's error, if the cause is only that of a line beside it; not escaped
    advice: tuple[str, ...] = ()  # sentences of the text that advise a setting which the cure does not name; not escaped
    here: str = ""  # what this machine says about it
    settings: tuple[str, ...] = ()  # with which the model fits
    remedy: Remedy | None = None  # the commands of this system
    numbers: dict[str, str] = field(default_factory=dict)
    others: tuple[Other, ...] = ()
    findings: tuple[Finding, ...] = ()  # of the doctor, on this machine


def why(text: str, host: Host) -> ErrorDiagnosis | None:
    """The root cause in a text or a log, applied to `host`; None if no cause is known."""
    matches = find(text)
    if not matches:
        return None
    match, *rest = matches
    explained = _of_buffer(match, match.explain(), text)
    tensor = _tensor(match, explained, text)
    cure, settings = tensor.cure if tensor is not None else explained.cure, _settings(tensor, explained)
    reading = read(text)
    system = distribution_of(host)
    kind = tensor.kind if tensor is not None else explained.kind
    told: Distribution | None = "macos" if match.cause.name.startswith(OF_MACS) else system_of_text(text)
    is_of_this_system = told in (None, system) or (told, system) == ("windows", "wsl")
    has_card = has_nvidia_card(host)
    needs_card = (match.cause.topic in NEEDS_A_CARD or match.cause.name in GPU_MEMORY) and not _is_of_another_gpu(match, text)
    applies = not (needs_card and has_card is False)
    return ErrorDiagnosis(
        name=match.cause.name,
        topic=match.cause.topic,
        role=match.cause.role,
        kind=kind,
        confidence=match.confidence,
        line=match.line,
        cause=tensor.words if tensor is not None else explained.cause,
        cure=cure,
        instead=explained.instead,
        concept=CONCEPTS.get(kind, match.cause.concept),
        unexplained=reading.error if match.is_aside and reading.names_an_error else "",
        advice=advice(reading, match.start, " ".join((explained.cause, explained.instead, *cure, *settings))),
        here=ANOTHER if not applies else _here(match, host, system) if is_of_this_system else "",
        settings=settings,
        remedy=_remedy(explained.remedy, system if is_of_this_system else told or system, host) if applies else None,
        numbers=dict(explained.numbers),
        findings=_findings(host) if needs_card and has_card and is_of_this_system else (),
        others=tuple(Other(m.cause.name, m.explain().cause, m.line, m.cause.role) for m in rest[:MAX_OTHERS]),
    )


def _is_of_another_gpu(match: Match, text: str) -> bool:
    """Whether a text is about a GPU that is no NVIDIA card: its line says so, or all of it, which then names no NVIDIA either."""
    return bool(OTHER_GPU.search(match.line) or (OTHER_GPU.search(text) and not NVIDIA_GPU.search(text)))


def system_of_text(text: str) -> Distribution | None:
    """The system that a text comes from, if its words tell; None if not, or if it may be Linux.

    >>> system_of_text("RuntimeError: [metal::malloc] too large"), system_of_text("OSError: [WinError 126]"), system_of_text("no")
    ('macos', 'windows', None)
    """
    return next((system for system, words in WRITTEN_ON.items() if words.search(text)), None)


def has_nvidia_card(host: Host) -> bool | None:
    """Whether this machine has an NVIDIA card; None if that cannot be seen."""
    if host.system == "Darwin":
        return False
    if host.exists("/dev/nvidia0") or host.exists("/dev/dxg") or host.exists("/proc/driver/nvidia/version"):
        return True
    devices = host.listing("/sys/bus/pci/devices")
    if not devices:
        return None
    return any((host.read(f"/sys/bus/pci/devices/{device}/vendor") or "").strip() == NVIDIA for device in devices)


def _tensor(match: Match, explained: Explanation, text: str) -> AllocatedTensor | None:
    """The tensor for which a full GPU had no space. Facts from the numbers take precedence over similar sizes."""
    wanted = explained.numbers.get("wanted", "")
    if match.cause.name != "cuda-out-of-memory" or not wanted:
        return None
    tensor = identify(wanted, Allocation.of(explained.numbers).capacity, text)
    is_proven = tensor is not None and tensor.kind in ("weights", "kv-cache")
    return tensor if is_proven or explained.kind in ("", "one-large-tensor") else None


def _of_buffer(match: Match, explained: Explanation, text: str) -> Explanation:
    """Which of llama.cpp's buffers failed, from the next line, with the step for that buffer."""
    if match.cause.name != "ggml-out-of-memory":
        return explained
    after = text[max(0, text.find("out of memory")) :].lower()
    kind, step = next((found for word, found in GGML_BUFFERS.items() if word in after), ("", -1))
    return replace(explained, kind=kind, cure=explained.cure[step : step + 1]) if kind else explained


def _settings(tensor: AllocatedTensor | None, explained: Explanation) -> tuple[str, ...]:
    capacity = Allocation.of(explained.numbers).capacity
    if tensor is None or tensor.config is None or capacity is None or tensor.kind != "weights":
        return ()
    return ways_to_fit(tensor.config, tensor.file_type, capacity)


def _remedy(name: str, system: Distribution, host: Host) -> Remedy | None:
    """The commands of this system."""
    name = ELSEWHERE.get((name, system), name)
    if not name:
        return None
    release = (host.read("/proc/sys/kernel/osrelease") or "").strip()
    of_kernel = {"release": release or "$(uname -r)", "flavour": release.rpartition("-")[2] or "generic"}
    return remedy(name, system, **USUAL, **of_kernel, wanted=WANTED.get(name, ""))


def _findings(host: Host) -> tuple[Finding, ...]:
    """What is wrong with this machine's card, driver and PyTorch."""
    found = examine(Patient(host, "cuda"), PROBES, PROBES_LIMIT_S)
    return tuple(finding for finding in found if finding.state in ("error", "warning"))


def _here(match: Match, host: Host, system: Distribution) -> str:
    """What this machine says about the cause."""
    if match.cause.name in ("process-killed", "host-out-of-memory", "ollama-needs-memory"):
        return _memory_here(host, system)
    visible = host.environ.get("CUDA_VISIBLE_DEVICES")
    if match.cause.name in ("no-cuda-gpus", "invalid-device-ordinal") and visible is not None:
        return f"Here CUDA_VISIBLE_DEVICES is {visible[:60]!r}: programs see only these cards."
    if match.cause.name == "nccl-not-built-in" and system in ("windows", "macos"):
        return f"There is no NCCL for {'Windows' if system == 'windows' else 'macOS'} at all."
    return ""


def _memory_here(host: Host, system: Distribution) -> str:
    """Main memory of this machine; "" if its files do not say."""
    memory, where = machine_memory(host), "WSL has" if system == "wsl" else "This machine has"
    if memory is None:
        return ""
    return f"{where} {mib_or_gib(memory.total)} of main memory, {mib_or_gib(memory.free)} of it free now."
