"""The remedies of findings as a script, for a person to read and then to run. Nothing is run here.

Commands fix errors and warnings. What a note suggests is commented out, and so is what must be typed in a person's own shell.
Restarts come last, as comments, for a person to choose when.
"""

from __future__ import annotations

import re
import textwrap
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator

from puna.machine.distribution import Distribution
from puna.machine.finding import Finding, Remedy

MARK = "# Written by puna doctor"  # puna may overwrite a file that begins with this
WIDTH = 78
# Commands that change the current shell: in a script they have no effect.
OWN_SHELL = re.compile(r"export |unset |\$env:|remove-item env:", re.IGNORECASE)
RESTARTS = re.compile(r"(sudo )?(systemctl )?(reboot|shutdown)\b|wsl(\.exe)? |restart-computer", re.IGNORECASE)
RESTART: dict[str, str] = {"windows": "Restart-Computer", "macos": "sudo shutdown -r now"}
BEGINNING = ("#!/bin/sh", "set -eu", "sh")
BEGINNING_OF = {"windows": ("", "$ErrorActionPreference = 'Stop'", "powershell -ExecutionPolicy Bypass -File")}


def script_bytes(script: str, distribution: Distribution) -> bytes:
    """The file's bytes. PowerShell 5.1 reads a script without a BOM in the system's code page."""
    return (BOM_UTF8 if distribution == "windows" else b"") + script.encode("utf-8", "surrogateescape")


def fix_script(findings: Iterable[Finding], distribution: Distribution) -> str:
    """A shell script; a PowerShell script on Windows."""
    findings = list(findings)
    shebang, strict, starter = BEGINNING_OF.get(distribution, BEGINNING)
    mendable = [(finding, finding.remedy) for finding in findings if finding.remedy is not None and finding.state != "ok"]
    lines = [shebang] if shebang else []
    lines += [
        f"{MARK}, for {distribution}. puna has not run it.",
        f"# Read it, remove what you do not want, then: {starter} FILE",
    ]
    lines += [strict]
    written: set[str] = set()
    for finding, remedy in mendable:
        lines += ["", *_section(finding, remedy, written)]
    lines += _without_command([finding for finding in findings if finding.remedy is None])
    if not mendable and all(finding.state in ("ok", "note") for finding in findings):
        lines += ["", "# The doctor found nothing to fix."]
    return "\n".join([*lines, *_restarts(mendable, distribution)]) + "\n"


def _section(finding: Finding, remedy: Remedy, written: set[str]) -> Iterator[str]:
    """A finding as comments, then its commands, without those that the script has already."""
    yield f"# ---- {finding.state}: {finding.check}"
    for text in (finding.found, finding.effect, remedy.words):
        yield from _comment(text)
    for command in remedy.commands:
        if command in written or RESTARTS.match(command):
            continue
        written.add(command)
        if OWN_SHELL.match(command):
            yield from _commented("in the shell in which you start puna: ", command)
        elif finding.state == "note":
            yield from _commented("if you like: ", command)
        else:
            yield command


def _without_command(findings: list[Finding]) -> Iterator[str]:
    """Errors and warnings that no command fixes, as comments."""
    for finding in findings:
        if finding.state in ("error", "warning"):
            yield ""
            yield f"# ---- {finding.state}: {finding.check}: no command fixes this"
            for text in (finding.found, finding.effect):
                yield from _comment(text)


def _restarts(mendable: list[tuple[Finding, Remedy]], distribution: Distribution) -> Iterator[str]:
    needing = [(finding, remedy) for finding, remedy in mendable if remedy.needs_reboot]
    if not needing:
        return
    yield ""
    yield f"# ---- at the end, by hand, for: {', '.join(dict.fromkeys(finding.check for finding, _ in needing))}"
    given = [command for _, remedy in needing for command in remedy.commands if RESTARTS.match(command)]
    for command in dict.fromkeys(given or [RESTART.get(distribution, "sudo reboot")]):
        yield from _commented("", command)


def _comment(text: str) -> Iterator[str]:
    """Any text as comments: the contents of a machine's files must never become a command."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    yield from (f"# {line}" for line in textwrap.wrap(plain, WIDTH, break_on_hyphens=False))


def _commented(words: str, command: str) -> Iterator[str]:
    first, *others = command.splitlines() or [""]
    yield f"# {words}{first}"
    yield from (f"# {line}" for line in others)
