"""From logits to token ids on the device: `edit` (biases, penalties), then `argmax` or `draw`, each row by itself.

They sample what `puna/sampling.py` samples. They find thresholds by bisection over the bits of a float, not by sorting: top-k and
top-p take 31 passes each over the row's logits, which stay in L2. Results may differ from the host's: the device's exp has an
error of about 1e-6 where numpy's has 1e-7, and masses are summed in float32 within a block. So a token differs if the drawn
number, or top-p, falls within about 1e-6 (of the whole probability) of the border between two tokens, or min-p as near to a
token's mass. Logit edits have the host's bits.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from puna.backends.torch.staging import upload
from puna.batch import LogitEdits, SamplingBatch

Array = npt.NDArray[Any]

BLOCK = 4096  # logits at a time: the largest size up to 8192 that stays in registers with 8 warps. Not measured yet
PIECE = 1024  # ids at a time. Not measured yet
FARTHEST = tl.constexpr(0x7F800000)  # the bits of infinity: the distance of -inf
SMALLEST = float(torch.finfo(torch.float32).tiny)  # least temperature, as on the host
LARGEST = tl.constexpr(float(torch.finfo(torch.float32).max))


@triton.jit
def best_of_row(row, vocab_size, BLOCK: tl.constexpr):
    """The largest logit, the first id that has it, and whether the row has no NaN and a finite maximum."""
    best = float("-inf")
    best_id = 0
    num_broken = 0
    for first in tl.range(0, vocab_size, BLOCK):
        ids = first + tl.arange(0, BLOCK)
        logits = tl.load(row + ids, mask=ids < vocab_size, other=float("-inf"))
        num_broken += tl.sum((logits != logits).to(tl.int32), axis=0)
        here = tl.max(logits, axis=0)
        here_id = tl.min(tl.where(logits == here, ids, 2147483647), axis=0)
        best_id = tl.where(here > best, here_id, best_id)
        best = tl.maximum(here, best)
    is_finite = (num_broken == 0) & (best > float("-inf")) & (best < float("inf"))
    return best, best_id, is_finite


@triton.jit
def argmax_kernel(out, finite, logits, vocab_size, stride, BLOCK: tl.constexpr):
    """Program (row)."""
    row = tl.program_id(0)
    _, best_id, is_finite = best_of_row(logits + row.to(tl.int64) * stride, vocab_size, BLOCK)
    tl.store(out + row, best_id.to(tl.int64))
    tl.store(finite + row, is_finite.to(tl.int8))


@triton.jit
def add_biases(row, ids, biases, first, end, PIECE: tl.constexpr):
    """Add biases in float64, clipped to float32's range; NaN stays."""
    for start in tl.range(first, end, PIECE):
        index = start + tl.arange(0, PIECE)
        inside = index < end
        at = row + tl.load(ids + index, mask=inside, other=0)
        biased = tl.load(at, mask=inside, other=0.0).to(tl.float64) + tl.load(biases + index, mask=inside, other=0.0)
        biased = tl.where(biased > LARGEST, LARGEST, tl.where(biased < -LARGEST, -LARGEST, biased))
        tl.store(at, biased.to(tl.float32), mask=inside)


@triton.jit
def penalised(logit, count, factor, once, each_time):
    """The penalised logit of an id that occurred, `count` times in the output. Rounded as numpy does, so never fused."""
    logit = tl.where(logit > 0, tl.math.div_rn(logit, factor), logit * factor)
    taken = tl.where(count > 0, once + each_time * count.to(tl.float64), 0.0).to(tl.float32)
    return logit - taken


@triton.jit
def penalise(row, ids, counts, first, end, last, factor, once, each_time, PIECE: tl.constexpr):
    """`last`: an id that occurred once more, among the others or not; -1: none."""
    num_last = tl.zeros((), tl.int32)
    for start in tl.range(first, end, PIECE):
        index = start + tl.arange(0, PIECE)
        inside = index < end
        token = tl.load(ids + index, mask=inside, other=0)
        is_last = (inside & (token == last)).to(tl.int32)
        count = tl.load(counts + index, mask=inside, other=0) + is_last
        logit = tl.load(row + token, mask=inside, other=0.0)
        tl.store(row + token, penalised(logit, count, factor, once, each_time), mask=inside)
        num_last += tl.sum(is_last, axis=0)
    is_new = (last >= 0) & (num_last == 0)
    logit = tl.load(row + last, mask=is_new, other=0.0)
    tl.store(row + last, penalised(logit, tl.full((), 1, tl.int32), factor, once, each_time), mask=is_new)


