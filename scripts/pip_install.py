"""`pip install` for the Makefile, with one line of progress on a terminal. Elsewhere only pip's warnings and errors appear.

    python -m scripts.pip_install -c constraints.txt -e .

pip's own output names every package four times, and the hosts of its indexes. This runs before any dependency is installed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import IO, TextIO

from puna.progress import StatusLine

PIP = (sys.executable, "-m", "pip", "install", "--disable-pip-version-check")
EVERY_S = 1.0  # how often the seconds are redrawn

# The beginning of a line that pip writes to stdout -> what it does now. Its other lines are left out.
STAGES: Sequence[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = (
    (re.compile(r"Collecting ([\w.-]+)"), lambda line: f"looking for {line[1]}"),
    (re.compile(r"\s*Downloading (\w+)-\S+ \((.+)\)"), lambda line: f"fetching {line[1]}, {line[2]}"),
    (re.compile(r"\s*Installing build dependencies"), lambda line: "fetching the build tools"),
    (re.compile(r"\s*Building (?:wheel|editable) for (\w+)"), lambda line: f"building {line[1]}"),
    (re.compile(r"Installing collected packages: (.+)"), lambda line: f"installing {line[1].count(',') + 1} packages"),
)


def stage_of(text: str) -> str | None:
    """
    >>> stage_of("Downloading numpy-2.3.5-cp311-cp311-manylinux_2_28_x86_64.whl (16.8 MB)")
    'fetching numpy, 16.8 MB'
    >>> stage_of("Installing collected packages: numpy, llvmlite, numba")
    'installing 3 packages'
    >>> stage_of("Requirement already satisfied: numpy in ./lib")
    """
    return next((words(found) for pattern, words in STAGES if (found := pattern.match(text))), None)


def show(pip: subprocess.Popen[str], stream: TextIO) -> int:
    """Show what `pip` does, on one line of a terminal, and what it writes to stderr; return its exit code."""
    line, told = StatusLine(stream), SimpleQueue[tuple[IO[str], str]]()
    pipes = [pipe for pipe in (pip.stdout, pip.stderr) if pipe is not None]
    for pipe in pipes:
        threading.Thread(target=_read, args=(pipe, told), daemon=True).start()
    stage, since = "starting pip", time.monotonic()
    while pipes:
        line.draw(f"pip: {stage} ... {time.monotonic() - since:.0f} s")
        try:
            pipe, text = told.get(timeout=EVERY_S)
        except Empty:
            continue
        if not text:
            pipes.remove(pipe)
        elif pipe is pip.stderr:
            line.end(text.rstrip())
        elif found := stage_of(text):
            stage, since = found, time.monotonic()
    line.clear()
    return pip.wait()


def _read(pipe: IO[str], told: SimpleQueue[tuple[IO[str], str]]) -> None:
    """Pass on the lines of a pipe, and "" at its end."""
    for text in pipe:
        told.put((pipe, text))
    told.put((pipe, ""))


def main(arguments: Sequence[str]) -> int:
    if not sys.stderr.isatty():
        return subprocess.call([*PIP, "--quiet", *arguments])
    with subprocess.Popen([*PIP, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as pip:
        try:
            return show(pip, sys.stderr)
        except KeyboardInterrupt:  # pip received it too, and ends
            sys.stderr.write("\n")
            return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
