"""Any readable model into any format that can hold it: whole or not at all.

    convert(Path("llama-2-7b"), Path("llama-2-7b.gguf"), to="gguf", quantize="q4_k")

The result is written under a temporary name beside its target, read again and compared, brought to disk and renamed. Whatever
happens before that leaves the target as it was, and nothing beside it.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from puna.errors import ModelFormatError, PunaError, UsageError
from puna.formats import open_checkpoint
from puna.formats.base import Checkpoint, Tensor
from puna.formats.blocks import BLOCK_TYPES
from puna.formats.mapped import shown
from puna.formats.rows import Rows
from puna.formats.tokenizer_files import means_the_same
from puna.formats.torch_file import altered_entries
from puna.report import SILENT, Reporter
from puna.writers import WRITERS
from puna.writers.base import CHUNK_BYTES, Job, Writer

QUANTIZATIONS = ("q8_0", "q4_0", "q4_1", "q4_k", "q6_k", "f16", "bf16", "f32")
SPARE_BYTES = 16 << 20  # for headers, tokenizer files, and the file system's own
TEMPORARY = ".puna-convert-"
MAX_SHARDS = 99
MAX_NAME = 150  # characters of the target's name in the temporary one
RECHECKED_ROWS = 8  # of a tensor that was requantised; of the others all are compared


class ConvertError(PunaError):
    """A conversion that failed; the target is as it was."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was made."""

    path: Path
    num_bytes: int
    types: Mapping[str, int]  # type -> how many tensors have it
    exact: bool  # every number of the source is in the result


def convert(
    source: Path,
    target: Path,
    *,
    to: str,
    quantize: str | None = None,
    shards: int = 1,
    tokenizer: Path | None = None,
    overwrite: bool = False,
    report: Reporter = SILENT,
) -> Conversion:
    """Write the model at `source` to `target` in the format `to` (a key of WRITERS).

    `quantize`: a line of QUANTIZATIONS; None keeps each tensor's type where the format has it, and else takes one that holds its
    numbers exactly. `shards`: files that the weights are dealt out to. `tokenizer`: a file to use instead of the model's own.

    Raises UsageError, UnsupportedModelError for what the format cannot hold, ConvertError, and the errors of `open_checkpoint`.
    """
    writer = _writer(to)
    _check(quantize, shards)
    checkpoint = open_checkpoint(source, tokenizer)
    types = chosen_types(checkpoint, writer, to, quantize)
    total = sum(_row_bytes(tensor, types[name]) * len(tensor.data) for name, tensor in checkpoint.tensors.items())
    done = 0

    def wrote(num_bytes: int) -> None:
        nonlocal done
        done = min(done + num_bytes, total - 1)
        report.progress("writing", done, total, "bytes")

    job = Job(checkpoint, types, shards, wrote)
    if shards > len(checkpoint.tensors):
        raise UsageError(f"shards is {shards}, but the model has {len(checkpoint.tensors)} tensors", hint="Take fewer.")
    writer.require(job)
    final = _require_place(checkpoint, target, writer.is_folder(job), overwrite)
    _announce(checkpoint, types, report)
    for path, name in altered_entries(checkpoint.files):
        raise ModelFormatError(path, f"entry {shown(name)}", None, "does not have the checksum that was saved with it")
    with _storage_errors(final, total), _temporary(final, writer.is_folder(job)) as temporary:
        _require_space(final, total)
        writer.write(job, temporary)
        report.progress("writing", total, total, "bytes")
        _verify(temporary, job, report)
        num_bytes = _flush(temporary)
        _place(temporary, final)
    return Conversion(target, num_bytes, Counter(types.values()), _is_exact(checkpoint, types))


def _writer(to: str) -> Writer:
    if to not in WRITERS:
        raise UsageError(f"the format is {to!r}; puna writes: {', '.join(WRITERS)}")
    return WRITERS[to]


def _check(quantize: str | None, shards: int) -> None:
    if quantize is not None and quantize not in QUANTIZATIONS:
        raise UsageError(f"quantize is {quantize!r}; allowed: {', '.join(QUANTIZATIONS)}")
    if not 1 <= shards <= MAX_SHARDS:
        raise UsageError(f"shards is {shards}; it must lie in 1..{MAX_SHARDS}")


# ---- types ----------------------------------------------------------------------------------------------------------

