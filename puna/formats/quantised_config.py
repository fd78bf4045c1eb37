"""The settings of a quantised folder: those that puna reads, those without effect, and those that must have their plain value.

The words are those of AutoGPTQ and GPTQModel, AutoAWQ, and compressed-tensors. `puna inspect` lists unknown keys, as for
config.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from puna.errors import UnsupportedModelError
from puna.formats.huggingface_config import refuse_other_values
from puna.formats.json_file import JsonObject
from puna.formats.mapped import shown

COMPRESSED_FORMATS = ("pack-quantized", "int-quantized", "naive-quantized")
COLUMNS_SHUFFLED = ("group", "dynamic", True)  # values of actorder that need a stored group for each column


class Level(NamedTuple):
    """The keys that an object of the settings may have."""

    plain: dict[str, tuple[Any, ...]]  # keys that change results: the values with which puna computes the right model
    others: set[str]  # keys that puna reads, that the tensors repeat, or that only tell how the model was made


LEVELS: dict[str, Level] = {
    "gptq": Level(
        {
            "is_marlin_format": (False, None),
            "format": ("gptq", "gptq_v2", None),
            "pack_dtype": ("int32", None),
            "method": ("gptq", None),
            "rotation": (None, ""),
            "adapter": (None, {}),
        },
        {
            "act_group_aware", "backend", "batch_size", "bits", "block_name_to_quantize", "cache_block_outputs",
            "checkpoint_format", "damp_auto_increment", "damp_percent", "dataset", "desc_act", "disable_exllama", "dynamic",
            "exllama_config", "group_size", "lm_head", "max_input_length", "meta", "model_file_base_name", "model_name_or_path",
            "model_seqlen", "module_name_preceding_first_block", "modules_in_block_to_quantize", "mse", "pack_impl",
            "pad_token_id", "parallel_packing", "quant_method", "static_groups", "sym", "tokenizer", "true_sequential",
            "use_cuda_fp16", "use_exllama",
        },
    ),
    "awq": Level(
        {},
        {
            "backend", "bits", "do_fuse", "exllama_config", "fuse_max_seq_len", "group_size", "modules_to_fuse",
            "modules_to_not_convert", "q_group_size", "quant_method", "version", "w_bit", "zero_point",
        },
    ),
    "compressed-tensors": Level(
        {"kv_cache_scheme": (None,), "transform_config": ({}, {"config_groups": {}}, None)},
        {
            "config_groups", "format", "global_compression_ratio", "ignore", "quant_method", "quantization_status",
            "sparsity_config", "version",
        },
    ),
    "sparsity": Level(
        {"format": ("dense", None)},
        {"global_sparsity", "ignore", "registry_requires_subclass", "sparsity_structure", "targets"},
    ),
    "group": Level({"format": (*COMPRESSED_FORMATS, None)}, {"input_activations", "output_activations", "targets", "weights"}),
    "weights": Level(
        {
            "strategy": ("tensor", "channel", "group", None),
            "actorder": ("weight", "static", False, *COLUMNS_SHUFFLED, None),
            "block_structure": (None,),
            "dynamic": (False, None),
        },
        {"group_size", "num_bits", "observer", "observer_kwargs", "scale_dtype", "symmetric", "type", "zp_dtype"},
    ),
}  # fmt: skip


def _levels(config: JsonObject) -> Iterator[tuple[JsonObject, Level]]:
    """Every object of the settings that has a row in the table."""
    method = config.text("quant_method") or ""
    if method in LEVELS:
        yield config, LEVELS[method]
    if method != "compressed-tensors":
        return
    sparsity, groups = config.object("sparsity_config"), config.object("config_groups")
    if sparsity is not None:
        yield sparsity, LEVELS["sparsity"]
    for group in [] if groups is None else [groups.object(name) for name in groups.values]:
        if group is not None:
            yield group, LEVELS["group"]
            weights = group.object("weights")
            if weights is not None:
                yield weights, LEVELS["weights"]


def refuse_what_changes_results(config: JsonObject) -> None:
    """Raise UnsupportedModelError for settings with which puna would compute another model than the one that was made."""
    for part, level in _levels(config):
        refuse_other_values(part, level.plain)
    dynamic = config.object("dynamic")
    for pattern in [] if dynamic is None else dynamic.values:
        if not pattern.startswith("-:"):  # it leaves matrices unquantised, as their tensors show too
            raise UnsupportedModelError(
                f"{config.file}: {config.name}.dynamic has other settings for {shown(pattern)}, which changes results;"
                " puna reads models with the same settings for all matrices"
            )


def unused_settings(config: JsonObject) -> tuple[str, ...]:
    """Keys that puna neither reads nor knows, with the path to each."""
    return tuple(
        f"{part.name}.{key}"
        for part, level in _levels(config)
        for key in part.values
        if key not in level.plain and key not in level.others
    )
