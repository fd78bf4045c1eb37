"""What the kernels know of a model, as tables of numbers: a row for each layer, a row for each matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from puna.backends.cpu.buffers import ffn_stride, pairs_of_token
from puna.backends.cpu.compiled import load_entry
from puna.backends.cpu.layout import (
    BLOCK,
    GROUP,
    LAYER_MATRICES,
    LAYER_VECTORS,
    AdapterRow,
    LayerRow,
    MatrixRow,
    PackedMatrix,
    PackedType,
    float_bits,
    padded,
)
from puna.formats.base import Adapter
from puna.model.rotary import RotaryTables
from puna.model.spec import Experts, HeadNorm, ModelConfig

Floats = npt.NDArray[np.float32]
Vectors = Mapping[str, Floats]
PackedPart = tuple[Floats, Floats]  # A (rank, columns), B transposed (rank, rows)
PackedAdapter = Mapping[str, PackedPart]


def entries_of_layers(config: ModelConfig) -> set[str]:
    """The entries for what the layers compute, beside products and attention."""
    names = {f"glu_{layer.ffn.activation}" for layer in config.layers}
    if config.logit_softcap or any(layer.attention.softcap for layer in config.layers):
        names.add("softcap")
    if any(isinstance(layer.ffn, Experts) for layer in config.layers):
        names.add("experts")
    return names


def entries_of_step(config: ModelConfig, embedding: PackedType, kv_type: str) -> dict[str, int]:
    """Field of `BufferAddresses` -> address of the entry; 0 for what no layer needs."""
    names = {
        "dequantize_row": f"dequantize_row_{embedding.name}",
        "write_kv": f"write_kv_{kv_type}",
        "attend": f"attend_{kv_type}",
    }
    rare = {name: name if name in entries_of_layers(config) else "" for name in ("softcap", "experts")}
    return {field: load_entry(name).address if name else 0 for field, name in (names | rare).items()}


def layer_rows(config: ModelConfig, vectors: Vectors, rotary: RotaryTables, table_bytes: int) -> Iterator[LayerRow]:
    """`table_bytes`: of one of the rotary tables of a step."""
    parts: dict[HeadNorm, tuple[int, int]] = {"none": (0, 0), "head": (config.num_heads, config.num_kv_heads), "full": (1, 1)}
    usual_scale = np.float32(1) / np.sqrt(np.float32(config.head_dim))
    for number, layer in enumerate(config.layers):
        attention, ffn = layer.attention, layer.ffn
        q_parts, k_parts = parts[attention.qk_norm]
        yield LayerRow(
            scale=attention.scale or float(usual_scale),
            softcap=float_bits(attention.softcap),
            window=attention.window,
            q_table=rotary.of_q[number] * table_bytes,
            k_table=rotary.of_k[number] * table_bytes,
            q_parts=q_parts,
            k_parts=k_parts,
            ffn_size=ffn.size,
            ffn_stride=ffn_stride(layer),
            glu=load_entry(f"glu_{ffn.activation}").address,
            num_experts=ffn.count if isinstance(ffn, Experts) else 0,
            top_k=pairs_of_token(layer),
            normalises=int(isinstance(ffn, Experts) and ffn.normalises),
            **{name: _address(vectors, f"layers.{number}.{name}") for name in LAYER_VECTORS},
        )


def matrix_rows(config: ModelConfig, matrices: Mapping[str, PackedMatrix], vectors: Vectors) -> Iterator[MatrixRow]:
    """Of each layer, then the embedding and the output matrix, which may be the same."""
    for number in range(config.num_layers):
        for name in LAYER_MATRICES:
            bias = _address(vectors, f"layers.{number}.{name.removesuffix('_proj')}_bias")
            yield _matrix_row(matrices.get(f"layers.{number}.{name}"), bias)
    yield _matrix_row(matrices["embed"])
    yield _matrix_row(matrices.get("lm_head", matrices["embed"]))


def adapter_rows(config: ModelConfig, adapters: Sequence[PackedAdapter]) -> Iterator[AdapterRow]:
    """Of each adapter, in the order of `matrix_rows`."""
    for adapter in adapters:
        for number in range(config.num_layers):
            yield from (_adapter_row(adapter.get(f"layers.{number}.{name}")) for name in LAYER_MATRICES)
        yield from (AdapterRow(0, 0, 0, 0, 0), AdapterRow(0, 0, 0, 0, 0))  # the embedding and the output matrix


def _adapter_row(part: PackedPart | None) -> AdapterRow:
    if part is None:
        return AdapterRow(0, 0, 0, 0, 0)
    a, b = part
    return AdapterRow(len(a), a.ctypes.data, a.strides[0], b.ctypes.data, b.strides[0])


def packed_adapter(adapter: Adapter) -> PackedAdapter:
    """By matrix: A with its columns padded to whole blocks, and B's columns padded to whole groups."""
    return {name: (_padded(part.a, BLOCK), _padded(part.b.T, GROUP)) for name, part in adapter.parts.items()}


def _padded(rows: Floats, multiple: int) -> Floats:
    """The rows, padded with zeros; each begins 4 * padded columns after the one before."""
    wide = np.zeros((rows.shape[0], padded(rows.shape[1], multiple)), np.float32)
    wide[:, : rows.shape[1]] = rows
    return wide


def _matrix_row(matrix: PackedMatrix | None, bias: int = 0) -> MatrixRow:
    if matrix is None:
        return MatrixRow(0, 0, 0, 0, 0, 0)
    multiply = load_entry(f"multiply_{matrix.kind.name}").address
    return MatrixRow(matrix.address, matrix.columns, int(matrix.kind.is_quantised), multiply, bias, matrix.bytes)


def _address(vectors: Vectors, name: str) -> int:
    return int(vectors[name].ctypes.data) if name in vectors else 0
