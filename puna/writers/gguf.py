"""A checkpoint as GGUF, version 3: one file, or shards with the names of llama.cpp's gguf-split."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from puna.errors import UnsupportedModelError
from puna.formats.base import Checkpoint
from puna.formats.blocks import GGML_TYPE_NAMES, GGUF_READABLE
from puna.formats.gguf import ARCHITECTURES, CONFIG_KEYS, ROPE_FACTORS, SAMPLING, SAMPLING_KEYS
from puna.formats.gguf_file import ARRAY, DEFAULT_ALIGNMENT, MAGIC, SCALARS, STRING
from puna.formats.mapped import shown
from puna.formats.names import GGUF_NAMES, foreign_name
from puna.model.rope import RopeConfig, yarn_attention_factor
from puna.model.spec import ModelConfig
from puna.suggested import suggested
from puna.writers.base import Job, Writer, dealt_out, write_rows
from puna.writers.tokenizers import gguf_tokenizer_metadata

VERSION = 3
KINDS = {scalar.name: code for code, scalar in SCALARS.items()}
KIND_OF_DTYPE = {np.dtype(scalar.dtype): code for code, scalar in SCALARS.items() if scalar.name != "bool"}
TYPE_CODES = {name: code for code, name in GGML_TYPE_NAMES.items()}
QUANTISATION_VERSION = 2
# `general.file_type`, by the type of most matrices: llama.cpp shows it.
FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q4_K": 15, "Q5_K": 17,
    "Q6_K": 18, "BF16": 32,
}  # fmt: skip
OUR_NAMES = {"mistral": "llama"}  # architecture -> GGUF's, if different
NO_KEY = {"dynamic": "dynamic rope scaling"}
LLAMA_CPP_BETAS = (32.0, 1.0)


def _architecture(config: ModelConfig) -> str:
    return OUR_NAMES.get(config.architecture, config.architecture)


def _require(job: Job) -> None:
    config = job.checkpoint.config
    row = ARCHITECTURES.get(_architecture(config))
    if row is None:
        raise UnsupportedModelError(f"puna does not write GGUF files of the architecture {config.architecture!r}")
    if config.rope.scaling in NO_KEY:
        raise UnsupportedModelError(f"GGUF has no key for {NO_KEY[config.rope.scaling]}", hint="Convert to safetensors instead.")
    if config.rope.scaling == "yarn" and not config.rope.truncate:
        raise UnsupportedModelError(
            "GGUF has no key for yarn scaling that is not truncated", hint="Convert to safetensors instead."
        )
    extra = [name for name in config.extras if name not in (*row.features, "sliding_window", "windowed_layers")]
    if extra:
        raise UnsupportedModelError(f"GGUF has no form for a {config.architecture} model with {', '.join(extra)}")


def _notices(job: Job) -> Iterator[str]:
    """Notices where llama.cpp (llama-cpp-python 0.3.36) reads the file without a warning and computes something else."""
    config, rope = job.checkpoint.config, job.checkpoint.config.rope
    if lost := [name for name in _suggested(job.checkpoint) if name not in SAMPLING_KEYS.values()]:
        yield f"GGUF has no keys for these sampling defaults of the source: {', '.join(lost)}"
    if config.sliding_window:
        yield (
            f"llama.cpp ignores the sliding window of this architecture: texts longer than {config.sliding_window} tokens "
            "differ there; puna keeps it"
        )
    if rope.scaling == "yarn" and (rope.beta_fast, rope.beta_slow) != LLAMA_CPP_BETAS:
        yield (
            f"llama.cpp ignores yarn's beta_fast {rope.beta_fast:g} and beta_slow {rope.beta_slow:g} and uses "
            f"{LLAMA_CPP_BETAS[0]:g} and {LLAMA_CPP_BETAS[1]:g}: texts differ there; puna keeps them"
        )
    spec = job.checkpoint.tokenizer
    if flagged := [] if spec is None or not spec.pipeline else [spec.tokens[i] for i, flags in spec.added_flags if flags]:
        yield (
            f"GGUF has no key for how {shown([token.decode('utf-8', 'replace') for token in flagged[:3]])} are found in a text "
            "(spaces beside them, whole words, normalized text): llama.cpp finds them as they are; puna keeps it"
        )


# ---- metadata -------------------------------------------------------------------------------------------------------


def _metadata(job: Job) -> dict[str, Any]:
    """Key -> a str, bool, int (uint32), float (float32), numpy number, array, or list of byte strings."""
    checkpoint, config = job.checkpoint, job.checkpoint.config
    architecture = _architecture(config)
    given: dict[str, Any] = {"general.architecture": architecture, "general.name": config.name or checkpoint.path.stem}
    matrices = Counter(job.types[name] for name, tensor in checkpoint.tensors.items() if len(tensor.shape) == 2)
    most = matrices.most_common(1)[0][0]
    given |= {"general.file_type": FILE_TYPES.get(most, 0), "general.quantization_version": QUANTISATION_VERSION}
    sizes = {key: getattr(config, ours) for ours, key in CONFIG_KEYS.items() if hasattr(config, ours)}
    sizes["vocab_size"] = config.vocab_size
    sizes |= {"attention.value_length": config.head_dim, "rope.dimension_count": config.head_dim}
    sizes |= _rope_keys(config.rope)
    if not config.sliding_window:
        del sizes[CONFIG_KEYS["sliding_window"]]
    elif config.windowed_layers is not None:
        flags = [layer.attention.window > 0 for layer in config.layers]
        sizes["attention.sliding_window_pattern"] = np.array(flags, np.bool_)
    given |= {f"{architecture}.{key}": value for key, value in sizes.items()}
    if checkpoint.tokenizer is not None:
        given |= gguf_tokenizer_metadata(checkpoint.tokenizer)
    if checkpoint.chat_template is not None:
        given["tokenizer.chat_template"] = checkpoint.chat_template
    return given | _sampling_keys(checkpoint)


def _sampling_keys(checkpoint: Checkpoint) -> dict[str, Any]:
    """The makers' sampling defaults, as far as GGUF has keys for them."""
    found = _suggested(checkpoint)
    given = {f"{SAMPLING}{key}": found[ours] for key, ours in SAMPLING_KEYS.items() if ours in found}
    if "repetition_penalty" in found:
        given[f"{SAMPLING}penalty_last_n"] = -1  # the whole text, as everywhere except in llama.cpp's default
    return {key: np.int32(value) if isinstance(value, int) else value for key, value in given.items()}


