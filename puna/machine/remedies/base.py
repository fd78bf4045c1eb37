"""A remedy before its system is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from puna.machine.distribution import Distribution


@dataclass(frozen=True, slots=True)
class Recipe:
    """A remedy for every system. `words` and commands may hold {names} that the caller fills."""

    words: str
    commands: Mapping[Distribution, tuple[str, ...]] = field(default_factory=dict)
    anywhere: tuple[str, ...] = ()  # commands for all other systems
    needs_reboot: bool = False
