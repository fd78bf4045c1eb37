"""A checkpoint as GGUF, version 3: one file, or shards with the names of llama.cpp's gguf-split."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from puna.errors import UnsupportedModelError
from puna.formats.base import Checkpoint
from puna.formats.blocks import GGML_TYPE_NAMES, GGUF_READABLE
from puna.formats.families import FAMILIES, NEUTRAL, Factors, Facts, Family, model_of, within_period
from puna.formats.gguf import (
    CONFIG_KEYS,
    FACTOR_KEYS,
    ROPE_FACTORS,
    ROPE_LONG,
    ROPE_SHORT,
    SAMPLING,
    SAMPLING_KEYS,
    SOFTCAPS,
    implied_scale,
)  # fmt: skip
from puna.formats.gguf_file import ARRAY, DEFAULT_ALIGNMENT, MAGIC, SCALARS, STRING
from puna.formats.mapped import shown
from puna.formats.names import GGUF_NAMES, foreign_name
from puna.formats.rows import Rows, StackedRows
from puna.model.rope import RopeConfig, yarn_attention_factor
from puna.model.spec import Experts, ModelConfig, is_near
from puna.suggested import suggested
from puna.writers.base import WriteJob, Writer, dealt_out, write_rows
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
NO_KEY = {"dynamic": "dynamic rope scaling"}
LLAMA_CPP_BETAS = (32.0, 1.0)


def _require(job: WriteJob) -> None:
    config = job.checkpoint.config
    if config.architecture not in FAMILIES:
        raise UnsupportedModelError(f"puna does not write GGUF files of the architecture {config.architecture!r}")
    if config.rope.scaling in NO_KEY:
        raise UnsupportedModelError(f"GGUF has no key for {NO_KEY[config.rope.scaling]}", hint="Convert to safetensors instead.")
    if config.rope.scaling == "yarn" and not config.rope.truncate:
        raise UnsupportedModelError(
            "GGUF has no key for yarn scaling that is not truncated", hint="Convert to safetensors instead."
        )
    held = model_of(config.architecture, _facts(config))
    if lost := [name for name in config.extras if name not in held.extras]:
        raise UnsupportedModelError(f"GGUF has no form for a {config.architecture} model with {', '.join(lost)}")
    if not is_near(held, config):
        differing = [field.name for field in fields(held) if not is_near(getattr(held, field.name), getattr(config, field.name))]
        raise UnsupportedModelError(f"GGUF has no form for a {config.architecture} model with such {', '.join(differing)}")


def _facts(config: ModelConfig) -> Facts:
    """What GGUF can say of a model."""
    family, first = FAMILIES[config.architecture], config.layers[0].attention
    experts = next((layer.ffn for layer in config.layers if isinstance(layer.ffn, Experts)), None)
    given = Factors(config.embedding_scale, scale=first.scale, softcap=first.softcap, logit_softcap=config.logit_softcap)
    factors = NEUTRAL._replace(**{name: getattr(given, name) for name in family.factors})
    if family.score_dim:
        scale = implied_scale(family, config.num_layers, config.num_heads, config.head_dim, config.hidden_size)
        factors = factors._replace(scale=scale)
    return Facts(
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        hidden_size=config.hidden_size,
        ffn_size=config.ffn_size,
        vocab_size=config.vocab_size,
        max_context=config.max_context,
        norm_eps=config.norm_eps,
        ropes=tuple(RopeConfig(theta=rope.theta) if number else rope for number, rope in enumerate(config.ropes)),
        tie_embeddings=config.tie_embeddings,
        name=config.name,
        biases=frozenset(bias for bias in family.gguf_biases if bias in config.extras),
        window=config.sliding_window,
        windowed=tuple(layer.attention.window > 0 for layer in config.layers),
        period=family.period,
        experts=None if experts is None else replace(experts, normalises=True),
        factors=factors,
    )


def _notices(job: WriteJob) -> Iterator[str]:
    """Notices where llama.cpp (llama-cpp-python 0.3.36) reads the file without a warning and computes something else."""
    config, rope, family = job.checkpoint.config, job.checkpoint.config.rope, FAMILIES[job.checkpoint.config.architecture]
    if lost := [name for name in _suggested(job.checkpoint) if name not in SAMPLING_KEYS.values()]:
        yield f"GGUF has no keys for these sampling defaults of the source: {', '.join(lost)}"
    if config.sliding_window and family.windowed is not within_period:
        yield (
            f"llama.cpp ignores the sliding window of this architecture: texts longer than {config.sliding_window} tokens "
            "differ there; puna keeps it"
        )
    if rope.scaling == "yarn" and (rope.beta_fast, rope.beta_slow) != LLAMA_CPP_BETAS and not family.scales_queries:
        yield (
            f"llama.cpp ignores yarn's beta_fast {rope.beta_fast:g} and beta_slow {rope.beta_slow:g} and uses "
            f"{LLAMA_CPP_BETAS[0]:g} and {LLAMA_CPP_BETAS[1]:g}: texts differ there; puna keeps them"
        )
    if rope.scaling == "longrope":
        yield (
            f"llama.cpp takes the long rope factors for every text if its context is set above {rope.original_context} tokens; "
            "puna takes them for texts that are longer"
        )
    spec = job.checkpoint.tokenizer
    if flagged := [] if spec is None or not spec.pipeline else [spec.tokens[i] for i, flags in spec.added_flags if flags]:
        yield (
            f"GGUF has no key for how {shown([token.decode('utf-8', 'replace') for token in flagged[:3]])} are found in a text "
            "(spaces beside them, whole words, normalized text): llama.cpp finds them as they are; puna keeps it"
        )


# ---- metadata -------------------------------------------------------------------------------------------------------


def _metadata(job: WriteJob) -> dict[str, Any]:
    """Key -> a str, bool, int (uint32), float (float32), numpy number, array, or list of byte strings."""
    checkpoint, config = job.checkpoint, job.checkpoint.config
    architecture = FAMILIES[config.architecture].gguf
    given: dict[str, Any] = {"general.architecture": architecture, "general.name": config.name or checkpoint.path.stem}
    matrices = Counter(job.types[name] for name, tensor in checkpoint.tensors.items() if len(tensor.shape) > 1)
    most = matrices.most_common(1)[0][0]
    given |= {"general.file_type": FILE_TYPES.get(most, 0), "general.quantization_version": QUANTISATION_VERSION}
    sizes = {CONFIG_KEYS[name]: getattr(config, name) for name in SIZES}
    sizes |= {"vocab_size": config.vocab_size, "attention.value_length": config.head_dim}
    sizes |= _rope_keys(config) | _window_keys(config) | _family_keys(_facts(config), FAMILIES[config.architecture])
    given |= {f"{architecture}.{key}": value for key, value in sizes.items()}
    if checkpoint.tokenizer is not None:
        given |= gguf_tokenizer_metadata(checkpoint.tokenizer)
    if checkpoint.chat_template is not None:
        given["tokenizer.chat_template"] = checkpoint.chat_template
    return given | _sampling_keys(checkpoint)


SIZES = ("num_layers", "num_heads", "num_kv_heads", "head_dim", "hidden_size", "ffn_size", "max_context", "norm_eps")


def _window_keys(config: ModelConfig) -> dict[str, Any]:
    if not config.sliding_window:
        return {}
    window: dict[str, Any] = {CONFIG_KEYS["sliding_window"]: config.sliding_window}
    if config.windowed_layers is not None:
        window[CONFIG_KEYS["windowed"]] = np.array([layer.attention.window > 0 for layer in config.layers], np.bool_)
    return window


def _family_keys(facts: Facts, family: Family) -> dict[str, Any]:
    """Factors, as far as their absence would mean another number, and experts."""
    absent = {"scale": NEUTRAL.scale, **{name: default for name, default in family.factors.items() if name in SOFTCAPS}}
    values = {name: getattr(facts.factors, name) for name in family.factors}
    keys: dict[str, Any] = {FACTOR_KEYS[name]: value for name, value in values.items() if value != absent.get(name)}
    if facts.experts is not None and family.experts is not None:
        keys |= {CONFIG_KEYS["num_experts"]: facts.experts.count, CONFIG_KEYS["experts per token"]: facts.experts.top_k}
        keys |= {CONFIG_KEYS["expert_size"]: facts.experts.size} if family.experts.size else {}
    return keys


def _sampling_keys(checkpoint: Checkpoint) -> dict[str, Any]:
    """The makers' sampling defaults, as far as GGUF has keys for them."""
    found = _suggested(checkpoint)
    given = {f"{SAMPLING}{key}": found[ours] for key, ours in SAMPLING_KEYS.items() if ours in found}
    if "repetition_penalty" in found:
        given.setdefault(f"{SAMPLING}penalty_last_n", -1)  # the whole text, as everywhere except in llama.cpp's default
    return {key: np.int32(value) if isinstance(value, int) else value for key, value in given.items()}


