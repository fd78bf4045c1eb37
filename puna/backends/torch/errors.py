"""One translator for a device's errors, used in opening, load, step and read.

PyTorch raises RuntimeError for a GPU that is full or lost, and also for a bug of puna. `kind_of` tells them apart, and a bug
passes through unchanged. Translated errors hold no tensors.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import Literal

import torch

from puna.backends.base import Translation
from puna.causes import SURE, find
from puna.errors import DeviceError, InsufficientMemoryError, PunaError, first_line

Failure = Literal["device memory", "main memory", "device"]

# Texts of PyTorch, CUDA's libraries and Triton, in lower case -> what failed. The first match counts.
WORDINGS: tuple[tuple[Failure, tuple[str, ...]], ...] = (
    ("main memory", ("defaultcpuallocator", "std::bad_alloc", "cannot allocate memory", "unable to allocate")),
    (
        "device memory",
        (
            "cuda out of memory",
            "cuda error: out of memory",
            "triton error [cuda]: out of memory",
            "cublas_status_alloc_failed",
            "cublas_status_not_initialized",
        ),
    ),
    (
        "device",
        ("cuda error:", "cuda driver error:", "cublas_status_", "triton error [cuda]:", "nccl error", "cuda-capable device"),
    ),
)
AMOUNT = re.compile(r"tried to allocate [\d.]+ \w+|unable to allocate [\d.]+ \w+", re.IGNORECASE)
BEGIN = re.compile(r"^\[enforce fail at [^\]]*\]\s*(?:err == 0\.\s*)?")  # the start of a failed check in PyTorch's C++
MAX_WORDS = 160
AGAIN = "Start puna again; `puna doctor --device cuda` tests the GPU, and `puna why` explains the error's text."


class PinnedMemoryError(MemoryError):
    """Pinned memory was refused. PyTorch calls that "CUDA error: out of memory" too."""


def kind_of(error: BaseException) -> Failure | None:
    """What failed; None if the error is not the device's.

    >>> kind_of(RuntimeError("CUDA error: an illegal memory access was encountered")), kind_of(RuntimeError("shapes differ"))
    ('device', None)
    """
    if isinstance(error, torch.OutOfMemoryError):
        return "device memory"
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "main memory"
    if not isinstance(error, RuntimeError):
        return None
    words = str(error).lower()
    return next((kind for kind, wordings in WORDINGS if any(wording in words for wording in wordings)), None)


def is_out_of_memory(error: BaseException) -> bool:
    return kind_of(error) in ("device memory", "main memory")


def translated(device: str, doing: str, next_step: Callable[[], str]) -> Translation:
    """Raise the device's errors as InsufficientMemoryError, whose hint is `next_step()`, or as DeviceError.

    `device`: its name in messages. `doing`: "while loading the model", "in a step of 5 tokens".
    """
    return Translation(lambda error: _told(error, device, doing, next_step))


def _told(error: BaseException, device: str, doing: str, next_step: Callable[[], str]) -> PunaError | None:
    match kind_of(error):
        case None:
            return None
        case "device":
            return DeviceError(
                f"{device} failed {doing}: {first_words(error)}", hint=" ".join(filter(None, (_meaning(error), AGAIN)))
            )
        case kind:
            what = device if kind == "device memory" else "this machine"
            return InsufficientMemoryError(f"{what} ran out of memory {doing}: {first_words(error)}", hint=next_step())


def _meaning(error: BaseException) -> str:
    """The first sentence of `puna why`'s explanation of the error."""
    found = find(str(error))
    return (
        re.split(r"(?<=\.) |: ", found[0].explain().cause)[0].rstrip(".") + "." if found and found[0].confidence >= SURE else ""
    )


def first_words(error: BaseException) -> str:
    """The part of an error's text that fits into a line, up to the amount that was refused.

    >>> first_words(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.99 GiB"))
    'CUDA out of memory. Tried to allocate 2.00 GiB'
    """
    line = BEGIN.sub("", first_line(error))
    found = AMOUNT.search(line)
    return (line[: found.end()] if found else line[:MAX_WORDS]).rstrip(". ")


def empty_bytes(count: int, pinned: bool) -> torch.Tensor:
    """Main memory for a copy; `pinned`: the GPU can read it directly. PinnedMemoryError if that is refused."""
    try:
        return torch.empty(count, dtype=torch.uint8, pin_memory=pinned)
    except RuntimeError as error:
        if pinned and is_out_of_memory(error):
            raise PinnedMemoryError(f"{count} bytes of pinned memory were refused: {first_words(error)}") from error
        raise


def cannot_start(error: Exception) -> DeviceError:
    """Why a GPU cannot be used at all: what `puna why` says of the driver's or CUDA's text, in one line.

    >>> str(cannot_start(RuntimeError("No CUDA GPUs are available")))
    'CUDA finds no card'
    """
    found = find(str(error))
    if found and found[0].confidence >= SURE:
        told = found[0].explain()
        return DeviceError(_as_message(told.cause), hint=" ".join((*told.cure, "Or use --device cpu.")))
    said = first_line(error) if str(error) else "it gives no reason"
    return DeviceError(f"CUDA does not start: {said}", hint="Check that nvidia-smi works, or use --device cpu.")


def _as_message(sentence: str) -> str:
    """
    >>> _as_message("There is no NVIDIA driver."), _as_message("CUDA finds no card.")
    ('there is no NVIDIA driver', 'CUDA finds no card')
    """
    begins_a_word = sentence[1:2].islower()
    return (sentence[:1].lower() + sentence[1:] if begins_a_word else sentence).removesuffix(".")
