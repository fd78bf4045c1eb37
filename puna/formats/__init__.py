"""path -> Checkpoint. A file's content, never its name, tells the format; two tables list all formats."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from puna.errors import DamagedFileError, ModelFormatError, ModelNotFoundError, UsageError
from puna.formats import gguf, huggingface, llama2c, meta, safetensors, torch_file
from puna.formats.base import Checkpoint
from puna.formats.gguf_file import SHARD_NAME
from puna.formats.mapped import file_size, read_head, shown_name
from puna.formats.tokenizer_files import is_tokenizer
from puna.formats.tokenizer_files import what_to_give as what_to_give
from puna.formats.turn_markers import with_markers
from puna.formats.unsupported import refuse_unsupported, refuse_unsupported_folder

HEAD_BYTES = 256  # of a file, for `matches`
MAX_FOLDER_FILES = 10_000
MAX_LISTED = 8


class Format(NamedTuple):
    """A row of the table: how to recognise and open a format."""

    name: str
    matches: Callable[[bytes, int], bool]  # (first HEAD_BYTES bytes, file size)
    open: Callable[[Path], Checkpoint]
    open_with_tokenizer: Callable[[Path, Path], Checkpoint] | None = None  # None: the model file holds the tokenizer


FORMATS: tuple[Format, ...] = (
    Format("GGUF", gguf.matches, gguf.open_gguf),
    Format("llama2.c", llama2c.matches, llama2c.open_llama2c, llama2c.open_llama2c),
)


class Folder(NamedTuple):
    """A row of the table of folder formats: how to recognise and open one."""

    name: str
    matches: Callable[[Collection[str]], bool]  # (names of the files there)
    open: Callable[[Path, Path | None], Checkpoint]  # (folder, a tokenizer from elsewhere)


# The first match counts: Mistral's folders hold the files of both.
FOLDERS: tuple[Folder, ...] = (
    Folder("Hugging Face", huggingface.matches, huggingface.open_huggingface),
    Folder("Meta", meta.matches, meta.open_meta),
)


# Files that are part of a folder: each stands for the folder.
PARTS = (safetensors.matches, torch_file.matches)


def open_checkpoint(path: Path, tokenizer: Path | None = None) -> Checkpoint:
    """Open a model file, or a folder that holds one, and check everything except the weights' values. Reads no weight.

    `tokenizer` is for formats that keep it in a separate file. Raises ModelNotFoundError, ModelFormatError,
    UnsupportedModelError, or UsageError for a tokenizer that the format cannot use.
    """
    checkpoint = _opened(path, tokenizer)
    if checkpoint.tokenizer is None:
        return checkpoint
    spec, told = with_markers(checkpoint.tokenizer, checkpoint.chat_template)
    return replace(checkpoint, tokenizer=spec, notices=(*checkpoint.notices, *told)) if told else checkpoint


def _opened(path: Path, tokenizer: Path | None) -> Checkpoint:
    home = _home_of(path)
    if home is None:
        return _open_file(path, tokenizer)
    files = _files_of(home)
    refuse_unsupported_folder(home, _names_in(home), lambda: any(map(_is_model, files)))
    folder = _folder_of(files)
    if folder is not None:
        return folder.open(home, tokenizer)
    return _open_file(_model_in(home, files) if _is_folder(path) else path, tokenizer)


def _open_file(file: Path, tokenizer: Path | None) -> Checkpoint:
    form = _format_of(file)
    if form is None:
        raise _unrecognised(file)
    if tokenizer is None:
        return form.open(file)
    if form.open_with_tokenizer is None:
        raise UsageError(f"{file} holds its own tokenizer ({form.name}); leave --tokenizer out")
    return form.open_with_tokenizer(file, tokenizer)


def _home_of(path: Path) -> Path | None:
    """The folder that `path` is, or is a part of; None for a file that is complete by itself."""
    if _is_folder(path):
        return _snapshot_of(path)
    return path.parent if _is_part(path) else None


def _snapshot_of(folder: Path) -> Path:
    """The one snapshot of a repository in the Hub's own cache; any other folder itself."""
    if not (_is_folder(folder / "snapshots") and _is_folder(folder / "blobs")):
        return folder
    try:
        snapshots = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    except OSError as error:
        raise ModelNotFoundError(f"{folder / 'snapshots'} cannot be read: {error.strerror}") from None
    if len(snapshots) != 1:
        raise ModelNotFoundError(f"{folder} holds {len(snapshots)} snapshots: {_listed(snapshots)}", hint="Name one of them.")
    return snapshots[0]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # file_size reports it
        return False


