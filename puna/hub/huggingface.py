"""A model of the Hub, through `huggingface_hub`: it resumes and finds the token; the checksums are verified here once more.

A repository of GGUF files gives one of them; one of safetensors gives a folder, whose `config.json` comes last: a folder that has
it is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from puna.errors import DownloadError, ModelNotFoundError
from puna.hub.fetch import SPARE_BYTES, partial_dir, place, require_place, require_space, sha256_of
from puna.hub.names import HubName
from puna.paths import is_safe_name
from puna.report import Reporter

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")
_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
LAST = "config.json"
# What a folder needs; nothing else of a repository is fetched. Weights: the first kind that is there.
TEXTS = (
    "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
WEIGHTS = (
    re.compile(r"model\.safetensors(\.index\.json)?|model-\d{5}-of-\d{5}\.safetensors"),
    re.compile(r"pytorch_model\.bin(\.index\.json)?|pytorch_model-\d{5}-of-\d{5}\.bin"),
)
MAX_UNHASHED_BYTES = 64 << 20  # of a file that is no LFS blob
HUB_TIMEOUT_S = 30.0  # for each step of asking the Hub about a repository


class Found(NamedTuple):
    """A model of the Hub: what it is called, and the files that it is made of."""

    name: HubName  # with the file, where it is one
    files: list[RepoSibling]  # each with size and checksum; of a folder `config.json` is the last
    revision: str
    is_folder: bool


def fetch_hub_model(name: HubName, report: Reporter) -> Path:
    """Fetch, verify and place the file (all parts of a split one; all that a folder needs); return the first, or the folder.

    The caller holds the lock.
    """
    found = find(name)
    _place_all(found, report)
    return name.folder if found.is_folder else name.target(found.files[0].rfilename)


def find(name: HubName) -> Found:
    """The model behind a name. Raises ModelNotFoundError for none, or several; DownloadError where the Hub tells too little."""
    info = _repository(name)
    listing = {file.rfilename: file for file in info.siblings or ()}
    folder = [] if name.file else _folder_files(listing)
    chosen = name if folder else HubName(name.owner, name.repo, name.file or _only_model(name, listing))
    wanted = folder or chosen.shards()
    return Found(chosen, [_listed(chosen, file, listing) for file in wanted], info.sha or "main", bool(folder))


def model_files(name: HubName) -> list[tuple[str, int]]:
    """The GGUF models of a repository: (file, bytes), a split one by its first part, the smallest first.

    Those that no name of ours can spell, because they lie in folders, are left out.
    """
    sizes = {file.rfilename: file.size for file in _repository(name).siblings or ()}
    found = []
    for file in _first_parts(sizes):
        if is_safe_name(file):
            parts = [sizes.get(part) for part in HubName(name.owner, name.repo, file).shards()]
            whole = [size for size in parts if size is not None]
            found += [(file, sum(whole))] if len(whole) == len(parts) else []
    return sorted(found, key=lambda model: (model[1], model[0]))


def _folder_files(listing: Mapping[str, RepoSibling]) -> list[str]:
    """The files of a model of safetensors, `config.json` last; none where the repository holds no such model, or GGUF files."""
    kinds = [[file for file in listing if pattern.fullmatch(file)] for pattern in WEIGHTS]
    weights = next((files for files in kinds if files), [])
    if LAST not in listing or not weights or any(file.endswith(".gguf") for file in listing):
        return []
    return [*sorted(weights), *(file for file in TEXTS if file in listing), LAST]


def _place_all(found: Found, report: Reporter) -> None:
    name = found.name
    missing = [file for file in found.files if not _is_here(name.target(file.rfilename), file)]
    for file in missing:
        require_place(name.target(file.rfilename))
    require_space(sum(file.size or 0 for file in missing) + SPARE_BYTES)
    for file in missing:
        _fetch(name, file, found.revision, report)


def _repository(name: HubName) -> ModelInfo:
    from huggingface_hub import HfApi

    with hub_errors(name):
        return HfApi().model_info(name.repo_id, files_metadata=True, timeout=HUB_TIMEOUT_S)


@contextlib.contextmanager
def hub_errors(name: HubName) -> Iterator[None]:
    """Say of what the Hub refuses what it means."""
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise DownloadError(
            f"{name}: its owner asks for an agreement first", hint="Agree on the page of the model, then run `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"{name}: there is no such repository, or it is private",
            hint="Check the spelling; for a private one `hf auth login`.",
        ) from error
    except (HTTPError, OSError, ValueError) as error:
        raise _failed(name, error) from error


def _first_parts(files: Iterable[str]) -> list[str]:
    return [file for file in files if file.endswith(".gguf") and not _LATER_PART.search(file)]


def _only_model(name: HubName, listing: dict[str, Any]) -> str:
    """The one model file of the repository (of a split one its first part)."""
    files = _first_parts(listing)
    if len(files) == 1:
        return files[0]
    if not files:
        raise ModelNotFoundError(
            f"{name}: the repository holds neither a .gguf file nor {LAST} with safetensors",
            hint="Choose a repository of GGUF files, or of a model that transformers reads.",
        )
    raise ModelNotFoundError(
        f"{name}: the repository holds {len(files)} models: {', '.join(sorted(files)[:20])}",
        hint=f"Name one: puna pull hf:{name.repo_id}/{sorted(files)[0]}",
    )


def _listed(name: HubName, file: str, listing: Mapping[str, RepoSibling]) -> RepoSibling:
    found = listing.get(file)
    if found is None:
        raise ModelNotFoundError(
            f"{name}: the repository has no file {file!r}", hint=f"It holds: {', '.join(sorted(listing)[:20])}"
        )
    known = _SHA256.fullmatch(found.lfs.sha256) if found.lfs else _SHA1.fullmatch(found.blob_id or "")
    if known is None or found.size is None or (found.lfs is None and found.size > MAX_UNHASHED_BYTES):
        raise DownloadError(f"{name}: the Hub gives no sha256 for {file}, so its bytes cannot be checked. Refused.")
    return found


def _is_here(path: Path, file: RepoSibling) -> bool:
    """Small files are compared whole: another version often has the same size."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    return file.lfs is not None or _git_sha1(path) == file.blob_id