# What is kept better than the rest, as users of llama.cpp know it: the output matrix, and with 4-bit K-blocks the values and half
# of the down-projections.
BETTER = {"Q4_0": "Q6_K", "Q4_1": "Q6_K", "Q4_K": "Q6_K"}
OTHER_BLOCKS = {"Q4_K": "Q8_0", "Q6_K": "Q8_0", "Q4_0": "F16", "Q4_1": "F16", "Q8_0": "F16"}  # where rows are no whole blocks
OTHER_NAMES = {("llama2c", "Q8_0"): "Q8_GROUP"}  # a format's own form of a type


def chosen_types(checkpoint: Checkpoint, writer: Writer, to: str, quantize: str | None) -> dict[str, str]:
    """Our tensor name -> the type that it is to have. UsageError for a type that the format does not know."""
    if quantize is None:
        return {name: _kept(tensor, writer) for name, tensor in checkpoint.tensors.items()}
    asked = OTHER_NAMES.get((to, quantize.upper()), quantize.upper())
    if asked not in writer.types:
        known = [name for name in QUANTIZATIONS if OTHER_NAMES.get((to, name.upper()), name.upper()) in writer.types]
        raise UsageError(f"{to} does not hold {quantize}; with it, --quantize may be: {', '.join(known)}")
    return {name: _asked(name, tensor, checkpoint, writer, asked) for name, tensor in checkpoint.tensors.items()}


def _kept(tensor: Tensor, writer: Writer) -> str:
    allowed = writer.types if len(tensor.shape) == 2 else writer.vector_types
    return tensor.type.name if tensor.type.name in allowed else allowed[0]


def _asked(name: str, tensor: Tensor, checkpoint: Checkpoint, writer: Writer, asked: str) -> str:
    if len(tensor.shape) == 1:
        return asked if asked in writer.vector_types else writer.vector_types[0]
    kind = BETTER.get(asked, asked) if _is_better(name, checkpoint, asked) else asked
    while tensor.shape[1] % BLOCK_TYPES[kind].block_size and kind in OTHER_BLOCKS:
        kind = OTHER_BLOCKS[kind]
    return kind


def _is_better(name: str, checkpoint: Checkpoint, asked: str) -> bool:
    config, part = checkpoint.config, name.rpartition(".")[2]
    if part == ("embed" if config.tie_embeddings else "lm_head"):
        return True
    if asked != "Q4_K" or part not in ("v_proj", "down_proj"):
        return False
    layer, eighth = int(name.split(".")[1]), config.num_layers // 8
    return layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2


def _row_bytes(tensor: Tensor, kind: str) -> int:
    return tensor.shape[-1] * 2 if kind == "Q8_GROUP" else BLOCK_TYPES[kind].row_bytes(tensor.shape[-1])


def _is_exact(checkpoint: Checkpoint, types: Mapping[str, str]) -> bool:
    """Single precision holds the numbers of every other type."""
    return all(types[name] in (tensor.type.name, "F32") for name, tensor in checkpoint.tensors.items())


def _announce(checkpoint: Checkpoint, types: Mapping[str, str], report: Reporter) -> None:
    """One line for each change of a matrix's type that nobody asked for by name, or that loses something."""
    changes = Counter(
        (tensor.type.name, types[name])
        for name, tensor in checkpoint.tensors.items()
        if len(tensor.shape) == 2 and tensor.type.name != types[name]
    )
    for (old, new), count in changes.items():
        loss = "holds them exactly" if new == "F32" else "rounds them"
        report.notice(f"{count} {'matrix' if count == 1 else 'matrices'} of type {old} become {new}, which {loss}")


# ---- the target -----------------------------------------------------------------------------------------------------


def _require_place(checkpoint: Checkpoint, target: Path, is_folder: bool, overwrite: bool) -> Path:
    """The target's real path, known to be none of the source's, and free or allowed to be replaced."""
    final = Path(os.path.realpath(target))
    if not final.parent.is_dir():
        raise UsageError(f"cannot write {target}: there is no folder {final.parent}", hint="Make it first, or name another.")
    source = Path(os.path.realpath(checkpoint.path))
    used = [source, *(Path(os.path.realpath(file)) for file in checkpoint.files)]
    if any(_is_same(final, file) or (file.is_relative_to(final) and final.is_dir()) for file in used):
        raise UsageError(f"{target} is the model that is to be converted", hint="Name another target.")
    if source.is_dir() and final.is_relative_to(source):
        raise UsageError(f"{target} lies in the folder of the model that is to be converted", hint="Name another target.")
    if not os.path.lexists(final):
        return final
    if final.is_dir() != is_folder or not (final.is_dir() or final.is_file()):
        raise UsageError(f"{target} exists and is not a {'folder' if is_folder else 'file'}", hint="Name another target.")
    if final.is_dir() and any(final.iterdir()):
        raise UsageError(
            f"{target} is a folder that holds something", hint="Remove it, or name another: only files are replaced."
        )
    if final.is_file() and not overwrite:
        raise UsageError(f"{target} exists", hint="--force replaces it, once the new one is complete.")
    return final


