"""The memory layout of weights, sizes and buffers, shared by Python and the kernels. Knows neither Numba nor LLVM.

Weights lie in groups of eight rows, interleaved, so that a vector's eight lanes are eight rows. A group of a quantised matrix
holds its numbers, then its scales; a K-quant's group is a row of superblocks, each of which holds numbers, then scales. A
superblock is 256 columns, a block 32, a quad 4 neighbouring ones.
  Q8_0  [block][quad 0..7][row 0..7][4 x int8]              then [block][8 x f16 scale]
  Q4_0  [block][quad 0..3][row 0..7][4 x byte]              then [block][8 x f16 scale]
        a byte holds column c of quad j in its low half, and c of quad j + 4 (16 columns on) in its high half
  Q4_1  as Q4_0, then [block][8 x f16 scale, 8 x f16 minimum]
  Q5_0  [block]([pair 0..3][row 0..7][4 x byte], [row 0..7][4 x byte]), then [block][8 x f16 scale]
        a byte of pair j holds quad 2j in its low half and quad 2j + 1 in its high half; bit j of the last bytes is quad j's fifth
  Q5_1  as Q5_0, then [block][8 x f16 scale, 8 x f16 minimum]
  Q4_K  [block 0..7] as Q4_0's, then [block 0..7][8 x u8 scale, 8 x u8 minimum], [8 x f16 d, 8 x f16 dmin]
  Q5_K  [block 0..7] as Q5_0's, then as Q4_K
  Q6_K  [run 0..15]([pair 0..1][row 0..7][4 x byte], [row 0..7][4 x byte]), then [run 0..15][8 x i8 scale], [8 x f16 d]
        a run is 16 columns; bits 2j and 2j + 1 of its last bytes are the upper two of quad j
  Q3_K  [block 0..7]([run 0..1][row 0..7][4 x byte], [row 0..7][4 x byte]), then as Q6_K
        bits 2j and 2j + 1 of a run's bytes are the lower two of its quad j; bit j of the last ones is the third of the block's
  Q2_K  [block 0..7][run 0..1][row 0..7][4 x byte], as Q3_K's, then [run 0..15][8 x byte], [8 x f16 d, 8 x f16 dmin]
        a byte holds the scale of a run in its low half, and its minimum in its high half
  IQ4_NL, IQ4_XS, MXFP4: numbers as Q4_0's, which stand for others (`formats/blocks.py`)
        then as Q4_0; [block 0..7][8 x i8 scale], [8 x f16 d]; [block][8 x u8 exponent of the scale]
  F32, F16, BF16  [column][row 0..7]
Rows are padded to 8 and columns to 32 with zeros. The matrices of a layer's experts follow each other, each padded. GGUF's block
layouts: `formats/blocks.py`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, get_type_hints

import numpy as np
import numpy.typing as npt

GROUP = 8  # rows
BLOCK = 32  # columns
SUPERBLOCK = 256  # columns
RECORD_BLOCK = BLOCK + 24  # bytes of a block of activations in a record (`kernels.py`)
ALIGNMENT = 64  # bytes: a cache line
PANEL_COLUMNS, FLOAT_PANEL_COLUMNS = 1024, 512  # that a panel holds (`multiply.py`): it stays in the caches nearest to a core
PANEL_TOKENS = 512  # that a panel serves
PANEL_BYTES = 1 << 18  # of a panel and its totals, at most

# Byte offsets in the threads' control block, each on a cache line of its own.
ARRIVED, GENERATION, POSTED, CLOSED = 0, 64, 128, 192
CONTROL_BYTES = 256

# A layer's matrices; it has those from GATE or those from ROUTER on.
LAYER_MATRICES = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    "router", "gate_experts", "up_experts", "down_experts",
)  # fmt: skip
SLOTS = len(LAYER_MATRICES)
Q, K, V, O, GATE, UP, DOWN, ROUTER, GATE_EXPERTS, UP_EXPERTS, DOWN_EXPERTS = range(SLOTS)  # noqa: E741
EMBED, LM_HEAD = 0, 1  # the matrices after the last layer's

KV_TYPES = ("f16", "f32", "int8")

SET, ADD = 0, 1  # how a product writes its output

TILE_ROWS = 96  # the most rows of a tile of attention; whole strips (`attention.py`)
SPAN = 128  # positions that attention sums before it adds them to the earlier ones; whole pages
EVEN = 8  # tiles per thread from which whole tiles share out evenly enough
PARTIAL_ROWS = 4  # rows of such a tile, for each span of which there is room for sums that wait to be added
MAX_PARTIALS = 1 << 16  # (row, span) sums that can wait
VALUE_MULTIPLE = 16  # the values' head_dim is padded to this: two vectors


@dataclass(frozen=True, slots=True)
class PackedType:
    """A packed type: `interleave_NAME`, `multiply_NAME` and `dequantize_row_NAME` are its kernels."""

    name: str
    block: int  # columns of a block in the file; 1: not quantised
    source_block: int  # bytes of a block in the file
    packed_block: int  # bytes of one row's block in a group

    @property
    def is_quantised(self) -> bool:
        return self.block > 1

    def group_bytes(self, columns: int) -> int:
        return columns // self.block * GROUP * self.packed_block


KINDS = {
    "F32": PackedType("f32", 1, 4, 4),
    "F16": PackedType("f16", 1, 2, 2),
    "BF16": PackedType("bf16", 1, 2, 2),
    "Q8_0": PackedType("q8_0", BLOCK, 34, 34),
    "Q4_0": PackedType("q4_0", BLOCK, 18, 18),
    "Q4_1": PackedType("q4_1", BLOCK, 20, 20),
    "Q5_0": PackedType("q5_0", BLOCK, 22, 22),
    "Q5_1": PackedType("q5_1", BLOCK, 24, 24),
    "Q4_K": PackedType("q4_k", SUPERBLOCK, 144, 148),  # six-bit scales and minimums become bytes
    "Q5_K": PackedType("q5_k", SUPERBLOCK, 176, 180),
    "Q6_K": PackedType("q6_k", SUPERBLOCK, 210, 210),
    "Q3_K": PackedType("q3_k", SUPERBLOCK, 110, 114),
    "Q2_K": PackedType("q2_k", SUPERBLOCK, 84, 84),
    "IQ4_NL": PackedType("iq4_nl", BLOCK, 18, 18),
    "IQ4_XS": PackedType("iq4_xs", SUPERBLOCK, 136, 138),
    "MXFP4": PackedType("mxfp4", BLOCK, 17, 17),
}

EXPONENT, EXPONENT_ONE = 0x7C00, 0x0400  # the bits of a scale's exponent, all set if it is infinite or NaN; the lowest of them
D_AT, DMIN_AT = 128, 144  # offsets of the half-precision scales among a superblock's scales


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A packed matrix, or one of each expert. `array` keeps the memory that `address` points to."""

    kind: PackedType
    rows: int
    columns: int  # padded
    address: int
    array: npt.NDArray[np.uint8]

    @property
    def bytes(self) -> int:
        """Of one expert's matrix."""
        return padded(self.rows, GROUP) // GROUP * self.kind.group_bytes(self.columns)