@triton.jit
def edit_kernel(
    sound, logits, last_ids, rows, sources, repetition, presence, frequency, starts, ids, counts, bias_starts, bias_ids, biases,
    vocab_size, stride, BLOCK: tl.constexpr, PIECE: tl.constexpr
):  # fmt: skip
    """Program (edit): edits the logits of its row in place, and stores whether they were finite before."""
    edit = tl.program_id(0)
    at = tl.load(rows + edit)
    row = logits + at.to(tl.int64) * stride
    _, _, is_finite = best_of_row(row, vocab_size, BLOCK)
    tl.store(sound + at, is_finite.to(tl.int8))
    tl.debug_barrier()  # the next call writes what other threads have read
    add_biases(row, bias_ids, biases, tl.load(bias_starts + edit), tl.load(bias_starts + edit + 1), PIECE)
    tl.debug_barrier()  # and this one reads what they have written
    source = tl.load(sources + edit)
    last = tl.load(last_ids + source, mask=source >= 0, other=-1)
    factor, once, each_time = tl.load(repetition + edit), tl.load(presence + edit), tl.load(frequency + edit)
    penalise(row, ids, counts, tl.load(starts + edit), tl.load(starts + edit + 1), last, factor, once, each_time, PIECE)


@triton.jit
def scale(row, vocab_size, largest, temperature, BLOCK: tl.constexpr):
    """Replace logits by (logit - largest) / temperature, which some dozen passes need."""
    for first in tl.range(0, vocab_size, BLOCK):
        ids = first + tl.arange(0, BLOCK)
        logits = tl.load(row + ids, mask=ids < vocab_size, other=0.0)
        tl.store(row + ids, tl.math.div_rn(logits - largest, temperature), mask=ids < vocab_size)
    tl.debug_barrier()  # the next lines read what other threads have written


@triton.jit
def load_scaled(row, first, vocab_size, BLOCK: tl.constexpr):
    """Scaled logits, and their distances below 0, the most likely, as the integers of their bits; infinity beyond the
    vocabulary.  # (BLOCK,) float32, (BLOCK,) int32"""
    ids = first + tl.arange(0, BLOCK)
    scaled = tl.load(row + ids, mask=ids < vocab_size, other=float("-inf"))
    return scaled, tl.abs(scaled).to(tl.int32, bitcast=True)


@triton.jit
def count_and_mass(row, vocab_size, bound, limit, num_equal, WITH_MASS: tl.constexpr, BLOCK: tl.constexpr):
    """How many tokens lie within `bound`, and their mass, among those that (`limit`, `num_equal`) keeps (see `keeps`).

    Masses are summed in float32 within a block: consumer GPUs have one float64 unit for 64 of float32.
    """
    count = tl.zeros((), tl.int32)
    mass = tl.zeros((), tl.float64)
    for first in tl.range(0, vocab_size, BLOCK):
        scaled, distances = load_scaled(row, first, vocab_size, BLOCK)
        within = (distances < limit) & (distances <= bound)
        count += tl.sum(within.to(tl.int32), axis=0)
        if WITH_MASS:
            mass += tl.sum(tl.where(within, tl.exp(scaled), 0.0), axis=0).to(tl.float64)
    equal = tl.where(bound >= limit, num_equal, 0)  # which of the equal ones they are makes no difference here
    of_each = tl.exp(-limit.to(tl.float32, bitcast=True)).to(tl.float64)
    return count + equal, mass + equal.to(tl.float64) * of_each


@triton.jit
def keeps(distances, limit, num_equal, seen_equal):
    """Whether a token is nearer than `limit`, or is one of the first `num_equal`, by id, at that distance. -inf never is."""
    equal = distances == limit
    rank = seen_equal + tl.cumsum(equal.to(tl.int32), axis=0) - 1
    return ((distances < limit) | (equal & (rank < num_equal))) & (distances < FARTHEST)


