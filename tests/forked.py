"""Programs forked from one process that has imported PyTorch: the ranks of a group, with the variables that torchrun sets.

Importing PyTorch takes three seconds of CPU, in torchrun and in each process that it starts. What processes do together is tested
with forked ones; that torchrun starts and ends them, with torchrun.

`python -m tests.forked` is that one process. It reads a request from each line of stdin and answers it with a line of stdout.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Self

ROOT = Path(__file__).parents[1]
IMPORTED = (
    "puna.backends.torch.model", "puna.backends.torch.parallel", "puna.cli.main", "puna.cli.run", "puna.llm", "puna.compat.meta",
    "puna.machine.planning.history", "tokenizers", "sentencepiece", "numpy.random",
)  # fmt: skip
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
TIMEOUT_S = 240.0
CLONE_NEWNET = 0x40000000  # Linux's


def environment() -> dict[str, str]:
    """This process's, less what a launcher sets; one thread for each process, and no GPU."""
    kept = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PUNA_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


class Forked:
    """A running program, with what `subprocess.Popen` has."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        """The exit code; minus the signal's number, if one ended it."""
        if self.returncode is None:
            status = self._server.ask(wait=self.pid, timeout=timeout)
            if status is None:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The process that has PyTorch. A context manager."""

    def __init__(self) -> None:
        pipe, command = subprocess.PIPE, [sys.executable, "-m", "tests.forked"]
        self._process = subprocess.Popen(command, env=environment(), cwd=ROOT, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of stdin ends it

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that forks has ended: see its words above"
        return json.loads(answer)

    def start(self, words: list[str], folder: Path, variables: Mapping[str, str] | None = None, **where: str) -> Forked:
        """Begin `python WORDS`, which appends to the files stdout and stderr of the folder; `where`: see `become`."""
        variables = environment() | dict(variables or {})
        for name in ("stdout", "stderr"):
            (folder / name).touch()
        return Forked(self, self.ask(words=words, folder=str(folder), variables=variables, **where))

    def start_ranks(self, count: int, words: list[str], folder: Path, **where: str) -> list[Forked]:
        """Begin `python WORDS` as each rank of a group. The first rank hosts the store, where torchrun's agent would."""
        port = free_port()
        return [self.start(words, folder, rank_variables(rank, count, port=port), **where) for rank in range(count)]

    def run(self, count: int, words: list[str], folder: Path, timeout: float = TIMEOUT_S) -> CompletedProcess[str]:
        """Run `python WORDS` as each rank of a group, or alone; the first exit code that is not 0 stands for all."""
        begun = self.start_ranks(count, words, folder) if count > 1 else [self.start(words, folder)]
        return completed(begun, words, folder, timeout)


def completed(begun: list[Forked], words: list[str], folder: Path, timeout: float = TIMEOUT_S) -> CompletedProcess[str]:
    """What programs that were begun in one folder did, once all have ended."""
    try:
        codes = [one.wait(timeout) for one in begun]
    finally:
        for one in begun:
            one.kill()
    out, err = ((folder / name).read_text("utf-8") for name in ("stdout", "stderr"))
    return CompletedProcess(words, next((code for code in codes if code), 0), out, err)


def rank_variables(
    rank: int, size: int, *, machines: int = 1, master: str = "127.0.0.1", port: int | None = None
) -> dict[str, str]:
    """What torchrun tells a process of a group with as many ranks on each machine."""
    on_each = size // machines
    numbers = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank % on_each, "LOCAL_WORLD_SIZE": on_each}
    numbers["MASTER_PORT"] = port or free_port()
    return {"MASTER_ADDR": master, "TORCHELASTIC_RUN_ID": "forked"} | {name: str(number) for name, number in numbers.items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ---- in the process that has PyTorch -------------------------------------------------------------------------------------


def serve() -> dict[str, Any] | None:
    """Answer requests until stdin ends. In each child, the request that it is to carry out."""
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if "words" in request:
            answer: int | None = os.fork()
            if answer == 0:
                return dict(request)
        else:
            answer = status_of(request["wait"], request["timeout"])
        print(json.dumps(answer), flush=True)
    return None


def status_of(pid: int, timeout: float) -> int | None:
    """The exit status of a child; None if it still runs at the end of the time."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.01)
    return None


def become(words: list[str], folder: str, variables: dict[str, str], stdin: str = os.devnull, network: str = "") -> None:
    """Be `python WORDS` from now on. `network`: the file of a network namespace."""
    if network and ctypes.CDLL(None).setns(os.open(network, os.O_RDONLY), CLONE_NEWNET):
        raise OSError(f"cannot enter {network}")
    os.environ.clear()
    os.environ.update(variables)
    append = os.O_WRONLY | os.O_APPEND
    for number, file, flags in ((0, stdin, os.O_RDONLY), (1, f"{folder}/stdout", append), (2, f"{folder}/stderr", append)):
        os.dup2(os.open(file, flags), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the old one may have read requests ahead
    is_module = words[0] == "-m"
    sys.argv = words[is_module:]
    if is_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # no child looks through these objects, which would copy their memory
    request = serve()
    if request is not None:
        become(**request)


if __name__ == "__main__":
    main()