def _suggested(checkpoint: Checkpoint) -> Mapping[str, Any]:
    return suggested(checkpoint.generation, "", checkpoint.config.vocab_size, checkpoint.config.max_context).settings


def _rope_keys(rope: RopeConfig) -> dict[str, Any]:
    keys: dict[str, Any] = {"rope.freq_base": rope.theta}
    if rope.scaling == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
    if rope.scaling == "yarn":
        usual = yarn_attention_factor(max(rope.factor, 1.0))
        keys |= {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": rope.factor,
            "rope.scaling.original_context_length": rope.original_context,
            "rope.scaling.yarn_beta_fast": rope.beta_fast,
            "rope.scaling.yarn_beta_slow": rope.beta_slow,
            "rope.scaling.attn_factor": rope.attention_factor / usual,
        }
    return keys


def _rope_factors(config: ModelConfig) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """The divisors of the frequencies, if a table is GGUF's only form for them (Llama 3.1)."""
    if config.rope.factors is None and config.rope.scaling != "llama3":
        return None
    by_table = RopeConfig(theta=config.rope.theta) if config.rope.scaling == "llama3" else replace(config.rope, factors=None)
    return np.asarray(by_table.frequencies(config.head_dim) / config.rope.frequencies(config.head_dim), np.float32)


def _packed(value: Any) -> bytes:
    """Type and bytes of a value."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value.encode())
    if isinstance(value, bool):
        return struct.pack("<IB", KINDS["bool"], value)
    if isinstance(value, int):
        return struct.pack("<II", KINDS["uint32"], value)
    if isinstance(value, float):
        return struct.pack("<If", KINDS["float32"], value)
    if isinstance(value, np.generic):
        return struct.pack("<I", KIND_OF_DTYPE[value.dtype]) + value.tobytes()
    if isinstance(value, np.ndarray):
        code = KINDS["bool"] if value.dtype == np.bool_ else KIND_OF_DTYPE[value.dtype]
        return struct.pack("<IIQ", ARRAY, code, value.size) + value.tobytes()
    return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_string, value))


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


# ---- tensors --------------------------------------------------------------------------------------------------------


def _infos(job: Job, names: Sequence[str]) -> Iterator[tuple[str, str, tuple[int, ...], int]]:
    """(GGUF's name, type, shape, bytes) of each tensor of a shard."""
    for name in names:
        shape = job.checkpoint.tensors[name].shape
        yield foreign_name(GGUF_NAMES, name), job.types[name], shape, job.rows(name).nbytes


def _write_file(job: Job, path: Path, names: Sequence[str], metadata: dict[str, Any]) -> None:
    factors = _rope_factors(job.checkpoint.config) if "embed" in names else None
    infos = list(_infos(job, names))
    if factors is not None:
        infos.append((ROPE_FACTORS, "F32", factors.shape, factors.nbytes))
    head = MAGIC + struct.pack("<IQQ", VERSION, len(infos), len(metadata))
    head += b"".join(_string(key.encode()) + _packed(value) for key, value in metadata.items())
    offset = 0
    for name, kind, shape, num_bytes in infos:
        head += _string(name.encode()) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", TYPE_CODES[kind], offset)
        offset += num_bytes + -num_bytes % DEFAULT_ALIGNMENT
    half_split = ARCHITECTURES[_architecture(job.checkpoint.config)].half_split
    with path.open("xb") as file:
        file.write(head + bytes(-len(head) % DEFAULT_ALIGNMENT))
        for name in names:
            rows = job.half_split_rows(name) if half_split else job.rows(name)
            write_rows(file, rows, job.wrote)
            _pad(file)
        if factors is not None:
            file.write(factors.tobytes())
            _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % DEFAULT_ALIGNMENT))


def _write(job: Job, path: Path) -> None:
    metadata, shards = _metadata(job), dealt_out(job)
    if len(shards) == 1:
        _write_file(job, path, shards[0], metadata)
        return
    count = len(job.checkpoint.tensors) + (_rope_factors(job.checkpoint.config) is not None)
    for number, names in enumerate(shards):
        keys = {"split.no": np.uint16(number), "split.count": np.uint16(len(shards)), "split.tensors.count": np.int32(count)}
        file = path / f"model-{number + 1:05d}-of-{len(shards):05d}.gguf"
        _write_file(job, file, names, (metadata if number == 0 else {}) | keys)


GGUF = Writer(
    is_folder=lambda shards: shards > 1,
    types=("F32", *(name for name in GGUF_READABLE if name != "F32")),
    vector_types=("F32",),
    require=_require,
    write=_write,
    notices=_notices,
)
