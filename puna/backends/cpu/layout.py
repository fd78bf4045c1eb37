"""The memory layout of weights, sizes and buffers, shared by Python and the kernels. Knows neither Numba nor LLVM.

Weights lie in groups of eight rows, interleaved, so that a vector's eight lanes are eight rows. A group of a quantised matrix
holds its numbers, then its scales; a K-quant's group is a row of superblocks, each of which holds numbers, then scales. A
superblock is 256 columns, a block 32, a quad 4 neighbouring ones.
  Q8_0  [block][quad 0..7][row 0..7][4 x int8]              then [block][8 x f16 scale]
  Q4_0  [block][quad 0..3][row 0..7][4 x byte]              then [block][8 x f16 scale]
        a byte holds column c of quad j in its low half, and c of quad j + 4 (16 columns on) in its high half
  Q4_1  as Q4_0, then [block][8 x f16 scale, 8 x f16 minimum]
  Q4_K  [block 0..7] as Q4_0's, then [block 0..7][8 x u8 scale, 8 x u8 minimum], [8 x f16 d, 8 x f16 dmin]
  Q5_K  [block 0..7]([pair 0..3][row 0..7][4 x byte], [row 0..7][4 x byte]), then as Q4_K
        a byte of pair j holds quad 2j in its low half and quad 2j + 1 in its high half; bit j of the last bytes is quad j's fifth
  Q6_K  [run 0..15]([pair 0..1][row 0..7][4 x byte], [row 0..7][4 x byte]), then [run 0..15][8 x i8 scale], [8 x f16 d]
        a run is 16 columns; bits 2j and 2j + 1 of its last bytes are the upper two of quad j
  F32, F16, BF16  [column][row 0..7]
Rows are padded to 8 and columns to 32 with zeros. GGUF's block layouts: `formats/blocks.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

GROUP = 8  # rows
BLOCK = 32  # columns
SUPERBLOCK = 256  # columns
ALIGNMENT = 64  # bytes: a cache line

# Byte offsets in the threads' control block, each on a cache line of its own.
ARRIVED, GENERATION, POSTED, CLOSED = 0, 64, 128, 192
CONTROL_BYTES = 256

Q, K, V, O, GATE, UP, DOWN = range(7)  # a layer's matrices  # noqa: E741
EMBED, LM_HEAD = 0, 1  # the matrices after the last layer's
ATTN_NORM, FFN_NORM, Q_NORM, K_NORM = range(4)  # a layer's norms; the final norm comes after the last layer's
SLOTS, NORMS = 7, 4
MATRIX_BYTES = 40  # of a matrix in `Memory.matrices`

SET, ADD = 0, 1  # how a product writes its output

TILE_ROWS = 4  # of attention
SPAN = 128  # positions that attention sums before it adds them to the earlier ones; whole pages
EVEN = 8  # tiles per thread from which whole tiles share out evenly enough
MAX_PARTIALS = 1 << 14  # (tile, span) sums that can wait to be added
VALUE_MULTIPLE = 16  # the values' head_dim is padded to this: two vectors


@dataclass(frozen=True, slots=True)
class Kind:
    """A packed type: `multiply_NAME` and `embed_NAME` are its kernels."""

    name: str
    code: int  # which `interleave_k_quants` switches on
    block: int  # columns of a block in the file; 1: not quantised
    source_block: int  # bytes of a block in the file
    packed_block: int  # bytes of one row's block in a group

    @property
    def is_quantised(self) -> bool:
        return self.block > 1

    @property
    def interleave(self) -> str:
        """The kernel that packs its rows."""
        if not self.is_quantised:
            return "interleave_floats"
        return "interleave_quants" if self.block == BLOCK else "interleave_k_quants"

    def group_bytes(self, columns: int) -> int:
        return columns // self.block * GROUP * self.packed_block


F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K = range(9)
KINDS = {
    "F32": Kind("f32", F32, 1, 4, 4),
    "F16": Kind("f16", F16, 1, 2, 2),
    "BF16": Kind("bf16", BF16, 1, 2, 2),
    "Q8_0": Kind("q8_0", Q8_0, BLOCK, 34, 34),
    "Q4_0": Kind("q4_0", Q4_0, BLOCK, 18, 18),
    "Q4_1": Kind("q4_1", Q4_1, BLOCK, 20, 20),
    "Q4_K": Kind("q4_k", Q4_K, SUPERBLOCK, 144, 148),  # six-bit scales and minimums become bytes
    "Q5_K": Kind("q5_k", Q5_K, SUPERBLOCK, 176, 180),
    "Q6_K": Kind("q6_k", Q6_K, SUPERBLOCK, 210, 210),
}
SOURCE_QUADS = {Q8_0: 8, Q4_0: 4, Q4_1: 4}  # 4-byte runs of numbers in a file's block, after its scales

# K-quants: bytes of a superblock in a group, bytes of its numbers (its scales follow them), and the offset of the half-precision
# scales among the scales.
Q4_K_BYTES, Q5_K_BYTES, Q6_K_BYTES = (KINDS[name].group_bytes(SUPERBLOCK) for name in ("Q4_K", "Q5_K", "Q6_K"))
Q4_K_NUMBERS, Q5_K_NUMBERS, Q6_K_NUMBERS = 8 * 128, 8 * 160, 16 * 96
D_AT, DMIN_AT = 128, 144


@dataclass(frozen=True, slots=True)
class Matrix:
    """A packed matrix. `array` keeps the memory that `address` points to."""

    kind: Kind
    rows: int
    columns: int  # padded
    address: int
    array: npt.NDArray[np.uint8]


class Sizes(NamedTuple):
    """Sizes of the model and the step; `num_*`, `*_size` count, `*_stride`, `*_bytes` are bytes."""

    norm_eps: float
    num_layers: int
    hidden_size: int
    ffn_size: int
    vocab_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    head_norms: int  # 1: each head of q and k is normed
    threads: int
    row_stride: int  # of x and normed
    qkv_stride: int
    k_offset: int  # of k in a qkv row
    v_offset: int
    attended_stride: int
    ffn_stride: int
    record_stride: int  # see `record_bytes`
    logits_stride: int
    turns_stride: int
    table_stride: int
    scratch_stride: int
    span: int  # positions
    tile_bytes: int  # of a tile's sums, maxima and totals
    num_partials: int
    head_bytes: int  # of a page: one layer and KV head
    layer_bytes: int  # of a page: one layer
    page_bytes: int


class Memory(NamedTuple):
    """Addresses of buffers, tables and entries."""

    control: int
    job: int  # int64: num_tokens, num_sequences, num_logits
    token_ids: int  # int32 (tokens)
    positions: int  # int32 (tokens)
    starts: int  # int32 (sequences + 1)
    tables: int  # int32 (sequences, pages)
    logit_rows: int  # int32 (logits)
    turns: int  # float32 (tokens, head_dim): cos and sin of each pair
    matrices: int  # int64 (layers * 7 + 2, 5): address, columns, 1 if quantised, `multiply_*`, address of the bias or 0
    norms: int  # int64 (layers * 4 + 1): address, or 0 where the model has none
    windows: int  # int64 (layers): tokens that a position sees, 0 for all
    x: int  # float32 (tokens, hidden): the residual stream
    normed: int  # float32 (tokens, hidden)
    records: int  # (tokens) quantised rows that the next product reads
    qkv: int  # float32 (tokens, q | k | v)
    attended: int  # float32 (tokens, heads * head_dim)
    gate: int  # float32 (tokens, ffn)
    up: int  # float32 (tokens, ffn)
    logits: int  # float32 (logits, vocab)
    kv: int  # (pages, layers, kv heads): keys and values of page_size tokens
    scratch: int  # (threads) attention's scores and two tiles' sums
    partials: int  # (num_partials) sums of a tile over a span
    embed: int  # the entries for this model's types (`compiled.py`): `embed_*`
    write_kv: int  # `write_kv_*`
    attend: int  # `attend_*`


def padded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def padded_head_dim(head_dim: int) -> int:
    return padded(head_dim, VALUE_MULTIPLE)


def record_bytes(columns: int) -> int:
    """Bytes of a row of activations that a quantised product reads (`kernels.py`)."""
    return columns + 16 * (columns // BLOCK)


def tile_bytes(head_dim: int) -> int:
    """Bytes of an attention tile: sums, running maxima and totals, float32."""
    return padded(4 * TILE_ROWS * (padded_head_dim(head_dim) + 2), ALIGNMENT)


def span_of(page_size: int) -> int:
    """SPAN in whole pages, at least one.

    >>> span_of(32), span_of(48), span_of(256)
    (128, 96, 256)
    """
    return max(1, SPAN // page_size) * page_size


def aligned_zeros(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed bytes that begin on a cache line. Pages that nobody touches cost no memory."""
    array = np.zeros(num_bytes + ALIGNMENT, np.uint8)
    return array[-array.ctypes.data % ALIGNMENT :][:num_bytes]
