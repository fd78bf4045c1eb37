"""A remedy before its system is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from puna.machine.distribution import Distribution


@dataclass(frozen=True, slots=True)
class Recipe:
    """A remedy for every system. `words` and commands may hold {names} that the caller fills."""

    words: str
    commands: Mapping[Distribution, tuple[str, ...]] = field(default_factory=dict)
    anywhere: tuple[str, ...] = ()  # commands for all other systems
    needs_reboot: bool = False

    def again(self) -> Recipe:
        """The same installation over one that pip believes to be whole, with all that it needs."""

        def forced(commands: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(command.replace("{pip} install ", "{pip} install --force-reinstall ") for command in commands)

        words = "Install it again, with all that it needs."
        return replace(
            self, words=words, commands={k: forced(v) for k, v in self.commands.items()}, anywhere=forced(self.anywhere)
        )
