"""Fetches missing models that have a short name. It first asks the person at the terminal, and names the size."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from puna.cli.terminal import tell
from puna.errors import PunaError

if TYPE_CHECKING:
    from puna.report import Reporter


Confirm = Callable[[str], bool]  # question -> whether a person agrees


def by_line(question: str) -> bool:
    """The answer of a person who types a line. click.Abort for Ctrl-C and Ctrl-D."""
    return click.confirm(question, default=True, err=True, prompt_suffix="", show_default=False)


def offer(model: str | None, report: Reporter, confirm: Confirm = by_line) -> None:
    """Fetch a missing published model if the person at the terminal agrees. Without a terminal, do nothing: loading then
    raises the error that names `puna pull`.

    Raises PunaError if the person does not agree, and what `hub.pull` raises.
    """
    from puna import hub

    if not is_terminal() or hub.absent_source(model) is None:
        return
    assert model is not None
    require_consent(model, confirm)
    hub.pull(model, report)


def require_consent(model: str, confirm: Confirm = by_line) -> None:
    """Ask before a missing published model is fetched. PunaError if the answer is no."""
    from puna import hub

    source = hub.absent_source(model)
    if source is None:
        return
    tell(*hub.source_lines(source))
    if not confirm("Fetch it? [Y/n] "):
        raise PunaError(f"{model} was not fetched", hint=f"To fetch it later: puna pull {model}")


def is_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()
