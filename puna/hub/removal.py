"""Removes models from the cache: what `puna models` lists there, and nothing outside of the folder of models."""

from __future__ import annotations

import shutil
from pathlib import Path

from puna.errors import ModelNotFoundError, PunaError, UsageError, did_you_mean
from puna.files import exists
from puna.hub import CachedModel, cached_models, resolve, wheel_model
from puna.paths import models_dir, typed_path

HUB = "hub"  # the folder of models of the Hub


def model_to_remove(text: str) -> CachedModel:
    """The model of the cache that a name or a path means, as a person types it.

    Raises ModelNotFoundError if there is none, UsageError for a file or folder that is no model there.
    """
    here = cached_models()
    if (named := next((one for one in here if one.name == text), None)) is not None:
        return named
    path = _path_of(text)
    real = _real(path)
    if (known := next((one for one in here if _real(one.path) == real), None)) is not None:
        return known
    if real.parent != models_dir().resolve() or real.name == HUB:
        raise UsageError(f"{path} is no model in {models_dir()}", hint="puna removes only what is there; `puna models` lists it.")
    return CachedModel(path.name, path)  # a folder that somebody put there


def remove(model: CachedModel) -> None:
    """Remove the files of a model, and the folders that become empty. Of a link, only the link goes."""
    for path in model.parts:
        if not _real(path).is_relative_to(models_dir().resolve()):
            raise UsageError(f"{path} leads out of {models_dir()}", hint="Remove it where it is.")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    _remove_empty(model.path.parent)


def _path_of(text: str) -> Path:
    """Where a model lies, without fetching it."""
    if text and exists(path := typed_path(text, "MODEL")):
        return path.absolute()
    try:
        if (wheel := wheel_model(text)) is None:
            return resolve(text)
        if wheel.target.exists():
            return wheel.target
    except PunaError as error:
        if not isinstance(error, ModelNotFoundError) or "several" in error.message:
            raise
    near = did_you_mean(text, [one.name for one in cached_models()])
    raise ModelNotFoundError(
        f"{text[:200]} is not here, so there is nothing to remove",
        hint=f"{near} puna models lists the models that are here.".lstrip(),
    )


def _real(path: Path) -> Path:
    """Where a file, folder or link is; links on the way to it are followed."""
    return path.parent.resolve() / path.name if path.is_symlink() else path.resolve()


def _remove_empty(folder: Path) -> None:
    root = models_dir()
    while folder != root and folder.is_relative_to(root) and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