@triton.jit
def bisect(row, vocab_size, limit, num_equal, wanted, OF_MASS: tl.constexpr, BLOCK: tl.constexpr):
    """The least bound that holds `wanted` tokens, or `wanted` mass and at least one token."""
    low = -1
    high = limit
    for _ in tl.range(0, 31):
        middle = low + (high - low) // 2
        count, mass = count_and_mass(row, vocab_size, middle, limit, num_equal, OF_MASS, BLOCK)
        if OF_MASS:
            enough = (count >= 1) & (mass >= wanted)
        else:
            enough = count >= wanted
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle)
    return high


@triton.jit
def draw_kernel(
    out, finite, logits, uniforms, first_temperatures, last_temperatures, top_ks, top_ps, min_ps, vocab_size, stride,
    BLOCK: tl.constexpr
):  # fmt: skip
    """Program (row). Overwrites its logits. One of the two temperatures is 1: it divides before or after the other filters."""
    row = tl.program_id(0)
    source = logits + row.to(tl.int64) * stride
    largest, sampled, is_finite = best_of_row(source, vocab_size, BLOCK)
    temperature, top_k, top_p = tl.load(last_temperatures + row), tl.load(top_ks + row), tl.load(top_ps + row)
    limit = tl.full((), FARTHEST, tl.int32)
    num_equal = tl.full((), 0, tl.int32)
    scale(source, vocab_size, largest, tl.load(first_temperatures + row), BLOCK)
    if (top_k > 0) & (top_k < vocab_size):
        nearest = bisect(source, vocab_size, limit, num_equal, top_k, False, BLOCK)
        nearer, _ = count_and_mass(source, vocab_size, nearest - 1, limit, num_equal, False, BLOCK)
        limit = nearest
        num_equal = top_k - nearer
    if top_p < 1.0:
        _, whole = count_and_mass(source, vocab_size, limit, limit, num_equal, True, BLOCK)
        nearest = bisect(source, vocab_size, limit, num_equal, top_p * whole, True, BLOCK)
        nearer, mass = count_and_mass(source, vocab_size, nearest - 1, limit, num_equal, True, BLOCK)
        some, more = count_and_mass(source, vocab_size, nearest, limit, num_equal, True, BLOCK)
        per_token = tl.maximum((more - mass) / tl.maximum(some - nearer, 1).to(tl.float64), 1e-300)
        wanted = tl.minimum(tl.ceil((top_p * whole - mass) / per_token), (some - nearer).to(tl.float64))
        num_equal = tl.maximum(wanted, 1.0).to(tl.int32)
        limit = nearest
    least = tl.load(min_ps + row)  # 0: off; no mass is below it
    total = tl.zeros((), tl.float64)
    for sweep in tl.static_range(2):  # the first sums, the second stops at the drawn share of the sum
        share = tl.load(uniforms + row) * total
        running = tl.zeros((), tl.float64)
        seen_equal = tl.zeros((), tl.int32)
        found = 2147483647
        last = 0
        for first in tl.range(0, vocab_size, BLOCK):
            scaled, distances = load_scaled(source, first, vocab_size, BLOCK)
            kept = keeps(distances, limit, num_equal, seen_equal) & (tl.exp(scaled) >= least)
            seen_equal += tl.sum((distances == limit).to(tl.int32), axis=0)
            kept_masses = tl.where(kept, tl.exp(tl.math.div_rn(scaled, temperature)), 0.0)
            if sweep == 1:
                ids = first + tl.arange(0, BLOCK)
                beyond = tl.cumsum(kept_masses, axis=0) > (share - running).to(tl.float32)
                found = tl.minimum(found, tl.min(tl.where(kept & beyond, ids, 2147483647), axis=0))
                last = tl.maximum(last, tl.max(tl.where(kept, ids, 0), axis=0))
            running += tl.sum(kept_masses, axis=0).to(tl.float64)
        total = running
        if sweep == 1:
            sampled = tl.minimum(found, last)
    tl.store(out + row, sampled.to(tl.int64))
    tl.store(finite + row, is_finite.to(tl.int8))


# ---- launching ------------------------------------------------------------------------------------------------------


