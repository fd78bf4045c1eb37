"""Opens a model of the Hub without downloading it: local files of the real sizes that hold only the headers.

    with header_checkpoint("hf:OWNER/REPO", report) as headers:
        checkpoint = open_checkpoint(headers.path)

The files are sparse: they use only as much disk as was fetched, some MB for a model of any size. `open_checkpoint` runs all its
checks on them; the weights are zeros. Folders lack the tokenizer and the chat template. The files are deleted when the `with`
ends, also after an error or Ctrl-C; files of a killed process are deleted when the same model is requested again. Concurrent
uses, also of the same model, have separate folders.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from puna.errors import DownloadError, ModelNotFoundError, PunaError
from puna.formats import open_checkpoint
from puna.formats.header_ranges import Range, Rounds, header_ranges
from puna.hub import is_cached, resolve, wheel_model
from puna.hub.fetch import SPARE_BYTES, fresh_folder, require_space, storage_errors
from puna.hub.huggingface import LAST, MAX_PARTS, Found, find, model_files, verify
from puna.hub.listing import HubFile
from puna.hub.names import HubName, parse_hub_name
from puna.hub.ranges import ByteRange, RangeFetcher
from puna.hub.web import TimeLimit
from puna.paths import local_path
from puna.progress import SILENT, Reporter
from puna.units import gb

WHOLE = (LAST, "generation_config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHTS = (".gguf", ".safetensors", ".bin")  # files whose headers are fetched; other files are omitted
MAX_WHOLE_BYTES = 8 << 20  # longer files stay zeros: the readers reject their size
NEAR_BYTES = 16 << 10  # ranges with a smaller gap are joined: a request costs more than the bytes
PROBE_BYTES = 8 << 20
FEW_FILES = 4  # of weights: an 8B model in 16 bits has as many


class Headers(NamedTuple):
    """The path at which a model can be opened, and the bytes fetched for it."""

    path: Path  # a file or a folder, for `open_checkpoint`
    name: str  # its name in errors
    fetched_bytes: int  # 0 for a model on this machine
    total_bytes: int  # size of the model's files in the repository; 0 for a model on this machine

    @property
    def is_local(self) -> bool:
        """Whether it is a complete local model."""
        return self.total_bytes == 0


@contextmanager
def header_checkpoint(name: str, report: Reporter = SILENT, max_files: int = MAX_PARTS) -> Iterator[Headers]:
    """The parts of a model that `open_checkpoint` needs. A local model (a path, or a name in the cache) is used as it is.

    Raises what `resolve` and `pull` raise; also ModelNotFoundError for a short name whose model was not fetched yet, and
    DownloadError for weights in more than `max_files` files.
    """
    found = _on_this_machine(name)
    if isinstance(found, Path):
        yield Headers(found, name, 0, 0)
        return
    limit = TimeLimit(found)
    model = find(found, limit)
    if sum(file.name.endswith(WEIGHTS) for file in model.files) > max_files:
        raise DownloadError(f"{name}: the headers of more than {max_files} files were not asked for")
    with _twin(model, limit, report) as headers:
        yield headers


def matrix_types(name: str) -> tuple[str, ...]:
    """Types of a model's matrices, the embedding's first, from the headers of a few files: while the model is downloaded,
    further requests could exceed what the Hub allows. Raises what `header_checkpoint` and `open_checkpoint` raise."""
    with header_checkpoint(name, max_files=FEW_FILES) as headers:
        tensors = open_checkpoint(headers.path).tensors
        types = [tensor.type.name for tensor in tensors.values() if len(tensor.shape) > 1]
        return tuple(dict.fromkeys([tensors["embed"].type.name, *types]))


def gguf_files(name: str) -> list[tuple[str, int]]:
    """The GGUF models of a repository as (file, bytes of all its parts), smallest first; empty if it has none."""
    hub = parse_hub_name(name)
    if hub is None:
        raise ModelNotFoundError(f"{name} is not the name of a repository", hint="Give hf:OWNER/REPO.")
    return model_files(hub)


def _on_this_machine(name: str) -> Path | HubName:
    """A local model's path; or the Hub name of a model that the cache lacks or holds in several files."""
    known = wheel_model(name)
    if known is not None and not is_cached(known) and not Path(name).exists():
        raise ModelNotFoundError(f"{name} ({gb(known.file_bytes)}) is not in the cache", hint=f"Fetch it: puna pull {name}")
    try:
        return resolve(name)
    except ModelNotFoundError:
        hub = parse_hub_name(name)
        if hub is None:
            raise
        return hub


# ---- the twin -------------------------------------------------------------------------------------------------------


@contextmanager
def _twin(found: Found, limit: TimeLimit, report: Reporter) -> Iterator[Headers]:
    name, total_bytes = found.name, sum(file.size or 0 for file in found.files)
    with ExitStack() as stack:
        with storage_errors(SPARE_BYTES):
            folder = stack.enter_context(fresh_folder(name.repo))
            stack.enter_context(_called(folder, name))
            require_space(SPARE_BYTES)
            fetched_bytes = _fill(folder, found, limit, report)
        path = folder if found.is_folder else folder / found.files[0].name
        yield Headers(path, str(name), fetched_bytes, total_bytes)


