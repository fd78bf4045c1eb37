"""Block layouts of quantised weights: the definition, in numpy, with which every kernel is compared.

A block is a C struct of ggml, written here as a numpy record; its function turns blocks into float32. All arithmetic is float32,
in the order of ggml's own dequantisation, so that the results agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.formats.k_quants import AffineFit, fit_affine_blocks, fit_signed_blocks

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Blocks = npt.NDArray[Any]  # (blocks,) of a type's record

SCALES = frozenset({"d", "m", "dmin"})  # fields of a block that multiply, or move, all its numbers; in half precision
EXPONENT = np.uint16(0x7C00)  # of half precision; all its bits are set in infinities and NaN


@dataclass(frozen=True, slots=True)
class BlockType:
    """How a run of weights is stored: `block_size` weights in `block_bytes` bytes."""

    name: str
    block_size: int
    layout: np.dtype[Any]
    decode: Callable[[Blocks], Floats]  # (blocks,) -> (blocks, block_size)

    @property
    def block_bytes(self) -> int:
        return self.layout.itemsize

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` weights; `columns` is a multiple of `block_size`."""
        return columns // self.block_size * self.block_bytes

    def bad_scale(self, rows: Bytes) -> tuple[int, str] | None:
        """(byte, field) of the first block whose scale is infinite or NaN, in rows of blocks; None if all are finite.

        Looks at the scales only, which costs a pass over the bytes.
        """
        blocks = np.ascontiguousarray(rows).reshape(-1).view(self.layout)
        for field in self.layout.names or ():
            if field in SCALES:
                is_bad = blocks[field].view(np.uint16) & EXPONENT == EXPONENT
                if is_bad.any():
                    return int(is_bad.argmax()) * self.block_bytes, field
        return None

    def dequantize(self, rows: Bytes, scales: Floats | None = None) -> Floats:
        """Bytes of rows to float32; the result may be a read-only view.  # (rows, bytes of a row) -> (rows, columns)

        `scales` are the separate ones: one per equal run of a row.  # (rows, runs)
        """
        columns = rows.shape[1] // self.block_bytes * self.block_size
        if not len(rows):
            return np.empty((0, columns), np.float32)
        blocks = np.ascontiguousarray(rows).reshape(-1).view(self.layout)
        with np.errstate(over="ignore", invalid="ignore"):  # a scale that is not finite shows in the logits, which are checked
            values = self.decode(blocks).reshape(len(rows), columns)
            return values if scales is None else _times_scales(values, scales)