def _suggested(checkpoint: Checkpoint) -> Mapping[str, Any]:
    return suggested(checkpoint.generation, "", checkpoint.config.vocab_size, checkpoint.config.max_context).settings


def _rope_keys(config: ModelConfig) -> dict[str, Any]:
    rope = config.rope
    keys: dict[str, Any] = {"rope.freq_base": rope.theta, CONFIG_KEYS["rotated"]: rope.dim_of(config.head_dim)}
    if rope.scaling == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
    if rope.scaling in ("yarn", "longrope"):
        usual = yarn_attention_factor(max(rope.factor, 1.0)) if rope.scaling == "yarn" else 1.0
        keys |= {
            "rope.scaling.type": rope.scaling,
            "rope.scaling.original_context_length": rope.original_context,
            "rope.scaling.attn_factor": rope.attention_factor / usual,
        }
    if rope.scaling == "yarn":
        keys |= {
            "rope.scaling.factor": rope.factor,
            "rope.scaling.yarn_beta_fast": rope.beta_fast,
            "rope.scaling.yarn_beta_slow": rope.beta_slow,
        }
    if rope.q_beta:
        keys[CONFIG_KEYS["q_beta"]] = rope.q_beta
    if len(config.ropes) > 1:
        keys[CONFIG_KEYS["local_theta"]] = config.ropes[1].theta
    return keys


