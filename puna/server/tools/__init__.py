"""Tool calls: how each family of models writes them, which grammar holds it to that, and how they are read back.

A format is chosen by what the chat template itself contains: it tells the model how to call, and writes earlier calls.
"""

from __future__ import annotations

from collections.abc import Mapping

from puna.server.refusals import Refusal
from puna.server.tools.base import ToolFormat
from puna.server.tools.hermes import HERMES

FORMATS: Mapping[str, ToolFormat] = {"<tool_call>": HERMES}  # a text that the template contains -> its format


def format_of(template: str | None) -> ToolFormat:
    """How the model of a chat template writes calls."""
    for sign, known in FORMATS.items():
        if template is not None and sign in template:
            return known
    raise Refusal(400, "tools are not supported for this model yet; leave tools out", field="tools", code="unsupported_parameter")
