"""A `torch.save` file: a zip with a pickle that names arrays, and the arrays. puna reads it without PyTorch.

The layout is PyTorch's since 1.6: `NAME/data.pkl`, `NAME/data/KEY` for each storage, `NAME/byteorder`, `NAME/version`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from puna.errors import DamagedFileError, ModelFormatError, UnsupportedModelError
from puna.formats.arrays import DTYPES, FileArray, is_possible
from puna.formats.mapped import file_size, read_head, shown, shown_name
from puna.formats.torch_pickle import StorageRef, TensorRef, run
from puna.formats.unsupported import refuse_unsupported
from puna.formats.zip_file import MAGIC, ZipEntry, ZipFile
from puna.progress import SILENT, Reporter

PICKLE = "/data.pkl"
READ_AT_OPEN = (PICKLE, "/byteorder")  # entries whose bytes locate the arrays
MAX_PICKLE_BYTES = 4 << 20  # that of Llama 3.1 405B has some 200 kB; more would take seconds
MAX_NOTE_BYTES = 256
WRAPPERS = ("model", "state_dict", "model_state_dict", "module")  # keys under which training programs keep the weights
OLD_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
SAVE_AGAIN = "Open it with the PyTorch it came with and save it again: torch.save(weights, path), or as safetensors."

NEEDED = "a dict of named tensors is needed"
SAVE_STATE = "Save it with torch.save(model.state_dict(), path) in the program that made it: the weights, and nothing else."


def matches(head: bytes, size: int) -> bool:
    """Whether a file that begins with `head` may be one: the start of any zip, or of an old pickle."""
    return head.startswith((MAGIC, *OLD_PICKLE))


def read_torch_file(path: Path) -> dict[str, FileArray]:
    """The arrays of a checkpoint by name, as views of the mapped file. Reads no number.

    Raises ModelNotFoundError, ModelFormatError, UnsupportedModelError. Never executes anything in the file.
    """
    file_size(path)
    refuse_unsupported(path)
    if read_head(path, 2) in OLD_PICKLE:
        raise UnsupportedModelError(f"{path} is a pickle of PyTorch before 1.6, which puna does not read", hint=SAVE_AGAIN)
    archive = ZipFile(path)
    prefix = _prefix(archive)
    program = archive.read(prefix + PICKLE, MAX_PICKLE_BYTES)
    begin = archive.entries[prefix + PICKLE].offset

    def fail(at: int, problem: str, is_whole: bool = False) -> NoReturn:
        if is_whole:
            raise ModelFormatError(path, "pickle", begin + at, problem, hint=SAVE_STATE)
        raise DamagedFileError(path, "pickle", begin + at, problem)

    state = _state(path, run(program, fail))
    return {name: _tensor(archive, prefix, name, tensor) for name, tensor in state.items()}


def altered_entries(files: Iterable[Path], report: Reporter = SILENT) -> Iterator[tuple[Path, str]]:
    """The entries, of those files that are archives, whose bytes do not match their checksum. Reads everything, which
    `read_torch_file` does not.
    """
    for path in [path for path in files if read_head(path, len(MAGIC)) == MAGIC]:
        archive, stage = ZipFile(path), f"checking {shown_name(path)}"
        for done, name in enumerate(archive.entries):
            report.progress(stage, done, len(archive.entries))
            if not archive.is_intact(name):
                yield path, name
        report.progress(stage, len(archive.entries), len(archive.entries))


def _prefix(archive: ZipFile) -> str:
    """The archive's top folder; checked to have PyTorch's layout and byte order."""
    found = [name.removesuffix(PICKLE) for name in archive.entries if name.endswith(PICKLE) and name.count("/") == 1]
    if len(found) != 1:
        raise UnsupportedModelError(
            f"{archive.path} is a zip file, but not a checkpoint of PyTorch: it holds {len(found)} data.pkl", hint=SAVE_AGAIN
        )
    prefix = found[0]
    if f"{prefix}/constants.pkl" in archive.entries:
        raise UnsupportedModelError(f"{archive.path} is a TorchScript program, not a checkpoint of weights", hint=SAVE_AGAIN)
    if f"{prefix}/byteorder" in archive.entries and archive.read(f"{prefix}/byteorder", MAX_NOTE_BYTES) != b"little":
        raise UnsupportedModelError(
            f"{archive.path} was saved on a big-endian machine, which puna does not read", hint=SAVE_AGAIN
        )
    return prefix


def _state(path: Path, value: Any) -> dict[str, TensorRef]:
    """The dict of tensors, which may be inside another dict beside a trainer's notes."""
    for wrapper in WRAPPERS:
        if isinstance(value, dict) and isinstance(value.get(wrapper), dict):
            value = value[wrapper]
    if not isinstance(value, dict) or not value:
        raise ModelFormatError(path, "pickle", None, f"holds a {type(value).__name__}; {NEEDED}", hint=SAVE_STATE)
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, TensorRef):
            raise ModelFormatError(
                path,
                "pickle",
                None,
                f"holds a {type(tensor).__name__} under {shown(str(name))}; {NEEDED}",
                hint=SAVE_STATE,
            )
    return value


