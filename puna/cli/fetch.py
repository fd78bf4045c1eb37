"""Models that have a short name and are not here: a person at a terminal is asked, with the size, before they are fetched."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from puna.cli.terminal import tell
from puna.errors import PunaError

if TYPE_CHECKING:
    from puna.report import Reporter


def offer(model: str | None, report: Reporter) -> None:
    """Fetch a published model that is not here, if a person at a terminal agrees. Without a terminal, do nothing: loading then
    raises the error that names `puna pull`.

    Raises PunaError where the person does not agree, and what `hub.pull` raises.
    """
    from puna import hub

    if not is_terminal() or hub.absent_source(model) is None:
        return
    assert model is not None
    require_consent(model)
    hub.pull(model, report)


def require_consent(model: str) -> None:
    """Ask for a published model that is not here; for any other, ask nothing. PunaError where the answer is no."""
    from puna import hub

    source = hub.absent_source(model)
    if source is None:
        return
    tell(*hub.source_lines(source))
    if not click.confirm("Fetch it?", default=True, err=True):
        raise PunaError(f"{model} was not fetched", hint=f"To fetch it later: puna pull {model}")


def is_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()
