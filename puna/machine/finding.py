"""What the doctor reports about one part of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "warning", "error"]
Device = Literal["cpu", "cuda", "torch", "any"]  # "torch": PyTorch on the CPU


@dataclass(frozen=True, slots=True)
class Remedy:
    """How to fix it on this system. `commands` can be typed as they are, one per line; `words` say what no command can do."""

    name: str  # a key of `remedies.REMEDIES`
    words: str
    commands: tuple[str, ...] = ()
    needs_reboot: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    `error`: `device` cannot run models now. `warning`: it runs, but badly, or may fail. `note`: good to know. A probe that cannot
    find something out says so in a note; it never raises.
    """

    check: str  # "nvidia.secure-boot": a stable name, for programs and for docs/from-bare-metal.md
    state: State
    found: str  # the fact, with its numbers: "Secure Boot is on, and the module nvidia is not signed by a key that it trusts"
    effect: str = ""  # its consequence for running models: "the driver is not loaded: models run on the CPU"
    remedy: Remedy | None = None
    device: Device = "any"
