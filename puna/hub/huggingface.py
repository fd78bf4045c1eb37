"""Fetches a model from the Hub with `huggingface_hub`, which resumes and finds the token; verifies checksums again here.

A repository of GGUF files yields one file; one of safetensors yields a folder. Its `config.json` is written last, so a folder
that has it is complete.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from puna.errors import DownloadError, ModelNotFoundError
from puna.files import commit
from puna.hub.fetch import SPARE_BYTES, partial_dir, require_space, require_target, sha256_of
from puna.hub.listing import HubFile, fetch_listing
from puna.hub.names import HubName
from puna.hub.web import TimeLimit, hub_errors
from puna.paths import is_safe_name
from puna.progress import Reporter

_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")
_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
LAST = "config.json"
# Files that a folder needs; no others are fetched. Weights: the first kind that exists.
TEXTS = (
    "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
WEIGHTS = (
    re.compile(r"model\.safetensors(\.index\.json)?|model-\d{5}-of-\d{5}\.safetensors"),
    re.compile(r"pytorch_model\.bin(\.index\.json)?|pytorch_model-\d{5}-of-\d{5}\.bin"),
)
MAX_UNHASHED_BYTES = 64 << 20  # size limit of a file that is not an LFS blob
MAX_PARTS = 10_000  # limit for a folder's weights, as in its reader
TOLD_FILES = 20


class Found(NamedTuple):
    """A model of the Hub: its name and its files."""

    name: HubName  # including the file, if it is one
    files: list[HubFile]  # each with size and checksum; in a folder `config.json` is last
    revision: str
    is_folder: bool


def fetch_hub_model(name: HubName, report: Reporter) -> Path:
    """Fetch, verify and commit the file, all parts of a split file, or all files of a folder; return the first, or the folder.

    The caller holds the lock.
    """
    found = find(name, TimeLimit(name))
    _commit_all(found, report)
    return name.folder if found.is_folder else name.target(found.files[0].name)


def find(name: HubName, limit: TimeLimit) -> Found:
    """The model of a name. Raises ModelNotFoundError for none or several; DownloadError if the Hub's answer is incomplete."""
    revision, listing = fetch_listing(name, limit)
    folder = [] if name.file else _folder_files(name, listing)
    chosen = name if folder else HubName(name.owner, name.repo, name.file or _only_model(name, listing))
    wanted = folder or list(chosen.shards())
    return Found(chosen, [_listed(chosen, file, listing) for file in wanted], revision, bool(folder))


def model_files(name: HubName) -> list[tuple[str, int]]:
    """The GGUF models of a repository: (file, bytes), smallest first, a split model by its first part.

    Files in subfolders are omitted, because puna's names cannot express them.
    """
    sizes = {file.name: file.size for file in fetch_listing(name, TimeLimit(name)).files.values()}
    names = [HubName(name.owner, name.repo, file) for file in _first_parts(sizes) if is_safe_name(file)]
    models = [(model.file, _whole_size(model, sizes)) for model in names]
    return sorted(((file, size) for file, size in models if size is not None), key=lambda model: (model[1], model[0]))


def _whole_size(model: HubName, sizes: Mapping[str, int | None]) -> int | None:
    """The bytes of all parts of a model; None if a part or its size is missing."""
    total = 0
    for part in model.shards():
        size = sizes.get(part)
        if size is None:
            return None
        total += size
    return total


def _folder_files(name: HubName, listing: Mapping[str, HubFile]) -> list[str]:
    """The files of a safetensors model, `config.json` last; empty if the repository has no such model, or has GGUF files."""
    kinds = [[file for file in listing if pattern.fullmatch(file)] for pattern in WEIGHTS]
    weights = next((files for files in kinds if files), [])
    if LAST not in listing or not weights or any(file.endswith(".gguf") for file in listing):
        return []
    if len(weights) > MAX_PARTS:
        raise DownloadError(f"{name}: its weights are in {len(weights)} files; puna reads models of at most {MAX_PARTS}")
    return [*sorted(weights), *(file for file in TEXTS if file in listing), LAST]