class MatrixRow(NamedTuple):
    """A row of `BufferAddresses.matrices`; all 0 where a layer does not have the matrix."""

    address: int
    columns: int
    is_quantised: int
    multiply: int  # the entry `multiply_*`
    bias: int  # address, or 0
    expert_bytes: int  # from one expert's matrix to the next


class InterleaveRow(NamedTuple):
    """A call of an entry `interleave_*`."""

    entry: int  # address
    source: int  # address of the first row in the file's form
    row_bytes: int
    blocks: int  # of a row
    groups: int
    target: int  # address of the first group


class AdapterRow(NamedTuple):
    """A row of `Memory.adapters`: what a LoRA adapter adds to a matrix, B A. All 0 where it adds nothing."""

    rank: int
    a: int  # float32 (rank, columns)
    a_stride: int
    b: int  # float32 (rank, rows): B's columns, padded to whole groups
    b_stride: int


class LayerRow(NamedTuple):
    """A row of `BufferAddresses.layers`: what a layer computes. A norm is the address of its weights; 0: the layer has none."""

    scale: float  # of the scores
    softcap: int  # of the scores: a float32's bits; 0: none
    window: int  # tokens that a position sees; 0: all
    q_table: int  # bytes from `BufferAddresses.cos_sin` to the rotary table of q
    k_table: int
    q_parts: int  # a row of q is normed in so many equal parts: 1, the number of heads, or 0 for no norm
    k_parts: int
    ffn_size: int
    ffn_stride: int
    glu: int  # the entry `glu_*`
    num_experts: int  # 0: the feed-forward part is dense
    top_k: int
    normalises: int
    attn_norm: int
    q_norm: int
    k_norm: int
    attn_post_norm: int
    ffn_norm: int
    ffn_post_norm: int
    q_smoothing: int  # float32 factors of rotated queries and keys (`smoothing.py`); 0: K and V are not int8
    k_smoothing: int


