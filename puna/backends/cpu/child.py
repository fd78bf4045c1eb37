"""A process that compiles kernels for another one: names come in by lines, machine code goes out. `children.py` starts it.

It ends when its standard input does: once there is nothing more to compile, or when the process that started it ends in whatever
way.
"""

from __future__ import annotations

import os
import queue
import struct
import sys
import threading
import traceback
from typing import BinaryIO

READY = b"puna compiles kernels\n"  # precedes the answers; whatever Python's start printed before is no answer
CODE, ERROR = b"C", b"E"  # of an answer: its kind, its length, and then the machine code or a traceback
HEAD = struct.Struct("<cQ")


def main() -> None:
    """Answer each line of standard input."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # from here on, what anything prints is no answer either
    names: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, names), daemon=True).start()
    from puna.backends.cpu import compiled, emit, kernels  # noqa: F401 - Numba is imported before the parent relies on this process

    answers.write(READY)
    answers.flush()
    while True:
        kind, content = CODE, b""
        try:
            content = compiled.encode(compiled.compile_entry(names.get()))
        except Exception:  # noqa: BLE001 - whatever it is, the parent tells it
            kind, content = ERROR, traceback.format_exc().encode()
        answers.write(HEAD.pack(kind, len(content)) + content)
        answers.flush()


def _read(source: BinaryIO, names: queue.Queue[str]) -> None:
    """Pass on the names. At the end of the input the process ends at once, even amid a compilation."""
    for line in source:
        names.put(line.decode().strip())
    os._exit(0)