def _times_scales(values: Floats, scales: Floats) -> Floats:
    runs = values.reshape(*scales.shape, values.shape[1] // scales.shape[1])
    return (runs * scales[..., None]).reshape(values.shape)


# ---- decoding -------------------------------------------------------------------------------------------------------


def _planes(packed: Bytes, bits: int, run: int) -> Bytes:
    """Numbers of `bits` bits. Each run of bytes holds its lowest bits first, one number per byte, then the next bits.

    >>> _planes(np.array([[0x21, 0x43]], np.uint8), 4, 2).tolist()
    [[1, 3, 2, 4]]
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    runs = packed.reshape(len(packed), -1, 1, run)
    return ((runs >> shifts) & np.uint8((1 << bits) - 1)).reshape(len(packed), -1)


def _scaled(scale: Floats, numbers: npt.NDArray[Any]) -> Floats:
    """Each scale times its run of numbers.  # (blocks, runs), (blocks, block_size) -> (blocks, runs, weights of a run)"""
    return scale[..., None] * numbers.astype(np.float32).reshape(*scale.shape, -1)


def _column(blocks: Blocks, field: str) -> Floats:
    """A half-precision field as float32.  # (blocks, 1)"""
    return np.asarray(blocks[field].astype(np.float32)[:, None])


def _f32(blocks: Blocks) -> Floats:
    return blocks


def _f16(blocks: Blocks) -> Floats:
    return blocks.astype(np.float32)


def _bf16(blocks: Blocks) -> Floats:
    return (blocks.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _q4_0(blocks: Blocks) -> Floats:
    return _scaled(_column(blocks, "d"), _planes(blocks["qs"], 4, 16).view(np.int8) - np.int8(8))


def _q4_1(blocks: Blocks) -> Floats:
    return _scaled(_column(blocks, "d"), _planes(blocks["qs"], 4, 16)) + _column(blocks, "m")[..., None]


def _five_bits(blocks: Blocks) -> Bytes:
    """Numbers of Q5_0 and Q5_1: four bits in `qs`, the fifth in `qh`, whose bit i belongs to weight i."""
    return _planes(blocks["qs"], 4, 16) | np.unpackbits(blocks["qh"], axis=1, bitorder="little") << np.uint8(4)


def _q5_0(blocks: Blocks) -> Floats:
    return _scaled(_column(blocks, "d"), _five_bits(blocks).view(np.int8) - np.int8(16))


def _q5_1(blocks: Blocks) -> Floats:
    return _scaled(_column(blocks, "d"), _five_bits(blocks)) + _column(blocks, "m")[..., None]


def _q8_0(blocks: Blocks) -> Floats:
    return _scaled(_column(blocks, "d"), blocks["qs"])


def _q2_k(blocks: Blocks) -> Floats:
    scales = _column(blocks, "d") * (blocks["scales"] & 15).astype(np.float32)
    mins = _column(blocks, "dmin") * (blocks["scales"] >> 4).astype(np.float32)
    return _scaled(scales, _planes(blocks["qs"], 2, 32)) - mins[..., None]


def _q3_k(blocks: Blocks) -> Floats:
    packed = blocks["scales"]
    six_bits = _planes(packed[:, :8], 4, 8) | _planes(packed[:, 8:], 2, 4) << np.uint8(4)
    scales = _column(blocks, "d") * (six_bits.view(np.int8) - np.int8(32)).astype(np.float32)
    offset = (_planes(blocks["hmask"], 1, 32) ^ np.uint8(1)) << np.uint8(2)  # a set bit means: subtract nothing
    return _scaled(scales, _planes(blocks["qs"], 2, 32).view(np.int8) - offset.view(np.int8))


def _scales_and_mins(blocks: Blocks) -> tuple[Floats, Floats]:
    """Q4_K and Q5_K: eight scales and eight mins of six bits in twelve bytes.  # (blocks, 8) each

    Bytes 0-3 and 4-7 hold the first four of each in their low six bits; their top two bits, above a nibble of bytes 8-11,
    make the other four.
    """
    first, second, nibbles = blocks["scales"][:, :4], blocks["scales"][:, 4:8], blocks["scales"][:, 8:]
    scales = np.concatenate([first & 63, nibbles & 15 | first >> 2 & 48], axis=1)
    mins = np.concatenate([second & 63, nibbles >> 4 | second >> 2 & 48], axis=1)
    return _column(blocks, "d") * scales.astype(np.float32), _column(blocks, "dmin") * mins.astype(np.float32)


def _q4_k(blocks: Blocks) -> Floats:
    scales, mins = _scales_and_mins(blocks)
    return _scaled(scales, _planes(blocks["qs"], 4, 32)) - mins[..., None]


def _q5_k(blocks: Blocks) -> Floats:
    scales, mins = _scales_and_mins(blocks)
    numbers = _planes(blocks["qs"], 4, 32) | _planes(blocks["qh"], 1, 32) << np.uint8(4)
    return _scaled(scales, numbers) - mins[..., None]


def _q6_k(blocks: Blocks) -> Floats:
    scales = _column(blocks, "d") * blocks["scales"].astype(np.float32)
    numbers = _planes(blocks["ql"], 4, 64) | _planes(blocks["qh"], 2, 32) << np.uint8(4)
    return _scaled(scales, numbers.view(np.int8) - np.int8(32))


IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


def _iq4_nl(blocks: Blocks) -> Floats:
    return _scaled(_column(blocks, "d"), IQ4_VALUES[_planes(blocks["qs"], 4, 16)])


def _iq4_xs(blocks: Blocks) -> Floats:
    six_bits = _planes(blocks["scales_l"], 4, 1) | _planes(blocks["scales_h"], 2, 1) << np.uint8(4)
    scales = _column(blocks, "d") * (six_bits.view(np.int8) - np.int8(32)).astype(np.float32)
    return _scaled(scales, IQ4_VALUES[_planes(blocks["qs"], 4, 16)])


MXFP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)  # twice those of 4-bit floats


def _mxfp4(blocks: Blocks) -> Floats:
    """Numbers of 1 sign, 2 exponent and 1 mantissa bits, times powers of two (OCP Microscaling Formats 1.0)."""
    scale = np.ldexp(np.float32(1), blocks["e"].astype(np.int32) - 128)  # half of what the exponent says
    return _scaled(scale[:, None], MXFP4_VALUES[_planes(blocks["qs"], 4, 16)])


def _int8(blocks: Blocks) -> Floats:
    return blocks.astype(np.float32)


def _record(**fields: str) -> np.dtype[Any]:
    return np.dtype(list(fields.items()))


BLOCK_TYPES: dict[str, BlockType] = {
    block.name: block
    for block in (
        BlockType("F32", 1, np.dtype("<f4"), _f32),
        BlockType("F16", 1, np.dtype("<f2"), _f16),
        BlockType("BF16", 1, np.dtype("<u2"), _bf16),
        BlockType("Q4_0", 32, _record(d="<f2", qs="16u1"), _q4_0),
        BlockType("Q4_1", 32, _record(d="<f2", m="<f2", qs="16u1"), _q4_1),
        BlockType("Q5_0", 32, _record(d="<f2", qh="4u1", qs="16u1"), _q5_0),
        BlockType("Q5_1", 32, _record(d="<f2", m="<f2", qh="4u1", qs="16u1"), _q5_1),
        BlockType("Q8_0", 32, _record(d="<f2", qs="32i1"), _q8_0),
        BlockType("Q2_K", 256, _record(scales="16u1", qs="64u1", d="<f2", dmin="<f2"), _q2_k),
        BlockType("Q3_K", 256, _record(hmask="32u1", qs="64u1", scales="12u1", d="<f2"), _q3_k),
        BlockType("Q4_K", 256, _record(d="<f2", dmin="<f2", scales="12u1", qs="128u1"), _q4_k),
        BlockType("Q5_K", 256, _record(d="<f2", dmin="<f2", scales="12u1", qh="32u1", qs="128u1"), _q5_k),
        BlockType("Q6_K", 256, _record(ql="128u1", qh="64u1", scales="16i1", d="<f2"), _q6_k),
        BlockType("IQ4_NL", 32, _record(d="<f2", qs="16u1"), _iq4_nl),
        BlockType("IQ4_XS", 256, _record(d="<f2", scales_h="2u1", scales_l="4u1", qs="128u1"), _iq4_xs),
        BlockType("MXFP4", 32, _record(e="u1", qs="16u1"), _mxfp4),
        BlockType("Q8_GROUP", 1, np.dtype("i1"), _int8),  # llama2.c v2: the scales, one per group, are separate (Tensor.scales)
    )
}

# The types that ggml has or had, by their number in a GGUF file.
GGML_TYPE_NAMES: dict[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    4: "Q4_2",
    5: "Q4_3",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    30: "BF16",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    34: "TQ1_0",
    35: "TQ2_0",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}
GGUF_READABLE = tuple(name for name in GGML_TYPE_NAMES.values() if name in BLOCK_TYPES)


# ---- encoding -------------------------------------------------------------------------------------------------------


def quantize_q8_0(values: Floats) -> Bytes:
    """Float32 rows to Q8_0: scale = largest magnitude / 127, halves away from zero.  # (rows, columns) -> (rows, bytes)"""
    runs = values.reshape(-1, 32)
    scale = np.abs(runs).max(axis=1) / np.float32(127)
    with np.errstate(invalid="ignore"):  # a NaN weight makes its whole block NaN, and the logits show it
        return _packed("Q8_0", values, d=scale, qs=_round_half_away(runs * _inverse(scale)).astype(np.int8))


def quantize_q4_0(values: Floats) -> Bytes:
    """Float32 rows to Q4_0: the number of largest magnitude becomes -8.  # (rows, columns) -> (rows, bytes)"""
    runs = values.reshape(-1, 32)
    scale = runs[np.arange(len(runs)), np.abs(runs).argmax(axis=1)] / np.float32(-8)
    numbers = np.minimum(runs * _inverse(scale) + np.float32(8.5), 15).astype(np.uint8)
    return _packed("Q4_0", values, d=scale, qs=_nibbles(numbers))


def quantize_q4_1(values: Floats) -> Bytes:
    """Float32 rows to Q4_1: the least number becomes 0, the largest 15.  # (rows, columns) -> (rows, bytes)"""
    runs = values.reshape(-1, 32)
    least = runs.min(axis=1)
    scale = (runs.max(axis=1) - least) / np.float32(15)
    numbers = np.minimum((runs - least[:, None]) * _inverse(scale) + np.float32(0.5), 15).astype(np.uint8)
    return _packed("Q4_1", values, d=scale, m=least, qs=_nibbles(numbers))


def quantize_q4_k(values: Floats) -> Bytes:
    """Float32 rows to Q4_K; scales by least squares (`k_quants.py`).  # (rows, columns) -> (rows, bytes)"""
    return _in_parts("Q4_K", values, _encode_q4_k)


def quantize_q5_k(values: Floats) -> Bytes:
    """Float32 rows to Q5_K; scales by least squares (`k_quants.py`).  # (rows, columns) -> (rows, bytes)"""
    return _in_parts("Q5_K", values, _encode_q5_k)


def quantize_q6_k(values: Floats) -> Bytes:
    """Float32 rows to Q6_K; scales by least squares (`k_quants.py`).  # (rows, columns) -> (rows, bytes)"""
    return _in_parts("Q6_K", values, _encode_q6_k)


QUANTIZERS: dict[str, Callable[[Floats], Bytes]] = {
    "Q8_0": quantize_q8_0,
    "Q4_0": quantize_q4_0,
    "Q4_1": quantize_q4_1,
    "Q4_K": quantize_q4_k,
    "Q5_K": quantize_q5_k,
    "Q6_K": quantize_q6_k,
}

# Every type in which weights can be written: float32 rows -> bytes of rows.
ENCODERS: dict[str, Callable[[Floats], Bytes]] = {
    "F32": lambda values: np.ascontiguousarray(values, np.float32).view(np.uint8),
    "F16": lambda values: _half(values).view(np.uint8),
    "BF16": lambda values: _rounded_bf16(values).view(np.uint8),
    **QUANTIZERS,
}


def _half(values: Floats) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):  # beyond 65504 it is infinite, which the logits show
        return values.astype(np.float16)


