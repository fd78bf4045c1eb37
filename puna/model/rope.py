"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864): which frequencies a model has.

Pairs are interleaved: (x[2i], x[2i+1]). `rotary.py` has the cos and sin of a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from puna.checks import require

RopeScaling = Literal["none", "linear", "llama3", "dynamic", "yarn", "longrope"]
BY_LENGTH = ("dynamic", "longrope")  # scalings whose frequencies depend on the length of the text


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """The frequencies of the pairs. `scaling` says what `factor` does:

      linear   divides all frequencies (Chen et al. 2023, arXiv 2306.15595)
      llama3   divides the slow ones, and blends between `low_freq_factor` and `high_freq_factor` turns in `original_context`
      yarn     the same, between `beta_slow` and `beta_fast` turns, by the pair's index; cos and sin are multiplied by
               `attention_factor` (Peng et al. 2023, arXiv 2309.00071)
      dynamic  raises the base with the length of the text beyond `original_context` ("dynamic NTK")
      longrope has `factors` for texts up to `original_context`, and `long_factors` for longer ones (arXiv 2402.13753); cos and
               sin are multiplied by `attention_factor`

    The length of a text is the prompt's; for a later position it is the position's own. Neither chunks nor batches change it.
    `factors` divide the frequencies one by one (Llama 3.1's `rope_freqs`). Only the first `dim` numbers of a head are rotated;
    0: all. q is multiplied by 1 + `q_beta` * log(1 + floor(position / original_context)) (Llama 4, Ministral 3).
    """

    theta: float = 10000.0
    scaling: RopeScaling = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    factors: tuple[float, ...] | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True  # yarn: the blend begins and ends at whole pairs
    attention_factor: float = 1.0
    long_factors: tuple[float, ...] | None = None
    dim: int = 0
    q_beta: float = 0.0

    def __post_init__(self) -> None:
        require(math.isfinite(self.theta) and 0 < self.theta < 1e12, "rope_theta", f"is {self.theta}; it must lie in (0, 1e12)")
        require(
            self.scaling in get_args(RopeScaling),
            "rope scaling",
            f"is {self.scaling!r}; puna knows {', '.join(get_args(RopeScaling))}",
        )
        for name in ("factor", "beta_fast", "beta_slow", "attention_factor", "original_context"):
            value = getattr(self, name)
            require(math.isfinite(value) and 0 < value < 1e9, f"rope {name}", f"is {value}; it must lie in (0, 1e9)")
        steps = ("low_freq_factor", "high_freq_factor")
        require(all(math.isfinite(getattr(self, name)) for name in steps), "rope low_freq_factor", "is not a finite number")
        flat = self.scaling == "yarn" and self.theta == 1
        require(not flat, "rope_theta", "is 1, with which yarn cannot tell fast pairs from slow ones")
        same = self.scaling == "llama3" and self.low_freq_factor == self.high_freq_factor
        require(not same, "rope low_freq_factor", f"and high_freq_factor are both {self.low_freq_factor}; they must differ")
        ok = all(math.isfinite(f) and f > 0 for f in (*(self.factors or ()), *(self.long_factors or ())))
        require(ok, "rope factors", "hold a number that is not finite and above 0")
        require(self.dim >= 0 and self.dim % 2 == 0, "rope dim", f"is {self.dim}; rotary pairs need an even number")
        require(math.isfinite(self.q_beta) and 0 <= self.q_beta < 100, "rope q_beta", f"is {self.q_beta}; it must lie in 0..100")

    def dim_of(self, head_dim: int) -> int:
        """Rotated numbers of a head."""
        return self.dim or head_dim

    def frequencies(self, head_dim: int, length: int = 0) -> npt.NDArray[np.float64]:
        """Radians per position of each pair of a head, in a text of `length` tokens; 0 for pairs that are not rotated.

        -> (head_dim / 2,), not to be changed
        """
        return _frequencies(self, head_dim, length if self.scaling in BY_LENGTH and length > self.original_context else 0)

    def prefix_key(self, prompt_length: int) -> int:
        """With frequencies that depend on the prompt's length, so does K: only prompts with equal keys share pages."""
        if self.scaling not in BY_LENGTH or prompt_length <= self.original_context:
            return 0
        return prompt_length if self.scaling == "dynamic" else 1

    def scaled(self, freqs: npt.NDArray[np.float64], dim: int) -> npt.NDArray[np.float64]:
        if self.scaling == "linear":
            return freqs / self.factor
        if self.scaling == "llama3":
            return self._llama3(freqs)
        if self.scaling == "yarn":
            return self._yarn(freqs, dim)
        return freqs

    def base(self, dim: int, length: int) -> float:
        """The base of the frequencies. `length`: of a text beyond the original context, else 0."""
        if self.scaling != "dynamic" or not length or dim == 2:
            return self.theta
        stretch = self.factor * length / self.original_context - (self.factor - 1)
        return float(self.theta * stretch ** (dim / (dim - 2)))

    def _yarn(self, freqs: npt.NDArray[np.float64], dim: int) -> npt.NDArray[np.float64]:
        """Keep pairs that turn more than `beta_fast` times in the original context; divide those below `beta_slow`."""

        def pair_of(turns: float) -> float:
            return dim * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

        first, last = pair_of(self.beta_fast), pair_of(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, dim - 1)
        ramp = (np.arange(len(freqs)) - first) / (last - first if last != first else 0.001)
        divided = np.clip(ramp, 0.0, 1.0)
        return np.asarray(freqs * (1 - divided) + freqs / self.factor * divided)

    def _llama3(self, freqs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Divide low frequencies by `factor`, keep high ones, blend linearly between them (Llama 3.1 model card)."""
        turns = self.original_context * freqs / (2 * math.pi)
        keep = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0.0, 1.0)
        return np.asarray(keep * freqs + (1 - keep) * freqs / self.factor)


@lru_cache(maxsize=64)
def _frequencies(rope: RopeConfig, head_dim: int, length: int) -> npt.NDArray[np.float64]:
    """`RopeConfig.frequencies`, made once. `length`: of a text beyond the original context, else 0."""
    dim = rope.dim_of(head_dim)
    require(dim <= head_dim, "rope dim", f"is {dim}, and a head has {head_dim} numbers")
    freqs = rope.scaled(rope.base(dim, length) ** (-np.arange(0, dim, 2, dtype=np.float64) / dim), dim)
    factors = rope.long_factors if length and rope.scaling == "longrope" else rope.factors
    if factors is not None:  # with a scaling, both apply, as in ggml
        require(len(factors) == len(freqs), "rope factors", f"are {len(factors)}; head_dim {dim} needs {len(freqs)}")
        freqs = freqs / np.asarray(factors)
    freqs = np.pad(freqs, (0, (head_dim - dim) // 2))
    freqs.setflags(write=False)
    return freqs


def yarn_attention_factor(factor: float, mscale: float | None = None, mscale_all_dim: float | None = None) -> float:
    """The factor of cos and sin if the model does not set one (arXiv 2309.00071, section 3.4).

    >>> round(yarn_attention_factor(4.0), 4)
    1.1386
    """

    def temperature(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    return temperature(mscale) / temperature(mscale_all_dim) if mscale and mscale_all_dim else temperature(1.0)
