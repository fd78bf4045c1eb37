"""Device functions that read weights of every kind (`weights.py` gives the layout): a tile of planes -> a tile of numbers.

Four- and six-bit weights come in two parts: the low halves of the blocks of 32, and the high halves. A byte holds one of each, so
a part is a plain operation on the loaded bytes, and no number changes its position; instead x is read in the part's order
(`part_columns`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from puna.backends.torch.weights import Matrix, Planes

# The planes in the order of the kernels' arguments; a kind that lacks one passes its first again, which is never read there.
PLANES = ("qs", "d", "m", "scales", "extra")
NAMES_OF = {"w": "qs", "dmin": "m", "mins": "extra", "qh": "extra"}


def plane_arguments(matrix: Matrix) -> Planes:
    """The planes, by name of the kernels' arguments."""
    named = {NAMES_OF.get(name, name): plane for name, plane in matrix.planes.items()}
    return {name: named.get(name, named["qs"]) for name in PLANES}


def width(matrix: Matrix) -> int:
    """Columns with the padding to whole blocks."""
    plane = next(plane for name, plane in matrix.planes.items() if name in ("w", "qs"))
    return int(plane.shape[1]) * num_parts(matrix.kind)


def num_parts(kind: str) -> int:
    """The number of parts of a tile of weights; each part has one number of each byte.

    >>> num_parts("Q8_0"), num_parts("Q6_K")
    (1, 2)
    """
    return 2 if kind in ("Q4_0", "Q4_1", "Q4_K", "Q6_K") else 1


