"""The sizes of a model and the settings of a run. Frozen. This module checks every number, for all formats.

Foreign spellings (`block_count`, `num_hidden_layers`, `n_layers`) live in `formats/` only.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import numpy.typing as npt

from puna.checks import refuse_unknown, unknown_setting
from puna.errors import UsageError
from puna.units import BYTES, parse_bytes

RopeScaling = Literal["none", "linear", "llama3", "dynamic", "yarn"]
KVType = Literal["auto", "bf16", "f16", "f32", "int8"]
WeightsType = Literal["auto", "as-is", "int8", "int4"]
SamplingDefaults = Literal["model", "puna"]
DEVICE = re.compile(r"auto|cpu|torch|reference|cuda(:\d{1,2})?")
DEVICE_NAMES = "auto, cpu, cuda, cuda:1 and so on, torch (PyTorch on the CPU), reference"

Bytes = int  # a number of bytes; its text may have a unit

MAX_SIZES = {  # generous: the largest LLaMA (405B) has 126 layers, hidden 16384, ffn 53248, vocabulary 128256
    "num_layers": 1024,
    "num_heads": 4096,
    "num_kv_heads": 4096,
    "head_dim": 1024,
    "hidden_size": 1 << 18,
    "ffn_size": 1 << 20,
    "vocab_size": 1 << 22,
    "max_context": 1 << 27,
}


class ConfigError(UsageError):
    """A size or setting outside its range; `field` names it."""

    def __init__(self, name: str, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{name} {problem}", hint=hint)
        self.field = name


def _require(holds: bool, name: str, problem: str, hint: str = "") -> None:
    if not holds:
        raise ConfigError(name, problem, hint=hint)


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864) over interleaved pairs (x[2i], x[2i+1]).

    `factors` divide the frequencies one by one (Llama 3.1's `rope_freqs`). `scaling` says what `factor` does:
      linear   divides all frequencies (Chen et al. 2023, arXiv 2306.15595)
      llama3   divides the slow ones, and blends between `low_freq_factor` and `high_freq_factor` turns in `original_context`
      yarn     the same, between `beta_slow` and `beta_fast` turns, by the pair's index; cos and sin are multiplied by
               `attention_factor` (Peng et al. 2023, arXiv 2309.00071)
      dynamic  raises the base with the length of the text beyond `original_context` ("dynamic NTK"). That length is the
               prompt's; for a later position it is the position's own. Neither chunks nor batches change it.
    """

    theta: float = 10000.0
    scaling: RopeScaling = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    factors: tuple[float, ...] | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True  # yarn: the blend begins and ends at whole pairs
    attention_factor: float = 1.0

    def __post_init__(self) -> None:
        _require(math.isfinite(self.theta) and 0 < self.theta < 1e12, "rope_theta", f"is {self.theta}; it must lie in (0, 1e12)")
        _require(
            self.scaling in get_args(RopeScaling),
            "rope scaling",
            f"is {self.scaling!r}; puna knows {', '.join(get_args(RopeScaling))}",
        )
        for name in ("factor", "beta_fast", "beta_slow", "attention_factor", "original_context"):
            value = getattr(self, name)
            _require(math.isfinite(value) and 0 < value < 1e9, f"rope {name}", f"is {value}; it must lie in (0, 1e9)")
        steps = ("low_freq_factor", "high_freq_factor")
        _require(all(math.isfinite(getattr(self, name)) for name in steps), "rope low_freq_factor", "is not a finite number")
        flat = self.scaling == "yarn" and self.theta == 1
        _require(not flat, "rope_theta", "is 1, with which yarn cannot tell fast pairs from slow ones")
        same = self.scaling == "llama3" and self.low_freq_factor == self.high_freq_factor
        _require(not same, "rope low_freq_factor", f"and high_freq_factor are both {self.low_freq_factor}; they must differ")
        ok = self.factors is None or all(math.isfinite(f) and f > 0 for f in self.factors)
        _require(ok, "rope factors", "hold a number that is not finite and above 0")

    def angles(self, positions: npt.NDArray[Any], prompt_lengths: npt.NDArray[Any], head_dim: int) -> npt.NDArray[np.float64]:
        """The rotation angle of each pair at `positions`, in prompts of these lengths.

        (tokens,), (tokens,) -> (tokens, head_dim / 2), radians
        """
        if self.scaling != "dynamic":
            return np.asarray(np.multiply.outer(positions, self.frequencies(head_dim)))
        lengths = np.maximum(positions + 1, prompt_lengths)
        turned = [position * self.frequencies(head_dim, int(length)) for position, length in zip(positions, lengths)]
        return np.asarray(turned, np.float64).reshape(-1, head_dim // 2)

    def family(self, prompt_length: int) -> int:
        """Prefix-cache key: with dynamic RoPE, K depends on the prompt's length, so only prompts of equal length share pages."""
        return prompt_length if self.scaling == "dynamic" and prompt_length > self.original_context else 0

    def frequencies(self, head_dim: int, length: int = 0) -> npt.NDArray[np.float64]:
        """Radians per position of each pair; "dynamic" scaling uses `length`, in tokens.  # (head_dim / 2,)"""
        freqs = self._base(head_dim, length) ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
        scaled = self._scaled(freqs, head_dim)
        if self.factors is None:
            return scaled
        _require(
            len(self.factors) == len(freqs), "rope factors", f"are {len(self.factors)}; head_dim {head_dim} needs {len(freqs)}"
        )
        return np.asarray(scaled / np.asarray(self.factors))  # with a scaling, both apply, as in ggml

    def _scaled(self, freqs: npt.NDArray[np.float64], head_dim: int) -> npt.NDArray[np.float64]:
        if self.scaling == "linear":
            return freqs / self.factor
        if self.scaling == "llama3":
            return self._llama3(freqs)
        if self.scaling == "yarn":
            return self._yarn(freqs, head_dim)
        return freqs

    def _base(self, head_dim: int, length: int) -> float:
        if self.scaling != "dynamic" or length <= self.original_context or head_dim == 2:
            return self.theta
        stretch = self.factor * length / self.original_context - (self.factor - 1)
        return float(self.theta * stretch ** (head_dim / (head_dim - 2)))

    def _yarn(self, freqs: npt.NDArray[np.float64], head_dim: int) -> npt.NDArray[np.float64]:
        """Keep pairs that turn more than `beta_fast` times in the original context; divide those below `beta_slow`."""

        def pair_of(turns: float) -> float:
            return head_dim * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

        first, last = pair_of(self.beta_fast), pair_of(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, head_dim - 1)
        ramp = (np.arange(len(freqs)) - first) / (last - first if last != first else 0.001)
        divided = np.clip(ramp, 0.0, 1.0)
        return np.asarray(freqs * (1 - divided) + freqs / self.factor * divided)

    def _llama3(self, freqs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Divide low frequencies by `factor`, keep high ones, blend linearly between them (Llama 3.1 model card)."""
        turns = self.original_context * freqs / (2 * math.pi)
        keep = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0.0, 1.0)
        return np.asarray(keep * freqs + (1 - keep) * freqs / self.factor)


def yarn_attention_factor(factor: float, mscale: float | None = None, mscale_all_dim: float | None = None) -> float:
    """The factor of cos and sin if the model does not set one (arXiv 2309.00071, section 3.4).

    >>> round(yarn_attention_factor(4.0), 4)
    1.1386
    """

    def temperature(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    return temperature(mscale) / temperature(mscale_all_dim) if mscale and mscale_all_dim else temperature(1.0)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The sizes of a LLaMA-family model, under the same names for all formats."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    ffn_size: int
    vocab_size: int
    max_context: int
    norm_eps: float = 1e-5
    rope: RopeConfig = field(default_factory=RopeConfig)
    tie_embeddings: bool = False
    architecture: str = "llama"  # a line of the table of `formats/huggingface.py`: "llama", "mistral", "qwen2", "qwen3"
    name: str = ""
    qkv_bias: bool = False  # q_proj, k_proj and v_proj add a vector (Qwen2, Llama with attention_bias)
    o_bias: bool = False
    ffn_bias: bool = False  # gate_proj, up_proj and down_proj
    qk_norm: bool = False  # RMS norm of each head of q and k before RoPE (Qwen3)
    sliding_window: int = 0  # tokens that a position attends to, itself included; 0: all (Mistral)
    windowed_layers: tuple[int, ...] | None = None  # the layers that have the window; None: all

    def __post_init__(self) -> None:
        for name, limit in MAX_SIZES.items():
            value = getattr(self, name)
            _require(isinstance(value, int) and 1 <= value <= limit, name, f"is {value!r}; it must lie in 1..{limit}")
        _require(
            self.num_heads % self.num_kv_heads == 0,
            "num_kv_heads",
            f"is {self.num_kv_heads}; it must divide num_heads {self.num_heads}",
        )
        window = self.sliding_window
        _require(0 <= window <= MAX_SIZES["max_context"], "sliding_window", f"is {window}; it must not be negative")
        inside = all(0 <= layer < self.num_layers for layer in self.windowed_layers or ())
        _require(inside, "windowed_layers", f"names a layer outside 0..{self.num_layers - 1}")
        _require(self.head_dim % 2 == 0, "head_dim", f"is {self.head_dim}; rotary pairs need an even number")
        _require(math.isfinite(self.norm_eps) and 0 < self.norm_eps < 1, "norm_eps", f"is {self.norm_eps}; it must lie in (0, 1)")
        if self.rope.factors is not None:
            self.rope.frequencies(self.head_dim)

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    def window_of(self, layer: int) -> int:
        """Tokens that a position of `layer` attends to, itself included; 0: all before it."""
        return self.sliding_window if self.windowed_layers is None or layer in self.windowed_layers else 0

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every weight (rows, columns): a matrix maps columns to rows, y = W x (+ bias)."""
        shapes: dict[str, tuple[int, ...]] = {"embed": (self.vocab_size, self.hidden_size), "final_norm": (self.hidden_size,)}
        if not self.tie_embeddings:
            shapes["lm_head"] = (self.vocab_size, self.hidden_size)
        block: dict[str, tuple[int, ...]] = {
            "attn_norm": (self.hidden_size,),
            "q_proj": (self.q_size, self.hidden_size),
            "k_proj": (self.kv_size, self.hidden_size),
            "v_proj": (self.kv_size, self.hidden_size),
            "o_proj": (self.hidden_size, self.q_size),
            "ffn_norm": (self.hidden_size,),
            "gate_proj": (self.ffn_size, self.hidden_size),
            "up_proj": (self.ffn_size, self.hidden_size),
            "down_proj": (self.hidden_size, self.ffn_size),
        }
        if self.qkv_bias:
            block |= {"q_bias": (self.q_size,), "k_bias": (self.kv_size,), "v_bias": (self.kv_size,)}
        if self.o_bias:
            block["o_bias"] = (self.hidden_size,)
        if self.ffn_bias:
            block |= {"gate_bias": (self.ffn_size,), "up_bias": (self.ffn_size,), "down_bias": (self.hidden_size,)}
        if self.qk_norm:
            block |= {"q_norm": (self.head_dim,), "k_norm": (self.head_dim,)}
        for layer in range(self.num_layers):
            shapes |= {f"layers.{layer}.{name}": shape for name, shape in block.items()}
        return shapes


@refuse_unknown("LLM(...), which loads a model, or to EngineConfig(...)")
@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How to run. Each field is an environment variable (`PUNA_MAX_CONTEXT`), and most are a flag (`--max-context`).

    Fields, with what is allowed and the default:
        device: auto, cpu, torch (the CPU by PyTorch), cuda, cuda:1 ..., reference (numpy, slow) ['auto']
        require_gpu: fail instead of using the CPU [False]
        threads: threads of the CPU. 1..256; 0: one per usable core [0]
        max_context: tokens per sequence, prompt and answer. 0: the model's limit, lowered (with a notice) to what fits [0]
        max_batch: sequences that run at once. 1..4096; 0: 64 on a CPU, 256 on a GPU [0]
        chunk_tokens: token budget of a step; it bounds scratch memory and how long Ctrl-C waits. 0: 256 or 1024 [0]
        page_size: tokens per KV page. A multiple of 16, up to 1024 [32]
        kv_type: how K and V are stored: auto, bf16, f16, f32, int8 ['auto']
        weights: how weights are stored: as-is, int8, int4; auto: the first of these that fits ['auto']
        vram: use at most this many bytes of the device's memory. 0: all that is free ("12GiB" on the command line) [0]
        prefix_cache: keep the K and V of finished prompts for later ones with the same beginning [True]
        graphs: on CUDA, record decode steps once and replay them [True]
        sampling_defaults: for what the caller does not set: model (its suggestions) or puna (greedy) ['model']
    """

    device: str = "auto"
    require_gpu: bool = False
    threads: int = 0
    max_context: int = 0
    max_batch: int = 0
    chunk_tokens: int = 0
    page_size: int = 32
    kv_type: KVType = "auto"
    weights: WeightsType = "auto"
    vram: Bytes = 0
    prefix_cache: bool = True
    graphs: bool = True
    sampling_defaults: SamplingDefaults = "model"

    def __post_init__(self) -> None:
        for f in fields(self):  # to Python, True is a whole number
            value = getattr(self, f.name)
            ok = isinstance(value, bool) == (f.type == "bool")
            _require(ok, f.name, f"is {value!r}, of type {type(value).__name__}; {f.type} is needed")
        for name, low, high in _ENGINE_LIMITS:
            value = getattr(self, name)
            ok = isinstance(value, int) and low <= value <= high
            _require(ok, name, f"is {value!r}; it must lie in {low}..{high}", _where_set(name))
        ok = isinstance(self.device, str) and DEVICE.fullmatch(self.device) is not None
        _require(ok, "device", f"is {self.device!r}; allowed: {DEVICE_NAMES}", _where_set("device"))
        for name, kind in (("kv_type", KVType), ("weights", WeightsType), ("sampling_defaults", SamplingDefaults)):
            value, allowed = getattr(self, name), get_args(kind)
            _require(value in allowed, name, f"is {value!r}; allowed: {', '.join(allowed)}", _where_set(name))
        ok = self.page_size % 16 == 0
        _require(ok, "page_size", f"is {self.page_size}; it must be a multiple of 16", _where_set("page_size"))

    @classmethod
    def from_env(cls, **given: Any) -> EngineConfig:
        """The given values (None: not given), else `PUNA_...` variables, else the defaults. A bad value is an error."""
        if (error := unknown_setting(cls, given)) is not None:  # also of one that is None
            raise error
        values = {k: v for k, v in given.items() if v is not None}
        for f in fields(cls):
            text = os.environ.get(f"PUNA_{f.name.upper()}")
            if text is not None and f.name not in values:
                variable = f"PUNA_{f.name.upper()}"
                values[f.name] = read_setting(variable, str(f.type), text, f"Change or unset {variable}.")
        return cls(**values)


class EngineSettings(TypedDict, total=False):
    """The fields of EngineConfig as keyword arguments; `help(EngineConfig)` says what each one means."""

    device: str
    require_gpu: bool
    threads: int
    max_context: int
    max_batch: int
    chunk_tokens: int
    page_size: int
    kv_type: KVType
    weights: WeightsType
    vram: Bytes
    prefix_cache: bool
    graphs: bool
    sampling_defaults: SamplingDefaults


_ENGINE_LIMITS = (
    ("threads", 0, 256),
    ("max_context", 0, MAX_SIZES["max_context"]),
    ("max_batch", 0, 4096),
    ("chunk_tokens", 0, 8192),
    ("page_size", 16, 1024),
    ("vram", 0, 1 << 50),
)


WITHOUT_FLAG = {"max_batch", "chunk_tokens", "page_size"}  # of the settings that are checked here


def _where_set(name: str) -> str:
    """
    >>> _where_set("max_context"), _where_set("page_size")
    ('It is set by --max-context, or by the variable PUNA_MAX_CONTEXT.', 'It is set by the variable PUNA_PAGE_SIZE.')
    """
    flag = "" if name in WITHOUT_FLAG else f"--{name.replace('_', '-')}, or by "
    return f"It is set by {flag}the variable PUNA_{name.upper()}."


# type of a field -> pattern of its text, the same in words, the function that reads it
_PARSERS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "int": (r"[+-]?[0-9]{1,18}", "a whole number of at most 18 digits is needed", int),
    "bool": (r"[01]", "allowed: 0, 1", lambda text: text == "1"),
    "Bytes": (
        BYTES,
        "a number of bytes is needed, such as 12GiB",
        parse_bytes,
    ),
}


def read_setting(name: str, kind: str, text: str, hint: str = "") -> Any:
    """The value of a text for a field of type `kind`. ConfigError if the text does not match."""
    pattern, words, read = _PARSERS.get(kind, (r"(?s).*", "", str))
    shown = repr(text if len(text) <= 40 else text[:37] + "...")
    _require(re.fullmatch(pattern, text) is not None, name, f"is {shown}; {words}", hint)
    return read(text)
