"""puna doctor: checks whether this machine runs models, and if not, says what to type."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import click

from puna.cli.options import json_option
from puna.cli.terminal import TerminalReporter, discard, print_json, printable, shown_path
from puna.cli.width import report_width
from puna.cli.word_wrap import wrapped
from puna.errors import PunaError, UsageError
from puna.units import counted

if TYPE_CHECKING:
    from puna.machine.distribution import Distribution
    from puna.machine.doctor import MachineDiagnosis, Verdict
    from puna.machine.finding import Finding

DEVICE = re.compile(r"auto|cpu|torch|cuda(:\d{1,2})?")
STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}
INDENT = 10  # columns of the marks
TO_STDOUT = "-"
MAX_BEGINNING = 200  # bytes of a file that show whether the doctor wrote it

BELOW, COMMAND = " ", "$"
MARGINS = {"": "", BELOW: " " * INDENT, COMMAND: " " * INDENT + "  $ "}


class Line(NamedTuple):
    """A line of the report. Its mark is a state, BELOW or COMMAND; a line without a mark begins at the left."""

    mark: str
    text: str
    style: str = ""


@click.command()
@click.option(
    "--device", default="auto", metavar="NAME", help="Device that must run models: auto, cpu, torch, cuda, cuda:1 [auto]."
)
@click.option(
    "--fix-script",
    is_flag=False,
    flag_value=TO_STDOUT,
    metavar="[FILE]",
    help="Write the commands that fix problems as a script, and run nothing [stdout].",
)
@json_option
def command(device: str, fix_script: str | None, as_json: bool) -> None:
    """Check this machine: CPU, memory, disk, Python, NVIDIA's driver and GPUs, network.

    Each finding says what was found, what it means for running models, and how to fix it. puna changes nothing. Exit code 1
    if the device cannot run models.
    """
    from puna.machine.doctor import diagnose
    from puna.machine.host import ThisHost
    from puna.machine.probes.base import Patient

    if DEVICE.fullmatch(device) is None:
        raise UsageError(f"--device is {device!r}; allowed: auto, cpu, torch, cuda, cuda:1 and so on")
    with TerminalReporter() as report:
        patient = Patient(ThisHost(), device)
        diagnosis = diagnose(patient, report)
    script = _script(diagnosis) if fix_script else None
    if script is not None and fix_script != TO_STDOUT:
        _write(Path(fix_script or ""), script, diagnosis.facts["distribution"])
    if as_json:
        kept = {"fix_script": script} if fix_script == TO_STDOUT else {}
        print_json(diagnosis.as_json() | kept)
    elif fix_script == TO_STDOUT:
        show(report_lines(diagnosis), sys.stderr)
        print(script, end="")
    else:
        show(report_lines(diagnosis), sys.stdout)
        if fix_script:
            print(f"Script: {printable(shown_path(Path(fix_script)))}")
    if not diagnosis.verdict.runs:
        raise click.exceptions.Exit(1)


def _script(diagnosis: MachineDiagnosis) -> str:
    from puna.machine.doctor import fix_script

    return fix_script(diagnosis.findings, diagnosis.facts["distribution"])


def _write(file: Path, script: str, distribution: Distribution) -> None:
    """Write the script, but only over a script of the doctor."""
    from puna.files import read_small
    from puna.machine.script import MARK, script_bytes

    try:
        if file.exists() and MARK.encode() not in (read_small(file, MAX_BEGINNING) or b""):
            raise UsageError(f"{file} exists and is not a script of puna doctor", hint="Give another name.")
        file.write_bytes(script_bytes(script, distribution))
    except OSError as error:
        raise PunaError(f"cannot write {file}: {error.strerror or error}", hint="Give another name.") from error


def report_lines(diagnosis: MachineDiagnosis) -> Iterator[Line]:
    """The findings by part of the machine, and the verdict."""
    for part, findings in groupby(_by_part(diagnosis.findings), key=_part):
        yield Line("", part, "bold")
        for finding in findings:
            yield from _finding_lines(finding)
    yield Line("", "")
    yield Line("", summary(diagnosis.verdict, diagnosis.facts), "bold")
    counts = {state: sum(finding.state == state for finding in diagnosis.findings) for state in ("error", "warning", "note")}
    if any(counts.values()):
        yield Line("", ", ".join(counted(number, state) for state, number in counts.items() if number))
    yield from next_lines(diagnosis)


def next_lines(diagnosis: MachineDiagnosis) -> Iterator[Line]:
    """What to do next: a command if there is one."""
    verdict = diagnosis.verdict
    errors = (finding for finding in diagnosis.findings if finding.state == "error" and finding.check in verdict.hindrances)
    first = next(errors, None)  # it often causes the others
    if verdict.runs:
        yield Line("", "Next, ask a model:")
        yield Line(COMMAND, _question("" if verdict.wanted == "auto" else verdict.wanted), "bold")
    elif first is not None and first.remedy is not None:
        yield Line("", f"Next, do what stands below {first.check}, and look again:")
        yield Line(COMMAND, f"puna doctor --device {verdict.wanted}", "bold")
    elif verdict.devices:
        yield Line("", "puna knows no command that changes this. Next, use the device that works:")
        yield Line(COMMAND, _question(verdict.devices[0]), "bold")
    else:
        yield Line("", "Next, change what the errors above name, the first one first, and look again:")
        yield Line(COMMAND, f"puna doctor --device {verdict.wanted}", "bold")


def _question(device: str) -> str:
    return " ".join(filter(None, ("puna run", f"--device {device}" if device else "", '"What is gravity?"')))


def _part(finding: Finding) -> str:
    return finding.check.partition(".")[0]


def _by_part(findings: Iterable[Finding]) -> list[Finding]:
    """Parts in the order in which they first appear."""
    findings = list(findings)
    order = list(dict.fromkeys(map(_part, findings)))
    return sorted(findings, key=lambda finding: order.index(_part(finding)))


def _finding_lines(finding: Finding) -> Iterator[Line]:
    name = "" if finding.state == "ok" else f" ({finding.check})"  # guides and programs refer to it
    yield Line(finding.state, finding.found + name, STYLES[finding.state])
    if finding.effect:
        yield Line(BELOW, finding.effect)
    if finding.remedy is not None and finding.state != "ok":
        yield Line(BELOW, finding.remedy.words)
        yield from (Line(COMMAND, command, "bold") for command in finding.remedy.commands)
        if finding.remedy.needs_reboot:
            yield Line(BELOW, "Restart the machine afterwards.")


def summary(verdict: Verdict, facts: dict[str, Any]) -> str:
    """The last line: which devices run models here, and whether the wanted one does."""
    names = {"cpu": _cpu_words(facts), "cuda": f"GPU{_gpu_words(facts)}", "torch": "CPU by PyTorch"}
    where = ", ".join(names[device] for device in verdict.devices)
    runs = f"This machine runs models on: {where}." if where else "This machine does not run models as it is."
    if verdict.runs or verdict.wanted == "auto":
        return runs
    why = f"see {', '.join(dict.fromkeys(verdict.hindrances))}" if verdict.hindrances else "there is no such device that works"
    return f"{runs} The device {verdict.wanted} does not: {why}."


def _cpu_words(facts: dict[str, Any]) -> str:
    cpu, limits = facts.get("cpu", {}), facts.get("cpu_limits", {})
    words = [str(cpu["name"]), counted(cpu["model_threads"], "thread")] if cpu else []
    words += [f"{limits['read_bytes_per_s'] / 1e9:.1f} GB/s"] if limits else []
    return f"CPU ({', '.join(words)})" if words else "CPU"


def _gpu_words(facts: dict[str, Any]) -> str:
    gpus = facts.get("gpus")
    names = [str(gpu["name"]) for gpu in gpus if isinstance(gpu, dict) and "name" in gpu] if isinstance(gpus, list) else []
    return f" ({', '.join(names)})" if names else ""


def show(lines: Iterable[Line], stream: TextIO) -> None:
    """Print lines, wrapped at words, in colour on a terminal. Commands are never wrapped.

    A closed pipe (`| head -1`) is not an error: the exit code stays that of the verdict.
    """
    try:
        _show(lines, stream)
    except BrokenPipeError:
        discard(stream)


def _show(lines: Iterable[Line], stream: TextIO) -> None:
    say, width = _screen(stream)
    for line in lines:
        rows = [printable(line.text)]
        if line.mark != COMMAND:
            rows = wrapped(rows[0], width - (INDENT if line.mark else 0))
        for row in rows:
            say(
                *_margin(BELOW if line.mark and row is not rows[0] else line.mark, line.style),
                (row, "" if line.mark in STYLES else line.style),
            )
    stream.flush()


def _margin(mark: str, style: str) -> tuple[tuple[str, str], ...]:
    """The beginning of a row."""
    if mark in STYLES:
        return ("  ", ""), (mark, style), (" " * (INDENT - 2 - len(mark)), "")
    return ((MARGINS[mark], ""),)


def _screen(stream: TextIO) -> tuple[Callable[..., None], int]:
    """A function that prints styled pieces of text, and the width of the output."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:  # the doctor must work even in a broken installation
        return lambda *pieces: print("".join(text for text, _ in pieces), file=stream), report_width(stream)

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would exit with 1

    console = Screen(file=stream, highlight=False, soft_wrap=True)
    style = "none" if console.no_color else ""  # with NO_COLOR, rich still prints bold

    def say(*pieces: tuple[str, str]) -> None:
        console.print(Text.assemble(*((text, style or own) for text, own in pieces)), soft_wrap=True)

    return say, report_width(stream)
