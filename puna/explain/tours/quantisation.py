"""The tour of quantisation: one real block of a weight, what rounding does to numbers, and what the file saves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod

import numpy as np
import numpy.typing as npt

from puna.explain.code import code_of
from puna.explain.live import LiveModel
from puna.explain.parts import Bar, Bars, Heights, TextTable, TourPart
from puna.explain.words import Words
from puna.formats.base import Tensor
from puna.formats.blocks import BLOCK_TYPES, ENCODERS, QUANTIZERS, BlockType
from puna.units import megabytes

EXAMPLE = ""
SHOWN = 8  # numbers of a block that a table shows
# Types whose numbers are scale * integer (+ minimum); those of the others have scales of scales.
SIMPLE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
MADE = "Q4_0"  # the type of the block that is made if the file has none
BITS = (7, 6, 5, 4, 3, 2)
ROWS = 64  # of a matrix whose errors are measured

Floats = npt.NDArray[np.float32]


def tour(live: LiveModel, say: Words, text: str) -> Iterator[TourPart]:
    tensor, kind, block = first_block(live)
    yield _block(say, tensor, kind, block)
    yield _numbers(say, kind, block)
    exact = finest(live)
    yield _rounding(say, exact)
    yield _errors(say, exact)
    yield _file(live, say)


def matrices(live: LiveModel) -> list[Tensor]:
    return [tensor for tensor in live.checkpoint.tensors.values() if len(tensor.shape) == 2]


def first_block(live: LiveModel) -> tuple[Tensor, BlockType, npt.NDArray[np.uint8]]:
    """The first block of the first quantised matrix of a layer; of a file without one, a block that is made now."""
    layers = [one for one in matrices(live) if one.name.startswith("layers.")] or matrices(live)
    tensor = next((one for one in layers if one.type.layout.names), layers[0])
    if tensor.type.layout.names:
        return tensor, tensor.type, tensor.blocks(0, 1)[0][: tensor.type.block_bytes]
    row = tensor.dequantize(0, 1)
    return tensor, BLOCK_TYPES[MADE], ENCODERS[MADE](row).reshape(-1)[: BLOCK_TYPES[MADE].block_bytes]


def finest(live: LiveModel) -> Tensor:
    """The matrix whose numbers the file holds with the most bits."""
    return max(matrices(live), key=lambda tensor: tensor.num_bytes / prod(tensor.shape))


def hexadecimal(data: bytes) -> str:
    return data.hex(" ").upper()


# ---- one block --------------------------------------------------------------------------------------------------------------


def _block(say: Words, tensor: Tensor, kind: BlockType, block: npt.NDArray[np.uint8]) -> TourPart:
    record = block.view(kind.layout)[0]
    rows = []
    for field in kind.layout.names or ():
        data = np.asarray(record[field])
        value = say.number(float(record[field]), ".6f") if data.ndim == 0 else say("block.packed", count=data.nbytes)
        rows.append((field, value, hexadecimal(data.tobytes())))
    facts = {
        "tensor": tensor.name,
        "rows": tensor.shape[0],
        "columns": tensor.shape[1],
        "type": kind.name,
        "numbers": kind.block_size,
        "bytes": kind.block_bytes,
        "bits": 8 * kind.block_bytes / kind.block_size,
        "plain": 4 * kind.block_size,
    }
    return TourPart.of(
        say("block.title"),
        say.prose("block.text" if tensor.type is kind else "block.made", **facts),
        TextTable(say.head("block.head"), tuple(rows)),
        say.prose("block.after", **facts),
    )


def _numbers(say: Words, kind: BlockType, block: npt.NDArray[np.uint8]) -> TourPart:
    values = kind.dequantize(block[None])[0]
    record, is_simple = block.view(kind.layout)[0], kind.name in SIMPLE
    scale, least = (
        (float(record["d"]), float(record["m"]) if "m" in (kind.layout.names or ()) else 0.0) if is_simple else (1.0, 0.0)
    )
    rows = [
        (str(place), str(round((value - least) / scale)) if is_simple and scale else "", say.number(value, ".6f"))
        for place, value in enumerate(values[:SHOWN].tolist())
    ]
    formula = "numbers.simple" if is_simple else "numbers.nested"
    return TourPart.of(
        say("numbers.title"),
        say.prose(formula, scale=scale, least=least),
        TextTable(say.head("numbers.head"), tuple(rows)),
        Heights(("",), (tuple(values[:64].tolist()),)),
        say.prose("numbers.after", numbers=min(64, len(values)), distinct=len(np.unique(values))),
        code_of(kind.decode),
    )


# ---- before and after -------------------------------------------------------------------------------------------------------


def packed(values: Floats, name: str) -> npt.NDArray[np.uint8]:
    """Rows of blocks of a type.  # (rows, columns) -> (rows, bytes)"""
    return np.ascontiguousarray(ENCODERS[name](values)).reshape(len(values), -1)


