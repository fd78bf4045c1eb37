"""Processes that share one model, as torchrun starts them: who is there, and what they send each other.

The first rank runs the engine; the others follow. They exchange arrays of fixed layout: a step's integers (`tell`, `hear`), and
sums and pieces of activations. Nothing is pickled. A single process has no process group at all.

Sums are made in the order of the ranks, so that they do not depend on the rest of the step.
"""

from __future__ import annotations

import atexit
import gc
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from datetime import timedelta
from math import prod
from typing import Protocol

import numpy as np
import numpy.typing as npt
import psutil
import torch
import torch.distributed as dist

from puna.backends.base import ProcessRank
from puna.backends.torch import heartbeat
from puna.batch import Batch
from puna.errors import DeviceError, UsageError, first_line
from puna.progress import SILENT, Reporter

Integers = npt.NDArray[np.int32]

MAIN_MEMORY = torch.device("cpu")
FOR_EVER = timedelta(
    days=30
)  # a rank may wait for requests for any time; a closed connection, or the heartbeat (`heartbeat.py`), shows that a rank is dead


class Ranks(Protocol):
    """The processes of a model, seen from one of them."""

    @property
    def process(self) -> ProcessRank: ...

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, on each of them."""

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """The columns of all ranks side by side.  # (rows, own columns) -> (rows, all columns)"""

    def each(self, number: int) -> list[int]:
        """Each rank's number, in the order of the ranks."""

    def tell(self, batch: Batch | None) -> None:
        """First rank: send the next step's batch; None: there are no more steps."""

    def done(self) -> None:
        """End the step that `tell` began."""

    def hear(self) -> Batch | None:
        """Receive what the first rank sends. Waits without a limit."""

    def close(self) -> None:
        """Leave. Idempotent."""


class Alone:
    """A single process: it exchanges nothing."""

    process = ProcessRank()

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def each(self, number: int) -> list[int]:
        return [number]

    def tell(self, batch: Batch | None) -> None:
        pass

    def done(self) -> None:
        pass

    def hear(self) -> Batch | None:
        return None

    def close(self) -> None:
        pass


class Group:
    """The ranks of a torch process group. Integers go through gloo, activations through NCCL if they lie on GPUs."""

    def __init__(self, process: ProcessRank, device: torch.device) -> None:
        self.process = process
        name = _interface(process)
        if name is not None:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
        store = heartbeat.open_store(process, is_first=process.rank == 0)
        heartbeat.meet(process, store)
        with _all_there():
            dist.init_process_group(
                "gloo", store=dist.PrefixStore("puna", store), rank=process.rank, world_size=process.size, timeout=FOR_EVER
            )
            has_nccl = device.type == "cuda" and dist.is_nccl_available()
            self._numbers = dist.new_group(backend="nccl", timeout=FOR_EVER) if has_nccl else dist.group.WORLD
            self._way = device if has_nccl else MAIN_MEMORY  # gloo gathers only main memory
            self._heartbeat = heartbeat.Heartbeat(process)
        self._widths: dict[int, list[int]] = {}
        self._is_open, self._in_step = True, False
        atexit.register(self.close)

    # ---- activations ------------------------------------------------------------------------------------------------

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        parts = self._all(x.contiguous())
        total = parts[0].clone()
        for part in parts[1:]:
            total += part
        return total

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """Ranks may have different numbers of columns: all are padded to the widest on the way."""
        own = x.shape[1]
        if own not in self._widths:
            self._widths[own] = self.each(own)
        widths = self._widths[own]
        parts = self._all(torch.nn.functional.pad(x, (0, max(widths) - own)).contiguous())
        return torch.cat([part[:, :width] for part, width in zip(parts, widths, strict=True)], dim=1)

    def _all(self, x: torch.Tensor) -> list[torch.Tensor]:
        sent = x.to(self._way)
        parts = [torch.empty_like(sent) for _ in range(self.process.size)]
        if x.numel():
            with _all_there():
                dist.all_gather(parts, sent, group=self._numbers)
        return [part.to(x.device) for part in parts]

    # ---- integers ---------------------------------------------------------------------------------------------------

    def each(self, number: int) -> list[int]:
        numbers = [torch.zeros(1, dtype=torch.int64) for _ in range(self.process.size)]
        with _all_there():
            dist.all_gather(numbers, torch.tensor([number], dtype=torch.int64))
        return [int(one) for one in numbers]

    def tell(self, batch: Batch | None) -> None:
        if self.process.rank > 0:
            return
        if self._in_step:
            raise DeviceError(
                "a step that several processes shared was interrupted, and the others still wait in it", hint="Start all again."
            )
        self._send(_CLOSE if batch is None else _head(batch))
        if batch is not None:
            self._in_step = True
            self._send(_body(batch))

    def done(self) -> None:
        self._in_step = False

    def hear(self) -> Batch | None:
        head = self._receive(_HEAD_SIZE)
        if head[0] == 0:
            return None
        return _batch(head, self._receive(_body_size(head)))

    def _send(self, integers: Integers) -> None:
        with _all_there():
            dist.broadcast(torch.from_numpy(integers), src=0)

    def _receive(self, count: int) -> Integers:
        integers = torch.zeros(count, dtype=torch.int32)
        with _all_there():
            dist.broadcast(integers, src=0)
        received: Integers = integers.numpy()
        return received

    def close(self) -> None:
        """The first rank tells the others to end; a rank that cannot hear it has ended already."""
        if self._is_open:
            self._is_open = False
            if self._in_step:
                self._heartbeat.end_all()
            with suppress(DeviceError):
                self.tell(None)
            self._heartbeat.close()
            with suppress(RuntimeError):
                dist.destroy_process_group()
            self._numbers = None  # the last reference: gloo's threads end here, not during Python's shutdown
            gc.collect()