def _rounded_bf16(values: Floats) -> npt.NDArray[np.uint16]:
    """The nearest bf16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def _inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 where a float32 cannot hold it (such a scale is 0 in half precision).  # (blocks,) -> (blocks, 1)"""
    with np.errstate(divide="ignore", over="ignore"):
        inverse: Floats = np.float32(1) / scale
    inverse[np.isinf(inverse)] = 0
    return inverse.reshape(-1, 1)


BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))  # 0.5 itself would lift 0.49999997 to 1


def _round_half_away(values: Floats) -> Floats:
    """C's roundf.

    >>> _round_half_away(np.array([0.5, -1.5, 0.49999997], np.float32)).tolist()
    [1.0, -2.0, 0.0]
    """
    return np.trunc(values + np.copysign(BELOW_HALF, values))


def _nibbles(numbers: Bytes) -> Bytes:
    """The first sixteen numbers of a block in the low four bits, the others in the high.  # (blocks, 32) -> (blocks, 16)"""
    return numbers[:, :16] | numbers[:, 16:] << np.uint8(4)


BLOCKS_AT_ONCE = 512  # of 256 weights: 512 KB an array, which fits into L2; 10 % faster than 8192 of them


def _in_parts(name: str, values: Floats, encode: Callable[[Floats], dict[str, npt.NDArray[Any]]]) -> Bytes:
    """Rows as superblocks of a K-quant; a weight that is not finite makes its block so, and the logits show it."""
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, 256)
    found = np.empty(len(blocks), BLOCK_TYPES[name].layout)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for first in range(0, len(blocks), BLOCKS_AT_ONCE):
            part = slice(first, first + BLOCKS_AT_ONCE)
            for field, numbers in encode(blocks[part]).items():
                found[field][part] = numbers
    rows: Bytes = found.view(np.uint8).reshape(len(values), BLOCK_TYPES[name].row_bytes(values.shape[1]))
    return rows