def requantised(values: Floats, name: str) -> Floats:
    """Numbers after a round trip through a type.  # (rows, columns) -> (rows, columns)"""
    return BLOCK_TYPES[name].dequantize(packed(values, name))


def _rounding(say: Words, tensor: Tensor) -> TourPart:
    before = tensor.dequantize(0, 1)[:, :32]
    after = requantised(before, MADE)
    scale = float(packed(before, MADE).reshape(-1).view(BLOCK_TYPES[MADE].layout)[0]["d"])
    rows = [
        (str(place), say.number(one, ".6f"), say.number(other, ".6f"), say.number(other - one, "+.6f"))
        for place, (one, other) in enumerate(zip(before[0, :SHOWN].tolist(), after[0, :SHOWN].tolist()))
    ]
    facts = {"tensor": tensor.name, "type": tensor.type.name, "made": MADE, "step": abs(scale)}
    return TourPart.of(
        say("rounding.title"),
        say.prose("rounding.text", **facts),
        TextTable(say.head("rounding.head"), tuple(rows)),
        Heights((say("rounding.before"), say("rounding.behind")), (tuple(before[0].tolist()), tuple(after[0].tolist()))),
        say.prose("rounding.after", largest=float(np.abs(after - before).max()), **facts),
        code_of(QUANTIZERS[MADE]),
    )


def rounded(values: Floats, bits: int) -> Floats:
    """Numbers with as many levels as `bits` have, by the rule of Q4_0: a scale for 32 of them, from the largest.

    >>> rounded(np.float32([[0.9, -1.0, 0.1, 0.0] * 8]), 2)[0, :4].tolist()
    [0.5, -1.0, 0.0, 0.0]
    """
    runs, half = values.reshape(-1, 32), 2 ** (bits - 1)
    largest = np.take_along_axis(runs, np.abs(runs).argmax(axis=1)[:, None], axis=1)
    scale = np.where(largest == 0, 1, largest / np.float32(-half))
    return np.asarray((np.clip(np.round(runs / scale), -half, half - 1) * scale).reshape(values.shape))


def error_of(before: Floats, after: Floats) -> float:
    """The root of the mean square of the errors, as a share of that of the numbers."""
    difference = (after - before).astype(np.float64)
    return float(np.sqrt(np.square(difference).mean() / np.square(before.astype(np.float64)).mean()))


def _errors(say: Words, tensor: Tensor) -> TourPart:
    values = tensor.dequantize(0, min(ROWS, tensor.shape[0]))
    finer = [name for name in QUANTIZERS if bits_of(name) < 8 * tensor.num_bytes / prod(tensor.shape)]
    fitting = [name for name in finer if tensor.shape[1] % BLOCK_TYPES[name].block_size == 0]
    by_bits = {bits: error_of(values, rounded(values, bits)) for bits in BITS}
    by_type = {name: error_of(values, requantised(values, name)) for name in sorted(fitting, key=bits_of, reverse=True)}
    most = max(*by_bits.values(), *by_type.values()) or 1.0
    more = next((bits for bits in BITS[2:-1] if by_bits[bits] > 0), BITS[-2])  # a file of 4 bits has no errors at 5
    bars = [Bar(say("errors.bits", bits=bits), error / most, say.number(error, ".1%")) for bits, error in by_bits.items()]
    bars += [
        Bar(say("errors.type", type=name, bits=bits_of(name)), error / most, say.number(error, ".1%"), is_marked=True)
        for name, error in by_type.items()
    ]
    return TourPart.of(
        say("errors.title"),
        say.prose("errors.text", rows=len(values), tensor=tensor.name),
        Bars(tuple(bars)),
        say.prose("errors.after", more=more, fewer=more - 1, ratio=by_bits[more - 1] / (by_bits[more] or 1.0)),
    )


def bits_of(name: str) -> float:
    """Bits of a weight of this type, with its share of the scales."""
    kind = BLOCK_TYPES[name]
    return 8 * kind.block_bytes / kind.block_size


# ---- the file ---------------------------------------------------------------------------------------------------------------


def _file(live: LiveModel, say: Words) -> TourPart:
    tensors = live.checkpoint.tensors.values()
    counts, sizes = Counter(one.type.name for one in tensors), Counter[str]()
    for one in tensors:
        sizes[one.type.name] += one.num_bytes
    rows = tuple((name, str(counts[name]), say.measured(megabytes(size, 1))) for name, size in sizes.most_common())
    weights, here = sum(prod(one.shape) for one in tensors), sum(sizes.values())
    sized = {say("file.here"): here, "F16": 2 * weights, "F32": 4 * weights}
    bars = tuple(
        Bar(name, size / max(sized.values()), say.measured(megabytes(size)), is_marked=size == here)
        for name, size in sized.items()
    )
    return TourPart.of(
        say("file.title"),
        say.prose("file.text"),
        TextTable(say.head("file.head"), rows),
        Bars(bars),
        say.prose("file.after", bits=8 * here / weights, share=here / (2 * weights)),
    )
