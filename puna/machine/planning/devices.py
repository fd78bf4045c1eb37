"""Devices to plan a model for: those of this machine, or one that you do not have."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from puna.backends.base import LEAST_CAPABILITY, Roofline
from puna.config import EngineConfig
from puna.errors import DeviceError, UsageError
from puna.machine.host import Host
from puna.machine.nvidia_smi import Gpu, gpus
from puna.machine.planning.cards import HIDDEN_BYTES, Card, find_card, require_card, require_nvidia
from puna.machine.planning.speed import PCIE_BYTES, PlannedRoofline
from puna.plan import GPU_RESERVED_BYTES
from puna.resources import memory_bytes
from puna.units import GIB, counted

SYSTEM_BYTES = 3 << 29  # main memory that the system itself uses
CONTEXT_BYTES = 450 << 20  # memory that CUDA takes per process: its kernels, its stacks
SEVERAL = re.compile(r"(?P<count>\d{1,3})\s*x\s+(?P<name>.+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PlannedDevice:
    """One device, of which there may be several alike, and the main memory beside it."""

    kind: str  # a key of `backends.DEVICES`
    name: str  # for people
    total_bytes: int
    free_bytes: int  # what a plan may use
    main_bytes: int  # of main memory that is free
    roofline: PlannedRoofline | None = None  # None: not known
    count: int = 1
    taken: tuple[tuple[str, int], ...] = ()  # the part of `total_bytes` that CUDA and puna's process use
    kernels: str = ""  # what runs if puna's kernels do not; "": they run, or the card is unknown

    @property
    def is_gpu(self) -> bool:
        return self.kind == "cuda"


def device_for(engine: EngineConfig, host: Host, measured: Roofline | None, gpu: str | None, ram: int | None) -> PlannedDevice:
    """The device that the settings mean: `gpu` names a card ("RTX 4070", "2 x RTX 3090"), `ram` main memory in bytes.

    A card that puna does not know is one of `engine.vram` bytes.

    `measured`: of this CPU, if known. DeviceError if a GPU is requested and there is none.
    """
    kind = engine.device.partition(":")[0]
    if gpu is not None and kind not in ("auto", "cuda"):
        raise UsageError(f"--gpu names a card, but the device is {engine.device}", hint="Leave one of them out.")
    total, free = memory_bytes(host) if ram is None else (ram, max(0, ram - SYSTEM_BYTES))
    if gpu is not None:
        count, name = _named(gpu)
        if engine.vram and find_card(name) is None:
            require_nvidia(name)
            return replace(_sized(name, engine.vram, free), count=count)
        return _of_card(require_card(name), count, free, engine.vram)
    found = gpus(host) if kind in ("auto", "cuda") else ()
    if found:
        number = int(engine.device.partition(":")[2] or 0)
        if number >= len(found):
            have = counted(len(found), "NVIDIA GPU")
            raise DeviceError(f"the device is {engine.device}, but this machine has {have}, numbered from 0")
        return _of_gpu(found[number], len(found), free, engine.vram)
    if engine.vram and kind in ("auto", "cuda"):
        return _sized(f"a GPU of {engine.vram / GIB:.4g} GiB (this machine has none)", engine.vram, free)
    if kind == "cuda" or engine.require_gpu:
        raise DeviceError(
            "no NVIDIA GPU of this machine answers",
            hint='`puna doctor` says why; --gpu "RTX 4070" plans for a card you do not have.',
        )
    kind = "cpu" if kind == "auto" else kind
    roofline = planned_roofline(measured) if measured is not None and kind == "cpu" and engine.threads == 0 else None
    words = {"cpu": "this CPU", "torch": "this CPU by PyTorch", "reference": "this CPU by numpy"}[kind]
    words += "" if ram is None else f" with {ram / GIB:.4g} GiB"
    return PlannedDevice(kind, words, total, min(free, engine.vram or free), free, roofline)


def _named(gpu: str) -> tuple[int, str]:
    """The number of cards, and their name.

    >>> _named("2 x RTX 3090"), _named("4x A100 80GB"), _named("RTX 3090")
    ((2, 'RTX 3090'), (4, 'A100 80GB'), (1, 'RTX 3090'))
    """
    found = SEVERAL.fullmatch(gpu.strip())
    if found is None:
        return 1, gpu
    if int(found["count"]) < 1:
        raise UsageError(f"--gpu is {gpu!r}; give at least one card")
    return int(found["count"]), found["name"]


def _of_card(card: Card, count: int, main: int, vram: int) -> PlannedDevice:
    device = _limited(card.name, card.visible_bytes, card.visible_bytes, vram, main)
    return replace(device, roofline=_roofline_of_card(card), count=count, kernels=instead_of_kernels(card))


def _of_gpu(gpu: Gpu, count: int, main: int, vram: int) -> PlannedDevice:
    device = _limited(gpu.name, gpu.total_bytes, gpu.free_bytes, vram, main)
    card = find_card(gpu.name)
    roofline, kernels = (_roofline_of_card(card), instead_of_kernels(card)) if card else (None, "")
    return replace(device, roofline=roofline, count=count, kernels=kernels)


def _sized(name: str, memory: int, main: int) -> PlannedDevice:
    """A card of which only the memory is known, as its box says."""
    visible = max(0, memory - HIDDEN_BYTES)
    return _limited(name, visible, visible, 0, main)


def _limited(name: str, total: int, free: int, vram: int, main: int) -> PlannedDevice:
    """A GPU, limited to `vram` bytes if given, as by `puna run --vram`."""
    left = max(0, free - CONTEXT_BYTES)
    usable = max(0, min(left, vram or left) - GPU_RESERVED_BYTES)
    taken = [("CUDA's own", CONTEXT_BYTES), ("kept for kernels", GPU_RESERVED_BYTES)]
    if total > free:
        taken.append(("other programs", total - free))
    return PlannedDevice("cuda", name, total, usable, main, taken=tuple(taken))


def _roofline_of_card(card: Card) -> PlannedRoofline | None:
    """None for a card that puna's kernels do not support: its data sheet does not predict plain PyTorch."""
    if card.capability < LEAST_CAPABILITY:
        return None
    operations = card.tflops * 1e12
    return PlannedRoofline(card.gb_per_s * 1e9, operations, operations, PCIE_BYTES, "data sheet")


def instead_of_kernels(card: Card) -> str:
    """What runs on a card too old for puna's kernels; "" for a newer card.

    >>> instead_of_kernels(require_card("T4"))
    "compute capability 7.5 is below the 8.0 of puna's kernels: plain PyTorch would run, many times slower"
    """
    if card.capability >= LEAST_CAPABILITY:
        return ""
    has, needed = (".".join(map(str, version)) for version in (card.capability, LEAST_CAPABILITY))
    return f"compute capability {has} is below the {needed} of puna's kernels: plain PyTorch would run, many times slower"


def planned_roofline(measured: Roofline) -> PlannedRoofline:
    """The roofline of a measured CPU."""
    return PlannedRoofline(
        measured.read_bytes_per_s,
        measured.int8_ops_per_s,
        measured.f32_ops_per_s,
        measured.read_bytes_per_s,
        "measured on this machine",
    )