LAYER_VECTORS = ("attn_norm", "q_norm", "k_norm", "attn_post_norm", "ffn_norm", "ffn_post_norm", "q_smoothing", "k_smoothing")
MATRIX_BYTES, LAYER_BYTES, ADAPTER_BYTES, INTERLEAVE_BYTES = (
    8 * len(row._fields) for row in (MatrixRow, LayerRow, AdapterRow, InterleaveRow)
)


class StepSizes(NamedTuple):
    """Sizes of the model and the step; `num_*`, `*_size` count, `*_stride`, `*_bytes` are bytes."""

    norm_eps: float
    embedding_scale: float
    num_layers: int
    hidden_size: int
    vocab_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    logit_softcap: int  # a float32's bits; 0: none
    threads: int
    row_stride: int  # of x, normed and added
    qkv_stride: int
    k_offset: int  # of k in a qkv row
    v_offset: int
    attended_stride: int
    record_stride: int  # see `record_bytes`
    router_stride: int  # of Routing.logits
    pair_stride: int  # of Routing.rows
    logits_stride: int
    cos_sin_stride: int
    table_stride: int
    scratch_stride: int
    span: int  # positions
    sum_bytes: int  # of a row's sums, maximum and total
    num_partials: int
    head_bytes: int  # of a page: one layer and KV head
    whole_heads: int  # 1: K and V are written a head at a time, because each has a scale
    layer_bytes: int  # of a page: one layer
    page_bytes: int


class BufferAddresses(NamedTuple):
    """Addresses of buffers, tables and entries."""

    control: int
    job: int  # int64: num_tokens, num_sequences, num_logits, num_hidden, has_adapters
    token_ids: int  # int32 (tokens)
    positions: int  # int32 (tokens)
    starts: int  # int32 (sequences + 1)
    tables: int  # int32 (sequences, pages)
    logit_rows: int  # int32 (logits)
    hidden_rows: int  # int32 (hidden)
    row_adapters: int  # int32 (tokens): each token's LoRA adapter; -1: none
    cos_sin: int  # float32 (tables, tokens, 2, head_dim / 2)
    matrices: int  # MatrixRow (layers * SLOTS + 2)
    adapters: int  # AdapterRow (adapters, layers * SLOTS + 2)
    layers: int  # LayerRow (layers)
    final_norm: int
    x: int  # float32 (tokens, hidden): the residual stream
    normed: int  # float32 (tokens, hidden)
    added: int  # float32 (tokens, hidden): what is normed before it is added to x; at the end the hidden states
    records: int  # (tokens) quantised rows that the next product reads
    qkv: int  # float32 (tokens, q | k | v)
    attended: int  # float32 (tokens, heads * head_dim)
    gate: int  # float32 (tokens, ffn), or (pairs, ffn) of experts
    up: int  # the same
    logits: int  # float32 (logits, vocab)
    kv: int  # (pages, layers, kv heads): keys and values of page_size tokens
    scratch: int  # (threads) a panel of a product, or a tile of attention
    tiles: int  # TileBuffers (threads), in `scratch`
    partials: int  # (num_partials) sums of a row over a span
    dequantize_row: int  # the entries for this model's types (`compiled.py`): `dequantize_row_*`, of the embedding
    write_kv: int  # `write_kv_*`
    attend: int  # `attend_*`
    softcap: int  # 0 where no layer needs it
    experts: int
    routing: int  # Routing


