"""A process that compiles kernels for another: it reads names by lines and writes machine code. `children.py` starts it.

It ends when its standard input ends: nothing is left to compile, or the parent has ended.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
from typing import BinaryIO

from puna.backends.cpu.children import CODE, ERROR, HEAD, READY


def main() -> None:
    """Answer each line of standard input."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # from here on, whatever prints goes to stderr, not into an answer
    names: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, names), daemon=True).start()
    from puna.backends.cpu import compiled, emit, kernels  # noqa: F401 - Numba is imported before the parent relies on this process

    answers.write(READY)
    answers.flush()
    while True:
        kind, content = CODE, b""
        try:
            content = compiled.encode(compiled.compile_entry(names.get()))
        except Exception:  # noqa: BLE001 - the parent reports any of them
            kind, content = ERROR, traceback.format_exc().encode()
        answers.write(HEAD.pack(kind, len(content)) + content)
        answers.flush()


def _read(source: BinaryIO, names: queue.Queue[str]) -> None:
    """Pass on the names. When the input ends the process ends at once, even during a compilation."""
    for line in source:
        names.put(line.decode().strip())
    os._exit(0)