def _fetch(name: HubName, file: RepoSibling, revision: str, report: Reporter) -> None:
    """One file: downloaded (or resumed) under `partial/`, verified, placed."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HTTPError

    folder = partial_dir() / f"{name.owner}--{name.repo}"
    try:
        done = Path(
            hf_hub_download(
                name.repo_id, file.rfilename, revision=revision, local_dir=folder, tqdm_class=_progress_class(file, report)
            )
        )
    except (HTTPError, OSError, ValueError) as error:
        raise _failed(name, error) from error
    try:
        verify(name, file, done, report)
    except DownloadError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    place(done, name.target(file.rfilename))
    shutil.rmtree(folder, ignore_errors=True)


def verify(name: HubName, file: RepoSibling, path: Path, report: Reporter) -> None:
    """DownloadError where the bytes at `path` are not those that the Hub announced."""
    kind, expected = ("sha256", file.lfs.sha256) if file.lfs else ("git's sha1", file.blob_id)
    found = sha256_of(path, f"checking {file.rfilename}", report) if file.lfs else _git_sha1(path)
    if found != expected or path.stat().st_size != file.size:
        raise DownloadError(f"{name}: the bytes are not the expected ones: {kind} {found}, not {expected}. Refused.")


def _git_sha1(path: Path) -> str:
    """The id that git gives a file: the only checksum that the Hub tells of small ones."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _progress_class(file: RepoSibling, report: Reporter) -> Any:
    """A silent bar for `huggingface_hub` that tells the reporter."""
    from huggingface_hub.utils import tqdm

    class Progress(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
            self.n = kwargs.get("initial", 0) or 0

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            report.progress(f"downloading {file.rfilename}", min(int(self.n), file.size or 0), file.size or 0, "bytes")

    return Progress


def _failed(name: HubName, error: Exception) -> DownloadError:
    words = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return DownloadError(
        f"could not fetch {name}: {words[:300]}",
        hint=f"By hand: put the .gguf file at {name.folder / (name.file or 'MODEL.gguf')}, or give its path to puna.",
    )
