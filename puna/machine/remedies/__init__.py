"""Remedies for a machine: name of a remedy -> words, and commands for each system. Each fixes one kind of finding.

A person reads and types the commands; `puna doctor --fix-script` writes them to a file and runs none.
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

POWERSHELL_QUOTES = re.compile("(['\u2018\u2019\u201a\u201b])")  # PowerShell treats each of these as a single quote
# Characters that end a script's line, control a terminal, or have no UTF-8 form (lone surrogates, as in Windows names).
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
    """Any text as one word of a command.

    >>> print(quoted("it's", "ubuntu"), quoted("it's", "windows"))
    'it'"'"'s' 'it''s'
    """
    return _quoted_for_powershell(text) if distribution == "windows" else shlex.quote(text)


def _quoted_for_powershell(text: str) -> str:
    """
    >>> print(_quoted_for_powershell("a\\nb"))
    ('a' + [char]0x0A + 'b')
    """
    plain, *others = UNWRITABLE.split(text)  # every second part is a forbidden character
    words = [_in_quotes(plain)]
    for control, plain in zip(others[::2], others[1::2]):
        words += [f"[char]0x{ord(control):02X}", *([_in_quotes(plain)] if plain else [])]
    return words[0] if len(words) == 1 else f"({' + '.join(words)})"


def _in_quotes(plain: str) -> str:
    return "'" + POWERSHELL_QUOTES.sub(r"\1\1", plain) + "'"