def _is_same(a: Path, b: Path) -> bool:
    """Also through hard links, and where a file system knows no upper case."""
    try:
        return a.samefile(b)
    except OSError:
        return False


def _require_space(final: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(final.parent).free
    if free < num_bytes + SPARE_BYTES:
        raise _no_space(final, num_bytes)


def _no_space(final: Path, num_bytes: int) -> ConvertError:
    free = shutil.disk_usage(final.parent).free
    return ConvertError(
        f"no room in {final.parent}: {(num_bytes + SPARE_BYTES) / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free",
        hint="Make room, take a smaller type with --quantize, or write to another disk. The target is as it was.",
    )


@contextmanager
def _storage_errors(final: Path, num_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _no_space(final, num_bytes) from None
        raise ConvertError(f"cannot write {final}: {error.strerror or error}", hint="The target is as it was.") from error


@contextmanager
def _temporary(final: Path, is_folder: bool) -> Iterator[Path]:
    """A name beside the target that nobody else has; what is still there at the end goes. So do those of processes that died."""
    _sweep(final)
    path = final.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}-{final.name[:MAX_NAME]}")
    try:
        if is_folder:
            path.mkdir()
        yield path
    finally:
        _remove(path)


def _sweep(final: Path) -> None:
    """Remove what conversions to the same target left behind that were killed."""
    for path in list(final.parent.iterdir()):
        number = path.name.removeprefix(TEMPORARY).split("-")[0]
        ours = path.name.startswith(TEMPORARY) and path.name.endswith(f"-{final.name[:MAX_NAME]}")
        if ours and number.isdecimal() and not _is_alive(int(number)):
            _remove(path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> int:
    """Bring every byte to disk; returns how many there are."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in [*files, path.parent] if not path.is_dir() else [*files, path, path.parent]:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    return sum(file.stat().st_size for file in files)


def _place(temporary: Path, final: Path) -> None:
    """Give it its name. An empty folder of that name gives way."""
    if final.is_dir():
        final.rmdir()
    temporary.replace(final)


# ---- reading it again -----------------------------------------------------------------------------------------------


def _verify(path: Path, job: Job, report: Reporter) -> None:
    """Open what was written, and compare it with what was to be written: sizes, tokenizer, template, and the numbers."""
    made, asked = open_checkpoint(path), job.checkpoint
    differing = [
        field.name
        for field in dataclasses.fields(made.config)
        if field.name not in NOT_COMPARED and not _near(getattr(made.config, field.name), getattr(asked.config, field.name))
    ]
    if made.chat_template != asked.chat_template:
        differing.append("chat template")
    one, other = made.tokenizer, asked.tokenizer
    if one is not other and (one is None or other is None or not means_the_same(one, other)):
        differing.append("tokenizer")
    if differing:
        raise ConvertError(f"what was written differs from the source in {', '.join(differing)}", hint=A_BUG)
    total, done = sum(tensor.num_bytes for tensor in made.tensors.values()), 0
    for name, tensor in asked.tensors.items():
        _verify_tensor(name, made.tensors[name], tensor, job)
        done += made.tensors[name].num_bytes
        report.progress("checking", done, total, "bytes")


NOT_COMPARED = ("name", "rope", "architecture")
A_BUG = "This is a bug of puna's; the target is as it was."


def _near(a: object, b: object) -> bool:
    """Equal; of numbers with a fraction, in single precision."""
    return a == b or (isinstance(a, float) and isinstance(b, float) and np.float32(a) == np.float32(b))


def _verify_tensor(name: str, made: Tensor, source: Tensor, job: Job) -> None:
    kind = job.types[name]
    if made.shape != source.shape or made.type.name != kind:
        raise ConvertError(f"{name} became {made.type.name} {made.shape}; {kind} {source.shape} was asked for", hint=A_BUG)
    expected: Rows | None = None if kind == "Q8_GROUP" else job.rows(name)
    if expected is None:
        return
    step = max(1, CHUNK_BYTES // max(1, expected.shape[1]))
    whole = kind == source.type.name
    for first in range(0, len(expected), step):
        last = min(first + (step if whole else RECHECKED_ROWS), len(expected))
        if not np.array_equal(made.data[first:last], expected[first:last]):
            raise ConvertError(f"{name} was read back with other numbers than were written", hint=A_BUG)
