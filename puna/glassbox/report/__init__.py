"""A trace as one HTML file for people: the answer token by token, and how each came to be. It needs no network.

`puna trace --html FILE` writes it. The views (`*.js` but for `main.js`) take a trace as docs/trace.schema.json describes it.
"""

from __future__ import annotations

from puna.glassbox.report.bundle import page_of
from puna.glassbox.report.data import packed
from puna.glassbox.trace import Trace


def trace_page(trace: Trace) -> str:
    """The HTML file of a trace: less than 1 MB for 256 tokens with ten candidates at each stage."""
    return page_of(packed(trace))
