"""What mends a machine: name of a remedy -> words, and commands on each system. A line of a table is a way out of a finding.

The commands are for a person to read and type; `puna doctor --fix-script` writes them down and runs none.
"""

from __future__ import annotations

import shlex

from puna.machine.distribution import Distribution
from puna.machine.finding import Remedy
from puna.machine.remedies.base import Recipe
from puna.machine.remedies.host import HOST
from puna.machine.remedies.nvidia import NVIDIA

REMEDIES: dict[str, Recipe] = HOST | NVIDIA


def remedy(name: str, distribution: Distribution, **values: object) -> Remedy:
    """
    >>> remedy("install-puna-gpu", "ubuntu").commands
    ("pip install 'puna[gpu]'",)
    """
    recipe = REMEDIES[name]
    commands = recipe.commands.get(distribution, recipe.anywhere)
    return Remedy(name, recipe.words.format(**values), tuple(c.format(**values) for c in commands), recipe.needs_reboot)


def quoted(text: str, distribution: Distribution) -> str:
    """A text as one word of a command, whatever stands in it.

    >>> print(quoted("it's", "ubuntu"), quoted("it's", "windows"))
    'it'"'"'s' 'it''s'
    """
    if distribution == "windows":
        return "'" + text.replace("'", "''") + "'"
    return shlex.quote(text)
