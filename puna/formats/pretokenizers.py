"""How byte-level BPE splits text into words before it merges: GGUF's `tokenizer.ggml.pre` names one of these.

The expressions are those of `formats/patterns.py` and never come from a file. Each stage splits the words of the stage before.
puna refuses by name those of llama.cpp's names that are not here, because it cannot split as they do.
"""

from __future__ import annotations

from dataclasses import dataclass

from puna.formats import patterns as p


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    stages: tuple[str, ...]  # each splits the words of the one before; text between two matches is a word too
    whole_words: bool = False  # a word that is a token is not merged at all (Llama 3)


# How words are split -> llama.cpp's names for it, the usual one first.
_GROUPS: tuple[tuple[PreTokenizer, str], ...] = (
    (PreTokenizer((p.DIGITS_APART,)), "smollm starcoder refact codeshell command-r exaone minerva-7b"),
    (
        PreTokenizer((p.GPT2,)),
        "gpt-2 phi-2 mpt olmo jais trillion granite-docling gigachat mellum modern-bert a.x-4.0 exaone4 jina-es jina-de"
        " jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe",
    ),
    (
        PreTokenizer((p.LLAMA3,), whole_words=True),
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    ),
    (PreTokenizer((p.LLAMA3,)), "dbrx smaug-bpe glm4 chatglm-bpe"),
    (PreTokenizer((p.QWEN2,)), "qwen2 deepseek-r1-qwen stablelm2 megrez hunyuan grok-2 solar-open kormo f2llmv2"),
    (PreTokenizer((p.QWEN35,)), "qwen35"),
    (PreTokenizer((p.TEKKEN,), whole_words=True), "tekken"),
    (PreTokenizer((p.GPT4O,)), "gpt-4o llama4 kanana2 talkie minimax-m2"),
    (PreTokenizer((p.SEED_CODER,)), "seed-coder"),
    (PreTokenizer((p.BAILING,)), "bailingmoe bailingmoe2 llada-moe"),
    (
        PreTokenizer((p.NEWLINE, p.CASED_WORD, p.MARKS, p.LAST_SPACES, p.EAST_ASIAN, p.DIGIT_RUN)),
        "deepseek-llm",
    ),
    (PreTokenizer((p.NEWLINE, p.WORD, p.PUNCTUATION, p.EAST_ASIAN, p.DIGIT)), "deepseek-coder"),
    (PreTokenizer((p.THREE_DIGITS, p.CHINESE_JAPANESE, p.DEEPSEEK_V3)), "deepseek-v3 hunyuan-dense joyai-llm"),
    (PreTokenizer((p.BLOOM,)), "bloom poro-chat gpt3-finnish"),
    (PreTokenizer((p.BLOOM, p.DIGIT)), "viking"),
    (PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", p.GPT2, r"[0-9][0-9][0-9]")), "falcon"),
    (PreTokenizer(p.CHAMELEON), "chameleon"),
    (PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", p.GPT2, p.DIGIT_RUN, r"[0-9][0-9][0-9]")), "default"),
)
PRE_TOKENIZERS = {name: pre for pre, names in _GROUPS for name in names.split()}
