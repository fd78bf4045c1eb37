"""A setting for each filter, and for several together."""

from __future__ import annotations

from typing import Any

DRAWN = {"temperature": 0.9, "seed": 7}
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "logit_bias": {"logit_bias": {101: 4.0, 102: -9.0}, "suppress_ids": [103], **DRAWN},
    "bad_words": {"bad_words_ids": [[101], [110, 111]], **DRAWN},
    "banned_strings": {"banned_strings": ["a", "bc"], **DRAWN},
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.2, "frequency_penalty": 0.1, **DRAWN},
    "dry": {"dry_multiplier": 2.0, "dry_allowed_length": 1, **DRAWN},
    "top_n_sigma": {"top_n_sigma": 1.5, **DRAWN},
    "top_k": {"top_k": 9, **DRAWN},
    "typical_p": {"typical_p": 0.6, **DRAWN},
    "top_p": {"top_p": 0.7, **DRAWN},
    "min_p": {"min_p": 0.1, **DRAWN},
    "xtc": {"xtc_probability": 0.5, "xtc_threshold": 0.02, **DRAWN},
    "temperature": {"temperature": 1.7, "seed": 9},
    "dynamic_temperature": {"temperature": 1.0, "dynatemp_range": 0.5, "seed": 5},
    "mirostat": {"mirostat": 2, "mirostat_tau": 3.0, **DRAWN},
    "adaptive_p": {"adaptive_target": 0.3, **DRAWN},
    "several": {"top_k": 60, "top_p": 0.8, "min_p": 0.02, "repetition_penalty": 1.1, "temperature": 1.2, "seed": 3},
}
