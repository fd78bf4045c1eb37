"""The settings of a run, from arguments, flags or variables. Frozen. This module checks every one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from puna.checks import refuse_unknown, require, shown, unknown_setting
from puna.errors import ConfigError
from puna.model.spec import MAX_SIZES
from puna.units import BYTES, parse_bytes

KVType = Literal["auto", "bf16", "f16", "f32", "int8"]
WeightsType = Literal["auto", "as-is", "int8", "int4"]
SamplingDefaults = Literal["model", "puna"]
Speculation = Literal["auto", "off", "ngram"]
DEVICE = re.compile(r"auto|cpu|torch|reference|cuda(:\d{1,2})?")
DEVICE_NAMES = "auto, cpu, cuda, cuda:1 and so on, torch (PyTorch on the CPU), reference"

Bytes = int  # a number of bytes; its text may have a unit
Texts = tuple[str, ...]  # their text has commas between them


@refuse_unknown("LLM(...), which loads a model, or to EngineConfig(...)")
@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How to run. Each field is an environment variable (`PUNA_MAX_CONTEXT`), and most are a flag (`--max-context`).

    Fields, with what is allowed and the default:
        device: auto, cpu, torch (the CPU by PyTorch), cuda, cuda:1 ..., reference (numpy, slow) ['auto']
        require_gpu: fail instead of using the CPU [False]
        threads: at most so many threads of the CPU. 1..256; 0: as many as help, from one per core on [0]
        max_context: tokens per sequence, prompt and answer. 0: the model's limit, lowered (with a notice) to what fits [0]
        max_batch: sequences that run at once. 1..4096; 0: 64 on a CPU, 256 on a GPU [0]
        max_queue: requests that may wait to start; while as many wait, QueueFullError refuses calls. 0..2**20; 0: no limit [0]
        chunk_tokens: token budget of a step; it bounds scratch memory and how long Ctrl-C waits. 0: 256 or 1024 [0]
        page_size: tokens per KV page. A multiple of 16, up to 1024 [32]
        kv_type: how K and V are stored: auto, bf16, f16, f32, int8 ['auto']
        weights: how weights are stored: as-is, int8, int4; auto: the first of these that fits ['auto']
        vram: use at most this many bytes of the device's memory. 0: all that is free ("12GiB" on the command line) [0]
        prefix_cache: keep the K and V of finished prompts for later ones with the same beginning [True]
        cache_dir: a folder that keeps them for other processes and later starts. '': none ['']
        cache_size: bytes of that folder, and at most half of what the disk has free ("20GiB" on the command line) [4294967296]
        speculation: guess repeated text, for speed; no result changes: off, ngram; auto: ngram unless the device samples ['auto']
        draft_model: a small model of the same vocabulary, by name or path, that guesses tokens; no result changes. '': none ['']
        graphs: on CUDA, record decode steps once and replay them [True]
        sampling_defaults: for what the caller does not set: model (its suggestions) or puna (greedy) ['model']
        lora: LoRA adapters to merge into the weights, for every request: PATH or PATH=SCALE each. At most 64 [()]
        lora_modules: LoRA adapters that a request may name (`lora_name`): NAME=PATH or NAME=PATH=SCALE each. At most 64 [()]
    """

    device: str = "auto"
    require_gpu: bool = False
    threads: int = 0
    max_context: int = 0
    max_batch: int = 0
    max_queue: int = 0
    chunk_tokens: int = 0
    page_size: int = 32
    kv_type: KVType = "auto"
    weights: WeightsType = "auto"
    vram: Bytes = 0
    prefix_cache: bool = True
    cache_dir: str | Path = ""
    cache_size: Bytes = 4 << 30
    speculation: Speculation = "auto"
    draft_model: str | Path = ""
    graphs: bool = True
    sampling_defaults: SamplingDefaults = "model"
    lora: Texts = ()
    lora_modules: Texts = ()

    def __post_init__(self) -> None:
        for f in fields(self):  # to Python, True is a whole number
            value = getattr(self, f.name)
            ok = isinstance(value, bool) == (f.type == "bool")
            require(ok, f.name, f"is {shown(value)}, of type {type(value).__name__}; {f.type} is needed")
        for name, low, high in _ENGINE_LIMITS:
            value = getattr(self, name)
            ok = isinstance(value, int) and low <= value <= high
            require(ok, name, f"is {shown(value)}; it must lie in {low}..{high}")
        ok = isinstance(self.device, str) and DEVICE.fullmatch(self.device) is not None
        require(ok, "device", f"is {shown(self.device)}; allowed: {DEVICE_NAMES}")
        for name, kind in _CHOICES:
            value, allowed = getattr(self, name), get_args(kind)
            require(isinstance(value, str) and value in allowed, name, f"is {shown(value)}; allowed: {', '.join(allowed)}")
        for name in ("lora", "lora_modules"):
            value = getattr(self, name)
            ok = (
                isinstance(value, list | tuple)
                and len(value) <= MAX_ADAPTERS
                and all(isinstance(one, str) and one for one in value)
            )
            require(ok, name, f"is {shown(value)}; a list of at most {MAX_ADAPTERS} texts is needed")
            object.__setattr__(self, name, tuple(value))
        ok = isinstance(self.cache_dir, (str, Path)) and "\0" not in str(self.cache_dir)
        require(ok, "cache_dir", f"is {shown(self.cache_dir)}; the path of a folder is needed")
        ok = isinstance(self.draft_model, (str, Path)) and "\0" not in str(self.draft_model)
        require(ok, "draft_model", f"is {shown(self.draft_model)}; a model's name or path is needed")
        ok = not self.draft_model or self.speculation == "auto"
        require(
            ok, "draft_model", f"is {str(self.draft_model)!r}, but speculation is {self.speculation!r}; leave one of them out"
        )
        ok = self.page_size % 16 == 0
        require(ok, "page_size", f"is {self.page_size}; it must be a multiple of 16")

    @classmethod
    def from_env(cls, **given: Any) -> EngineConfig:
        """The given values (None: not given), else `PUNA_...` variables, else the defaults. A bad value is an error."""
        if (unknown := unknown_setting(cls, given)) is not None:  # also of one that is None
            raise unknown
        values = {name: value for name, value in given.items() if value is not None}
        kinds = {f.name: str(f.type) for f in fields(cls)}
        variables = {
            name: variable for name in kinds.keys() - values.keys() if (variable := f"PUNA_{name.upper()}") in os.environ
        }
        hints = {name: f"Change or unset {variable}." for name, variable in variables.items()}
        for name, variable in variables.items():
            values[name] = read_setting(variable, kinds[name], os.environ[variable], hints[name])
        has_effect = given.get("cache_size") is None or bool(values.get("cache_dir"))
        require(has_effect, "cache_size", "limits a folder, and none is named: add --cache-dir DIR")
        try:
            return cls(**values)
        except ConfigError as error:
            error.give_hint(hints.get(error.field, error.typed.hint))
            raise


