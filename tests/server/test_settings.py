"""docs/serving.md tells of every setting: its default, its flag."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from puna.cli.serve import FLAGS, command
from puna.server.settings import ServerSettings

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
ROW = re.compile(r"^\| `(\w+)` \| ([^|]*?) \| ([^|]*?) ?\| ", re.MULTILINE)


def shown(value: Any) -> str:
    """A default as the page writes it."""
    if value is False:
        return "no"
    if value is None or value == ():
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_table_of_limits_has_every_setting() -> None:
    rows = {
        name: (default, flag.strip("`")) for name, default, flag in ROW.findall(PAGE.read_text("utf-8").split("## Limits")[1])
    }
    options = {max(one.opts, key=len) for one in command.params if isinstance(one, click.Option)}
    settings = ServerSettings()
    flags = {name: FLAGS.get(name, f"--{name.replace('_', '-')}") for name in rows}
    assert rows == {
        name: (shown(getattr(settings, name)), flags[name] if flags[name] in options else "")
        for name in ServerSettings.__dataclass_fields__
    }
