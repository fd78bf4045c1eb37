"""puna pull: fetches a model into the cache, or verifies the one that is there."""

from __future__ import annotations

from pathlib import Path

import click

from puna.cli.fetch import fetch, is_terminal, require_consent
from puna.cli.options import json_option
from puna.cli.terminal import TerminalReporter, print_json, shown_path


@click.command()
@click.argument("name", required=False)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
def command(name: str | None, yes: bool, as_json: bool) -> None:
    """Fetch a model into the cache and check its bytes; print its path.

    NAME is one that `puna models` lists (default: the small default model), or a model of the Hub: hf:OWNER/REPO is a folder
    of safetensors, or the only GGUF file there; hf:OWNER/REPO/FILE.gguf is one of several. In a terminal, puna shows the size
    and licence of a model with a short name, and asks.
    """
    from puna import hub

    if name is not None and not yes and is_terminal():
        require_consent(name)
    with TerminalReporter() as report:
        path = fetch(name, None, report)
    if as_json:
        print_json({"name": name or hub.DEFAULT_MODEL, "path": shown_path(path), "bytes": _bytes(path)})
    else:
        print(path)


def _bytes(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
