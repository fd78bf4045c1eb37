"""Devices that a model is planned for: those of this machine, or one that its user thinks of buying."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from puna.backends.base import DeviceLimits, memory_bytes
from puna.config import EngineConfig
from puna.errors import DeviceError, UsageError
from puna.machine.cards import Card, find_card, require_card
from puna.machine.host import Host
from puna.machine.nvidia_smi import Gpu, gpus
from puna.machine.speed import PCIE_BYTES, Rates
from puna.plan import GIB, GPU_RESERVED_BYTES

CONTEXT_BYTES = 450 << 20  # of a card that CUDA takes for a process: its kernels, its stacks
SEVERAL = re.compile(r"(?P<count>\d{1,3})\s*x\s+(?P<name>.+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """One device, of which there may be several alike, and the main memory beside it."""

    device: str  # a key of `backends.DEVICES`
    name: str  # for people
    total_bytes: int
    free_bytes: int  # what a plan may use
    main_bytes: int  # of main memory that is free
    rates: Rates | None = None  # None: not known
    count: int = 1
    taken: tuple[tuple[str, int], ...] = ()  # what of `total_bytes` is not free, as far as puna takes it

    @property
    def is_gpu(self) -> bool:
        return self.device == "cuda"


def place_for(engine: EngineConfig, host: Host, limits: DeviceLimits | None, gpu: str = "", ram: int = 0) -> Place:
    """The place that the settings mean: `gpu` names a card ("RTX 4070", "2 x RTX 3090"), `ram` main memory in bytes.

    `limits`: this CPU's rates, if they are known. DeviceError where a GPU is wanted and there is none.
    """
    total, free = (ram, ram) if ram else memory_bytes()
    device = engine.device.partition(":")[0]
    if gpu and device not in ("auto", "cuda"):
        raise UsageError(f"--gpu names a card, but the device is {engine.device}", hint="Leave one of them out.")
    if gpu:
        return _card_place(require_card(_name_of(gpu)), _count_of(gpu), free, engine.vram)
    found = gpus(host) if device in ("auto", "cuda") else ()
    if found:
        number = int(engine.device.partition(":")[2] or 0)
        if number >= len(found):
            raise DeviceError(f"the device is {engine.device}, but this machine has {len(found)} NVIDIA GPUs, numbered from 0")
        return _gpu_place(found[number], len(found), free, engine.vram)
    if engine.vram and device in ("auto", "cuda"):
        return _limited("a GPU", engine.vram + CONTEXT_BYTES, engine.vram + CONTEXT_BYTES, engine.vram, free)
    if device == "cuda" or engine.require_gpu:
        raise DeviceError(
            "this machine has no NVIDIA GPU that answers",
            hint='`puna doctor` says why; --gpu "RTX 4070" plans for a card you lack.',
        )
    device = "cpu" if device == "auto" else device
    rates = rates_of(limits) if limits is not None and device == "cpu" else None
    words = {"cpu": "this CPU", "torch": "this CPU by PyTorch", "reference": "this CPU by numpy"}[device]
    return Place(device, f"{words} with {ram / GIB:g} GiB" if ram else words, total, free, free, rates)


def _name_of(gpu: str) -> str:
    found = SEVERAL.fullmatch(gpu.strip())
    return found["name"] if found else gpu


def _count_of(gpu: str) -> int:
    """
    >>> _count_of("2 x RTX 3090"), _count_of("4xA100 80GB"), _count_of("RTX 3090")
    (2, 1, 1)
    """
    found = SEVERAL.fullmatch(gpu.strip())
    return max(1, int(found["count"])) if found else 1


def _card_place(card: Card, count: int, main: int, vram: int) -> Place:
    place = _limited(card.name, card.visible_bytes, card.visible_bytes, vram, main)
    return replace(place, rates=_card_rates(card, "data sheet"), count=count)


def _gpu_place(gpu: Gpu, count: int, main: int, vram: int) -> Place:
    place = _limited(gpu.name, gpu.total_bytes, gpu.free_bytes, vram, main)
    card = find_card(gpu.name)
    return replace(place, rates=_card_rates(card, "data sheet") if card else None, count=count)


def _limited(name: str, total: int, free: int, vram: int, main: int) -> Place:
    """A GPU, held to `vram` bytes if that is given, as `puna run --vram` does."""
    left = max(0, free - CONTEXT_BYTES)
    usable = max(0, min(left, vram or left) - GPU_RESERVED_BYTES)
    taken = [("CUDA's own", CONTEXT_BYTES), ("kept for kernels", GPU_RESERVED_BYTES)]
    if total > free:
        taken.append(("other programs", total - free))
    return Place("cuda", name, total, usable, main, taken=tuple(taken))


def _card_rates(card: Card, source: str) -> Rates:
    operations = card.tflops * 1e12
    return Rates(card.gb_per_s * 1e9, operations, operations, PCIE_BYTES, source)


def rates_of(limits: DeviceLimits) -> Rates:
    """Of a CPU that was measured."""
    return Rates(
        limits.read_bytes_per_s, limits.int8_ops_per_s, limits.f32_ops_per_s, limits.read_bytes_per_s, "measured on this machine"
    )
