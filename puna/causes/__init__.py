"""Error texts and what they mean: `find` says which of the known causes a text or a log tells of.

base       the contract: Cause, Explanation, Match
search     how a text is held against the causes
reading    a text without colours, frames and dates; of a huge log what tells something
wording    wordings of programs -> regular expressions and shingles
names      packages, and names that they gave up
ranges     versions of packages that are wanted, and that are there
clues      words of people
table      all causes, in their order
memory ... server   the causes of one topic each, as literal tables

Knows texts only: no machine, no model, no device. `puna/machine/why.py` puts the light of this machine on it.
"""

from __future__ import annotations

from puna.causes.base import Cause, Explanation, Match
from puna.causes.search import SURE, find
from puna.causes.table import CAUSES

__all__ = ["CAUSES", "SURE", "Cause", "Explanation", "Match", "find"]
