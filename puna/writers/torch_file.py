"""A dict of arrays as `torch.save` writes it and `torch.load(path, weights_only=True)` reads it. Does not need PyTorch.

This module writes the pickle opcode by opcode (protocol 2, as torch.save's), so that the package never imports `pickle`.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

from puna.formats.rows import Rows
from puna.writers.base import write_rows

ALIGNMENT = 64  # bytes, of each array in the file
STORAGES = {"F32": b"FloatStorage", "F16": b"HalfStorage", "BF16": b"BFloat16Storage"}
LOCAL_HEADER_BYTES = 30
ZIP64_BYTES = 20  # that zipfile puts before our own extra field
PADDING = 0x4246  # PyTorch's extra field for padding
EPOCH = (1980, 1, 1, 0, 0, 0)


class OutputArray(NamedTuple):
    """What to write under a name."""

    dtype: str  # a key of STORAGES
    shape: tuple[int, ...]
    rows: Rows


def write_torch_file(path: Path, arrays: Mapping[str, OutputArray], wrote: Callable[[int], None]) -> None:
    """Write the arrays, each in a storage of its own, in C order."""
    with path.open("xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        prefix = path.stem
        archive.writestr(_entry(f"{prefix}/data.pkl"), _program(arrays))
        archive.writestr(_entry(f"{prefix}/byteorder"), b"little")
        for number, array in enumerate(arrays.values()):
            entry = _entry(f"{prefix}/data/{number}")
            at = file.tell() + LOCAL_HEADER_BYTES + ZIP64_BYTES + len(entry.filename)
            entry.extra = _padding(at)
            entry.file_size = array.rows.nbytes
            with archive.open(entry, "w", force_zip64=True) as stream:
                write_rows(stream, array.rows, wrote)
        archive.writestr(_entry(f"{prefix}/version"), b"3\n")


def _entry(name: str) -> zipfile.ZipInfo:
    """An entry with a fixed date, so that the same model always gives the same bytes."""
    return zipfile.ZipInfo(name, EPOCH)


def _padding(at: int) -> bytes:
    """An extra field after which the data begins at a multiple of ALIGNMENT."""
    length = -(at + 4) % ALIGNMENT
    return struct.pack("<2H", PADDING, length) + b"Z" * length


# ---- the pickle -----------------------------------------------------------------------------------------------------


def _program(arrays: Mapping[str, OutputArray]) -> bytes:
    """{name: torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()), ...}"""
    items = b"".join(_text(name) + _tensor(array, number) for number, (name, array) in enumerate(arrays.items()))
    return b"\x80\x02}(" + items + b"u."


def _tensor(array: OutputArray, number: int) -> bytes:
    size = prod(array.shape)
    storage = (
        b"("
        + _text("storage")
        + b"ctorch\n%s\n" % STORAGES[array.dtype]
        + _text(str(number))
        + _text("cpu")
        + _integer(size)
        + b"tQ"
    )
    strides = [prod(array.shape[i + 1 :]) for i in range(len(array.shape))]
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = storage + _integer(0) + _tuple(array.shape) + _tuple(strides) + b"\x89" + hooks
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _tuple(numbers: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_integer, numbers)) + b"t"


def _integer(number: int) -> bytes:
    if number < 1 << 31:
        return b"J" + struct.pack("<i", number)
    raw = number.to_bytes(number.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(raw)]) + raw
