"""path -> Adapter: a folder that PEFT wrote (`adapter_config.json`, `adapter_model.safetensors`), or a GGUF adapter as llama.cpp
writes it. Everything is checked against the model: names, shapes, rank, and each setting that changes results.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from puna.errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from puna.formats.base import Adapter, LowRank
from puna.formats.families import FAMILIES
from puna.formats.gguf_file import MAGIC, read_gguf
from puna.formats.gguf_values import Values
from puna.formats.json_file import JsonObject, read_json
from puna.formats.lora import MAX_RANK, Floats, Target, targets
from puna.formats.mapped import is_there, read_head, shown, shown_path
from puna.formats.names import GGUF_NAMES
from puna.formats.rows import interleaved_order
from puna.formats.safetensors import read_safetensors
from puna.formats.torch_file import read_torch_file
from puna.model.spec import ModelConfig
from puna.model.weights import role_of

CONFIG, WEIGHTS = "adapter_config.json", {"adapter_model.safetensors": read_safetensors, "adapter_model.bin": read_torch_file}
MAX_CONFIG_BYTES = 1 << 20
# Settings that would change results -> the values with which they do not.
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "alpha_pattern": (None, {}),
    "trainable_token_indices": (None, []),
    "target_parameters": (None, []),
    "layer_replication": (None, []),
    "alora_invocation_tokens": (None, []),
    "arrow_config": (None,),
}
REPLACES_BASE = ("pissa", "olora", "corda", "loftq", "eva")  # ways to begin that change the base weights too
PEFT_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])(\.default)?\.weight")
GGUF_NAME = re.compile(r"(?P<module>.+\.weight)\.lora_(?P<half>[ab])")
Halves = Mapping[str, Mapping[str, Floats]]  # module -> half ("a", "b") -> numbers


def read_adapter(path: Path, model: ModelConfig) -> Adapter:
    """Open and check an adapter for `model`. Raises ModelNotFoundError, ModelFormatError, UnsupportedModelError."""
    if is_there(path) and read_head(path, 4) == MAGIC:  # a path that the system does not know is refused here
        return _read_gguf(path, model)
    folder = path if path.is_dir() else path.parent
    if is_there(folder / CONFIG) and (path.is_dir() or path.name in (CONFIG, *WEIGHTS)):
        return _read_peft(folder, model)
    raise ModelNotFoundError(
        f"{shown_path(path)} is no LoRA adapter: neither a folder with {CONFIG} nor a GGUF file",
        hint="Give the folder that PEFT wrote, or a file of llama.cpp's convert_lora_to_gguf.py.",
    )


# ---- PEFT -----------------------------------------------------------------------------------------------------------


def _read_peft(folder: Path, model: ModelConfig) -> Adapter:
    settings = read_json(folder / CONFIG, MAX_CONFIG_BYTES)
    _refuse_what_changes_results(settings)
    file = next((folder / name for name in WEIGHTS if is_there(folder / name)), None)
    if file is None:
        raise ModelNotFoundError(f"{folder} holds {CONFIG}, but none of {', '.join(WEIGHTS)}", hint="Fetch the folder again.")
    halves: dict[str, dict[str, Floats]] = {}
    for name, array in WEIGHTS[file.name](file).items():
        found = PEFT_NAME.fullmatch(name)
        if found is None:
            raise UnsupportedModelError(f"{file}: '{name}' is no part of a LoRA adapter that puna can add")
        halves.setdefault(f"{found['module']}.weight", {})[found["half"].lower()] = _numbers(
            file, name, array.dtype, array.array()
        )
    family = FAMILIES[model.architecture]
    alpha, is_rooted = settings.real("lora_alpha"), settings.flag("use_rslora")
    if alpha is None:
        settings.fail("lora_alpha", "is missing")
    known = targets(model, family.names, family.fused)
    renamed = {_renamed(name, family.renamed): found for name, found in halves.items()}
    return _adapter(
        file, renamed, known, model, lambda rank: alpha / (math.sqrt(rank) if is_rooted else rank), is_half_split=True
    )


def _renamed(name: str, parts: Mapping[str, str]) -> str:
    for old, new in parts.items():
        name = name.replace(old, new)
    return name


def _refuse_what_changes_results(settings: JsonObject) -> None:
    for key, plain in PLAIN.items():
        found = settings.values.get(key, plain[0])
        if found not in plain:
            allowed = " or ".join(repr(value) for value in plain)
            raise UnsupportedModelError(
                f"{settings.file}: {key} is {shown(found)}; puna adds adapters where it is {allowed} or absent"
            )
    begun = settings.values.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(REPLACES_BASE):
        raise UnsupportedModelError(
            f"{settings.file}: init_lora_weights is {shown(begun)}, which changes the model's own weights too",
            hint="Convert the adapter to a plain LoRA with PEFT, or merge it there.",
        )


def _numbers(file: Path, name: str, dtype: str, values: Any) -> Floats:
    if dtype not in ("F32", "F16", "BF16") or values.ndim != 2:
        raise UnsupportedModelError(f"{file}: '{name}' is {dtype} {values.shape}; a matrix in F32, F16 or BF16 is needed")
    floats = (values.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else values.astype(np.float32)
    return np.ascontiguousarray(floats)


# ---- GGUF -----------------------------------------------------------------------------------------------------------


def _read_gguf(path: Path, model: ModelConfig) -> Adapter:
    gguf = read_gguf(path, lambda file, values: None)
    values, family = Values(gguf.path, gguf.values), FAMILIES[model.architecture]
    for key, needed in (("general.type", "adapter"), ("adapter.type", "lora"), ("general.architecture", family.gguf)):
        if (found := values.text(key)) != needed:
            raise UnsupportedModelError(f"{path}: {key} is {shown(found)}; an adapter of this model has {needed!r}")
    if values.array("adapter.alora.invocation_tokens", "uint32") is not None:
        raise UnsupportedModelError(f"{path} is an activated LoRA, which begins at certain tokens; puna adds an adapter to all")
    halves: dict[str, dict[str, Floats]] = {}
    for name, tensor in gguf.tensors.items():
        match = GGUF_NAME.fullmatch(name)
        if match is None or len(tensor.shape) != 2:
            raise UnsupportedModelError(f"{path}: '{name}' is no part of a LoRA adapter that puna can add")
        halves.setdefault(match["module"], {})[match["half"]] = tensor.type.dequantize(tensor.data[:]).reshape(tensor.shape)
    alpha = values.real("adapter.lora.alpha") or 0.0
    known = targets(model, GGUF_NAMES, family.gguf_fused)
    return _adapter(path, halves, known, model, lambda rank: alpha / rank if alpha else 1.0, is_half_split=family.half_split)


# ---- both -----------------------------------------------------------------------------------------------------------


def _adapter(
    file: Path, halves: Halves, known: Mapping[str, list[Target]], model: ModelConfig, scale_of: Any, is_half_split: bool
) -> Adapter:
    """The checked adapter. `scale_of`: rank -> the factor of B A. `is_half_split`: the rotary order of q's and k's rows."""
    parts: dict[str, LowRank] = {}
    for module, found in halves.items():
        if module not in known:
            raise UnsupportedModelError(
                f"{file}: the adapter changes '{module}', which is no matrix of this model that puna adds an adapter to",
                hint="Adapters may change q, k, v, o, gate, up and down projections, and an output matrix of its own.",
            )
        a, b = _checked_halves(file, module, found, known[module])
        for target in known[module]:
            rows = b[target.rows]
            if is_half_split and role_of(target.name).is_rotary:
                rows = _interleaved(rows, model)
            parts[target.name] = LowRank(a, np.ascontiguousarray(rows * np.float32(scale_of(len(a)))))
    if not parts:
        raise ModelFormatError(file, "file", None, "holds no matrix")
    return Adapter(file, parts)


def _checked_halves(file: Path, module: str, found: Mapping[str, Floats], needed: list[Target]) -> tuple[Floats, Floats]:
    def fail(problem: str) -> NoReturn:
        raise ModelFormatError(file, f"adapter of '{module}'", None, problem)

    if missing := {"a", "b"} - found.keys():
        fail(f"lacks its half {min(missing)}")
    a, b = found["a"], found["b"]
    rows, columns = sum(target.shape[0] for target in needed), needed[0].shape[1]
    if a.shape[1] != columns or b.shape[0] != rows:
        fail(f"is {b.shape} x {a.shape}; the model's matrix is ({rows}, {columns})")
    if not 1 <= len(a) <= MAX_RANK or b.shape[1] != len(a):
        fail(f"has the ranks {len(a)} and {b.shape[1]}; two equal ones in 1..{MAX_RANK} are needed")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        fail("holds a number that is not finite")
    return a, b


def _interleaved(rows: Floats, model: ModelConfig) -> Floats:
    heads = rows.reshape(-1, model.head_dim, rows.shape[1])
    return heads[:, interleaved_order(model.head_dim, model.rope.dim)].reshape(rows.shape)