# A step in int32: 1, the length and the width of each array of the batch (width -1: it has one dimension), then the arrays.
_FIELDS = tuple(field.name for field in fields(Batch))
_HEAD_SIZE = 1 + 2 * len(_FIELDS)
_CLOSE: Integers = np.zeros(_HEAD_SIZE, np.int32)


def _head(batch: Batch) -> Integers:
    shapes = (getattr(batch, name).shape for name in _FIELDS)
    return np.array([1, *(size for shape in shapes for size in (*shape, -1)[:2])], np.int32)


def _shapes(head: Integers) -> list[tuple[int, ...]]:
    """The shape of each field."""
    pairs: list[list[int]] = head[1:].reshape(-1, 2).tolist()
    return [(length,) if width < 0 else (length, width) for length, width in pairs]


def _body_size(head: Integers) -> int:
    return sum(map(prod, _shapes(head)))


def _body(batch: Batch) -> Integers:
    return np.concatenate([getattr(batch, name).reshape(-1) for name in _FIELDS]).astype(np.int32)


def _batch(head: Integers, body: Integers) -> Batch:
    """Rebuild a batch: the inverse of `_head` and `_body`."""
    shapes = _shapes(head)
    parts = np.split(body, np.cumsum([prod(shape) for shape in shapes])[:-1])
    return Batch(**{name: part.reshape(shape) for name, part, shape in zip(_FIELDS, parts, shapes, strict=True)})


@contextmanager
def _all_there() -> Iterator[None]:
    """Turn the closed connection of a dead rank into a DeviceError."""
    try:
        yield
    except (RuntimeError, OSError) as error:  # torch has no narrower class in all its versions
        raise DeviceError(
            f"the processes of the model lost their connection: {first_line(error)}",
            hint="One of them ended or could not be reached: look for its message above, and start all again.",
        ) from error


def _interface(process: ProcessRank) -> str | None:
    """The network interface to use: loopback if all are on this machine, else the one that leads to the first rank."""
    host = "127.0.0.1" if process.local_size == process.size else os.environ.get("MASTER_ADDR", "127.0.0.1")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # sends nothing: it only looks up the route
            own = probe.getsockname()[0]
    except OSError:
        return None
    return next((name for name, ends in psutil.net_if_addrs().items() if any(end.address == own for end in ends)), None)


_JOINED: list[Group] = []  # at most one in a process's life


def join(process: ProcessRank, device: torch.device, report: Reporter = SILENT) -> Ranks:
    """Join the ranks of torchrun. UsageError for a second model: the other ranks end with the first model."""
    if process.size > 1 and device.type == "cuda" and not dist.is_nccl_available():
        report.notice("this PyTorch has no NCCL (on Windows none has): the GPUs exchange data through main memory")
    if process.size == 1:
        return Alone()
    if _JOINED:
        raise UsageError(
            "a second model cannot be loaded: the processes that torchrun started share one model and end with it",
            hint="Load only one model under torchrun, or start the program without torchrun.",
        )
    _JOINED.append(Group(process, device))
    return _JOINED[0]
