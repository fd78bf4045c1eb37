"""llama2.c's `.bin` files, versions 0, 1 and 2, and its `tokenizer.bin`.

Version 0 has no magic: seven int32, then float32 tensors. Versions 1 and 2 have a header of 256 bytes; version 2 holds int8
numbers followed by float32 scales, one per group. The file's size must be exactly what the header needs. Rows of wq and wk are
in the interleaved rotary order.

llama2.c uses one rotary base and epsilon, 10000 and 1e-5. Version 0 holds tables of cosines and sines, which give the
frequencies; the headers of the others have room for both numbers (puna's `extension`).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from puna.errors import ConfigError, UnsupportedModelError
from puna.formats.base import Checkpoint, Tensor, TokenizerSpec
from puna.formats.blocks import BLOCK_TYPES
from puna.formats.llama2c_tokenizer import read_tokenizer
from puna.formats.mapped import Cursor, is_there, map_file
from puna.formats.names import LLAMA2C_NAMES, foreign_name
from puna.formats.rope_tables import rope_of
from puna.formats.template_file import template_in
from puna.formats.tokenizer_files import read_given_tokenizer, read_tokenizer_file_told
from puna.model.rope import RopeConfig
from puna.model.spec import ModelConfig, plain_model
from puna.model.weights import tensor_shapes

MAGIC = 0x616B3432  # "ak42", stored as the bytes "24ka"
HEADER_BYTES = 256
NORM_EPS, ROPE_THETA = 1e-5, 10000.0
EXTENSION_AT, EXTENSION_MAGIC, EXTENSION = 64, b"puna", struct.Struct("<4sdd")  # theta, epsilon

# The order of the file; a tensor of one layer is followed by the same tensor of the next layer.
ATTENTION, FFN = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "down_proj", "up_proj")
ORDER_V0 = ("embed", "attn_norm", *ATTENTION, "ffn_norm", *FFN, "final_norm", "lm_head")
ORDER_V1 = ("attn_norm", "ffn_norm", "final_norm", "embed", *ATTENTION, *FFN, "lm_head")

INT32, UINT32, BYTE = (struct.Struct(code) for code in ("<i", "<I", "<B"))


class Llama2cSizes(NamedTuple):
    """The seven numbers of every header, in order."""

    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    seq_len: int


# Our name of a size -> the header's field, which errors about it name.
FIELDS = {
    "hidden_size": "dim",
    "ffn_size": "hidden_dim",
    "num_layers": "n_layers",
    "num_heads": "n_heads",
    "num_kv_heads": "n_kv_heads",
    "vocab_size": "vocab_size",
    "max_context": "seq_len",
}


@dataclass(frozen=True, slots=True)
class Llama2cHeader:
    """What a file holds before its tensors."""

    version: int
    sizes: Llama2cSizes
    sizes_at: int  # byte of the first size
    shared: bool  # the classifier is the embedding
    group_size: int  # version 2; 0 elsewhere
    num_bytes: int
    theta: float = ROPE_THETA
    norm_eps: float = NORM_EPS


def matches(head: bytes, size: int) -> bool:
    """Whether a file that begins with `head` is a llama2.c model: by its magic, or by seven plausible sizes."""
    return head[:4] == UINT32.pack(MAGIC) or (len(head) >= 28 and _plausible(Llama2cSizes(*struct.unpack_from("<7i", head))))


def _plausible(sizes: Llama2cSizes) -> bool:
    try:
        _config_of(sizes, shared=sizes.vocab_size > 0)
    except (ConfigError, ZeroDivisionError):
        return False
    return sizes.dim % sizes.n_heads == 0


def open_llama2c(path: Path, tokenizer: Path | None = None) -> Checkpoint:
    """Open and check a model; reads no weight. The tokenizer is the given file, else one beside the model."""
    cursor = Cursor(map_file(path), path)
    header = _read_header(cursor)
    config = _config(cursor, header)
    tensors = {tensor.name: tensor for tensor in _read_tensors(cursor, header, config)}
    if header.version == 0:
        config = replace(config, ropes=(_read_rope(cursor, config),))
    spec, notices = _tokenizer(path, tokenizer, config.vocab_size)
    metadata = {"version": header.version, **header.sizes._asdict(), "shared_classifier": header.shared}
    template, more = template_in(path.parent)
    return Checkpoint(
        path=path,
        format="llama2c",
        config=config,
        tensors=tensors,
        tokenizer=spec,
        metadata=metadata | ({"group_size": header.group_size} if header.group_size else {}),
        chat_template=template,
        files=(path,) if spec is None else (path, Path(spec.source)),
        notices=(*notices, *more),
    )


# ---- header ---------------------------------------------------------------------------------------------------------


def _read_header(cursor: Cursor) -> Llama2cHeader:
    if cursor.remaining < 4 or cursor.number("magic", UINT32) != MAGIC:
        return _read_header_v0(cursor)
    version: int = cursor.number("version", INT32)
    if version not in (1, 2):
        cursor.fail("version", f"is {version}; puna reads 1 and 2, and 0, which has no magic", 4)
    sizes = _read_sizes(cursor)
    shared: int = cursor.number("shared_classifier", BYTE)
    if shared > 1:
        cursor.fail("shared_classifier", f"is {shared}; 0 or 1 is needed", cursor.position - 1)
    group_size: int = cursor.number("group_size", INT32) if version == 2 else 0
    at = cursor.position
    rest = cursor.take("header", HEADER_BYTES - at)
    theta, norm_eps = _read_extension(rest[EXTENSION_AT - at :][: EXTENSION.size])
    own = len(extension(theta, norm_eps)) if rest[EXTENSION_AT - at :].startswith(EXTENSION_MAGIC) else 0
    if any(rest[: EXTENSION_AT - at]) or any(rest[EXTENSION_AT - at + own :]):
        cursor.fail("header", "is not padded with zeros", at)
    return Llama2cHeader(version, sizes, 8, shared == 1, group_size, HEADER_BYTES, theta, norm_eps)


def extension(theta: float, norm_eps: float) -> bytes:
    """Rotary base and epsilon, for the header's empty bytes, of a model that does not use llama2.c's."""
    return EXTENSION.pack(EXTENSION_MAGIC, theta, norm_eps)


def _read_extension(data: bytes) -> tuple[float, float]:
    if not data.startswith(EXTENSION_MAGIC):
        return ROPE_THETA, NORM_EPS
    _, theta, norm_eps = EXTENSION.unpack(data)
    return theta, norm_eps


def _read_header_v0(cursor: Cursor) -> Llama2cHeader:
    cursor.position = 0
    sizes = _read_sizes(cursor)
    return Llama2cHeader(0, sizes._replace(vocab_size=abs(sizes.vocab_size)), 0, sizes.vocab_size > 0, 0, cursor.position)


def _read_sizes(cursor: Cursor) -> Llama2cSizes:
    return Llama2cSizes(*(cursor.number(field, INT32) for field in Llama2cSizes._fields))


def _config_of(sizes: Llama2cSizes, shared: bool, theta: float = ROPE_THETA, norm_eps: float = NORM_EPS) -> ModelConfig:
    return plain_model(
        num_layers=sizes.n_layers,
        num_heads=sizes.n_heads,
        num_kv_heads=sizes.n_kv_heads,
        head_dim=sizes.dim // sizes.n_heads,
        hidden_size=sizes.dim,
        ffn_size=sizes.hidden_dim,
        vocab_size=abs(sizes.vocab_size),
        max_context=sizes.seq_len,
        norm_eps=norm_eps,
        rope=RopeConfig(theta=theta),
        tie_embeddings=shared,
    )


def _config(cursor: Cursor, header: Llama2cHeader) -> ModelConfig:
    sizes = header.sizes

    def fail(field: str, problem: str) -> NoReturn:
        cursor.fail(field, problem, header.sizes_at + 4 * Llama2cSizes._fields.index(field))

    if sizes.n_heads < 1 or sizes.dim % sizes.n_heads:
        fail("n_heads", f"is {sizes.n_heads}; it must be above 0 and divide dim {sizes.dim}")
    if header.version and sizes.vocab_size < 1:
        fail("vocab_size", f"is {sizes.vocab_size}; it must be above 0")
    try:
        return _config_of(sizes, header.shared, header.theta, header.norm_eps)
    except ConfigError as error:
        if error.field in ("rope_theta", "norm_eps"):
            cursor.fail("header", str(error), EXTENSION_AT)
        fail(FIELDS.get(error.field, "dim"), str(error))


# ---- tensors --------------------------------------------------------------------------------------------------------


def _read_tensors(cursor: Cursor, header: Llama2cHeader, config: ModelConfig) -> list[Tensor]:
    """Read every tensor, after checking that the file has exactly the length they need."""
    group_size = _group_size(cursor, header, config) if header.version == 2 else 0
    shapes = tensor_shapes(config)
    old_freqs = config.max_context * config.head_dim if header.version == 0 else 0  # cos and sin tables, unused since
    needed = header.num_bytes + 4 * old_freqs + sum(_tensor_bytes(shape, group_size) for shape in shapes.values())
    if needed != cursor.end:
        cursor.damaged("file", f"is {cursor.end} bytes long; its header needs {needed}", min(needed, cursor.end))
    tensors = []
    for name in file_order(ORDER_V1 if header.version else ORDER_V0, config):
        if name == "lm_head":
            cursor.position += 4 * old_freqs
        if name in shapes:
            tensors.append(_read_tensor(cursor, name, shapes[name], group_size))
    return tensors


def file_order(order: tuple[str, ...], config: ModelConfig) -> Iterator[str]:
    whole = ("embed", "final_norm", "lm_head")
    for part in order:
        yield from [part] if part in whole else [f"layers.{layer}.{part}" for layer in range(config.num_layers)]


def _group_size(cursor: Cursor, header: Llama2cHeader, config: ModelConfig) -> int:
    """Version 2's group, which must divide every row."""
    group_size = header.group_size
    if group_size < 1:
        cursor.fail("group_size", f"is {group_size}; it must be above 0", 37)
    for field, size in (("dim", config.hidden_size), ("hidden_dim", config.ffn_size)):
        if size % group_size:
            raise UnsupportedModelError(
                f"{cursor.file}: group_size {group_size} does not divide {field} {size}, and the exporter breaks such weights",
                hint=f"Export it again with a group size that divides {math.gcd(config.hidden_size, config.ffn_size)}.",
            )
    return group_size