def _rope_factors(config: ModelConfig) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """The divisors of the frequencies, if tables are GGUF's only form for them (Llama 3.1, Phi-3)."""
    rope = config.rope
    if rope.scaling == "longrope":
        tables = {ROPE_SHORT: rope.factors, ROPE_LONG: rope.long_factors}
        return {name: np.array(factors, np.float32) for name, factors in tables.items()}
    if rope.factors is None and rope.scaling != "llama3":
        return {}
    by_table = RopeConfig(theta=rope.theta) if rope.scaling == "llama3" else replace(rope, factors=None)
    factors = by_table.frequencies(config.head_dim) / rope.frequencies(config.head_dim)
    return {ROPE_FACTORS: np.asarray(factors, np.float32)}


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


class OutputTensor(NamedTuple):
    """A tensor of the file."""

    type: str
    shape: tuple[int, ...]
    rows: Rows


def _pieces(job: WriteJob) -> dict[str, OutputTensor]:
    """GGUF's name of each tensor -> the tensor. Matrices that GGUF fuses stay apart if their types differ."""
    family, tensors = FAMILIES[job.checkpoint.config.architecture], job.checkpoint.tensors
    rows = {name: job.half_split_rows(name) if family.half_split else job.rows(name) for name in tensors}
    pieces = {foreign_name(GGUF_NAMES, name): OutputTensor(job.types[name], tensors[name].shape, rows[name]) for name in tensors}
    for layer in range(job.checkpoint.config.num_layers):
        for fused, roles in family.gguf_fused.items():
            names = [foreign_name(GGUF_NAMES, f"layers.{layer}.{role}") for role in roles]
            parts = [pieces[name] for name in names]
            if len({part.type for part in parts}) == 1:
                pieces = {name: piece for name, piece in pieces.items() if name not in names}
                shape = (sum(part.shape[0] for part in parts), parts[0].shape[1])
                pieces[fused.format(layer)] = OutputTensor(parts[0].type, shape, StackedRows([part.rows for part in parts]))
    return pieces


def _write_file(
    job: WriteJob,
    path: Path,
    pieces: Mapping[str, OutputTensor],
    factors: Mapping[str, np.ndarray[Any, Any]],
    metadata: dict[str, Any],
) -> None:
    infos = [(name, piece.type, piece.shape, piece.rows.nbytes) for name, piece in pieces.items()]
    infos += [(name, "F32", table.shape, table.nbytes) for name, table in factors.items()]
    head = MAGIC + struct.pack("<IQQ", VERSION, len(infos), len(metadata))
    head += b"".join(_string(key.encode()) + _packed(value) for key, value in metadata.items())
    offset = 0
    for name, kind, shape, num_bytes in infos:
        head += _string(name.encode()) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", TYPE_CODES[kind], offset)
        offset += num_bytes + -num_bytes % DEFAULT_ALIGNMENT
    with path.open("xb") as file:
        file.write(head + bytes(-len(head) % DEFAULT_ALIGNMENT))
        for piece in pieces.values():
            write_rows(file, piece.rows, job.wrote)
            _pad(file)
        for table in factors.values():
            file.write(table.tobytes())
            _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % DEFAULT_ALIGNMENT))


def _write(job: WriteJob, path: Path) -> None:
    metadata, pieces, factors = _metadata(job), _pieces(job), _rope_factors(job.checkpoint.config)
    shards = dealt_out({name: piece.rows.nbytes for name, piece in pieces.items()}, job.num_shards)
    if len(shards) == 1:
        _write_file(job, path, pieces, factors, metadata)
        return
    count = len(pieces) + len(factors)
    for number, names in enumerate(shards):
        keys = {"split.no": np.uint16(number), "split.count": np.uint16(len(shards)), "split.tensors.count": np.int32(count)}
        file, own = path / f"model-{number + 1:05d}-of-{len(shards):05d}.gguf", {name: pieces[name] for name in names}
        _write_file(job, file, own, {} if number else factors, ({} if number else metadata) | keys)


GGUF = Writer(
    is_folder=lambda shards: shards > 1,
    types=("F32", *(name for name in GGUF_READABLE if name != "F32")),
    vector_types=("F32",),
    require=_require,
    write=_write,
    notices=_notices,
)