@contextmanager
def _called(folder: Path, name: HubName) -> Iterator[None]:
    """Makes errors name the repository instead of the temporary folder."""
    try:
        yield
    except PunaError as error:
        error.reword(error.typed.message.replace(str(folder), f"hf:{name.repo_id}"))
        raise


@dataclass
class _File:
    """One sparse file, and the ranges of it that were fetched."""

    remote: HubFile
    path: Path
    rounds: Rounds
    known: list[Range] = field(default_factory=list)

    def next_pieces(self) -> list[ByteRange] | None:
        """The next ranges to fetch; None at the end."""
        wanted = next(self.rounds, None)
        if wanted is None:
            return None
        size = self.remote.size or 0
        missing = _missing([(max(0, begin), min(end, size)) for begin, end in wanted], self.known)
        self.known = _joined([*self.known, *missing], 0)
        return [ByteRange(self.remote, self.path, begin, end) for begin, end in _joined(missing, NEAR_BYTES)]


def _fill(folder: Path, found: Found, limit: TimeLimit, report: Reporter) -> int:
    """Create the files and fetch the needed ranges into them; return the number of bytes fetched."""
    needed = [file for file in found.files if file.name in WHOLE or file.name.endswith(WEIGHTS)]
    _make_sparse(folder, needed, found.name)
    files = [_File(file, path := folder / file.name, _rounds(file, path)) for file in needed]
    fetcher = RangeFetcher(found.name, found.revision, limit)
    _fetch_all(files, fetcher, f"reading the headers of {found.name}", report)
    for file in files:
        if file.remote.name in WHOLE and (file.remote.size or 0) <= MAX_WHOLE_BYTES:
            verify(found.name, file.remote, file.path, report)
    return fetcher.fetched_bytes


def _rounds(file: HubFile, path: Path) -> Rounds:
    if file.name not in WHOLE:
        return header_ranges(path)
    size = file.size or 0
    return iter([[(0, size)]] if size <= MAX_WHOLE_BYTES else [])


def _fetch_all(files: Sequence[_File], fetcher: RangeFetcher, stage: str, report: Reporter) -> None:
    """Fetch in rounds; each round covers all files."""
    left = list(files)
    while left:
        asked = [(file, file.next_pieces()) for file in left]
        left = [file for file, pieces in asked if pieces is not None]
        wanted = [piece for _, pieces in asked for piece in pieces or ()]
        done = fetcher.fetched_bytes
        report.progress(stage, done, done + sum(piece.end - piece.begin for piece in wanted) + 1, "bytes")
        fetcher.fetch(wanted)
    report.progress(stage, fetcher.fetched_bytes, fetcher.fetched_bytes, "bytes")


def _missing(wanted: Iterable[Range], known: Iterable[Range]) -> list[Range]:
    """The parts of the wanted ranges that no known range covers.

    >>> _missing([(0, 10), (15, 30)], [(0, 4), (8, 20)])
    [(4, 8), (20, 30)]
    """
    left = _joined(wanted, 0)
    for begin, end in known:
        before = [(first, min(last, begin)) for first, last in left]
        behind = [(max(first, end), last) for first, last in left]
        left = _joined(before + behind, 0)
    return left


def _joined(ranges: Iterable[Range], gap: int) -> list[Range]:
    """The ranges in order, without empty ones; ranges that overlap or are at most `gap` bytes apart are joined.

    >>> _joined([(8, 9), (0, 3), (5, 6), (7, 7)], 2)
    [(0, 9)]
    """
    joined: list[Range] = []
    for begin, end in sorted(ranges):
        if begin >= end:
            continue
        if joined and begin <= joined[-1][1] + gap:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


# ---- sparse files ---------------------------------------------------------------------------------------------------


def _make_sparse(folder: Path, files: Sequence[HubFile], name: HubName) -> None:
    """Create sparse files of zeros, each with its full size."""
    _require_sparse(folder, sum(file.size or 0 for file in files), name)
    for file in files:
        path, size = local_path(folder, file.name), file.size or 0
        try:
            _make(path, size)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise _not_sparse(folder, name, f"cannot create a file of {gb(size)} there: {reason}") from error


def _make(path: Path, size: int) -> int | None:
    """Create a file of zeros; return the bytes it uses on disk, None if unknown."""
    with path.open("xb") as file:
        file.truncate(size)
    blocks: int | None = getattr(path.stat(), "st_blocks", None)  # of 512 bytes; Windows has none
    return None if blocks is None else 512 * blocks


def _require_sparse(folder: Path, num_bytes: int, name: HubName) -> None:
    """PunaError if a file of zeros uses disk space. If that is unknown, the disk must have space for all files."""
    probe = folder / "probe"
    taken = _make(probe, PROBE_BYTES)
    probe.unlink()
    if taken is None:
        require_space(num_bytes + SPARE_BYTES)
    elif taken > PROBE_BYTES // 2:
        raise _not_sparse(folder, name, "its file system gives every file its full size at once")


def _not_sparse(folder: Path, name: HubName, why: str) -> PunaError:
    return PunaError(
        f"the headers of {name} need sparse files, and {folder.parents[1]} does not have them: {why}",
        hint=f"Set PUNA_CACHE to a folder on ext4, XFS, Btrfs or APFS, or fetch the model first: puna pull {name}",
    )