def _encode_q4_k(blocks: Floats) -> dict[str, npt.NDArray[Any]]:
    fit = fit_affine_blocks(blocks, 15)
    return _affine_fields(fit) | {"qs": _into_planes(fit.numbers.astype(np.uint8), 4, 32)}


def _encode_q5_k(blocks: Floats) -> dict[str, npt.NDArray[Any]]:
    fit = fit_affine_blocks(blocks, 31)
    numbers = fit.numbers.astype(np.uint8)
    return _affine_fields(fit) | {
        "qs": _into_planes(numbers & np.uint8(15), 4, 32),
        "qh": _into_planes(numbers >> np.uint8(4), 1, 32),
    }


def _encode_q6_k(blocks: Floats) -> dict[str, npt.NDArray[Any]]:
    fit = fit_signed_blocks(blocks, 32)
    numbers = (fit.numbers + np.float32(32)).astype(np.uint8)
    low, high = _into_planes(numbers & np.uint8(15), 4, 64), _into_planes(numbers >> np.uint8(4), 2, 32)
    return {"ql": low, "qh": high, "scales": fit.scales.astype(np.int8), "d": fit.d}


def _affine_fields(fit: AffineFit) -> dict[str, npt.NDArray[Any]]:
    """The inverse of `_scales_and_mins`."""
    scales, mins = fit.scales.astype(np.uint8), fit.mins.astype(np.uint8)
    first = scales[:, :4] | (scales[:, 4:] & 48) << 2
    second = mins[:, :4] | (mins[:, 4:] & 48) << 2
    nibbles = scales[:, 4:] & 15 | (mins[:, 4:] & 15) << 4
    return {"d": fit.d, "dmin": fit.dmin, "scales": np.concatenate([first, second, nibbles], axis=1)}


def _into_planes(numbers: Bytes, bits: int, run: int) -> Bytes:
    """The inverse of `_planes`.

    >>> _into_planes(np.array([[1, 3, 2, 4]], np.uint8), 4, 2).tolist()
    [[33, 67]]
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    runs = numbers.reshape(len(numbers), -1, 8 // bits, run) << shifts
    packed: Bytes = np.bitwise_or.reduce(runs, axis=2).reshape(len(numbers), -1)
    return packed


def _packed(name: str, values: Floats, **fields: npt.NDArray[Any]) -> Bytes:
    block = BLOCK_TYPES[name]
    blocks = np.empty(values.size // block.block_size, block.layout)
    with np.errstate(over="ignore"):
        for field, numbers in fields.items():
            blocks[field] = numbers
    rows: Bytes = blocks.view(np.uint8).reshape(len(values), block.row_bytes(values.shape[1]))
    return rows
