"""A file's frequencies -> the RopeConfig that gives them: for formats that hold tables instead of names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.errors import ConfigError
from puna.model.rope import RopeConfig

# The scalings of Llama 3.1 and the small models of 3.2: puna recognises their tables, so that other formats can name them.
LLAMA3_SCALINGS = tuple(RopeConfig(scaling="llama3", factor=factor, original_context=8192) for factor in (8.0, 32.0))
NEAR = 4e-6  # relative: the precision of a float32 frequency
MAX_DIGITS = 6  # of a theta


def with_factors(rope: RopeConfig, factors: tuple[float, ...], head_dim: int) -> RopeConfig:
    """A plain `rope` with frequencies divided by `factors`: as a known scaling if they match one, else as a table."""
    plain = RopeConfig(theta=rope.theta).frequencies(head_dim)
    for known in LLAMA3_SCALINGS if rope.scaling == "none" else ():
        named = replace(known, theta=rope.theta)
        if np.allclose(plain / named.frequencies(head_dim), factors, rtol=NEAR, atol=0):
            return named
    return replace(rope, factors=factors)


def rope_of(frequencies: npt.NDArray[Any], head_dim: int) -> RopeConfig | None:
    """The rotary embedding with these frequencies (radians per position of each pair); None if there is none.

    The second pair, which no scaling of LLaMA's changes, gives the base: the roundest number that fits.
    """
    if len(frequencies) < 2 or not (np.isfinite(frequencies).all() and (frequencies > 0).all()) or frequencies[1] >= 1:
        return None
    theta = float(frequencies[1]) ** (-head_dim / 2)
    for digits in range(1, MAX_DIGITS + 1):
        try:
            rope = RopeConfig(theta=float(f"{theta:.{digits}g}"))
        except ConfigError:
            return None
        if abs(rope.frequencies(head_dim)[1] / frequencies[1] - 1) < NEAR:
            factors = rope.frequencies(head_dim) / frequencies
            return rope if np.allclose(factors, 1, rtol=NEAR, atol=0) else with_factors(rope, tuple(factors.tolist()), head_dim)
    return None