@triton.jit
def part_columns(PART: tl.constexpr, PARTS: tl.constexpr, BLOCK_K: tl.constexpr):
    """The columns of a tile that a part holds, in the part's order.  # (BLOCK_K / PARTS,)"""
    j = tl.arange(0, BLOCK_K // PARTS)
    if PARTS == 1:
        columns = j
    else:
        columns = j // 16 * 32 + j % 16 + 16 * PART
    return columns


@triton.jit
def load_bytes(plane, rows, first, WIDTH: tl.constexpr, COUNT: tl.constexpr, EVEN: tl.constexpr):
    """Load `COUNT` numbers of some rows of a plane, from `first` on; zeros beyond its `WIDTH`.  # rows (BLOCK_N,) int64"""
    columns = first + tl.arange(0, COUNT)
    pointers = plane + rows[:, None] * WIDTH + columns[None, :]
    if EVEN:
        loaded = tl.load(pointers)
    else:
        loaded = tl.load(pointers, mask=(columns < WIDTH)[None, :], other=0)
    return loaded


@triton.jit
def load_scales(
    plane, rows, first, WIDTH: tl.constexpr, COLUMNS_EACH: tl.constexpr, STRIDE: tl.constexpr, SHIFT: tl.constexpr,
    COUNT: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Load `COUNT` scales: of columns first, first + STRIDE, ...; each serves `COLUMNS_EACH` columns.  # (BLOCK_N, COUNT) f32"""
    columns = first + SHIFT + STRIDE * tl.arange(0, COUNT)
    pointers = plane + rows[:, None] * (WIDTH // COLUMNS_EACH) + (columns // COLUMNS_EACH)[None, :]
    if EVEN:
        loaded = tl.load(pointers)
    else:
        loaded = tl.load(pointers, mask=(columns < WIDTH)[None, :], other=0)
    return loaded.to(tl.float32)


@triton.jit
def each(scales, BLOCK_N: tl.constexpr, COUNT: tl.constexpr, PER: tl.constexpr):
    """Repeat each scale for its numbers.  # (BLOCK_N, COUNT) -> (BLOCK_N, COUNT * PER)"""
    wide = tl.broadcast_to(scales[:, :, None], (BLOCK_N, COUNT, PER))
    return tl.reshape(wide, (BLOCK_N, COUNT * PER))


@triton.jit
def small_integer(bits, OFFSET: tl.constexpr):
    """Unsigned integers below 2**23, less `OFFSET`, as float32. It puts them into the mantissa of 2**23 and subtracts that: the
    conversion instruction runs at half the rate of these two, and four-bit weights would wait for it."""
    return (bits.to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True) - (8388608.0 + OFFSET)


@triton.jit
def nibbles(qs, PART: tl.constexpr):
    """The low or high four bits of each byte."""
    if PART == 0:
        numbers = qs & 15
    else:
        numbers = qs >> 4
    return numbers


@triton.jit
def load_numbers(
    loaded, d, m, scales, extra, rows, first,
    PART: tl.constexpr, KIND: tl.constexpr, WIDTH: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """A part of a tile as float32, by the same operations as `weights.dequantize`.  # -> (BLOCK_N, BLOCK_K / PARTS)

    `loaded` is the tile of the plane `qs` (BLOCK_N, BLOCK_K / PARTS), which all parts share.
    """
    BLOCKS: tl.constexpr = BLOCK_K // 32
    if KIND == "Q8_0":
        step = load_scales(d, rows, first, WIDTH, 32, 32, 0, BLOCKS, EVEN)
        numbers = each(step, BLOCK_N, BLOCKS, 32) * loaded.to(tl.float32)
    elif KIND == "Q4_0":
        step = load_scales(d, rows, first, WIDTH, 32, 32, 0, BLOCKS, EVEN)
        numbers = each(step, BLOCK_N, BLOCKS, 16) * small_integer(nibbles(loaded, PART), 8)
    elif KIND == "Q4_1":
        step = load_scales(d, rows, first, WIDTH, 32, 32, 0, BLOCKS, EVEN)
        least = load_scales(m, rows, first, WIDTH, 32, 32, 0, BLOCKS, EVEN)
        numbers = each(step, BLOCK_N, BLOCKS, 16) * small_integer(nibbles(loaded, PART), 0) + each(least, BLOCK_N, BLOCKS, 16)
    elif KIND == "Q4_K":
        step = load_scales(d, rows, first, WIDTH, 256, 32, 0, BLOCKS, EVEN)
        step = step * load_scales(scales, rows, first, WIDTH, 32, 32, 0, BLOCKS, EVEN)
        least = load_scales(m, rows, first, WIDTH, 256, 32, 0, BLOCKS, EVEN)
        least = least * load_scales(extra, rows, first, WIDTH, 32, 32, 0, BLOCKS, EVEN)
        numbers = each(step, BLOCK_N, BLOCKS, 16) * small_integer(nibbles(loaded, PART), 0) - each(least, BLOCK_N, BLOCKS, 16)
    elif KIND == "Q6_K":
        step = load_scales(d, rows, first, WIDTH, 256, 32, 0, BLOCKS, EVEN)
        step = step * load_scales(scales, rows, first, WIDTH, 16, 32, 16 * PART, BLOCKS, EVEN)
        high = load_high_bits(extra, rows, first, PART, WIDTH, BLOCK_K, EVEN)
        numbers = each(step, BLOCK_N, BLOCKS, 16) * small_integer(nibbles(loaded, PART) | high << 4, 32)
    else:
        numbers = loaded.to(tl.float32)
    return numbers


@triton.jit
def load_high_bits(
    qh, rows, first, PART: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr, EVEN: tl.constexpr
):  # fmt: skip
    """The upper two of Q6_K's bits: byte j of the eight of a block has those of weights j, j + 8, j + 16 and j + 24."""
    j = tl.arange(0, BLOCK_K // 2)
    columns = first // 4 + j // 16 * 8 + j % 8
    pointers = qh + rows[:, None] * (WIDTH // 4) + columns[None, :]
    if EVEN:
        loaded = tl.load(pointers)
    else:
        loaded = tl.load(pointers, mask=(columns < WIDTH // 4)[None, :], other=0)
    return loaded >> (j // 8 % 2 * 2 + 4 * PART).to(tl.uint8)[None, :] & 3
