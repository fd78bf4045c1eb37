"""Error texts and what they mean: `find` finds the known causes in a text or a log.

base       the contract: Cause, Explanation, Match
search     matches a text against the causes
reading    removes colours, frames and dates; keeps the useful lines of a huge log
lines      what a program says, and what stands around it: commands, tracebacks, reports
wording    wordings of programs -> regular expressions and shingles
names      packages, and names that they removed
ranges     versions of packages that are wanted, and that are there
clues      words that people use
table      all causes, in their order
memory ... vllm   the causes of one topic or program each, as literal tables

Knows texts only: no machine, no model, no device. `puna/machine/why.py` applies a cause to this machine.
"""

from __future__ import annotations

from puna.causes.base import Cause, Explanation, Match
from puna.causes.search import SURE, find
from puna.causes.table import CAUSES

__all__ = ["CAUSES", "SURE", "Cause", "Explanation", "Match", "find"]