def _commit_all(found: Found, report: Reporter) -> None:
    name = found.name
    missing = [file for file in found.files if not _is_here(name.target(file.name), file)]
    for file in missing:
        require_target(name.target(file.name))
    require_space(sum(file.size or 0 for file in missing) + SPARE_BYTES)
    for file in missing:
        _fetch(name, file, found.revision, report)


def _first_parts(files: Iterable[str]) -> list[str]:
    return [file for file in files if file.endswith(".gguf") and not _LATER_PART.search(file)]


def _only_model(name: HubName, listing: dict[str, Any]) -> str:
    """The only model file of the repository (for a split model its first part)."""
    files = _first_parts(listing)
    if len(files) == 1:
        return files[0]
    if not files:
        raise ModelNotFoundError(
            f"{name}: the repository holds neither a .gguf file nor {LAST} with safetensors",
            hint="Choose a repository with GGUF files or with a model that transformers reads.",
        )
    raise ModelNotFoundError(
        f"{name}: the repository holds {len(files)} models: {_told(files)}",
        hint=f"Choose one: puna pull hf:{name.repo_id}/{sorted(files)[0]}",
    )


def _told(files: Collection[str]) -> str:
    """The first names of a list, and the number of the rest."""
    more = len(files) - TOLD_FILES
    return ", ".join(sorted(files)[:TOLD_FILES]) + (f" ... and {more} more" if more > 0 else "")


def _listed(name: HubName, file: str, listing: Mapping[str, HubFile]) -> HubFile:
    found = listing.get(file)
    if found is None:
        raise ModelNotFoundError(f"{name}: the repository has no file {file!r}", hint=f"It holds: {_told(listing)}")
    known = _SHA1.fullmatch(found.git_sha1 or "") if found.sha256 is None else _SHA256.fullmatch(found.sha256)
    if known is None or found.size is None or (found.sha256 is None and found.size > MAX_UNHASHED_BYTES):
        raise DownloadError(f"{name}: the Hub gives no sha256 for {file}, so puna cannot verify it. Refused.")
    return found


def _is_here(path: Path, file: HubFile) -> bool:
    """Compare small files by content: another version often has the same size."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    return file.sha256 is not None or _git_sha1(path) == file.git_sha1


def _fetch(name: HubName, file: HubFile, revision: str, report: Reporter) -> None:
    """One file: downloaded (or resumed) under `partial/`, verified, moved into place."""
    from huggingface_hub import hf_hub_download

    folder = partial_dir() / f"{name.owner}--{name.repo}"
    progress = _progress_class(file, report)
    with hub_errors(name):
        done = Path(hf_hub_download(name.repo_id, file.name, revision=revision, local_dir=folder, tqdm_class=progress))
    try:
        verify(name, file, done, report)
    except DownloadError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    commit(done, name.target(file.name), overwrite=True)
    shutil.rmtree(folder, ignore_errors=True)


def verify(name: HubName, file: HubFile, path: Path, report: Reporter) -> None:
    """DownloadError if the bytes at `path` differ from the Hub's checksum."""
    is_blob = file.sha256 is not None
    kind, expected = ("sha256", file.sha256) if is_blob else ("git's sha1", file.git_sha1)
    found = sha256_of(path, f"checking {file.name}", report) if is_blob else _git_sha1(path)
    if found != expected or path.stat().st_size != file.size:
        raise DownloadError(f"{name}: the bytes are not the expected ones: {kind} {found}, not {expected}. Refused.")


def _git_sha1(path: Path) -> str:
    """The git blob id of a file: the only checksum that the Hub gives for small files."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _progress_class(file: HubFile, report: Reporter) -> Any:
    """A silent progress bar for `huggingface_hub` that updates puna's progress."""
    from huggingface_hub.utils import tqdm

    class Progress(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
            self.n = kwargs.get("initial", 0) or 0

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            report.progress(f"downloading {file.name}", min(int(self.n), file.size or 0), file.size or 0, "bytes")

    return Progress