def _is_part(path: Path) -> bool:
    size = file_size(path)
    head = read_head(path, HEAD_BYTES)
    return any(matches(head, size) for matches in PARTS)


def _folder_of(files: list[Path]) -> Folder | None:
    names = [file.name for file in files]
    return next((folder for folder in FOLDERS if folder.matches(names)), None)


def _format_of(path: Path) -> Format | None:
    size = file_size(path)
    head = read_head(path, HEAD_BYTES)
    return next((form for form in FORMATS if form.matches(head, size)), None)


def _unrecognised(path: Path) -> ModelFormatError:
    head = read_head(path, HEAD_BYTES)
    if not head:
        return DamagedFileError(path, "file", None, "is empty", hint="The download is not complete; fetch it again.")
    refuse_unsupported(path)
    if _is_settings(path, head):
        return ModelFormatError(
            path, "file", None, "is a settings file of a model's folder, not a model", hint="Give the folder, not this file."
        )
    if is_tokenizer(head):
        return ModelFormatError(
            path, "file", None, "is a tokenizer, not a model",
            hint="Give the model's file or folder; --tokenizer names a tokenizer's file.",
        )  # fmt: skip
    if _is_part(path):
        return ModelFormatError(
            path,
            "file",
            None,
            "holds weights, but no file beside it has the model's sizes",
            hint="Put config.json (Hugging Face) or params.json (Meta) into the same folder.",
        )
    names = " nor ".join(form.name for form in FORMATS)
    return ModelFormatError(
        path, "file", 0, f"is neither {names}: it begins with {head[:8]!r}", hint="Fetch the model as GGUF, or give another file."
    )


SETTINGS_KEYS = (b'"model_type"', b'"weight_map"', b'"architectures"', b'"eos_token_id"', b'"_class_name"', b'"tokenizer_class"')


def _is_settings(path: Path, head: bytes) -> bool:
    """Whether a file is JSON of a model's folder, and no tokenizer."""
    start = read_head(path, HEAD_BYTES * 16)
    return is_tokenizer(head) and b'"added_tokens"' not in start and any(key in start for key in SETTINGS_KEYS)


# ---- folders --------------------------------------------------------------------------------------------------------


def _files_of(folder: Path) -> list[Path]:
    try:
        return sorted(path for path, _ in zip(folder.iterdir(), range(MAX_FOLDER_FILES)) if path.is_file())
    except OSError as error:
        raise ModelNotFoundError(f"{folder} cannot be read: {error.strerror}") from None


def _names_in(folder: Path) -> list[str]:
    """Names of all entries, folders too."""
    try:
        return [path.name for path, _ in zip(folder.iterdir(), range(MAX_FOLDER_FILES))]
    except OSError as error:
        raise ModelNotFoundError(f"{folder} cannot be read: {error.strerror}") from None


def _model_in(folder: Path, files: list[Path]) -> Path:
    """The only model of a folder; a model split over files counts once."""
    models = [path for path in files if _is_model(path)]
    if len(models) == 1:
        return models[0]
    if models:
        raise ModelNotFoundError(f"{folder} holds {len(models)} models: {_listed(models)}", hint="Name one of them.")
    raise ModelNotFoundError(f"{folder} holds no model; files there: {_listed(files) or 'none'}")


def _is_model(path: Path) -> bool:
    shard = SHARD_NAME.fullmatch(path.name)
    if (
        shard is not None
        and int(shard["number"]) > 1
        and path.with_name(f"{shard['stem']}-00001-of-{shard['count']}.gguf").exists()
    ):
        return False
    try:
        return _format_of(path) is not None
    except ModelNotFoundError:  # an unreadable file is no candidate
        return False


def _listed(paths: list[Path]) -> str:
    names = ", ".join(map(shown_name, paths[:MAX_LISTED]))
    return names + (f" and {len(paths) - MAX_LISTED} more" if len(paths) > MAX_LISTED else "")
