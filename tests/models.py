"""Tiny random models in every format, made by small writers of our own, for all tests.

    config = tiny_config()
    tensors = random_tensors(config, seed=1)
    write_gguf(path, config, tensors, quant="Q4_0")              # with a BPE tokenizer of 300 tokens
    write_llama2c(path, config, tensors, version=1)               # with a tokenizer.bin beside it

`CONFIGS[quant]` is a config whose rows fit the block type.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.formats.blocks import BLOCK_TYPES, GGML_TYPE_NAMES, GGUF_READABLE, QUANTIZERS
from puna.formats.gguf import CONFIG_KEYS
from puna.formats.gguf_file import ARRAY, SCALARS, STRING
from puna.formats.llama2c import MAGIC, ORDER_V0, ORDER_V1
from puna.formats.names import GGUF_NAMES, foreign_name
from puna.model.rope import RopeConfig
from puna.model.spec import ModelConfig, plain_model
from puna.model.weights import tensor_shapes

Floats = npt.NDArray[np.float32]
TYPE_CODES = {name: code for code, name in GGML_TYPE_NAMES.items()}
KIND_CODES = {scalar.name: code for code, scalar in SCALARS.items()} | {"string": STRING}
VOCAB_SIZE = 300


# ---- models ---------------------------------------------------------------------------------------------------------


def tiny_config(**changes: Any) -> ModelConfig:
    """Two layers, hidden 64, grouped-query attention; any size can be changed."""
    sizes: dict[str, Any] = {
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "hidden_size": 64,
        "ffn_size": 96,
        "vocab_size": VOCAB_SIZE,
        "max_context": 128,
        "norm_eps": float(np.float32(1e-5)),
        "rope": RopeConfig(theta=10000.0),
        "name": "tiny",
    }
    return plain_model(**(sizes | changes))


WIDE_CONFIG = tiny_config(head_dim=64, hidden_size=256, ffn_size=512)  # rows of 256, as the K types need them
CONFIGS = {name: WIDE_CONFIG if BLOCK_TYPES[name].block_size == 256 else tiny_config() for name in GGUF_READABLE}


def random_tensors(config: ModelConfig, seed: int) -> dict[str, Floats]:
    """Weights by our names: norms around 1, matrices that keep the size of what they map."""
    rng = np.random.default_rng(seed)

    def weights(shape: tuple[int, ...]) -> Floats:
        values = rng.standard_normal(shape)
        return (1 + 0.1 * values if len(shape) == 1 else values / np.sqrt(shape[1])).astype(np.float32)

    return {name: weights(shape) for name, shape in tensor_shapes(config).items()}


def encode(values: Floats, quant: str) -> npt.NDArray[np.uint8]:
    """Rows in a block type. Where there is no quantizer: random blocks of the same spread, drawn from the values' checksum.

    So the truth of what was written is what the blocks say, never `values`.  # (rows, columns) -> (rows, bytes of a row)
    """
    rows = values.reshape(-1, values.shape[-1])
    if quant in QUANTIZERS:
        return QUANTIZERS[quant](rows)
    if quant in ("F32", "F16"):
        return rows.astype(BLOCK_TYPES[quant].layout).view(np.uint8)
    if quant == "BF16":
        return (rows.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    return np.concatenate([_random_blocks(row[None], quant) for row in rows])


# Of blocks whose weights are centred: Q5_1 has m, and Q2_K dmin. `e` is the exponent of MXFP4's scale.
UNIT_SCALES = {"d": 1.0, "m": -15.5, "dmin": 1.5, "e": 128}


def _random_blocks(rows: Floats, quant: str) -> npt.NDArray[np.uint8]:
    block = BLOCK_TYPES[quant]
    rng = np.random.default_rng(zlib.crc32(rows.tobytes()))
    data = rng.integers(0, 256, (len(rows), block.row_bytes(rows.shape[1])), np.uint8)
    blocks = data.reshape(-1).view(block.layout)
    scales = [name for name in blocks.dtype.names or () if name in UNIT_SCALES]
    for name in scales:
        blocks[name] = UNIT_SCALES[name]
    factor = max(float(np.std(rows)), 1e-6) / float(np.std(block.dequantize(data)))
    for name in scales:
        factors = factor * rng.uniform(0.8, 1.2, len(blocks))
        blocks[name] = UNIT_SCALES[name] * factors if name != "e" else UNIT_SCALES[name] + np.rint(np.log2(factors))
    return data


# ---- tokenizers -----------------------------------------------------------------------------------------------------


@dataclass
class TinyTokenizer:
    """A vocabulary in GGUF's terms."""

    model: str  # "gpt2", "llama"
    tokens: list[bytes]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[bytes] = field(default_factory=list)
    special: dict[str, int] = field(default_factory=dict)  # "bos_token_id": 1, ...
    pre: str = "gpt-2"


