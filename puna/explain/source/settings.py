"""Keyword arguments of generation, explained by puna's own documentation of sampling."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from puna.explain.source.expressions import code
from puna.request import SamplingParams

# Names of other programs -> puna's name of the same setting.
OTHER_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("max_new_tokens", "max_completion_tokens", "max_gen_len", "num_predict", "n_predict"), "max_tokens"),
    **dict.fromkeys(("repeat_penalty", "penalty"), "repetition_penalty"),
    **dict.fromkeys(("min_new_tokens",), "min_tokens"),
    **dict.fromkeys(("num_return_sequences",), "n"),
    **dict.fromkeys(("random_seed",), "seed"),
    **dict.fromkeys(("top_logprobs",), "logprobs"),
    **dict.fromkeys(("repeat_last_n",), "penalty_last_n"),
    **dict.fromkeys(("typ_p",), "typical_p"),
    **dict.fromkeys(("stop_token_ids",), "stop_ids"),
    **dict.fromkeys(("stop_strings",), "stop"),
    **dict.fromkeys(("suppress_tokens",), "suppress_ids"),
    **dict.fromkeys(("begin_suppress_tokens",), "begin_suppress_ids"),
}
# Settings that puna does not have by any name -> what they do there.
FOREIGN: Mapping[str, str] = {
    "do_sample": "True draws each token at random; False takes the likeliest, and temperature, top_k and top_p do nothing",
    "max_length": "prompt and answer together have at most this many tokens",
    "min_length": "prompt and answer together have at least this many tokens",
    "num_beams": "keeps this many half-finished answers and goes on with the likeliest; 1 is off",
    "early_stopping": "with beams: whether to end as soon as enough answers are complete",
    "length_penalty": "with beams: above 0 favours longer answers",
    "no_repeat_ngram_size": "no run of this many tokens comes twice; 0 is off",
    "use_cache": "keeps K and V of the tokens before, so that each step computes one token only",
    "eos_token_id": "the id, or ids, at which an answer ends",
    "pad_token_id": "the id that fills up the shorter rows of a batch",
    "bos_token_id": "the id with which a text begins",
    "attention_mask": "1 where a position is a token, 0 where it is padding, which must not be seen",
    "output_scores": "returns the logits after all filters, too",
    "output_logits": "returns the model's own logits, too",
    "return_dict_in_generate": "returns an object with fields instead of the ids alone",
    "streamer": "gets each token as it is made",
    "epsilon_cutoff": "drops tokens less likely than this",
    "eta_cutoff": "drops tokens below a limit that depends on the entropy",
    "num_beam_groups": "with beams: so many groups, which are kept apart",
    "diversity_penalty": "with groups of beams: how much another group's token loses",
    "stopping_criteria": "functions that may end an answer",
    "logits_processor": "functions that change the logits before each choice",
}
# Calls whose keywords are settings, by the last part of their name; elsewhere two known names are needed.
TAKERS = frozenset({"generate", "GenerationConfig", "SamplingParams", "create", "create_completion", "create_chat_completion"})
_RANGE = re.compile(r"\. (-?[\d.*]+\.\.[^.]*|Up to \d+)$")  # what is allowed, at the end
_FIELD = re.compile(r"^ {8}(\w+): (.*?)(?: \[([^\[\]]*|\[.*\])\])?$", re.MULTILINE)


class SettingNote(NamedTuple):
    """A keyword argument: the name, its value's source, and what it does."""

    name: str
    value: str
    meaning: str


@cache
def _documented() -> dict[str, str]:
    """Each field of SamplingParams, and what its documentation says."""
    return {found[1]: found[2] for found in _FIELD.finditer(SamplingParams.__doc__ or "")}


def meaning_of(name: str) -> str | None:
    """What a setting does; None for a name that puna does not know.

    >>> meaning_of("temperature")
    '0 takes the most likely token (the lowest id on a tie); above 0 draws (0..100)'
    """
    if name in FOREIGN:
        return FOREIGN[name]
    told = _documented().get(OTHER_NAMES.get(name, name))
    return None if told is None else _RANGE.sub(r" (\1)", told)


def settings_of(node: ast.Call) -> list[SettingNote]:
    """The sampling settings among a call's keywords; none if the call seems to be about something else."""
    named = [(one.arg, one.value) for one in node.keywords if one.arg]
    found = [SettingNote(name, code(value, 60), told) for name, value in named if (told := meaning_of(name)) is not None]
    last = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
    sampling = [one for one in found if one.name not in ("n", "seed", "stop", "priority", "timeout", "regex", "choice")]
    return found if sampling and (last in TAKERS or len(sampling) > 1) else []
