"""puna cache: shows what the folder of --cache-dir holds, and empties it."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from puna.cli.options import Utf8, cache_dir_option, json_option
from puna.cli.terminal import print_json, printable, shown_path
from puna.cli.width import report_width
from puna.cli.word_wrap import wrapped
from puna.errors import UsageError
from puna.files import exists
from puna.units import counted, gb

if TYPE_CHECKING:
    from puna.page_store import StoredModel

# Letter of a unit -> its seconds, and how the unit is written where an age is told.
UNITS = {"d": (86400, "day"), "h": (3600, "hour"), "m": (60, "minute")}
AGE = re.compile(r"([0-9]{1,6})([dhm])")


class Age(Utf8):
    """A span of time, such as 30d, in seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = super().convert(value, param, ctx)
        if (found := AGE.fullmatch(text)) is None:
            raise UsageError(f"--older-than is {text[:40]!r}; a number with d, h or m is needed, for example 30d")
        return int(found[1]) * UNITS[found[2]][0]


@click.command()
@cache_dir_option
@click.option("--clear", "is_cleared", is_flag=True, help="Remove the pages, all or those of --older-than.")
@click.option("--older-than", "older_than_s", type=Age(), metavar="AGE", help="With --clear: unused for so long, e.g. 30d, 12h.")
@json_option
def command(cache_dir: str | None, is_cleared: bool, older_than_s: int | None, as_json: bool) -> None:
    """Show the K and V of prompts that --cache-dir keeps, or remove them.

    Without --cache-dir it is the folder that PUNA_CACHE_DIR names, else that of puna serve. Programs that use the folder go on.
    """
    if older_than_s is not None and not is_cleared:
        raise UsageError("--older-than goes with --clear", hint="puna cache --clear --older-than 30d")
    folder = _folder(cache_dir)
    if not folder.is_dir():
        what = "is not a folder" if exists(folder) else "does not exist"
        raise UsageError(f"{shown_path(folder)} {what}", hint="Name the folder that run or chat were given: they make it.")
    if is_cleared:
        _clear(folder, older_than_s or 0, as_json)
    else:
        _show(folder, as_json)


def _folder(given: str | None) -> Path:
    from puna.config import EngineConfig
    from puna.paths import prefixes_dir, typed_path

    named = EngineConfig.from_env(cache_dir=given).cache_dir
    if not named and prefixes_dir().is_dir():
        return prefixes_dir()
    if not named:
        raise UsageError(
            "no folder is named, and puna serve has kept no K and V on disk",
            hint="Name one with --cache-dir, here and for run and chat, or set PUNA_CACHE_DIR.",
        )
    return typed_path(str(named), "--cache-dir").absolute()


def _clear(folder: Path, older_than_s: int, as_json: bool) -> None:
    from puna.page_store import clear

    pages, num_bytes = clear(folder, older_than_s)
    if as_json:
        print_json({"path": shown_path(folder), "removed": {"pages": pages, "bytes": num_bytes}})
    else:
        print(f"removed {counted(pages, 'page')}, {gb(num_bytes)}")


def _show(folder: Path, as_json: bool) -> None:
    from puna.page_store import stored_models

    found = stored_models(folder)
    if as_json:
        total = sum(one.num_bytes for one in found)
        print_json({"path": shown_path(folder), "bytes": total, "models": [_facts(one) for one in found]})
    else:
        print("\n".join(map(printable, _lines(folder, found))))


def _facts(one: StoredModel) -> dict[str, Any]:
    about = {name: one.about.get(name) for name in ("model", "path", "device", "kv_type", "page_size")}
    return {"key": one.key, **about, "pages": one.num_pages, "bytes": one.num_bytes, "used_at": round(one.used_at)}


def _lines(folder: Path, found: list[StoredModel]) -> Iterator[str]:
    yield f"K and V of prompts in {shown_path(folder)}:"
    for one in found:
        first = f"{gb(one.num_bytes):>8} {counted(one.num_pages, 'page'):>12}  {_ago(time.time() - one.used_at):<14}  "
        yield from wrapped(_named(one), report_width(sys.stdout), first, " " * len(first))
    if not found:
        yield "  nothing yet"


def _named(one: StoredModel) -> str:
    """The model, and what its pages fit. Texts of a file may be anything."""
    model, device, kv_type = (str(one.about.get(name, "unknown"))[:100] for name in ("model", "device", "kv_type"))
    return f"{model} ({device}, {kv_type})"


def _ago(seconds: float) -> str:
    """
    >>> _ago(5), _ago(3599), _ago(90_000)
    ('now', '59 minutes ago', '1 day ago')
    """
    for unit, name in UNITS.values():
        if seconds >= unit:
            return f"{counted(int(seconds // unit), name)} ago"
    return "now"
