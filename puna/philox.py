"""Philox4x64-10, a counter-based generator: any number of a seed's stream is computed from its index alone.

Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3". The stream is that of `numpy.random.Philox(key=seed)`.
"""

from __future__ import annotations

from functools import lru_cache

ROUNDS = 10
MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
KEY_STEPS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B  # the golden ratio, and the square root of 3 less 1
WORD = (1 << 64) - 1


def uniform(seed: int, index: int) -> float:
    """The number in [0, 1) for output token `index` of a request: 53 bits that depend on `seed` and `index` only.

    It is `numpy.random.Generator(numpy.random.Philox(key=seed)).random(index + 1)[index]`.  # seed 0..2**64-1, index 0..2**62

    >>> [round(uniform(42, index), 6) for index in (0, 1, 2, 1)]
    [0.820198, 0.189246, 0.867661, 0.189246]
    """
    return (block(seed, (index >> 2) + 1)[index & 3] >> 11) * 2.0**-53


@lru_cache(maxsize=4096)  # four tokens share a block; as many requests may run
def block(seed: int, counter: int) -> tuple[int, int, int, int]:
    """Four random words of 64 bits, for a key (seed, 0) and a counter (counter, 0, 0, 0)."""
    a, b, c, d, left_key, right_key = counter, 0, 0, 0, seed, 0
    for _ in range(ROUNDS):
        left, right = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (right >> 64) ^ b ^ left_key, right & WORD, (left >> 64) ^ d ^ right_key, left & WORD
        left_key, right_key = (left_key + KEY_STEPS[0]) & WORD, (right_key + KEY_STEPS[1]) & WORD
    return a, b, c, d
