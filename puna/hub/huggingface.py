"""A model of the Hub, through `huggingface_hub`: it resumes and finds the token; the sha256 is checked here once more."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.errors import DownloadError, ModelNotFoundError
from puna.hub.fetch import SPARE_BYTES, partial_dir, place, require_place, require_space, sha256_of
from puna.hub.names import HubName
from puna.report import Reporter

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_SHA256 = re.compile(r"[0-9a-f]{64}")


def fetch_hub_model(name: HubName, report: Reporter) -> Path:
    """Fetch, verify and place the file (all parts of a split one); return the first. The caller holds the lock."""
    info = _repository(name)
    listing = {file.rfilename: file for file in info.siblings or ()}
    chosen = HubName(name.owner, name.repo, name.file or _only_model(name, listing))
    files = [_listed(chosen, file, listing) for file in chosen.shards()]
    missing = [file for file in files if not _is_here(chosen.target(file.rfilename), file)]
    for file in missing:
        require_place(chosen.target(file.rfilename))
    require_space(sum(file.size or 0 for file in missing) + SPARE_BYTES)
    for file in missing:
        _fetch(chosen, file, info.sha or "main", report)
    return chosen.target(files[0].rfilename)


def _repository(name: HubName) -> ModelInfo:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError

    try:
        return HfApi().model_info(name.repo_id, files_metadata=True)
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


def _only_model(name: HubName, listing: dict[str, Any]) -> str:
    """The one model file of the repository (of a split one its first part)."""
    files = [f for f in listing if f.endswith(".gguf") and not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", f)]
    if len(files) == 1:
        return files[0]
    if not files:
        raise ModelNotFoundError(f"{name}: the repository holds no .gguf file", hint="Choose a repository of GGUF files.")
    raise ModelNotFoundError(
        f"{name}: the repository holds {len(files)} models: {', '.join(sorted(files)[:20])}",
        hint=f"Name one: puna pull hf:{name.repo_id}/{sorted(files)[0]}",
    )


def _listed(name: HubName, file: str, listing: dict[str, RepoSibling]) -> RepoSibling:
    found = listing.get(file)
    if found is None:
        raise ModelNotFoundError(
            f"{name}: the repository has no file {file!r}", hint=f"It holds: {', '.join(sorted(listing)[:20])}"
        )
    if found.lfs is None or _SHA256.fullmatch(found.lfs.sha256) is None or found.size is None:
        raise DownloadError(f"{name}: the Hub gives no sha256 for {file}, so its bytes cannot be checked. Refused.")
    return found


def _is_here(path: Path, file: RepoSibling) -> bool:
    return path.is_file() and path.stat().st_size == file.size


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
    found = sha256_of(done, f"checking {file.rfilename}", report)
    expected = file.lfs.sha256 if file.lfs else ""
    if found != expected or done.stat().st_size != file.size:
        shutil.rmtree(folder, ignore_errors=True)
        raise DownloadError(f"{name}: the bytes are not the expected ones: sha256 {found}, not {expected}. Refused.")
    place(done, name.target(file.rfilename))
    shutil.rmtree(folder, ignore_errors=True)


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
