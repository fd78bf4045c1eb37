"""Converts any readable model to any format that can hold it: whole or not at all.

    convert(Path("llama-2-7b"), Path("llama-2-7b.gguf"), to="gguf", quantize="q4_k")

puna writes the result in a temporary folder beside the target, reads it again, compares it, flushes it to disk and moves it into
place. If anything fails before that, the target is unchanged, and nothing is left beside it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from puna.errors import DamagedFileError, PunaError, UsageError
from puna.files import commit, temporary
from puna.formats import open_checkpoint
from puna.formats.base import Checkpoint, Tensor
from puna.formats.blocks import BLOCK_TYPES
from puna.formats.mapped import shown
from puna.formats.notices import ConversionLoss
from puna.formats.rows import Rows
from puna.formats.tokenizer_files import means_the_same
from puna.formats.torch_file import altered_entries
from puna.model.rope import BY_LENGTH, RopeConfig
from puna.model.spec import ModelConfig, is_near
from puna.model.weights import role_of
from puna.progress import SILENT, Reporter
from puna.units import megabytes
from puna.writers import WRITERS
from puna.writers.base import CHUNK_BYTES, WriteJob, Writer

QUANTIZATIONS = ("q8_0", "q4_0", "q4_1", "q4_k", "q6_k", "f16", "bf16", "f32")
# Types of llama.cpp: one that is our mix under another name, and those that have a near type here.
SAME = {"q4_k_m": "q4_k"}
NEAREST = {
    **dict.fromkeys(("q2_k", "q2_k_s", "q3_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "iq4_nl", "iq4_xs"), "q4_k"),
    **dict.fromkeys(("q5_0", "q5_1", "q5_k", "q5_k_s", "q5_k_m"), "q6_k"),
    "q8_1": "q8_0",
}
SPARE_BYTES = 16 << 20  # for headers, tokenizer files and file system overhead
MAX_SHARDS = 99
RECHECKED_ROWS = 8  # of a requantised tensor; other tensors are compared whole


class ConvertError(PunaError):
    """A conversion that failed; the target is unchanged."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """The result of a conversion."""

    path: Path
    num_bytes: int
    types: Mapping[str, int]  # type -> how many tensors have it
    exact: bool  # the result has every number of the source, and nothing was left out
    losses: tuple[str, ...] = ()  # what was left out, a line each; each was also reported


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

    `to` and `quantize` (one of QUANTIZATIONS) may be in lower or upper case. Without `quantize` each tensor keeps its type, or
    gets one that holds its numbers exactly if the format lacks that type. `shards`: into how many files the weights are split.
    `tokenizer`: a file to use instead of the model's own.

    Raises UsageError, UnsupportedModelError for what the format cannot hold, ConvertError, and the errors of `open_checkpoint`.
    """
    to = to.lower()
    writer, quantize = _writer(to), _quantization(quantize)
    if not 1 <= shards <= MAX_SHARDS:
        raise UsageError(f"shards is {shards}; it must lie in 1..{MAX_SHARDS}")
    checkpoint = open_checkpoint(source, tokenizer)
    choices = choose_types(checkpoint, writer, to, quantize)
    types = {name: choice.type for name, choice in choices.items()}
    total = done = 0

    def wrote(num_bytes: int) -> None:
        nonlocal done
        done = min(done + num_bytes, total - 1)
        report.progress("writing", done, total, "bytes")

    job = WriteJob(checkpoint, types, shards, wrote)
    total = writer.copied_bytes(job)
    total += sum(_row_bytes(tensor, types[name]) * len(tensor.data) for name, tensor in checkpoint.tensors.items())
    if shards > len(checkpoint.tensors):
        raise UsageError(f"shards is {shards}, but the model has {len(checkpoint.tensors)} tensors", hint="Take fewer.")
    writer.require(job)
    final = _require_target(job, target, to, overwrite)
    changes = (*_changes(checkpoint, choices), *writer.notices(job), *_without_tokenizer(checkpoint), *_settings_lost(job, to))
    for line in (*checkpoint.notices, *changes):
        report.notice(line)
    losses = tuple(line for line in (*checkpoint.notices, *changes) if isinstance(line, ConversionLoss))
    for path, name in altered_entries(checkpoint.files, report):
        raise DamagedFileError(path, f"entry {shown(name)}", None, "does not have the checksum that was saved with it")
    with _storage_errors(final, total), temporary(final) as made:
        _require_space(final, total)
        if writer.is_folder(shards):
            made.mkdir()
        writer.write(job, made)
        report.progress("writing", total, total, "bytes")
        _verify(made, job, report)
        num_bytes = commit(made, final, overwrite)
    return Conversion(target, num_bytes, Counter(types.values()), _is_exact(checkpoint, types) and not losses, losses)