def byte_alphabet() -> list[str]:
    """GPT-2's letter for each byte: printable Latin-1 stands for itself, the others are U+0100 and up."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) if byte in plain else chr(256 + others.index(byte)) for byte in range(256)]


WORDS = ["the", "and", "to", "was", "a", "in", "it", "is", "of", "you", "that", "he", "she", "they", "said", "had", "with", "his"]
WORDS += ["her", "for", "on", "lily", "day", "one", "not", "play", "big"]


def bpe_tokenizer(vocab_size: int = VOCAB_SIZE) -> TinyTokenizer:
    """Byte-level BPE: three control tokens, 256 bytes, then merges that build common words."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens, merges = [*special, *byte_alphabet()], []
    for word in WORDS:
        made = "Ġ"
        for letter in word:
            if made + letter not in tokens and len(tokens) < vocab_size:
                merges.append(f"{made} {letter}")
                tokens.append(made + letter)
            made += letter
    tokens += [f"<|unused_{index}|>" for index in range(vocab_size - len(tokens))]
    types = [3] * len(special) + [5 if token.startswith("<|unused") else 1 for token in tokens[len(special) :]]
    return TinyTokenizer(
        model="gpt2",
        tokens=[token.encode() for token in tokens],
        types=types,
        merges=[merge.encode() for merge in merges],
        special={"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "padding_token_id": 2},
    )


def spm_tokenizer(vocab_size: int = VOCAB_SIZE) -> TinyTokenizer:
    """SentencePiece: <unk> <s> </s>, 256 bytes, then letters and pieces of common words with falling scores."""
    pieces = ["▁", *"etaoinshrdlucmfwygpbvk,.!?'", *(f"▁{word}" for word in WORDS), *(word[:2] for word in WORDS)]
    pieces = list(dict.fromkeys(pieces))[: vocab_size - 259]
    pieces += [f"unused{index}" for index in range(vocab_size - 259 - len(pieces))]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return TinyTokenizer(
        model="llama",
        tokens=[token.encode() for token in tokens],
        types=[2, 3, 3, *[6] * 256, *[1] * len(pieces)],
        scores=[0.0] * 259 + [-float(index) for index in range(len(pieces))],
        special={"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0},
    )


# ---- GGUF -----------------------------------------------------------------------------------------------------------


@dataclass
class DraftValue:
    """A metadata value to be written. `kind` as in `gguf_file.Value`; `code` and `count` override what is written."""

    key: bytes
    kind: str
    value: Any
    code: int | None = None
    count: int | None = None

    def to_bytes(self) -> bytes:
        return _string(self.key) + (self._array() if self.kind.startswith("array of ") else self._scalar())

    def _scalar(self) -> bytes:
        return struct.pack("<I", KIND_CODES[self.kind] if self.code is None else self.code) + _packed(self.kind, self.value)

    def _array(self) -> bytes:
        kind = self.kind.removeprefix("array of ")
        code = KIND_CODES[kind] if self.code is None else self.code
        count = len(self.value) if self.count is None else self.count
        return struct.pack("<IIQ", ARRAY, code, count) + b"".join(_packed(kind, element) for element in self.value)


@dataclass
class DraftTensor:
    """A tensor to be written; `dims` in the file's order, columns first. None: what is right."""

    name: bytes
    dims: list[int]
    code: int
    data: bytes
    offset: int | None = None
    num_dims: int | None = None


@dataclass
class Draft:
    """A GGUF file before it is bytes; every field can be made wrong."""

    values: list[DraftValue]
    tensors: list[DraftTensor]
    magic: bytes = b"GGUF"
    version: int = 3
    num_tensors: int | None = None
    num_values: int | None = None
    alignment: int = 32
    tail: bytes = b""

    def to_bytes(self) -> bytes:
        counts = (
            len(self.tensors) if self.num_tensors is None else self.num_tensors,
            len(self.values) if self.num_values is None else self.num_values,
        )
        head = self.magic + struct.pack("<IQQ", self.version, *counts) + b"".join(value.to_bytes() for value in self.values)
        infos, data = [], b""
        for tensor in self.tensors:
            infos.append(_info(tensor, len(data)))
            data += tensor.data + bytes(-len(tensor.data) % self.alignment)
        head += b"".join(infos)
        return head + bytes(-len(head) % self.alignment) + data + self.tail


def _info(tensor: DraftTensor, offset: int) -> bytes:
    dims = struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims)
    num_dims = len(tensor.dims) if tensor.num_dims is None else tensor.num_dims
    offset = offset if tensor.offset is None else tensor.offset
    return _string(tensor.name) + struct.pack("<I", num_dims) + dims + struct.pack("<IQ", tensor.code, offset)


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _packed(kind: str, value: Any) -> bytes:
    if kind == "string":
        return _string(value.encode() if isinstance(value, str) else value)
    return SCALARS[KIND_CODES[kind]].layout.pack(value)


def config_values(config: ModelConfig) -> list[DraftValue]:
    """The keys that describe a model's sizes."""
    given: dict[str, Any] = {name: getattr(config, name) for name in CONFIG_KEYS if hasattr(config, name)}
    given["rope_theta"] = config.rope.theta
    values = [
        DraftValue(b"general.architecture", "string", config.architecture),
        DraftValue(b"general.name", "string", config.name),
    ]
    for name, value in given.items():
        if name == "sliding_window" and not value:
            continue
        key = f"{config.architecture}.{CONFIG_KEYS[name]}".encode()
        values.append(DraftValue(key, "float32" if isinstance(value, float) else "uint32", value))
    if config.rope.scaling == "linear":
        values.append(DraftValue(b"llama.rope.scaling.type", "string", "linear"))
        values.append(DraftValue(b"llama.rope.scaling.factor", "float32", config.rope.factor))
    return values


def tokenizer_values(tokenizer: TinyTokenizer) -> list[DraftValue]:
    """The keys that describe a tokenizer."""
    values: list[tuple[str, str, Any]] = [
        ("model", "string", tokenizer.model),
        ("tokens", "array of string", tokenizer.tokens),
        ("token_type", "array of int32", tokenizer.types),
    ]
    if tokenizer.model == "gpt2":
        values += [("pre", "string", tokenizer.pre), ("merges", "array of string", tokenizer.merges)]
    if tokenizer.scores:
        values.append(("scores", "array of float32", tokenizer.scores))
    values += [(key, "uint32", token_id) for key, token_id in tokenizer.special.items()]
    return [DraftValue(f"tokenizer.ggml.{key}".encode(), kind, value) for key, kind, value in values]


def gguf_tensors(config: ModelConfig, tensors: dict[str, Floats], quant: str) -> list[DraftTensor]:
    """The weights as GGUF holds them: matrices in `quant`, vectors in F32."""
    drafts = []
    for ours, values in tensors.items():
        kind = quant if values.ndim == 2 else "F32"
        name = foreign_name(GGUF_NAMES, ours).encode()
        drafts.append(DraftTensor(name, list(values.shape[::-1]), TYPE_CODES[kind], encode(values, kind).tobytes()))
    if config.rope.factors is not None:
        factors = np.asarray(config.rope.factors, np.float32)
        drafts.append(DraftTensor(b"rope_freqs.weight", [len(factors)], TYPE_CODES["F32"], factors.tobytes()))
    return drafts


def draft_gguf(
    config: ModelConfig,
    tensors: dict[str, Floats],
    quant: str = "F32",
    tokenizer: TinyTokenizer | None = None,
    chat_template: str | None = None,
    extra: Sequence[DraftValue] = (),
) -> Draft:
    """A valid file, which a test may corrupt before writing it."""
    values = config_values(config) + ([] if tokenizer is None else tokenizer_values(tokenizer))
    if chat_template is not None:
        values.append(DraftValue(b"tokenizer.chat_template", "string", chat_template))
    return Draft(values + list(extra), gguf_tensors(config, tensors, quant))


def write_gguf(
    path: Path,
    config: ModelConfig,
    tensors: dict[str, Floats],
    quant: str = "F32",
    tokenizer: TinyTokenizer | None = None,
    chat_template: str | None = None,
    extra: Sequence[DraftValue] = (),
) -> Path:
    """Write a model (None: with the byte-level BPE tokenizer of the model's vocabulary size)."""
    tokenizer = bpe_tokenizer(config.vocab_size) if tokenizer is None else tokenizer
    path.write_bytes(draft_gguf(config, tensors, quant, tokenizer, chat_template, extra).to_bytes())
    return path


# ---- llama2.c -------------------------------------------------------------------------------------------------------


def llama2c_bytes(config: ModelConfig, tensors: dict[str, Floats], version: int = 0, group_size: int = 32) -> bytes:
    """A model file of version 0, 1 or 2."""
    sizes = (config.hidden_size, config.ffn_size, config.num_layers, config.num_heads, config.num_kv_heads)
    vocab_size = -config.vocab_size if version == 0 and not config.tie_embeddings else config.vocab_size
    head = struct.pack("<7i", *sizes, vocab_size, config.max_context)
    if version:
        head = struct.pack("<Ii", MAGIC, version) + head + bytes([config.tie_embeddings])
        head += struct.pack("<i", group_size) if version == 2 else b""
        head += bytes(256 - len(head))
    return head + b"".join(_llama2c_parts(config, tensors, version, group_size))


def _llama2c_parts(config: ModelConfig, tensors: dict[str, Floats], version: int, group_size: int) -> list[bytes]:
    parts = []
    for part in ORDER_V1 if version else ORDER_V0:
        if part == "lm_head" and version == 0:
            parts.append(bytes(4 * config.max_context * config.head_dim))
        layers = [f"layers.{layer}.{part}" for layer in range(config.num_layers)]
        for values in [tensors[name] for name in (part, *layers) if name in tensors]:
            parts.append(_grouped(values, group_size) if version == 2 and values.ndim == 2 else values.tobytes())
    return parts


def _grouped(values: Floats, group_size: int) -> bytes:
    groups = values.reshape(-1, group_size)
    scales = np.abs(groups).max(axis=1) / np.float32(127)
    numbers = np.round(groups / scales[:, None]).astype(np.int8)
    return bytes(numbers.tobytes() + scales.tobytes())


def tokenizer_bin_bytes(tokenizer: TinyTokenizer) -> bytes:
    """A `tokenizer.bin`: spaces for "▁", control tokens between line breaks."""
    controls = {b"<s>": b"\n<s>\n", b"</s>": b"\n</s>\n"}
    texts = [controls.get(token, token.replace("▁".encode(), b" ")) for token in tokenizer.tokens]
    entries = [struct.pack("<fi", score, len(text)) + text for score, text in zip(tokenizer.scores, texts)]
    return struct.pack("<I", max(map(len, texts))) + b"".join(entries)


def write_llama2c(
    path: Path,
    config: ModelConfig,
    tensors: dict[str, Floats],
    version: int = 0,
    group_size: int = 32,
    tokenizer: TinyTokenizer | None = None,
) -> Path:
    """Write a model, and beside it its `tokenizer.bin` (None: the SentencePiece one of the model's vocabulary size)."""
    path.write_bytes(llama2c_bytes(config, tensors, version, group_size))
    tokenizer = spm_tokenizer(config.vocab_size) if tokenizer is None else tokenizer
    path.with_name("tokenizer.bin").write_bytes(tokenizer_bin_bytes(tokenizer))
    return path


# ---- LoRA -----------------------------------------------------------------------------------------------------------

LoraHalves = Mapping[str, tuple[Floats, Floats]]  # module -> A, B


def write_peft(folder: Path, adapter: LoraHalves, **settings: Any) -> Path:
    """A folder as PEFT's `save_pretrained` writes it."""
    from safetensors.numpy import save_file

    folder.mkdir()
    rank = len(next(iter(adapter.values()))[0])
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none", "target_modules": ["q_proj"], **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    halves = {
        f"base_model.model.{name}.lora_{half}.weight": pair[i] for name, pair in adapter.items() for i, half in enumerate("AB")
    }
    save_file(halves, folder / "adapter_model.safetensors")
    return folder
