"""What mends a machine: name of a remedy -> words, and commands on each system. A line of the table is a way out of a finding.

The commands are for a person to read and type; `puna doctor --fix-script` writes them down and runs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from puna.machine.distribution import Distribution
from puna.machine.finding import Remedy


@dataclass(frozen=True, slots=True)
class Recipe:
    """A remedy for every system. `words` and commands may hold {names} that the caller fills."""

    words: str
    commands: Mapping[Distribution, tuple[str, ...]] = field(default_factory=dict)
    anywhere: tuple[str, ...] = ()  # the commands of a system that `commands` does not name
    needs_reboot: bool = False


REMEDIES: dict[str, Recipe] = {
    "install-puna-gpu": Recipe("Install PyTorch and Triton for puna.", anywhere=("pip install 'puna[gpu]'",)),
}


def remedy(name: str, distribution: Distribution, **values: object) -> Remedy:
    """
    >>> remedy("install-puna-gpu", "ubuntu").commands
    ("pip install 'puna[gpu]'",)
    """
    recipe = REMEDIES[name]
    commands = recipe.commands.get(distribution, recipe.anywhere)
    return Remedy(name, recipe.words.format(**values), tuple(c.format(**values) for c in commands), recipe.needs_reboot)
