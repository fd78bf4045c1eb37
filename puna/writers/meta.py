"""A checkpoint as Meta distributes it: consolidated.NN.pth, params.json, tokenizer.model.

If this format has no file for a tokenizer or a template, it is beside the weights under the name that puna looks for. Meta's code
takes the keys of params.json as arguments and fails at unknown ones, so only known ones are there; puna.json has the rest.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from puna.errors import UnsupportedModelError
from puna.formats.base import Checkpoint, Tensor
from puna.formats.blocks import BLOCK_TYPES
from puna.formats.meta import (
    PARAMS,
    SCALED_ROPE,
    SCALED_ROPE_FACTOR,
    SIDE_FILE,
    SMALL,
    SMALL_FACTOR,
    USUAL_THETA,
    usual_context,
)
from puna.formats.names import META_NAMES, foreign_name
from puna.formats.shards import BY_COLUMNS, BY_VOCABULARY, check_parts, cut
from puna.model.rope import RopeConfig
from puna.model.spec import ModelConfig
from puna.writers.base import WriteJob, Writer
from puna.writers.text_files import require_frame, write_json, write_template, write_tokenizer
from puna.writers.torch_file import OutputArray, write_torch_file


def _require(job: WriteJob) -> None:
    config = job.checkpoint.config
    extra = [name for name in config.extras if name != "sliding_window"]
    if extra:
        raise UnsupportedModelError(
            f"Meta's format has no form for a model with {', '.join(extra)}", hint="Convert to safetensors."
        )
    if config.rope.factors is not None or (config.rope.scaling != "none" and config.rope != _scaled(config)):
        raise UnsupportedModelError(
            f"Meta's format has no key for rope scaling of type {config.rope.scaling} with these numbers",
            hint="Convert to safetensors.",
        )
    check_parts(config, job.num_shards)
    if config.vocab_size % job.num_shards:
        raise UnsupportedModelError(f"a vocabulary of {config.vocab_size} cannot be split into {job.num_shards} equal shards")
    require_frame(job.checkpoint.tokenizer)


def _scaled(config: ModelConfig) -> RopeConfig:
    """The meaning of `use_scaled_rope` for a model of these sizes."""
    factor = SMALL_FACTOR if (config.hidden_size, config.num_layers) in SMALL else SCALED_ROPE_FACTOR
    return replace(SCALED_ROPE, theta=config.rope.theta, factor=factor)


def _params(config: ModelConfig, is_llama3: bool) -> dict[str, Any]:
    """params.json. It has keys that Llama 2's code does not know only if they matter. Llama 3's code knows rope_theta, and uses
    500000 if it is missing.
    """
    values: dict[str, Any] = {
        "dim": config.hidden_size,
        "n_layers": config.num_layers,
        "n_heads": config.num_heads,
        "n_kv_heads": config.num_kv_heads,
        "vocab_size": config.vocab_size,
        **ffn_keys(config.hidden_size, config.ffn_size),
        "norm_eps": config.norm_eps,
    }
    if is_llama3 or config.rope.theta != USUAL_THETA:
        values["rope_theta"] = config.rope.theta
    if config.rope.scaling != "none":
        values["use_scaled_rope"] = True
    if config.head_dim * config.num_heads != config.hidden_size:
        values["head_dim"] = config.head_dim
    if config.sliding_window:
        values["sliding_window"] = config.sliding_window
    return values


def _side(config: ModelConfig) -> dict[str, Any]:
    """puna.json: what Meta's keys cannot say and a reader needs."""
    values: dict[str, Any] = {}
    if usual_context(config.rope, config.norm_eps) != config.max_context:
        values["max_context"] = config.max_context
    if config.tie_embeddings:
        values["tie_embeddings"] = True
    return values


def ffn_keys(hidden_size: int, ffn_size: int) -> dict[str, Any]:
    """Numbers from which Meta's code computes the feed-forward size: 8/3 of dim, times the multiplier, cut to a whole number and
    rounded up to a multiple.

    The product may be any number from ffn_size + 1 - multiple up to below ffn_size + 1. This aims at the middle, half a unit or
    more from both ends, which no rounding of a float crosses.
    """
    base, multiple = int(8 * hidden_size / 3), ffn_size & -ffn_size
    if -(-base // multiple) * multiple == ffn_size:
        return {"multiple_of": multiple}
    return {"multiple_of": multiple, "ffn_dim_multiplier": (ffn_size + 1 - multiple / 2) / base}


def _recoded(job: WriteJob) -> Checkpoint:
    """The checkpoint with each tensor in its new type. Meta's code knows no tied output matrix, and would leave random numbers
    in it, so it gets the embedding's rows a second time.
    """
    tensors = {
        name: Tensor(name, tensor.shape, BLOCK_TYPES[job.types[name]], job.rows(name))
        for name, tensor in job.checkpoint.tensors.items()
    }
    tensors.setdefault("lm_head", replace(tensors["embed"], name="lm_head"))
    return replace(job.checkpoint, tensors=tensors)


def _copied_bytes(job: WriteJob) -> int:
    return job.rows("embed").nbytes if job.checkpoint.config.tie_embeddings else 0


def _write(job: WriteJob, folder: Path) -> None:
    checkpoint, whole = job.checkpoint, _recoded(job)
    is_llama3 = checkpoint.tokenizer is not None and checkpoint.tokenizer.kind == "bpe"
    write_json(_params(checkpoint.config, is_llama3), folder / PARAMS)
    if side := _side(checkpoint.config):
        write_json(side, folder / SIDE_FILE)
    write_tokenizer(checkpoint, folder, "meta")
    write_template(checkpoint, folder)
    cuts = BY_VOCABULARY if is_llama3 else BY_COLUMNS  # as in Llama 3's shards, or in the older ones
    for rank in range(job.num_shards):
        parts = cut(whole, rank, job.num_shards, cuts)
        arrays = {
            foreign_name(META_NAMES, name): OutputArray(part.type.name, part.shape, part.data) for name, part in parts.items()
        }
        write_torch_file(folder / f"consolidated.{rank:02}.pth", arrays, job.wrote)


META = Writer(
    is_folder=lambda shards: True,
    types=("F32", "F16", "BF16"),
    vector_types=("F32", "F16", "BF16"),
    require=_require,
    write=_write,
    copied_bytes=_copied_bytes,
)