def _writer(to: str) -> Writer:
    if to not in WRITERS:
        raise UsageError(f"the format is {to!r}; puna writes: {', '.join(WRITERS)}")
    return WRITERS[to]


def makes_folder(to: str, shards: int) -> bool:
    """Whether a conversion `to` a format writes a folder, not one file. UsageError for an unknown format."""
    return _writer(to.lower()).is_folder(shards)


def _quantization(given: str | None) -> str | None:
    """The one of QUANTIZATIONS that `given` means."""
    if given is None:
        return None
    name = SAME.get(given.lower(), given.lower())
    if name not in QUANTIZATIONS:
        near = f"The nearest to {given} is {NEAREST[name]}." if name in NEAREST else ""
        raise UsageError(f"quantize is {given!r}; allowed: {', '.join(QUANTIZATIONS)}", hint=near)
    return name


# ---- types ----------------------------------------------------------------------------------------------------------

# Tensors that keep more bits, as in llama.cpp: the output matrix, and with 4-bit K-blocks v_proj and half of the
# down-projections.
BETTER = {"Q4_0": "Q6_K", "Q4_1": "Q6_K", "Q4_K": "Q6_K"}
OTHER_BLOCKS = {"Q4_K": "Q4_1", "Q6_K": "Q8_0", "Q4_0": "F16", "Q4_1": "F16", "Q8_0": "F16"}  # if rows are not whole blocks
OTHER_NAMES = {("llama2c", "Q8_0"): "Q8_GROUP"}  # a format's own form of a type


class TypeChoice(NamedTuple):
    """The type that a tensor gets."""

    type: str
    why: str = ""  # why it is not the requested type


def choose_types(checkpoint: Checkpoint, writer: Writer, to: str, quantize: str | None) -> dict[str, TypeChoice]:
    """Our tensor name -> the type that it gets. UsageError for a type that the format does not know."""
    if quantize is None:
        return {name: _kept(tensor, writer) for name, tensor in checkpoint.tensors.items()}
    asked = OTHER_NAMES.get((to, quantize.upper()), quantize.upper())
    if asked not in writer.types:
        known = [name for name in QUANTIZATIONS if OTHER_NAMES.get((to, name.upper()), name.upper()) in writer.types]
        raise UsageError(f"{to} cannot hold {quantize}; with it, --quantize may be: {', '.join(known)}")
    return {name: _asked(name, tensor, checkpoint, writer, asked) for name, tensor in checkpoint.tensors.items()}


def _kept(tensor: Tensor, writer: Writer) -> TypeChoice:
    allowed = writer.types if len(tensor.shape) > 1 else writer.vector_types
    return TypeChoice(tensor.type.name if tensor.type.name in allowed else allowed[0])


def _asked(name: str, tensor: Tensor, checkpoint: Checkpoint, writer: Writer, asked: str) -> TypeChoice:
    """The type of a tensor. One that should keep more bits, but has no more already, keeps its type."""
    if len(tensor.shape) == 1 or role_of(name).name == "router":  # a router rounded to few bits takes other experts
        return TypeChoice(asked if asked in writer.vector_types else writer.vector_types[0])
    plain = _fitting(asked, tensor)
    if plain.type == tensor.type.name or asked not in BETTER or not _is_better(name, checkpoint, asked):
        return plain
    better = _fitting(BETTER[asked], tensor)
    sizes = [_row_bytes(tensor, kind) for kind in (plain.type, tensor.type.name, better.type)]
    if tensor.type.block_size > 1 and sizes == sorted(sizes) and tensor.type.name != better.type:
        return TypeChoice(tensor.type.name, f"{better.type} would take more bytes and gain nothing")
    return better