class EngineSettings(TypedDict, total=False):
    """The fields of EngineConfig as keyword arguments; `help(EngineConfig)` says what each one means."""

    device: str
    require_gpu: bool
    threads: int
    max_context: int
    max_batch: int
    max_queue: int
    chunk_tokens: int
    page_size: int
    kv_type: KVType
    weights: WeightsType
    vram: Bytes
    prefix_cache: bool
    cache_dir: str | Path
    cache_size: Bytes
    speculation: Speculation
    draft_model: str | Path
    graphs: bool
    sampling_defaults: SamplingDefaults
    lora: Texts
    lora_modules: Texts


MAX_ADAPTERS = 64
_ENGINE_LIMITS = (
    ("threads", 0, 256),
    ("max_context", 0, MAX_SIZES["max_context"]),
    ("max_batch", 0, 4096),
    ("max_queue", 0, 1 << 20),
    ("chunk_tokens", 0, 8192),
    ("page_size", 16, 1024),
    ("vram", 0, 1 << 50),
    ("cache_size", 1 << 20, 1 << 50),
)


# What fields with a few values may be.
_CHOICES = (
    ("kv_type", KVType),
    ("weights", WeightsType),
    ("sampling_defaults", SamplingDefaults),
    ("speculation", Speculation),
)

# type of a field -> pattern of its text, the same in words, the function that reads it
_PARSERS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "int": (r"[+-]?[0-9]{1,18}", "a whole number of at most 18 digits is needed", int),
    "bool": (r"[01]", "allowed: 0, 1", lambda text: text == "1"),
    "Bytes": (
        BYTES,
        "a number of bytes is needed, such as 12GiB",
        parse_bytes,
    ),
    "Texts": (r"(?s).*", "", lambda text: tuple(filter(None, text.split(",")))),
}


def read_setting(name: str, kind: str, text: str, hint: str = "") -> Any:
    """The value of a text for a field of type `kind`. ConfigError if the text does not match."""
    pattern, words, read = _PARSERS.get(kind, (r"(?s).*", "", str))
    shown = repr(text if len(text) <= 40 else text[:37] + "...")
    require(re.fullmatch(pattern, text) is not None, name, f"is {shown}; {words}", hint)
    return read(text)
