"""The headings of the stepper's columns: what each stage is called, what it does, how many tokens it leaves and how open the
choice among them is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from puna.glassbox.greedy import GREEDY

if TYPE_CHECKING:
    from puna.glassbox.trace import Stage

# What a stage does, in a few cells. Any other one "filters".
VERBS: Mapping[str, str] = {
    "model": "proposes", "constraint": "keeps the form", GREEDY: "keeps the first",
    "penalties": "lowers repeats", "dry": "lowers repeats", "logit_bias": "adds biases", "bad_words": "forbids words",
    "banned_strings": "forbids texts", "top_n_sigma": "cuts the tail", "top_k": "cuts the tail", "top_p": "cuts the tail",
    "min_p": "cuts the tail", "typical_p": "cuts untypical", "xtc": "cuts the top", "dynamic_temperature": "adapts shares",
    "mirostat": "holds surprise", "adaptive_p": "holds shares",
}  # fmt: skip
VERBS_FROM, ENTROPY_FROM = 11, 14  # lines of a table that has room for these


def headings(stages: Sequence[Stage], temperature: float, height: int) -> list[tuple[str, list[str]]]:
    """The lines of the head for a table of `height` lines: a label, and what stands above each column."""
    lines = [
        (0, "", [stage.name if number == 0 else f"→ {stage.name}" for number, stage in enumerate(stages)]),
        (VERBS_FROM, "", [_verb(stage.name, temperature) for stage in stages]),
        (0, "tokens left", [str(stage.num_candidates) for stage in stages]),
        (ENTROPY_FROM, "entropy, bits", [f"{stage.entropy_bits:.1f}" for stage in stages]),
    ]
    return [(label, cells) for least, label, cells in lines if height >= least]


def _verb(name: str, temperature: float) -> str:
    if name == "temperature":
        return "sharpens" if temperature < 1 else "flattens" if temperature > 1 else "changes nothing"
    return VERBS.get(name, "filters")
