"""A checkpoint in llama2.c's format: float32 weights as version 0, for its `run`; int8 groups as version 2, for its `runq`.

The format knows one rotary base and one epsilon. Version 0 has tables of cosines and sines, from which the reader restores the
frequencies; version 2 gets theta and epsilon after its header's numbers (`formats/llama2c.py`). llama2.c itself ignores both.
The result is a folder: model.bin, the tokenizer, and the template, for which llama2.c has no place.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from puna.errors import UnsupportedModelError
from puna.formats.base import Tensor
from puna.formats.llama2c import (
    EXTENSION_AT,
    HEADER_BYTES,
    MAGIC,
    NORM_EPS,
    ORDER_V0,
    ORDER_V1,
    ROPE_THETA,
    extension,
    file_order,
)
from puna.model.rope import RopeConfig
from puna.model.spec import ModelConfig
from puna.writers.base import WriteJob, Writer, write_rows
from puna.writers.text_files import require_frame, write_template, write_tokenizer

MODEL = "model.bin"
LARGEST_GROUP = 64
CHUNK_ROWS = 4096


def _is_quantised(job: WriteJob) -> bool:
    return any(kind == "Q8_GROUP" for kind in job.types.values())


def _require(job: WriteJob) -> None:
    config = job.checkpoint.config
    problem = {
        f"a model with {', '.join(config.extras)}": bool(config.extras),
        "heads that are not an equal share of the hidden size": config.head_dim * config.num_heads != config.hidden_size,
        "a rope scaling that depends on the text's length, or scales the attention": config.rope.scaling in ("dynamic", "yarn"),
        "rope scaling with int8 weights": config.rope != RopeConfig(theta=config.rope.theta) and _is_quantised(job),
        "another epsilon than 1e-5 with float32 weights": not _is_quantised(job) and not _same(config.norm_eps, NORM_EPS),
        "several shards": job.num_shards > 1,
    }
    for what in [what for what, is_so in problem.items() if is_so]:
        raise UnsupportedModelError(f"llama2.c's format has no form for {what}", hint="Convert to gguf or safetensors instead.")
    require_frame(job.checkpoint.tokenizer)


def _same(a: float, b: float) -> bool:
    return bool(np.float32(a) == np.float32(b))


def group_size(config: ModelConfig) -> int:
    """The largest group of at most 64 numbers that divides every row; a power of two if one above 1 does."""
    both = math.gcd(config.hidden_size, config.ffn_size)
    power = min(both & -both, LARGEST_GROUP)
    return power if power > 1 else max(size for size in range(1, LARGEST_GROUP + 1) if both % size == 0)


def _write(job: WriteJob, folder: Path) -> None:
    checkpoint, config = job.checkpoint, job.checkpoint.config
    write_tokenizer(checkpoint, folder, "llama2c")
    write_template(checkpoint, folder)
    sizes = (config.hidden_size, config.ffn_size, config.num_layers, config.num_heads, config.num_kv_heads)
    with (folder / MODEL).open("xb") as file:
        if _is_quantised(job):
            _write_v2(job, file, sizes)
        else:
            _write_v0(job, file, sizes)


def _write_v0(job: WriteJob, file: BinaryIO, sizes: tuple[int, ...]) -> None:
    config = job.checkpoint.config
    vocab_size = config.vocab_size if config.tie_embeddings else -config.vocab_size
    file.write(struct.pack("<7i", *sizes, vocab_size, config.max_context))
    for name in file_order(ORDER_V0, config):
        if name == "lm_head":
            _write_tables(config, file)
        if name in job.checkpoint.tensors:
            write_rows(file, job.rows(name), job.wrote)


def _write_tables(config: ModelConfig, file: BinaryIO) -> None:
    """Write cosines, then sines, of each position and pair.  # (max_context, head_dim / 2) each"""
    frequencies = config.rope.frequencies(config.head_dim)
    for table in (np.cos, np.sin):
        for first in range(0, config.max_context, CHUNK_ROWS):
            positions = np.arange(first, min(first + CHUNK_ROWS, config.max_context))
            file.write(table(np.multiply.outer(positions, frequencies)).astype("<f4").tobytes())


def _write_v2(job: WriteJob, file: BinaryIO, sizes: tuple[int, ...]) -> None:
    config, size = job.checkpoint.config, group_size(job.checkpoint.config)
    header = struct.pack("<Ii7iBi", MAGIC, 2, *sizes, config.vocab_size, config.max_context, config.tie_embeddings, size)
    header = header.ljust(EXTENSION_AT, b"\0")
    if not (_same(config.norm_eps, NORM_EPS) and config.rope.theta == ROPE_THETA):
        header += extension(config.rope.theta, config.norm_eps)
    file.write(header.ljust(HEADER_BYTES, b"\0"))
    for name in file_order(ORDER_V1, config):
        tensor = job.checkpoint.tensors.get(name)
        if tensor is not None and len(tensor.shape) == 1:
            write_rows(file, job.rows(name), job.wrote)
        elif tensor is not None:
            _write_groups(tensor, size, file, job)


def _write_groups(tensor: Tensor, size: int, file: BinaryIO, job: WriteJob) -> None:
    """Write the int8 numbers of all rows, then all scales."""
    scales = []
    for numbers, scale in _groups(tensor, size):
        file.write(numbers.tobytes())
        scales.append(scale)
        job.wrote(numbers.nbytes)
    file.write(np.concatenate(scales).astype("<f4").tobytes())


def _groups(tensor: Tensor, size: int) -> Iterator[tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]]:
    """Numbers and scales of some rows at a time, rounded as in export.py: the largest of a group becomes 127. A model that
    already has just such groups keeps them."""
    for first in range(0, tensor.shape[0], CHUNK_ROWS):
        last = min(first + CHUNK_ROWS, tensor.shape[0])
        if tensor.scales is not None and tensor.shape[1] // tensor.scales.shape[1] == size:
            yield tensor.data[first:last].view(np.int8), tensor.scales[first:last].reshape(-1)
            continue
        runs = tensor.dequantize(first, last).reshape(-1, size)
        scale = np.abs(runs).max(axis=1) / np.float32(127)
        with np.errstate(divide="ignore", invalid="ignore"):
            numbers = np.where(scale[:, None] > 0, np.round(runs / scale[:, None]), 0)
        yield numbers.astype(np.int8), scale


LLAMA2C = Writer(
    is_folder=lambda shards: True,
    types=("F32", "Q8_GROUP"),
    vector_types=("F32",),
    require=_require,
    write=_write,
)
