"""The search for scales in the encoders of Q4_K, Q5_K and Q6_K: least squares over a few candidates, in numpy.

For fixed numbers, the best scale (and least value) and its error have closed forms. So a candidate costs one rounding and three
sums, and the best one wins. Then the scales of a block are rounded to steps of their common scale, and scales, steps and numbers
are fitted to each other in turn. Every weight has the same importance. (ggml's encoders use the same idea, not these candidates:
the bytes differ, the error is not larger.)

Weights are in columns, one per run that shares a scale: sums then go down whole rows, which numpy does fast. Each block is first
scaled to a largest magnitude of 1, so that squares neither overflow nor vanish.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# How much wider or narrower than the weights' span the candidate grid is, in steps of the grid. Twenty candidates
# instead of six reduce the error by 0.6 % (Q4_K, normal weights) and take twice the time.
AFFINE_STRETCHES = (-0.9, -0.5, -0.1, 0.3, 0.7, 1.1)
SIGNED_STRETCHES = (-1.2, -0.8, -0.4, 0.0, 0.4, 0.8)
ROUNDS = 3  # of fitting in turn: 0.5 % less error (normal weights) to 25 % (weights that were once Q4_1); a fourth gains nothing


class AffineFit(NamedTuple):
    """Blocks as d * scales * numbers - dmin * mins, all whole numbers but d and dmin, which are rounded to half precision."""

    d: Floats  # (blocks,)
    dmin: Floats  # (blocks,)
    scales: Floats  # (blocks, 8), 0..63
    mins: Floats  # (blocks, 8), 0..63
    numbers: Floats  # (blocks, 256), 0..top


class SignedFit(NamedTuple):
    """Blocks as d * scales * numbers, all whole numbers but d, which is rounded to half precision."""

    d: Floats  # (blocks,)
    scales: Floats  # (blocks, 16), -128..127
    numbers: Floats  # (blocks, 256), -top..top - 1


def fit_affine_blocks(blocks: Floats, top: int) -> AffineFit:
    """Runs of 32 weights, each with a scale and a min of six bits.  # (blocks, 256)"""
    magnitude, x = _unit_columns(blocks, 32)
    scale, least = fit_affine(x, top)
    d, dmin = _largest(scale, 8) / np.float32(63), _largest(-least, 8) / np.float32(63)
    scales, mins = _steps(scale, d, 0, 63), _steps(-least, dmin, 0, 63)
    numbers = _rounded(x + _each(dmin, mins) * mins, _each(d, scales) * scales, 0, top)
    for rounds_left in reversed(range(ROUNDS)):
        if not rounds_left:  # before the last fit, round the steps, which half precision changes much below 2**-14
            d, dmin = _representable(d, magnitude), _representable(dmin, magnitude)
        offset = _each(dmin, mins) * mins
        scales = _steps(_ratio(_dots(numbers, x + offset), _dots(numbers, numbers)), d, 0, 63)
        mins = _steps(_each(d, scales) * scales * numbers.mean(axis=0) - x.mean(axis=0), dmin, 0, 63)
        if rounds_left:
            d, dmin = _fit_steps(x, numbers, scales, mins, d, dmin)
        numbers = _rounded(x + _each(dmin, mins) * mins, _each(d, scales) * scales, 0, top)
    return AffineFit(d * magnitude, dmin * magnitude, scales.reshape(-1, 8), mins.reshape(-1, 8), _as_blocks(numbers))


def fit_signed_blocks(blocks: Floats, top: int) -> SignedFit:
    """Runs of 16 weights, each with a scale of eight bits.  # (blocks, 256)"""
    magnitude, x = _unit_columns(blocks, 16)
    scale = fit_signed(x, top)
    by_block = scale.reshape(-1, 16)
    d = by_block[np.arange(len(by_block)), np.abs(by_block).argmax(axis=1)] / np.float32(-128)
    scales = _steps(scale, d, -128, 127)
    numbers = _rounded(x, _each(d, scales) * scales, -top, top - 1)
    for rounds_left in reversed(range(ROUNDS)):
        squares, products = _dots(numbers, numbers), _dots(numbers, x)
        if not rounds_left:
            d = _representable(d, magnitude)
        scales = _steps(_ratio(products, squares), d, -128, 127)
        if rounds_left:
            d = _ratio(_per_block(scales * products, 16), _per_block(scales * scales * squares, 16))
        numbers = _rounded(x, _each(d, scales) * scales, -top, top - 1)
    return SignedFit(d * magnitude, scales.reshape(-1, 16), _as_blocks(numbers))