def _answers(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    return ids, torch.empty(len(logits), dtype=torch.int8, device=logits.device)


def argmax(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's most likely id, the lowest of equal ones; and whether `require_finite` accepts the row.

    (rows, vocab_size) -> (rows,) int64, (rows,) bool
    """
    ids, finite = _answers(logits)
    if len(logits):
        argmax_kernel[(len(logits),)](
            ids, finite, logits, logits.shape[1], logits.stride(0), BLOCK=BLOCK, num_warps=8, enable_fp_fusion=True
        )
    return ids, finite.bool()


def edit(
    logits: torch.Tensor,
    last_ids: torch.Tensor,
    rows: torch.Tensor,
    sources: torch.Tensor,
    repetition: torch.Tensor,
    presence: torch.Tensor,
    frequency: torch.Tensor,
    starts: torch.Tensor,
    ids: torch.Tensor,
    counts: torch.Tensor,
    bias_starts: torch.Tensor,
    bias_ids: torch.Tensor,
    biases: torch.Tensor,
) -> torch.Tensor:
    """Edit some rows in place (see `LogitEdits`); returns whether each row of logits was finite, or has no edits.

    logits (rows, vocab_size); repetition float32; presence, frequency and biases float64; the others int32 -> (rows,) bool
    """
    sound = torch.ones(len(logits), dtype=torch.int8, device=logits.device)
    edit_kernel[(len(rows),)](
        sound, logits, last_ids, rows, sources, repetition, presence, frequency, starts, ids, counts, bias_starts, bias_ids,
        biases, logits.shape[1], logits.stride(0), BLOCK=BLOCK, PIECE=PIECE, num_warps=8, enable_fp_fusion=False,
    )  # fmt: skip
    return sound.bool()


def draw(
    logits: torch.Tensor,
    uniforms: torch.Tensor,
    temperatures: torch.Tensor,
    temperature_first: torch.Tensor,
    top_ks: torch.Tensor,
    top_ps: torch.Tensor,
    min_ps: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's id at which the cumulative probability of the filtered tokens passes the row's `uniform`; and whether the
    row is finite. Temperature 0 takes the most likely id; top-k 0, top-p 1 and min-p 0 are off. Overwrites the logits.

    logits (rows, vocab_size) after bias and penalties; (rows,) each: uniforms float64, temperatures float32, temperature_first
    bool (before top-k, or after min-p), top_ks int32, top_ps float64, min_ps float32 -> (rows,) int64, (rows,) bool
    """
    ids, finite = _answers(logits)
    if len(logits):
        divisors, ones = temperatures.clamp_min(SMALLEST), torch.ones_like(temperatures)
        draw_kernel[(len(logits),)](
            ids, finite, logits, uniforms, torch.where(temperature_first, divisors, ones),
            torch.where(temperature_first, ones, divisors),
            torch.where(temperatures == 0, torch.ones_like(top_ks), top_ks), top_ps, min_ps, logits.shape[1], logits.stride(0),
            BLOCK=BLOCK, num_warps=8, enable_fp_fusion=True,
        )  # fmt: skip
    return ids, finite.bool()


def sample(logits: torch.Tensor, sampling: SamplingBatch, last_ids: torch.Tensor) -> torch.Tensor:
    """Sample each row's next id; -1 if the row is not finite. Rows with edits are edited in place.

    logits (rows, vocab_size), last_ids (those that the previous step sampled,) int32 -> (rows,) int32
    """
    draws = _draws(sampling) if sampling.temperature.any() else {}
    edits = _edits(sampling.edits) if sampling.edits is not None else {}
    there = upload(draws | edits, logits.device)
    sound = edit(logits, last_ids, **{name: there[name] for name in edits}) if edits else None
    ids, finite = draw(logits, **{name: there[name] for name in draws}) if draws else argmax(logits)
    return torch.where(finite if sound is None else finite & sound, ids, -1).to(torch.int32)


def _draws(sampling: SamplingBatch) -> dict[str, Array]:
    """The arguments of `draw`."""
    return {
        "uniforms": sampling.uniform,
        "temperatures": sampling.temperature.astype(np.float32),
        "temperature_first": sampling.temperature_first,
        "top_ks": sampling.top_k,
        "top_ps": sampling.top_p,
        "min_ps": sampling.min_p.astype(np.float32),
    }


def _edits(edits: LogitEdits) -> dict[str, Array]:
    """The arguments of `edit`."""
    given = {field.name: getattr(edits, field.name) for field in fields(edits)}
    return given | {"repetition": edits.repetition.astype(np.float32)}
