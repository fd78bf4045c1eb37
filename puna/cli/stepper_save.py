"""Writes a branch of a tree of answers to a file: its trace, a page for a browser, or a receipt, by the ending of the name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from puna.cli.save import save_text
from puna.cli.terminal import shown_path
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.glassbox.explorer import Explorer
    from puna.llm import LLM


def save_branch(llm: LLM, explorer: Explorer, number: int, path: Path) -> str:
    """Write it, and say what was written. UsageError for a name of another ending, and for a file that is there."""
    for ending, (what, text_of) in KINDS.items():
        if path.name.endswith(ending) and path.name != ending:
            if os.path.lexists(path):
                raise UsageError(f"{shown_path(path)} exists", hint="Name a new file.")
            save_text(path, text_of(llm, explorer, number), overwrite=True)
            return f"Branch {shown_number(number)} was saved as {what}: {shown_path(path)}"
    raise UsageError(
        f"{shown_path(path) or 'nothing'} has none of the endings {', '.join(KINDS)}", hint="Name a file, such as branch.json."
    )


def shown_number(number: int) -> int:
    """What a branch is called to a person: they count from 1, the explorer from 0."""
    return number + 1


def _trace(llm: LLM, explorer: Explorer, number: int) -> str:
    return json.dumps(explorer.trace(number).as_json(), ensure_ascii=False, allow_nan=False) + "\n"


def _page(llm: LLM, explorer: Explorer, number: int) -> str:
    from puna.glassbox.report import trace_page

    return trace_page(explorer.trace(number))


def _receipt(llm: LLM, explorer: Explorer, number: int) -> str:
    receipt = llm.receipt(explorer.branches[number].completion)
    return json.dumps(receipt.as_json(), ensure_ascii=False, indent=1) + "\n"


KINDS: Mapping[str, tuple[str, Callable[[LLM, Explorer, int], str]]] = {
    ".receipt": ("a receipt, for puna replay", _receipt),
    ".receipt.json": ("a receipt, for puna replay", _receipt),
    ".json": ("a trace", _trace),
    ".html": ("a page", _page),
}