def _read_rope(cursor: Cursor, config: ModelConfig) -> RopeConfig:
    """From version 0's tables: cos and sin at position 1. llama2.c ignores them; puna does too if they are no tables."""
    shapes = tensor_shapes(config)
    behind = math.prod(shapes["lm_head"]) if "lm_head" in shapes else 0
    pairs = config.head_dim // 2
    tables = Cursor(cursor.data, cursor.file, cursor.end - 4 * behind - 8 * config.max_context * pairs)
    cos, sin = tables.array("tables", "<f4", 2 * config.max_context * pairs).reshape(2, config.max_context, pairs)
    found = rope_of(np.arctan2(sin[1].astype(np.float64), cos[1]), config.head_dim) if config.max_context > 1 else None
    return config.rope if found is None else found


def _tensor_bytes(shape: tuple[int, ...], group_size: int) -> int:
    count = math.prod(shape)
    return count + 4 * count // group_size if group_size and len(shape) == 2 else 4 * count


def _read_tensor(cursor: Cursor, name: str, shape: tuple[int, ...], group_size: int) -> Tensor:
    label = foreign_name(LLAMA2C_NAMES, name)
    rows, columns = math.prod(shape[:-1]), shape[-1]
    if group_size and len(shape) == 2:
        numbers = cursor.array(label, "<u1", rows * columns).reshape(rows, columns)
        scales = cursor.array(label, "<f4", rows * columns // group_size).reshape(rows, -1)
        return Tensor(name, shape, BLOCK_TYPES["Q8_GROUP"], numbers, np.require(scales, requirements="A"), str(cursor.file))
    data = cursor.array(label, "<u1", 4 * rows * columns).reshape(rows, 4 * columns)
    return Tensor(name, shape, BLOCK_TYPES["F32"], data)


# ---- text -----------------------------------------------------------------------------------------------------------


def _tokenizer(model: Path, given: Path | None, vocab_size: int) -> tuple[TokenizerSpec | None, tuple[str, ...]]:
    """The tokenizer of the given file or folder, else the one beside the model; and notices about it."""
    return _beside(model, vocab_size) if given is None else read_given_tokenizer(given, vocab_size)


def _beside(model: Path, vocab_size: int) -> tuple[TokenizerSpec | None, tuple[str, ...]]:
    """`tok<vocab_size>.bin` or `tokenizer.bin` beside the model, else None.

    The more specific name comes first: the other often holds the 32,000 tokens of Llama 2.
    """
    beside = [model.with_name(name) for name in (f"tok{vocab_size}.bin", "tokenizer.bin")]
    found = next((read_tokenizer(path, vocab_size) for path in beside if is_there(path)), None)
    other = model.with_name("tokenizer.json")  # if this format cannot hold the model's tokenizer
    return read_tokenizer_file_told(other, vocab_size) if found is None and is_there(other) else (found, ())
