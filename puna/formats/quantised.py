"""Quantised Hugging Face folders: GPTQ, AWQ and compressed-tensors -> our block types, unpacked on demand.

A 4-bit symmetric group of 32 n columns is n blocks of Q4_0, an asymmetric one of Q4_1, an 8-bit symmetric one of Q8_0: the same
numbers in another packing. Weights without such a form (reordered columns, odd groups) become F16, the product rounded once. The
layouts are those of AutoGPTQ, AutoAWQ and compressed-tensors (packed words, and int8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from puna.errors import ModelFormatError, UnsupportedModelError
from puna.formats.arrays import FileArray, PackedTensor
from puna.formats.blocks import BLOCK_TYPES
from puna.formats.json_file import JsonObject
from puna.formats.mapped import shown
from puna.formats.notices import ConversionLoss
from puna.formats.quantised_config import COLUMNS_SHUFFLED, COMPRESSED_FORMATS, refuse_what_changes_results
from puna.formats.rows import Bytes, ComputedRows
from puna.formats.unsupported import refuse_quantisation

BLOCK = 32  # columns
SMALLEST_NORMAL, LARGEST = 2.0**-14, 65504.0  # of half precision, the type of a block's scale
SCALE_ROWS = 4096  # checked at a time
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of a word is the output with this number
Numbers = npt.NDArray[Any]
Weights = Mapping[str, FileArray | PackedTensor]


@dataclass(frozen=True, slots=True)
class Grid:
    """A quantised matrix, whatever its packing. The weight of row r and column c is scale[r, g] * (number[r, c] - zero[r, g])."""

    name: str  # of the weight that it replaces
    stored: FileArray  # holds the numbers; errors name it
    rows: int
    columns: int
    bits: int
    numbers: Callable[[int, int], Numbers]  # (first, last) -> (last - first, columns), from 0 up
    scales: Callable[[int, int], Numbers]  # -> (last - first, groups)
    zeros: Callable[[int, int], Numbers]  # -> (last - first, groups)
    groups: Numbers | None  # (columns,) each column's group; None: in order
    num_groups: int
    is_symmetric: bool  # every zero is half the range
    fits: Callable[[int], bool]  # (times) -> half precision holds every scale, and `times` that, with all digits


class Method(NamedTuple):
    """A row of the table."""

    suffixes: tuple[str, ...]  # of the tensor that holds a module's numbers
    read: Callable[[JsonObject, str, FileArray, Mapping[str, FileArray]], Grid]
    parts: tuple[str, ...]  # further tensors of a module
    check: Callable[[JsonObject], None]


def unpacked(config: JsonObject, stored: Mapping[str, FileArray]) -> tuple[Weights, tuple[str, ...]]:
    """All weights by their usual names, the quantised ones as rows of blocks, and notices.

    `config`: quantization_config of config.json, or all of quant_config.json. Raises ModelFormatError, UnsupportedModelError.
    """
    name = config.text("quant_method") or ("awq" if "w_bit" in config.values else "")
    method = METHODS.get(name)
    if method is None:
        refuse_quantisation(config.file, name, METHODS)
    refuse_what_changes_results(config)
    method.check(config)
    weights: dict[str, FileArray | PackedTensor] = {}
    grids = []
    for key, tensor in stored.items():
        module, _, part = key.rpartition(".")
        if part in method.suffixes and _is_quantised(tensor, part):
            grids.append(method.read(config, module, tensor, stored))
        elif not _is_used_up(key, tensor, method, stored):
            _require_numbers(key, tensor, method, stored)
            weights[key] = tensor
    packed: dict[str, PackedTensor] = {}
    for grid in grids:
        if grid.name in weights or grid.name in packed:
            grid.stored.fail(f"and another tensor are both {shown(grid.name)}; nothing says which of the two counts")
        packed[grid.name] = _packed(grid)
    return weights | packed, _notices(name, config, packed)


def _is_quantised(tensor: FileArray, part: str) -> bool:
    """compressed-tensors calls int8 numbers by the same name as plain weights."""
    return part != "weight" or tensor.dtype == "I8"


def _is_used_up(key: str, tensor: FileArray, method: Method, stored: Mapping[str, FileArray]) -> bool:
    """Whether a tensor belongs to a quantised matrix beside it, or means nothing: old GPTQ programs write biases of zeros."""
    module, _, part = key.rpartition(".")
    names = [(f"{module}.{suffix}", suffix) for suffix in method.suffixes]
    if not any(name in stored and _is_quantised(stored[name], suffix) for name, suffix in names):
        return False
    return part in method.parts or (part == "bias" and not tensor.array().any())


def _require_numbers(key: str, tensor: FileArray, method: Method, stored: Mapping[str, FileArray]) -> None:
    """Scales without their numbers: a part of the model is missing. (Beside a plain weight they mean nothing.)"""
    module, _, part = key.rpartition(".")
    if module and part in method.parts and f"{module}.weight" not in stored:
        raise ModelFormatError(tensor.file, f"tensor {shown(f'{module}.weight')}", None, f"is missing; only its {part} is there")


def _notices(name: str, config: JsonObject, packed: Mapping[str, PackedTensor]) -> tuple[str, ...]:
    kinds = sorted({tensor.dtype for tensor in packed.values()})
    said: list[str] = [f"{name} weights become {', '.join(kinds)}"] if packed else []
    if "Q4_1" in kinds:
        said[0] = ConversionLoss(f"{said[0]}, their zero points rounded to half precision")
    groups = config.object("config_groups")
    if groups is not None and any(
        group.get(key) for group in groups.values.values() for key in ("input_activations", "output_activations")
    ):
        said.append("the model also quantises activations; puna does not: they stay in single precision")
    return tuple(said)


# ---- packing --------------------------------------------------------------------------------------------------------


def _packed(grid: Grid) -> PackedTensor:
    kind = _block_type(grid)
    pack = PACKERS[kind]

    def compute(first: int, last: int) -> Bytes:
        if kind in ("F16", "F32") and not np.isfinite(grid.scales(first, last)).all():  # the scales of blocks are checked later
            grid.stored.fail("has a scale that is infinite or not a number")
        return pack(grid, first, last)

    rows = ComputedRows((grid.rows, BLOCK_TYPES[kind].row_bytes(grid.columns)), compute)
    return PackedTensor(grid.name, (grid.rows, grid.columns), kind, rows, grid.stored.file, grid.stored.offset)


def _block_type(grid: Grid) -> str:
    """F32 if the scales, or in Q4_1 the zero points and in F16 the weights themselves, do not fit into half precision."""
    whole = grid.columns % (BLOCK * grid.num_groups) == 0 and grid.groups is None
    if not whole or (grid.bits == 8 and not grid.is_symmetric):
        kind = "F16"
    else:
        kind = "Q8_0" if grid.bits == 8 else "Q4_0" if grid.is_symmetric else "Q4_1"
    times = 1 << grid.bits if kind in ("F16", "Q4_1") else 1
    return kind if grid.fits(times) else "F32"


def _blocks(grid: Grid, kind: str, first: int, last: int) -> tuple[Numbers, Numbers, Numbers]:
    """Empty blocks of rows, their numbers, and their scales.  # (rows, blocks), (rows, blocks, 32), (rows, blocks)"""
    count = grid.columns // BLOCK
    made = np.empty((last - first, count), BLOCK_TYPES[kind].layout)
    numbers = grid.numbers(first, last).reshape(last - first, count, BLOCK)
    return made, numbers, np.repeat(grid.scales(first, last), count // grid.num_groups, axis=1)


def _pack_q4_0(grid: Grid, first: int, last: int) -> Bytes:
    made, numbers, scales = _blocks(grid, "Q4_0", first, last)
    made["d"], made["qs"] = scales, numbers[..., :16] | numbers[..., 16:] << 4
    return made.view(np.uint8)


def _pack_q4_1(grid: Grid, first: int, last: int) -> Bytes:
    made, numbers, scales = _blocks(grid, "Q4_1", first, last)
    zeros = np.repeat(grid.zeros(first, last), made.shape[1] // grid.num_groups, axis=1)
    made["d"], made["m"] = scales, -(scales.astype(np.float32) * zeros)
    made["qs"] = numbers[..., :16] | numbers[..., 16:] << 4
    return made.view(np.uint8)


def _pack_q8_0(grid: Grid, first: int, last: int) -> Bytes:
    made, numbers, scales = _blocks(grid, "Q8_0", first, last)
    made["d"], made["qs"] = scales, numbers.astype(np.int16) - 128
    return made.view(np.uint8)


def _pack_f32(grid: Grid, first: int, last: int) -> Bytes:
    groups = np.arange(grid.columns) * grid.num_groups // grid.columns if grid.groups is None else grid.groups
    numbers = grid.numbers(first, last).astype(np.float32) - grid.zeros(first, last).astype(np.float32)[:, groups]
    return (numbers * grid.scales(first, last).astype(np.float32)[:, groups]).view(np.uint8)


def _pack_f16(grid: Grid, first: int, last: int) -> Bytes:
    return _pack_f32(grid, first, last).view(np.float32).astype(np.float16).view(np.uint8)


PACKERS = {"Q4_0": _pack_q4_0, "Q4_1": _pack_q4_1, "Q8_0": _pack_q8_0, "F16": _pack_f16, "F32": _pack_f32}


def _nibbles(words: Numbers, bits: int, axis: int = -1, order: Sequence[int] | None = None) -> Numbers:
    """Unpack 32-bit words to numbers along a new axis, the lowest first, or in the given `order`.

    (...) -> (..., 32 / bits, ...), uint8
    """
    chosen = range(32 // bits) if order is None else order
    shape = list(words.shape)
    shape.insert(axis % (len(shape) + 1), len(chosen))
    found = np.empty(shape, np.uint8)
    for view, number in zip(
        np.moveaxis(found, axis, 0), chosen
    ):  # one number of all words at a time: takes a third of the time of one expression
        view[...] = words.view(np.uint32) >> np.uint32(bits * number) & np.uint32((1 << bits) - 1)
    return found


# ---- settings and tensors -------------------------------------------------------------------------------------------


OLD_NAMES = {"bits": "w_bit", "group_size": "q_group_size"}  # AutoAWQ's, before it adopted AutoGPTQ's


def _spelled(config: JsonObject, key: str) -> str:
    """The name that a setting has in this file."""
    old = OLD_NAMES[key]
    new_value, old_value = config.values.get(key), config.values.get(old)
    if new_value is not None and old_value not in (None, new_value):
        config.fail(old, f"is {shown(old_value)}, but {key} is {shown(new_value)}")
    return old if new_value is None and old_value is not None else key


def _path_of(config: JsonObject, key: str) -> str:
    """The path of a setting in its file."""
    return f"{config.name}.{key}" if config.name else key


def _bits(config: JsonObject, key: str, allowed: tuple[int, ...]) -> int:
    bits = config.integer(key)
    if bits not in allowed:
        raise UnsupportedModelError(
            f"{config.file}: {_path_of(config, key)} is {bits}; puna reads {' and '.join(map(str, allowed))}",
            hint="Fetch the model unquantised, or as GGUF.",
        )
    return bits


def _part(
    stored: Mapping[str, FileArray], name: str, like: FileArray, dtypes: tuple[str, ...], shape: tuple[int, ...]
) -> Numbers:
    tensor = stored.get(name)
    if tensor is None:
        like.fail(f"has no {name.rpartition('.')[2]} beside it")
    if tensor.dtype not in dtypes or tensor.shape != shape:
        tensor.fail(f"is {tensor.dtype} {tensor.shape}; {' or '.join(dtypes)} {shape} is needed")
    return tensor.array()


def _group_count(config: JsonObject, tensor: FileArray, group_size: int, columns: int) -> int:
    if group_size == -1:
        return 1
    if group_size < 1 or columns % group_size:
        tensor.fail(f"has {columns} columns, which {_path_of(config, 'group_size')} {group_size} does not divide")
    return columns // group_size


def _words(tensor: FileArray) -> Numbers:
    if tensor.dtype != "I32" or len(tensor.shape) != 2 or 0 in tensor.shape:
        tensor.fail(f"is {tensor.dtype} {tensor.shape}; a matrix of I32 is needed")
    return tensor.array()


def _order(
    stored: Mapping[str, FileArray], name: str, like: FileArray, columns: int, groups: int, is_needed: bool
) -> Numbers | None:
    """The group of each column, if the file gives it and it is not the plain order."""
    if name not in stored:
        if is_needed and groups > 1:
            like.fail(f"has no {name.rpartition('.')[2]} beside it, though by the settings its columns were reordered")
        return None
    order = _part(stored, name, like, ("I32",), (columns,))
    if order.min() < 0 or order.max() >= groups:
        stored[name].fail(f"holds {order.min()} to {order.max()}; there are {groups} groups")
    plain = np.arange(columns) * groups // columns
    return None if np.array_equal(order, plain) else order.astype(np.intp)


# ---- GPTQ -----------------------------------------------------------------------------------------------------------


def _check_gptq(config: JsonObject) -> None:
    _bits(config, "bits", (4, 8))
    kind = config.text("checkpoint_format")
    if kind not in (None, "gptq", "gptq_v2"):
        raise UnsupportedModelError(f"{config.file}: checkpoint_format is {shown(kind)}; puna reads gptq and gptq_v2")
    other = config.text("format")
    if None not in (kind, other) and kind != other:
        raise UnsupportedModelError(f"{config.file}: checkpoint_format is {shown(kind)}, but format is {shown(other)}")


def _read_gptq(config: JsonObject, module: str, tensor: FileArray, stored: Mapping[str, FileArray]) -> Grid:
    """qweight (columns * bits / 32, rows); a zero point is stored less one, except in version 2 of the format."""
    bits, words = _bits(config, "bits", (4, 8)), _words(tensor)
    per_word = 32 // bits
    columns, rows = words.shape[0] * per_word, words.shape[1]
    groups = _group_count(config, tensor, _group_size(config), columns)
    zero_words = _part(stored, f"{module}.qzeros", tensor, ("I32",), (groups, -(-rows // per_word)))
    scales = _part(stored, f"{module}.scales", tensor, ("F16",), (groups, rows))
    one = 0 if "gptq_v2" in (config.text("checkpoint_format"), config.text("format")) else 1

    def numbers(first: int, last: int) -> Numbers:
        return _nibbles(np.ascontiguousarray(words[:, first:last].T), bits).reshape(last - first, columns)

    def zeros(first: int, last: int) -> Numbers:
        begin, end = first // per_word, -(-last // per_word)
        found = _nibbles(np.ascontiguousarray(zero_words[:, begin:end]), bits).reshape(groups, -1)
        return found[:, first - begin * per_word : last - begin * per_word].T.astype(np.int32) + one

    half = int(np.uint32((1 << bits - 1) - one) * np.uint32(0xFFFFFFFF // ((1 << bits) - 1)))
    symmetric = rows % per_word == 0 and bool(np.all(zero_words.view(np.uint32) == half))
    # With static groups the columns are in the plain order, whatever order was used to quantise them.
    shuffled = config.flag("desc_act") and not config.flag("static_groups")
    order = _order(stored, f"{module}.g_idx", tensor, columns, groups, shuffled)
    return Grid(
        f"{module}.weight", tensor, rows, columns, bits, numbers, lambda first, last: scales[:, first:last].T, zeros, order,
        groups, symmetric, lambda times: _halves_fit(scales, times),
    )  # fmt: skip


def _halves_fit(scales: Numbers, times: int) -> bool:
    """For scales that are already half precision. The bits find the largest: they have the order of the numbers."""
    if times == 1:
        return True
    largest = (scales.view(np.uint16) & np.uint16(0x7FFF)).max().view(np.float16)
    return bool(float(largest) * times <= LARGEST)


def _group_size(config: JsonObject) -> int:
    size = config.integer(_spelled(config, "group_size"))
    return 128 if size is None else size


# ---- AWQ ------------------------------------------------------------------------------------------------------------


def _check_awq(config: JsonObject) -> None:
    _bits(config, _spelled(config, "bits"), (4,))
    version = (config.text("version") or "gemm").lower()
    if version != "gemm":
        raise UnsupportedModelError(f"{config.file}: the AWQ version is {shown(version)}; puna reads gemm")


def _read_awq(config: JsonObject, module: str, tensor: FileArray, stored: Mapping[str, FileArray]) -> Grid:
    """qweight (columns, rows / 8), the eight outputs of a word in AWQ's order."""
    words = _words(tensor)
    columns, rows = words.shape[0], words.shape[1] * 8
    groups = _group_count(config, tensor, _group_size(config), columns)
    zero_words = _part(stored, f"{module}.qzeros", tensor, ("I32",), (groups, rows // 8))
    scales = _part(stored, f"{module}.scales", tensor, ("F16",), (groups, rows))

    def outputs(packed: Numbers, first: int, last: int) -> Numbers:
        begin, end = first // 8, -(-last // 8)
        found = _nibbles(np.ascontiguousarray(packed[:, begin:end].T), 4, 1, np.argsort(AWQ_ORDER).tolist())
        return found.reshape(-1, len(packed))[first - 8 * begin : last - 8 * begin]

    return Grid(
        name=f"{module}.weight",
        stored=tensor,
        rows=rows,
        columns=columns,
        bits=4,
        numbers=lambda first, last: outputs(words, first, last),
        scales=lambda first, last: scales[:, first:last].T,
        zeros=lambda first, last: outputs(zero_words, first, last).astype(np.int32),
        groups=None,
        num_groups=groups,
        is_symmetric=bool(np.all(zero_words.view(np.uint32) == 0x88888888)),
        fits=lambda times: _halves_fit(scales, times),
    )


# ---- compressed-tensors ---------------------------------------------------------------------------------------------


def _check_compressed(config: JsonObject) -> None:
    kind = config.text("format")
    if kind not in COMPRESSED_FORMATS:
        raise UnsupportedModelError(
            f"{config.file}: the compressed-tensors format is {shown(kind)}; puna reads: {', '.join(COMPRESSED_FORMATS)}",
            hint="Fetch the model unquantised, or as GGUF.",
        )
    _scheme(config)


def _scheme(config: JsonObject) -> JsonObject:
    """The one scheme of all quantised matrices."""
    groups = config.object("config_groups") or JsonObject(config.file, {}, "config_groups")
    if len(groups.values) != 1:
        raise UnsupportedModelError(f"{config.file}: {config.name} has {len(groups.values)} config_groups; puna reads one")
    group = groups.object(next(iter(groups.values)))
    weights = None if group is None else group.object("weights")
    if weights is None or weights.text("type") != "int":
        raise UnsupportedModelError(f"{config.file}: {config.name} quantises to other numbers than int; puna reads int8 and int4")
    return weights


def _read_packed(config: JsonObject, module: str, tensor: FileArray, stored: Mapping[str, FileArray]) -> Grid:
    """weight_packed (rows, columns * bits / 32), numbers from 0 up with the zero at half the range, or at weight_zero_point."""
    scheme = _scheme(config)
    bits, words = _bits(scheme, "num_bits", (4, 8)), _words(tensor)
    per_word = 32 // bits
    rows, padded = words.shape[0], words.shape[1] * per_word
    columns = _columns_of(stored, module, tensor, rows, padded)
    scales = _scales(scheme, module, tensor, stored, rows, columns)
    groups = scales.shape[1]
    zero_name = f"{module}.weight_zero_point"
    symmetric = _is_symmetric(scheme, stored.get(zero_name))
    zero_words = None if symmetric else _part(stored, zero_name, tensor, ("I32",), (-(-rows // per_word), groups))

    def numbers(first: int, last: int) -> Numbers:
        found = _nibbles(np.ascontiguousarray(words[first:last]), bits).reshape(last - first, padded)
        return found[:, :columns]

    def zeros(first: int, last: int) -> Numbers:
        if zero_words is None:
            return np.full((last - first, groups), 1 << bits - 1, np.int32)
        begin, end = first // per_word, -(-last // per_word)
        found = _nibbles(np.ascontiguousarray(zero_words[begin:end].T), bits).reshape(groups, -1)
        return found[:, first - begin * per_word : last - begin * per_word].T.astype(np.int32)

    shuffled = scheme.values.get("actorder") in COLUMNS_SHUFFLED
    order = _order(stored, f"{module}.weight_g_idx", tensor, columns, groups, shuffled)
    return Grid(
        f"{module}.weight", tensor, rows, columns, bits, numbers, scales.part, zeros, order, groups,
        symmetric, scales.fit,
    )  # fmt: skip


def _is_symmetric(scheme: JsonObject, zeros: FileArray | None) -> bool:
    """The scheme's word. Zero points beside symmetric numbers would change them, unless they are all zero."""
    symmetric = scheme.flag("symmetric", True)
    if symmetric and zeros is not None and (zeros.dtype != "I8" or zeros.data.any()):
        zeros.fail(f"is there, though by {scheme.name}.symmetric there are no zero points")
    return symmetric


def _columns_of(stored: Mapping[str, FileArray], module: str, tensor: FileArray, rows: int, padded: int) -> int:
    """The columns; weight_shape tells how many numbers of the last word count."""
    shape = _part(stored, f"{module}.weight_shape", tensor, ("I64", "I32"), (2,)).tolist()
    if shape[0] != rows or not max(padded - 8, 0) < shape[1] <= padded:
        tensor.fail(f"holds {rows} rows of {padded} numbers; its weight_shape says {shape}")
    return int(shape[1])


def _read_int8(config: JsonObject, module: str, tensor: FileArray, stored: Mapping[str, FileArray]) -> Grid:
    """weight (rows, columns), int8; a zero point, if any, is int8 too and has the shape of the scales."""
    scheme = _scheme(config)
    _bits(scheme, "num_bits", (8,))
    if 0 in tensor.shape:
        tensor.fail(f"has shape {tensor.shape}; a matrix of int8 numbers is needed")
    if len(tensor.shape) != 2:
        raise UnsupportedModelError(f"{tensor.file}: tensor {shown(tensor.name)} is not a matrix of int8 numbers")
    rows, columns = tensor.shape
    values, scales = tensor.array(), _scales(scheme, module, tensor, stored, rows, columns)
    groups, symmetric = scales.shape[1], _is_symmetric(scheme, stored.get(f"{module}.weight_zero_point"))
    zero_points = None if symmetric else _zero_points(module, tensor, stored, rows, groups)

    def zeros(first: int, last: int) -> Numbers:
        if zero_points is None:
            return np.full((last - first, groups), 128, np.int32)
        found = zero_points if len(zero_points) == 1 else zero_points[first:last]
        return np.broadcast_to(found.astype(np.int32) + 128, (last - first, groups))

    return Grid(
        name=tensor.name,
        stored=tensor,
        rows=rows,
        columns=columns,
        bits=8,
        numbers=lambda first, last: (values[first:last].astype(np.int16) + 128).astype(np.uint8),
        scales=scales.part,
        zeros=zeros,
        groups=None,
        num_groups=groups,
        is_symmetric=symmetric,
        fits=scales.fit,
    )


def _zero_points(module: str, tensor: FileArray, stored: Mapping[str, FileArray], rows: int, groups: int) -> Numbers:
    """Zero points of int8 numbers: one for all, or one for each row and group.  # (1, 1) or (rows, groups)"""
    found = stored.get(f"{module}.weight_zero_point")
    if found is None:
        tensor.fail("has no weight_zero_point beside it, though its numbers are not symmetric")
    count = prod(found.shape)
    if found.dtype != "I8" or count not in (1, rows * groups):
        found.fail(f"is {found.dtype} {found.shape}; I8 ({rows}, {groups}) is needed")
    return found.array().reshape(1 if count == 1 else rows, -1)


class Scales(NamedTuple):
    """Scales in the file's layout: one for all rows and columns, or one for each row and group."""

    data: npt.NDArray[np.uint8]  # (rows, bytes), or (1, bytes)
    dtype: str
    shape: tuple[int, int]  # (rows, groups)

    def part(self, first: int, last: int) -> Numbers:
        """The scales of rows first..last-1, in single precision.  # (last - first, groups)"""
        rows = self.data if len(self.data) == 1 else self.data[first:last]
        return np.broadcast_to(BLOCK_TYPES[self.dtype].dequantize(rows), (last - first, self.shape[1]))

    def fit(self, times: int) -> bool:
        """Whether half precision holds all of them, and `times` that, with all digits at both ends."""
        steps = range(0, len(self.data), SCALE_ROWS)
        parts = (np.abs(BLOCK_TYPES[self.dtype].dequantize(self.data[first : first + SCALE_ROWS])) for first in steps)
        return all(bool(np.all((part == 0) | ((part >= SMALLEST_NORMAL) & (part <= LARGEST / times)))) for part in parts)


def _scales(
    scheme: JsonObject, module: str, tensor: FileArray, stored: Mapping[str, FileArray], rows: int, columns: int
) -> Scales:
    """Scales by the scheme's strategy: one for all, one a row, or one a group of columns."""
    found = stored.get(f"{module}.weight_scale")
    if found is None:
        tensor.fail("has no weight_scale beside it")
    if found.dtype not in ("F16", "BF16", "F32") or found.strides is not None:
        found.fail(f"is {found.dtype}, perhaps transposed; F16, BF16 or F32 in plain order is needed")
    size = scheme.integer("group_size")
    groups = _group_count(scheme, tensor, -1 if size is None else size, columns)
    count = prod(found.shape)
    if count not in (1, rows * groups):
        found.fail(f"has shape {found.shape}; ({rows}, {groups}) is needed")
    return Scales(found.data.reshape(1 if count == 1 else rows, -1), found.dtype, (rows, groups))


def _read_compressed(config: JsonObject, module: str, tensor: FileArray, stored: Mapping[str, FileArray]) -> Grid:
    return (_read_int8 if tensor.dtype == "I8" else _read_packed)(config, module, tensor, stored)


COMPRESSED_PARTS = ("weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx", "input_scale", "input_zero_point")
METHODS: dict[str, Method] = {
    "gptq": Method(("qweight",), _read_gptq, ("qzeros", "scales", "g_idx"), _check_gptq),
    "awq": Method(("qweight",), _read_awq, ("qzeros", "scales"), _check_awq),
    "compressed-tensors": Method(("weight_packed", "weight"), _read_compressed, COMPRESSED_PARTS, _check_compressed),
}
