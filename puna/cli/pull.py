"""puna pull: fetches a model into the cache, or verifies the one that is there."""

from __future__ import annotations

from pathlib import Path

import click

from puna.cli.options import json_option
from puna.cli.terminal import TerminalReporter, print_json, shown_path


@click.command()
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """Fetch a model into the cache and check its bytes; print its path.

    NAME is of the catalogue (left out: the default model), or a model of the Hub: hf:OWNER/REPO is a folder of safetensors,
    or the one GGUF file there; hf:OWNER/REPO/FILE.gguf is one of several.
    """
    from puna import hub

    with TerminalReporter() as report:
        path = hub.pull(name, report)
    if as_json:
        print_json({"name": name or hub.DEFAULT_MODEL, "path": shown_path(path), "bytes": _bytes(path)})
    else:
        print(path)


def _bytes(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
