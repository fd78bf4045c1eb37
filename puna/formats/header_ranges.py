"""The byte ranges of a model file that `open_checkpoint` reads, for a file that is only partly there.

    for ranges in header_ranges(path):
            ...            # fetch the bytes of `ranges` to their offsets in the file

The file has its full size from the beginning, with zeros for what was not fetched. Each round follows from the bytes of the
rounds before it. The rounds end at wrong bytes: the readers meet the same bytes, and report what is wrong with them.

Not included: a stored lm_head that is said to be the embedding (the readers compare some rows, for a notice), and the scales of
quantised matrices (the readers check that half precision holds them, which zeros pass).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from puna.errors import PunaError
from puna.formats import gguf, safetensors, torch_file, zip_file
from puna.formats.arrays import FileArray
from puna.formats.gguf_file import read_header
from puna.formats.mapped import Cursor, file_size, map_file, read_head

Range = tuple[int, int]  # (first byte, end)
Rounds = Iterator[list[Range]]

HEAD_BYTES = 128 << 10  # holds the whole header of most safetensors files, and of a split GGUF file's later parts
MAX_STEP_BYTES = 4 << 20  # of read-ahead in a GGUF header
TAIL_BYTES = 128 << 10  # holds the directory of most archives, and the longest comment after one

# Quantised matrices: the tensors that show one, and those whose numbers decide its type.
QUANTISED = ("qweight", "weight_packed", "weight_scale")
DECIDING = ("qzeros", "g_idx", "weight_zero_point", "weight_shape", "weight_g_idx", "bias")


def header_ranges(path: Path) -> Rounds:
    """Rounds of ranges; fetch each before you ask for the next. The content tells the format."""
    size = file_size(path)
    yield [(0, min(HEAD_BYTES, size))]
    try:
        head = read_head(path, min(HEAD_BYTES, size))
        yield from next((kind.rounds(path, size) for kind in KINDS if kind.matches(head, size)), iter(()))
    except PunaError:  # whoever opens the file reports it
        return


# ---- GGUF -----------------------------------------------------------------------------------------------------------


class _UnreadError(Exception):
    """The header continues after the bytes that are there."""

    def __init__(self, end: int) -> None:
        self.end = end  # the header reaches at least here


class _PartialCursor(Cursor):
    """Reads a file whose first `known` bytes are there."""

    def __init__(self, path: Path, known: int) -> None:
        super().__init__(map_file(path), path)
        self._known = known

    def require(self, field: str, num_bytes: int) -> None:
        super().require(field, num_bytes)
        self._reach(self.position + num_bytes)

    def strings(self, field: str, count: int) -> list[bytes]:
        """Missing bytes read as empty strings, which are no error; where they end shows that they are missing."""
        texts = super().strings(field, count)
        self._reach(self.position)
        return texts

    def _reach(self, end: int) -> None:
        if end > self._known:
            raise _UnreadError(end)


def _gguf_rounds(path: Path, size: int) -> Rounds:
    known = min(HEAD_BYTES, size)
    while True:
        try:
            header = read_header(_PartialCursor(path, known), lambda file, values: None)
            break
        except _UnreadError as unread:
            end = min(max(unread.end, known + min(known, MAX_STEP_BYTES)), size)
        yield [(known, end)]
        known = end
    factors = header.location_of(gguf.ROPE_FACTORS)
    if factors is not None and factors[1] - factors[0] <= HEAD_BYTES:  # longer ones are refused unread
        yield [factors]


# ---- safetensors, torch.save ----------------------------------------------------------------------------------------


def _safetensors_rounds(path: Path, size: int) -> Rounds:
    (length,) = safetensors.LENGTH.unpack(read_head(path, safetensors.LENGTH.size))
    yield [(0, safetensors.LENGTH.size + length)]
    yield _deciding(safetensors.read_safetensors(path))


def _torch_rounds(path: Path, size: int) -> Rounds:
    """The directory is at the end; then each entry's local header, then the pickle and the byte order."""
    if read_head(path, len(zip_file.MAGIC)) != zip_file.MAGIC:
        return  # an old pickle, which is refused
    yield [(max(0, size - TAIL_BYTES), size)]
    yield [zip_file.directory_range(path)]
    yield zip_file.local_header_ranges(path)
    entries = zip_file.ZipFile(path).entries.values()
    small = [entry for entry in entries if entry.name.endswith(torch_file.READ_AT_OPEN)]
    yield [(entry.offset, entry.offset + entry.size) for entry in small if entry.size <= torch_file.MAX_PICKLE_BYTES]
    yield _deciding(torch_file.read_torch_file(path))


def _deciding(stored: Mapping[str, FileArray]) -> list[Range]:
    """The parts of quantised matrices by which the readers choose a type."""
    parts = {name: name.rpartition(".")[2] for name in stored}
    if not any(part in QUANTISED for part in parts.values()):
        return []
    chosen = (tensor for name, tensor in stored.items() if parts[name] in DECIDING)
    return [(tensor.offset, tensor.offset + tensor.data.nbytes) for tensor in chosen]


class RangedFormat(NamedTuple):
    """A row of the table."""

    matches: Callable[[bytes, int], bool]  # (first bytes, file size)
    rounds: Callable[[Path, int], Rounds]  # after the first bytes


KINDS = (
    RangedFormat(gguf.matches, _gguf_rounds),
    RangedFormat(safetensors.matches, _safetensors_rounds),
    RangedFormat(torch_file.matches, _torch_rounds),
)