class TileBuffers(NamedTuple):
    """Addresses of a thread's buffers for a tile of attention of up to TILE_ROWS rows. A panel is 16 columns."""

    positions: int  # int32 (rows)
    q: int  # float32 (rows, head_dim), times the scale of scores; rows are padded to whole vectors
    scores: int  # float32 (rows, span)
    keys: int  # float32 (panels of slots, head_dim, 16)
    values: int  # float32 (panels of head_dim, span, 16)
    scales: int  # float32 (2, span): of int8 keys and values
    sums: int  # (rows) sums of a row
    later: int  # (rows) sums of a row over a later span


class Routing(NamedTuple):
    """Addresses of the buffers of experts. A pair is a token and one of its experts. Pairs have rows in the
    order of their experts, then of their tokens."""

    logits: int  # float32 (tokens, experts): the router's
    chosen: int  # int32 (tokens, top_k): experts, the most probable first
    shares: int  # float32 (tokens, top_k): their weights
    pair_rows: int  # int32 (tokens, top_k): the pair's row
    tokens: int  # int32 (pairs): the row's token
    ends: int  # int32 (experts): the row after the expert's last one
    rows: int  # (pairs): what goes into the experts, as a float32 row and its record; then the float32 row that comes out


TILE_BYTES = 8 * len(TileBuffers._fields)


def bytes_of(row: NamedTuple) -> bytes:
    """The form in which kernels read a row: eight bytes a field, int64 or float64."""
    return struct.pack(_format(type(row)), *row)


@cache
def _format(kind: type) -> str:
    return "".join("d" if hint is float else "q" for hint in get_type_hints(kind).values())


def float_bits(value: float) -> int:
    """A float32 for an entry, which takes integers only.

    >>> float_bits(0.0), float_bits(1.0) == 0x3F800000
    (0, True)
    """
    return int(np.float32(value).view(np.uint32))


def padded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def padded_head_dim(head_dim: int) -> int:
    return padded(head_dim, VALUE_MULTIPLE)


def record_bytes(columns: int) -> int:
    """Bytes of a row of activations that a quantised product reads (`kernels.py`)."""
    return columns // BLOCK * RECORD_BLOCK


def sum_bytes(head_dim: int) -> int:
    """Bytes of the sums of a row of attention, float32: weighted values, the maximum, the total of weights; whole vectors."""
    return 4 * (padded_head_dim(head_dim) + GROUP)


def tile_bytes(head_dim: int, span: int) -> TileBuffers:
    """Bytes of each of the buffers of a tile."""
    sums = TILE_ROWS * sum_bytes(head_dim)
    numbers = TileBuffers(
        positions=TILE_ROWS,
        q=TILE_ROWS * padded(head_dim, GROUP),
        scores=TILE_ROWS * span,
        keys=span * head_dim,
        values=span * padded_head_dim(head_dim),
        scales=2 * span,
        sums=sums // 4,
        later=sums // 4,
    )
    return TileBuffers(*(padded(4 * count, ALIGNMENT) for count in numbers))


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