def _fitting(asked: str, tensor: Tensor) -> TypeChoice:
    """The type, or the first substitute whose blocks divide the rows."""
    kind, columns, size = asked, tensor.shape[-1], BLOCK_TYPES[asked].block_size
    while columns % BLOCK_TYPES[kind].block_size and kind in OTHER_BLOCKS:
        kind = OTHER_BLOCKS[kind]
    return TypeChoice(
        kind, "" if kind == asked else f"rows of {columns} are not a multiple of {size}, so {kind} instead of {asked}"
    )


def _is_better(name: str, checkpoint: Checkpoint, asked: str) -> bool:
    config, part = checkpoint.config, name.rpartition(".")[2]
    if part == ("embed" if config.tie_embeddings else "lm_head"):
        return True
    if asked != "Q4_K" or part not in ("v_proj", "down_proj", "down_experts"):
        return False
    layer, eighth = int(name.split(".")[1]), config.num_layers // 8
    return layer < eighth or layer >= 7 * eighth or (layer - eighth) % 3 == 2


def _row_bytes(tensor: Tensor, kind: str) -> int:
    return tensor.shape[-1] * 2 if kind == "Q8_GROUP" else BLOCK_TYPES[kind].row_bytes(tensor.shape[-1])


def _is_exact(checkpoint: Checkpoint, types: Mapping[str, str]) -> bool:
    """Single precision holds the numbers of every other type."""
    return all(types[name] in (tensor.type.name, "F32") for name, tensor in checkpoint.tensors.items())


def _changes(checkpoint: Checkpoint, choices: Mapping[str, TypeChoice]) -> Iterator[str]:
    """One line for each change of a matrix's type that was not requested, or that rounds."""
    matrices = ((tensor, choices[name]) for name, tensor in checkpoint.tensors.items() if len(tensor.shape) > 1)
    found = Counter(
        (tensor.type.name, choice.type, choice.why)
        for tensor, choice in matrices
        if tensor.type.name != choice.type or choice.why
    )
    for (old, new, why), count in found.items():
        what, verb, them = ("matrix", ("is", "becomes"), "it") if count == 1 else ("matrices", ("are", "become"), "them")
        loss = f"holds {them} exactly" if new == "F32" else f"rounds {them}"
        again = "re" if BLOCK_TYPES[old].block_size > 1 else ""
        fate = f"{verb[0]} not {again}quantised" if old == new else f"{verb[1]} {new}, which {loss}"
        yield f"{count} {old} {what} {fate}{': ' if why else ''}{why}"


def _without_tokenizer(checkpoint: Checkpoint) -> Iterator[str]:
    if checkpoint.tokenizer is None:
        cure = "" if checkpoint.format == "gguf" else ": --tokenizer FILE adds one"  # a GGUF file takes none from elsewhere
        yield f"the source has no tokenizer, so the result has none{cure}"


# Keys of generation_config.json that do not concern sampling, or that the tokenizer stores.
NOT_SAMPLING = re.compile(r"_.*|.*_token_id|transformers_version|use_cache|cache_.*|output_.*|return_.*")


def _settings_lost(job: WriteJob, to: str) -> Iterator[ConversionLoss]:
    """Suggestions for sampling, which only a Hugging Face folder can hold."""
    given = job.checkpoint.generation
    names = sorted(name for name, value in given.items() if value not in (None, False) and not NOT_SAMPLING.fullmatch(name))
    if names and not WRITERS[to].keeps_generation:
        shown_names = ", ".join(shown(name)[1:-1] for name in names[:6]) + (", ..." if len(names) > 6 else "")
        yield ConversionLoss(f"{to} has no place for what generation_config.json suggests ({shown_names}): it is left out")


