"""Tool calls: how each family of models writes them, which grammar holds it to that, and how they are read back."""

from __future__ import annotations

from puna.server.refusals import Refusal
from puna.server.tools.base import ToolFormat


def format_of(template: str | None) -> ToolFormat:
    """How the model of a chat template writes calls."""
    raise Refusal(400, "tools are not supported yet; leave tools out", field="tools", code="unsupported_parameter")
