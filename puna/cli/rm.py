"""puna rm: removes models from this machine."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from puna.cli.fetch import by_line, is_terminal
from puna.cli.options import json_option
from puna.cli.terminal import print_json, printable, shown_path, tell
from puna.errors import PunaError, UsageError
from puna.units import gb

if TYPE_CHECKING:
    from puna.hub import CachedModel


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="MODEL ...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def command(names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove models from this machine, after a question.

    MODEL is a name that `puna models` lists, or a path in the folder of puna's models: puna removes no other files.
    """
    from puna.hub.removal import model_to_remove, remove

    models = list({model.path: model for model in map(model_to_remove, names)}.values())
    if not yes:
        _require_consent(models)
    sizes = [model.num_bytes for model in models]
    for model, size in zip(models, sizes, strict=True):
        remove(model)
        if not as_json:
            print(printable(f"removed {model.name}, {gb(size)}"))
    if as_json:
        print_json({"removed": list(map(_facts, models, sizes))})


def _facts(model: CachedModel, size: int) -> dict[str, Any]:
    return {"name": model.name, "path": shown_path(model.path), "bytes": size}


def _require_consent(models: list[CachedModel]) -> None:
    """Show what would be removed, and ask. PunaError if the answer is no, UsageError where nobody can be asked."""
    if not is_terminal():
        names = shlex.join(model.name for model in models)
        raise UsageError("puna rm asks before it removes a model, and this is no terminal", hint=f"puna rm --yes {names}")
    for model in models:
        link = f", a link to {model.path.readlink()}, which stays" if model.path.is_symlink() else ""
        tell(f"{gb(model.num_bytes):>8}  {model.name}: {shown_path(model.path)}{link}")
    if not by_line("Remove it? [y/N] " if len(models) == 1 else "Remove them? [y/N] ", otherwise=False):
        raise PunaError("nothing was removed")