# ---- the target -----------------------------------------------------------------------------------------------------


# Endings of a name -> the formats they stand for. To everybody such a name is a file's.
SUFFIXES = {".gguf": "gguf", ".safetensors": "safetensors", ".pth": "meta", ".bin": "llama2c"}


def _require_name(target: Path, to: str, shards: int) -> None:
    """UsageError for a file's name if a folder is to be written, and for a name that stands for another format."""
    suffix = Path(target.name.rstrip(".")).suffix  # "m.gguf." is no other name: some systems drop the dot
    promised, is_folder = SUFFIXES.get(suffix.lower()), makes_folder(to, shards)
    if str(target) == "-":
        raise UsageError("cannot write a model to - (stdout): a model is a file or a folder", hint="Name one as DST.")
    if promised is not None and (promised != to or is_folder):
        how = f"--to {to} --shards {shards}" if shards > 1 else f"--to {to}"
        usual = target.with_name(target.name.rstrip(".")).with_suffix("" if is_folder else f".{to}")
        raise UsageError(
            f"{target} is named like a {suffix} file, but {how} makes {'a folder' if is_folder else f'a .{to} file'}",
            hint=f"Name it {usual}{', or choose the format by --to' if promised != to else ''}.",
        )
    if not is_folder and target.is_dir():
        raise file_needed(target, to)


def file_needed(target: Path, to: str) -> UsageError:
    """The error for a folder's name if the format is one file."""
    return UsageError(
        f"{target} exists and is a folder, but --to {to} makes one file"
        if target.is_dir()
        else f"{target}/ is a folder's name, but --to {to} makes one file",
        hint=f"DST must be a file's name, such as {target / f'model.{to}'}.",
    )


def _require_target(job: WriteJob, target: Path, to: str, overwrite: bool) -> Path:
    """The target's real path, checked: outside the source, and unused or allowed to be replaced."""
    checkpoint, is_folder = job.checkpoint, makes_folder(to, job.num_shards)
    final = Path(os.path.realpath(target))
    if not final.parent.is_dir():
        raise UsageError(f"cannot write {target}: there is no folder {final.parent}", hint="Make it first, or name another.")
    source = Path(os.path.realpath(checkpoint.path))
    used = [source, *(Path(os.path.realpath(file)) for file in checkpoint.files)]
    if any(_is_same(final, file) or (file.is_relative_to(final) and final.is_dir()) for file in used):
        raise UsageError(f"{target} is the source of the conversion", hint="Name another target.")
    if source.is_dir() and final.is_relative_to(source):
        raise UsageError(f"{target} is in the folder of the source", hint="Name another target.")
    _require_name(target, to, job.num_shards)
    if not os.path.lexists(final):
        return final
    if final.is_dir() != is_folder or not (final.is_dir() or final.is_file()):
        raise UsageError(f"{target} exists and is not a {'folder' if is_folder else 'file'}", hint="Name another target.")
    if final.is_dir() and any(final.iterdir()):
        raise UsageError(f"{target} is a folder that is not empty", hint="Remove it, or name another: puna replaces only files.")
    if final.is_file() and not overwrite:
        raise UsageError(f"{target} exists", hint="--force replaces it, once the new one is complete.")
    return final


def _is_same(a: Path, b: Path) -> bool:
    """Whether two paths are one file, also through hard links or on a file system that ignores case."""
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
        f"not enough space in {final.parent}: {megabytes(num_bytes + SPARE_BYTES)} needed, {megabytes(free)} free",
        hint="Free some, take a smaller type with --quantize, or write to another disk. The target is unchanged.",
    )


def _too_long(final: Path) -> ConvertError:
    return ConvertError(
        f"cannot write {final}: a file exceeds the limit on file sizes",
        hint="`ulimit -f` shows your limit; FAT32 has one of 4 GB. --shards makes smaller files. The target is unchanged.",
    )