def fit_affine(x: Floats, top: int) -> tuple[Floats, Floats]:
    """Scales, and least values (never above 0), so that scale * (0..top) + least is near `x`.

    # (weights, runs) -> (runs,), (runs,)
    """
    count, total = np.float32(len(x)), x.sum(axis=0)
    low = np.minimum(x.min(axis=0), 0)
    span = x.max(axis=0) - low
    scales, leasts, gains = [], [], []
    for stretch in AFFINE_STRETCHES:
        numbers = _rounded(x - low, span / np.float32(top + stretch), 0, top)
        sums, squares, products = numbers.sum(axis=0), _dots(numbers, numbers), _dots(numbers, x)
        scale = _ratio(count * products - sums * total, count * squares - sums * sums)
        least = (total - scale * sums) / count
        above = least > 0
        scales.append(np.where(above, _ratio(products, squares), scale))
        leasts.append(np.where(above, np.float32(0), least))
        gains.append(scales[-1] * products + leasts[-1] * total)  # how much the sum of squared errors falls
    best = np.argmax(gains, axis=0)
    return np.choose(best, scales), np.choose(best, leasts)


def fit_signed(x: Floats, top: int) -> Floats:
    """Scales so that scale * (-top..top - 1) is near `x`; the weight of largest magnitude gets the sign of -top.

    # (weights, runs) -> (runs,)
    """
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0]
    scales, gains = [], []
    for stretch in SIGNED_STRETCHES:
        numbers = _rounded(x, largest / np.float32(-top - stretch), -top, top - 1)
        products = _dots(numbers, x)
        scales.append(_ratio(products, _dots(numbers, numbers)))
        gains.append(scales[-1] * products)
    best: Floats = np.choose(np.argmax(gains, axis=0), scales)
    return best


def _fit_steps(x: Floats, numbers: Floats, scales: Floats, mins: Floats, d: Floats, dmin: Floats) -> tuple[Floats, Floats]:
    """The best d and dmin of each block, all else fixed; the old ones if the two cannot be separated."""
    squares = _per_block(scales * scales * _dots(numbers, numbers), 8)
    mixed = _per_block(scales * mins * numbers.sum(axis=0), 8)
    min_squares = _per_block(mins * mins * np.float32(len(x)), 8)
    products, min_products = _per_block(scales * _dots(numbers, x), 8), _per_block(mins * x.sum(axis=0), 8)
    determinant = squares * min_squares - mixed * mixed
    new_d = _ratio(products * min_squares - mixed * min_products, determinant)
    new_dmin = _ratio(mixed * products - squares * min_products, determinant)
    sound = (determinant > np.float32(1e-4) * squares * min_squares) & (new_d > 0) & (new_dmin > 0)
    return np.where(sound, new_d, d), np.where(sound, new_dmin, dmin)


def _unit_columns(blocks: Floats, run: int) -> tuple[Floats, Floats]:
    """The largest magnitude of each block, and the blocks divided by it.  # (blocks, 256) -> (blocks,), (run, runs)"""
    magnitude = np.abs(blocks).max(axis=1)
    unit = np.divide(blocks, magnitude[:, None], out=np.zeros_like(blocks), where=magnitude[:, None] != 0)
    return magnitude, np.ascontiguousarray(unit.reshape(-1, run).T)


def _as_blocks(columns: Floats) -> Floats:
    return np.ascontiguousarray(columns.T).reshape(-1, 256)


def _steps(values: Floats, d: Floats, low: int, high: int) -> Floats:
    """The values of runs in whole steps of their block's `d`.  # (runs,), (blocks,) -> (runs,)"""
    return np.clip(np.rint(_ratio(values, _each(d, values))), low, high)


def _rounded(values: Floats, step: Floats, low: int, high: int) -> Floats:
    """The numbers whose steps are nearest to the values; 0 where there is no step.  # (weights, runs), (runs,)"""
    numbers = values * _ratio(np.ones_like(step), step)
    np.rint(numbers, out=numbers)
    return np.clip(numbers, low, high, out=numbers)


def _representable(d: Floats, magnitude: Floats) -> Floats:
    """d rounded to half precision.  # (blocks,)"""
    return _ratio((d * magnitude).astype(np.float16).astype(np.float32), magnitude)


def _each(d: Floats, runs: Floats) -> Floats:
    """Repeat a number per block for each of its runs."""
    return np.repeat(d, len(runs) // len(d)) if len(d) else d


def _per_block(runs: Floats, count: int) -> Floats:
    sums: Floats = runs.reshape(-1, count).sum(axis=1)
    return sums


def _largest(runs: Floats, count: int) -> Floats:
    largest: Floats = runs.reshape(-1, count).max(axis=1)
    return largest


def _dots(left: Floats, right: Floats) -> Floats:
    """Dot products of columns.  # (weights, runs), (weights, runs) -> (runs,)"""
    dots: Floats = np.einsum("ij,ij->j", left, right)
    return dots


def _ratio(above: Floats, below: Floats) -> Floats:
    """above / below, and 0 where below is 0."""
    return np.divide(above, below, out=np.zeros_like(below), where=below != 0)
