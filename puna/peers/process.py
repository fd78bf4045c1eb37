"""A peer in a child process: puna's end of it.

The child has the peer's Python, and its own process group, which is ended with the block: an interrupt leaves nothing behind. It
waits while puna runs, so that one program computes at a time.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from puna.errors import MAX_LINE, PunaError
from puna.machine.child import command_of, signal_name
from puna.machine.children import CHILDREN, Child
from puna.machine.host import Host, ThisHost
from puna.peers import Peer
from puna.peers.base import LoadedPeer, Seconds

FIND_LIMIT_S = 60.0  # to start a Python, also from a cold disk
END_S = 10.0  # from its last output to its end
MISSING = 3  # exit code of FIND
FIND = (
    f"import importlib.util, sys; sys.exit({MISSING} * any(importlib.util.find_spec(module) is None for module in sys.argv[1:]))"
)
ERROR = re.compile(rb"^[\w.]*(?:Error|Exception|Interrupt)\b.*$", re.MULTILINE)
QUIET = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false"}  # no request to a network
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class PeerError(PunaError):
    """A peer that cannot be compared with here. The others go on."""


def require_installed(peer: Peer, python: str, host: Host | None = None) -> None:
    """PeerError, with the command that installs it, unless a Python has the peer's modules."""
    found = (host or ThisHost()).run(python, "-P", "-c", FIND, *peer.modules, limit_s=FIND_LIMIT_S)
    if found is None or found.code not in (0, MISSING):
        raise PeerError(f"{python} is no Python of 3.11 or newer", hint="Name another one with --peer-python.")
    if found.code == MISSING:
        raise PeerError(f"not installed in {python}", hint=f"Install it: {python} -m pip install {peer.packages}")


class Dialogue:
    """A program that answers each line of JSON with one."""

    def __init__(self, child: Child, errors: IO[bytes]) -> None:
        self._process, self._errors = child.process, errors

    def hear(self) -> dict[str, Any]:
        """The next line. PeerError, which says why, if the program has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(self._reason())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Put a question, and wait for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise PeerError(self._reason()) from None
        return self.hear()

    def _reason(self) -> str:
        """Why it has ended: a signal, or the last error that it printed."""
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        self._errors.seek(0)
        text = self._errors.read()
        errors = ERROR.findall(text) or text.strip().splitlines() or [f"it ended with code {code}".encode()]
        line = errors[-1].decode("utf-8", "replace").strip()[:MAX_LINE]
        return f"it was ended by {signal_name(-code)}" if code < 0 else line


@contextmanager
def dialogue(command: Sequence[str], threads: int) -> Iterator[Dialogue]:
    """A program that runs as long as the block. PeerError if it cannot start."""
    environment = {**os.environ, **QUIET, **dict.fromkeys(THREADS, str(threads))}
    with ExitStack() as ends:
        errors = ends.enter_context(tempfile.TemporaryFile())
        try:
            child = ends.enter_context(CHILDREN.talking(tuple(command), environment, errors))
        except (OSError, ValueError) as error:
            raise PeerError(f"{command[0]} cannot be started: {error}") from None
        if child is None:
            raise PeerError("puna is ending")
        yield Dialogue(child, errors)


@contextmanager
def loaded_peer(peer: Peer, python: str, model: Path, threads: int, context: int) -> Iterator[LoadedPeer]:
    """A peer with a model in memory, in its own process. PeerError if it cannot load the model, or ends."""
    command = command_of("puna.peers.child", peer.runner, str(model.resolve()), str(threads), str(context), python=python)
    with dialogue(command, threads) as child:
        facts = child.hear()

        def measure(prompt: Sequence[int], answer: Sequence[int]) -> Seconds:
            return Seconds(**child.ask({"prompt": list(prompt), "answer": list(answer)}))

        yield LoadedPeer(facts["version"], facts["computes"], measure)
