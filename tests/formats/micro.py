"""The smallest right files: seeds of the hostile ones."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import lru_cache
from typing import Any

from puna.formats.blocks import BLOCK_TYPES, GGUF_READABLE
from puna.model.rope import RopeConfig
from puna.model.spec import ModelConfig
from tests.models import Draft, DraftTensor, DraftValue, TinyTokenizer, draft_gguf, gguf_tensors, random_tensors, tiny_config

TOKENS = [b"<unk>", b"<s>", b"</s>", b"<0x0A>", b"<0x20>", "▁".encode(), b"a", b"b", b"ab", "▁a".encode(), b"c", b"d"]
TYPES = [2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 4, 5]
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}

SPM = TinyTokenizer("llama", TOKENS, TYPES, scores=[-float(index) for index in range(12)], special=SPECIAL)
BPE = TinyTokenizer("gpt2", TOKENS, TYPES, merges=[b"a b", "▁ a".encode()], special=SPECIAL)

# One value of each type that GGUF has, and one array of each.
SCALAR_VALUES: dict[str, Any] = {
    "uint8": 7,
    "int8": -7,
    "uint16": 700,
    "int16": -700,
    "uint32": 70000,
    "int32": -70000,
    "float32": 0.5,
    "bool": 1,
    "string": "a text",
    "uint64": 7 << 40,
    "int64": -(7 << 40),
    "float64": 0.25,
}


def one_of_each() -> list[DraftValue]:
    scalars = [DraftValue(f"x.{kind}".encode(), kind, value) for kind, value in SCALAR_VALUES.items()]
    return scalars + [DraftValue(f"x.{kind}s".encode(), f"array of {kind}", [value] * 3) for kind, value in SCALAR_VALUES.items()]


def micro_config(quant: str = "F32", **changes: Any) -> ModelConfig:
    """One layer, two heads, twelve tokens; rows as short as the block type allows."""
    width = max(32, BLOCK_TYPES[quant].block_size)
    sizes = {"num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": width // 2, "hidden_size": width, "ffn_size": width}
    return tiny_config(**(sizes | {"vocab_size": 12, "max_context": 16} | changes))


def micro_draft(quant: str = "F32", tokenizer: TinyTokenizer = SPM, **changes: Any) -> Draft:
    """A right GGUF file that holds every kind of value."""
    config = micro_config(quant, **changes)
    values = draft_gguf(config, {}, quant, tokenizer, "{{ messages }}", one_of_each()).values
    return Draft(values, [replace(tensor, dims=[*tensor.dims]) for tensor in _tensors(config, quant)])


@lru_cache
def _tensors(config: ModelConfig, quant: str) -> tuple[DraftTensor, ...]:
    return tuple(gguf_tensors(config, random_tensors(config, seed=1), quant))


def seeded_draft(rng: random.Random) -> Draft:
    """A right file, different for each seed: block type, tokenizer, tying and rotary factors."""
    quant = rng.choice(GGUF_READABLE)
    rope = RopeConfig(factors=tuple([1.0] * (micro_config(quant).head_dim // 2))) if rng.random() < 0.3 else RopeConfig()
    return micro_draft(quant, rng.choice([SPM, BPE]), rope=rope, tie_embeddings=rng.random() < 0.5)
