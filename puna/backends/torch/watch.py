"""Is every rank still alive? Each tells the others through torchrun's store every two seconds; a silent one ends all.

A process that dies closes its connections, and the others notice within a step. A machine that vanishes does not.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from datetime import timedelta

import torch.distributed as dist

from puna.backends.base import ProcessPlace

EVERY_S = 2.0
SILENT_S = 10.0  # and a rank counts as dead


def open_store(place: ProcessPlace, timeout_s: float) -> dist.TCPStore:
    """The store of torchrun's agent; without an agent the first rank has one."""
    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(os.environ.get("MASTER_PORT", "29500"))
    has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return dist.TCPStore(
        host, port, place.size, is_master=place.rank == 0 and not has_agent, timeout=timedelta(seconds=timeout_s)
    )


class Watch:
    """A thread that tells and listens; ends the process, with a message, when another rank is silent for too long."""

    def __init__(self, place: ProcessPlace, timeout_s: float) -> None:
        self._place = place
        self._store = open_store(ProcessPlace(max(place.rank, 1), place.size), timeout_s)  # a connection of its own
        self._closed = threading.Event()
        self._tell(0)
        threading.Thread(target=self._run, name="puna-watch", daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        heard = dict.fromkeys(range(self._place.size), (b"", time.monotonic()))
        beat = 0
        while not self._closed.wait(EVERY_S):
            beat += 1
            try:
                self._tell(beat)
                for rank, (last, when) in heard.items():
                    now = self._store.get(f"puna-alive-{rank}")
                    heard[rank] = (last, when) if now == last else (now, time.monotonic())
            except (RuntimeError, OSError):
                self._end("torchrun's store does not answer")
            for rank, (_, when) in heard.items():
                if time.monotonic() - when > SILENT_S:
                    self._end(f"rank {rank} was not heard of for {SILENT_S:.0f} s")

    def _tell(self, beat: int) -> None:
        self._store.set(f"puna-alive-{self._place.rank}", str(beat))

    def _end(self, problem: str) -> None:
        """The main thread may hang in a collective that nobody answers: the process ends here."""
        if self._closed.is_set():
            return
        sys.stderr.write(f"puna: {problem}; all processes of the model end.\nStart all again.\n")
        sys.stderr.flush()
        os._exit(1)
