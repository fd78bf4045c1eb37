"""What mends a machine: name of a remedy -> words, and commands on each system. A line of a table is a way out of a finding.

The commands are for a person to read and type; `puna doctor --fix-script` writes them down and runs none.
"""

from __future__ import annotations

import re
import shlex

from puna import install
from puna.machine.distribution import Distribution
from puna.machine.finding import Remedy
from puna.machine.remedies.base import Recipe
from puna.machine.remedies.host import HOST
from puna.machine.remedies.nvidia import NVIDIA

REMEDIES: dict[str, Recipe] = HOST | NVIDIA

POWERSHELL_QUOTES = re.compile("(['\u2018\u2019\u201a\u201b])")  # PowerShell takes each of them for a single quote
# What would end a line of a script, drive a terminal, or be lost in UTF-8 (halves of pairs, which names on Windows may hold).
UNWRITABLE = re.compile("([\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff])")


def remedy(name: str, distribution: Distribution, **values: object) -> Remedy:
    """
    >>> remedy("set-governor", "ubuntu").commands
    ('echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor',)
    """
    recipe = REMEDIES[name]
    values = {"pip": install.pip(), "puna": install.source(), "install_gpu": install.extra_command("gpu"), **values}
    commands = recipe.commands.get(distribution, recipe.anywhere)
    return Remedy(name, recipe.words.format(**values), tuple(c.format(**values) for c in commands), recipe.needs_reboot)


def quoted(text: str, distribution: Distribution) -> str:
    """A text as one word of a command, whatever stands in it.

    >>> print(quoted("it's", "ubuntu"), quoted("it's", "windows"))
    'it'"'"'s' 'it''s'
    """
    return _quoted_for_powershell(text) if distribution == "windows" else shlex.quote(text)


def _quoted_for_powershell(text: str) -> str:
    """
    >>> print(_quoted_for_powershell("a\\nb"))
    ('a' + [char]0x0A + 'b')
    """
    plain, *others = UNWRITABLE.split(text)  # every second one is a character that no line may hold
    words = [_in_quotes(plain)]
    for control, plain in zip(others[::2], others[1::2]):
        words += [f"[char]0x{ord(control):02X}", *([_in_quotes(plain)] if plain else [])]
    return words[0] if len(words) == 1 else f"({' + '.join(words)})"


def _in_quotes(plain: str) -> str:
    return "'" + POWERSHELL_QUOTES.sub(r"\1\1", plain) + "'"
