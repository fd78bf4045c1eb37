"""What the doctor says of one part of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "warning", "error"]
Device = Literal["cpu", "cuda", "torch", "any"]  # "torch": PyTorch on the CPU


@dataclass(frozen=True, slots=True)
class Remedy:
    """What mends it on this system. `commands` are typed as they are, one a line; `words` say what no command can do."""

    name: str  # a key of `remedies.REMEDIES`
    words: str
    commands: tuple[str, ...] = ()
    needs_reboot: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried or read.

    `error` means that `device` cannot run models as things are; `warning` that it runs, but badly, or may fail; `note` that a
    person may want to know. A probe that could not find out says so as a note: it never raises.
    """

    check: str  # "nvidia.secure-boot": a stable name, for programs and for docs/from-bare-metal.md
    state: State
    found: str  # what is so, with its numbers: "Secure Boot is on, and the module nvidia is not signed by a key that it trusts"
    effect: str = ""  # what that means for running models: "the driver is not loaded: models run on the CPU"
    remedy: Remedy | None = None
    device: Device = "any"