def _tensor(archive: ZipFile, prefix: str, name: str, tensor: TensorRef) -> FileArray:
    field = f"tensor {shown(name)}"
    if not tensor.is_plain:
        raise UnsupportedModelError(
            f"{archive.path}: {field} is a view that negates or conjugates its numbers", hint="Save it anew, as tensor.clone()."
        )
    entry, size, count = _storage(archive, prefix, field, tensor.storage), DTYPES[tensor.dtype].itemsize, prod(tensor.shape)
    last = _last_number(archive, field, tensor, archive.entries[entry])
    is_plain = not count or _is_c_order(tensor)
    begin = tensor.offset * size if count else 0
    data = archive.view(entry)[begin : begin + count * size if is_plain else (last + 1) * size]
    # The stride of a dimension of size 1 may be anything, even beyond what numpy holds.
    strides = tuple(stride if length > 1 else 0 for length, stride in zip(tensor.shape, tensor.strides))
    offset = archive.entries[entry].offset + begin
    return FileArray(name, tensor.shape, tensor.dtype, data, archive.path, offset, None if is_plain else strides)


def _last_number(archive: ZipFile, field: str, tensor: TensorRef, entry: ZipEntry) -> int:
    """The index of a tensor's last number in its storage, checked to be inside."""
    numbers, count = entry.size // DTYPES[tensor.dtype].itemsize, prod(tensor.shape)
    last = tensor.offset + sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides))
    if count and (last >= numbers or count > numbers):
        problem = f"reaches to number {max(last, count - 1)} of its storage, which has {numbers}"
        raise DamagedFileError(archive.path, field, entry.offset, problem)
    if not is_possible(tensor.shape, tensor.dtype):
        raise ModelFormatError(archive.path, field, None, f"has the shape {tensor.shape}, more than any memory holds")
    return last


def _storage(archive: ZipFile, prefix: str, field: str, storage: StorageRef) -> str:
    """The entry that holds a storage, checked to have exactly the length that the pickle gives."""
    entry = f"{prefix}/data/{storage.key}"
    if entry not in archive.entries:
        raise DamagedFileError(archive.path, field, None, f"lies in {shown(entry)}, which the archive does not hold")
    needed = storage.size * (DTYPES[storage.dtype].itemsize if storage.dtype else 1)
    if archive.entries[entry].size != needed:
        found = archive.entries[entry]
        problem = f"lies in a storage of {needed} bytes, but {shown(entry)} has {found.size}"
        raise DamagedFileError(archive.path, field, found.offset, problem)
    return entry


def _is_c_order(tensor: TensorRef) -> bool:
    expected = 1
    for length, stride in reversed(list(zip(tensor.shape, tensor.strides))):
        if length > 1 and stride != expected:
            return False
        expected *= length
    return True