@contextmanager
def _storage_errors(final: Path, num_bytes: int) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise ConvertError(f"another program created {final} meanwhile", hint="It stays; --force replaces a file.") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(final, num_bytes) from None
        if error.errno == errno.EFBIG:
            raise _too_long(final) from None
        raise ConvertError(f"cannot write {final}: {error.strerror or error}", hint="The target is unchanged.") from error


# ---- reading it again -----------------------------------------------------------------------------------------------


def _verify(path: Path, job: WriteJob, report: Reporter) -> None:
    """Open the result and compare it with the source: sizes, tokenizer, template and numbers."""
    made, asked = open_checkpoint(path), job.checkpoint
    differing = [
        field.name
        for field in fields(made.config)
        if field.name not in NOT_COMPARED and not is_near(getattr(made.config, field.name), getattr(asked.config, field.name))
    ]
    if not _turn_alike(made.config, asked.config):
        differing.append("rope")
    if made.chat_template != asked.chat_template:
        differing.append("chat template")
    one, other = made.tokenizer, asked.tokenizer
    if one is not other and (one is None or other is None or not means_the_same(one, other)):
        differing.append("tokenizer")
    if differing:
        raise ConvertError(f"the result differs from the source in {', '.join(differing)}", hint=A_BUG)
    if one is not None and made.format in OWN_TOKENIZER_FILES and Path(one.source).name == "tokenizer.json":
        own = OWN_TOKENIZER_FILES[made.format]
        report.notice(f"{own} cannot express this tokenizer, so tokenizer.json holds it: other programs may miss it")
    total, done = sum(tensor.num_bytes for tensor in made.tensors.values()), 0
    for name, tensor in asked.tensors.items():
        _verify_tensor(name, made.tensors[name], tensor, job)
        done += made.tensors[name].num_bytes
        report.progress("checking", done, total, "bytes")


OWN_TOKENIZER_FILES = {"meta": "Meta's tokenizer.model", "llama2c": "llama2.c's tokenizer.bin"}
NOT_COMPARED = ("name", "ropes", "architecture")  # ropes: by their numbers
SAME_ANGLE = 1e-5  # relative: the precision of a float32 frequency
A_BUG = "This is a bug of puna; the target is unchanged."


def _turn_alike(made: ModelConfig, asked: ModelConfig) -> bool:
    """Whether two models rotate heads alike. One file may name a scaling, and another hold it as a table."""
    pairs = zip(made.ropes, asked.ropes)
    alike = (
        np.allclose(_numbers(one, made.head_dim), _numbers(other, asked.head_dim), rtol=SAME_ANGLE, atol=0)
        for one, other in pairs
    )
    return len(made.ropes) == len(asked.ropes) and all(alike)


def _numbers(rope: RopeConfig, head_dim: int) -> npt.NDArray[np.float64]:
    """What a rotary embedding computes with: in short texts, in long ones, and where these begin if that matters."""
    original = rope.original_context if rope.q_beta or rope.scaling in BY_LENGTH else 0
    short, long = (rope.frequencies(head_dim, length) for length in (0, rope.original_context + 1))
    return np.array([*short, *long, rope.attention_factor, rope.q_beta, original])


def _verify_tensor(name: str, made: Tensor, source: Tensor, job: WriteJob) -> None:
    kind = job.types[name]
    if made.shape != source.shape or made.type.name != kind:
        raise ConvertError(f"{name} became {made.type.name} {made.shape} instead of {kind} {source.shape}", hint=A_BUG)
    expected: Rows | None = None if kind == "Q8_GROUP" else job.rows(name)
    if expected is None:
        return
    step = max(1, CHUNK_BYTES // max(1, expected.shape[1]))
    whole = kind == source.type.name
    for first in range(0, len(expected), step):
        last = min(first + (step if whole else RECHECKED_ROWS), len(expected))
        if not np.array_equal(made.data[first:last], expected[first:last]):
            raise ConvertError(f"{name} was read back with other numbers than puna wrote", hint=A_BUG)
