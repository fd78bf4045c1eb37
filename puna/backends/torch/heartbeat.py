"""Heartbeats: each rank writes one to torchrun's store every two seconds; if one goes silent, all end.

A process that dies closes its connections, and the others notice within a step. A machine that vanishes does not.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

from puna.backends.base import ProcessRank
from puna.errors import DeviceError, UsageError, first_line

START_S = 300  # until all are there: some may still be importing torch
ATTEMPT_S, LOOK_S = 3, 0.1
EVERY_S = 1.0
END = "puna-end"
SILENT_S = 10.0  # until a rank counts as dead


def open_store(process: ProcessRank, is_first: bool = False) -> dist.TCPStore:
    """Torchrun's store; without torchrun's agent the first rank hosts one (`is_first`). Raises UsageError, DeviceError.

    Attempts are short, so that Ctrl-C and SIGTERM work between them.
    """
    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), _port()
    is_master = is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    begun = time.monotonic()
    while True:
        try:
            return dist.TCPStore(
                host, port, process.size, is_master=is_master, wait_for_workers=False, timeout=timedelta(seconds=ATTEMPT_S)
            )
        except (RuntimeError, OSError) as error:
            if is_master or time.monotonic() - begun > START_S:
                raise DeviceError(
                    f"the processes of the model cannot connect at {host}:{port}: {first_line(error)}",
                    hint="Choose another port with torchrun's --master_port, or, on one machine, use --standalone.",
                ) from error


def _port() -> int:
    text = os.environ.get("MASTER_PORT", "29500")
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) < 65536):
        raise UsageError(f"MASTER_PORT is {text!r}, not a number in 1..65535", hint="Unset it, or start puna with torchrun.")
    return int(text)


def meet(process: ProcessRank, store: dist.TCPStore) -> None:
    """Wait until all processes are there; Ctrl-C and SIGTERM work meanwhile. DeviceError names the missing ranks."""
    store.set(f"puna-here-{process.rank}", "1")
    missing, begun = set(range(process.size)), time.monotonic()
    while missing := {rank for rank in missing if not store.check([f"puna-here-{rank}"])}:
        if time.monotonic() - begun > START_S:
            raise DeviceError(
                f"of {process.size} processes, ranks {', '.join(map(str, sorted(missing)))} did not start within {START_S} s",
                hint="Look for their messages above, and start all again.",
            )
        time.sleep(LOOK_S)


class Heartbeat:
    """A thread that sends and reads heartbeats; ends the process, with a message, if another rank is silent too long."""

    def __init__(self, process: ProcessRank) -> None:
        self._process = process
        self._store = open_store(process)  # a connection of its own
        self._closed = threading.Event()
        self._tell(0)
        threading.Thread(target=self._run, name="puna-heartbeat", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def end_all(self) -> None:
        """Tell the others to end: they may wait in a collective that nobody will join."""
        with suppress(RuntimeError, OSError):
            self._store.set(END, "1")

    def _run(self) -> None:
        heard = dict.fromkeys(range(self._process.size), (b"", time.monotonic()))
        beat = 0
        while not self._closed.wait(EVERY_S):
            beat += 1
            try:
                self._tell(beat)
                if self._store.check([END]):
                    self._end("the first process ended during a step")
                for rank, (last, when) in heard.items():
                    now = self._store.get(f"puna-alive-{rank}")
                    heard[rank] = (last, when) if now == last else (now, time.monotonic())
            except (RuntimeError, OSError):
                self._end("torchrun's store does not answer")
            for rank, (_, when) in heard.items():
                if time.monotonic() - when > SILENT_S:
                    self._end(f"rank {rank} sent no heartbeat for {SILENT_S:.0f} s")

    def _tell(self, beat: int) -> None:
        self._store.set(f"puna-alive-{self._process.rank}", str(beat))

    def _end(self, problem: str) -> None:
        """End the process here: the main thread may hang in a collective that nobody will join."""
        if self._closed.is_set():
            return
        sys.stderr.write(f"puna: {problem}; all processes of the model end.\nStart all again.\n")
        sys.stderr.flush()
        os._exit(1)
