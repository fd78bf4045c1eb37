"""How byte-level BPE cuts text into words before it merges: GGUF's `tokenizer.ggml.pre` names one of these.

The expressions are those of `formats/patterns.py` and never come from a file. One stage cuts the words of the stage before.
"""

from __future__ import annotations

from dataclasses import dataclass

from puna.formats.patterns import DIGITS_APART, GPT2, LLAMA3, QWEN2, TEKKEN


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    stages: tuple[str, ...]  # each cuts what the one before left; text between two matches is a word too
    whole_words: bool = False  # a word that is a token is not merged at all (Llama 3)


_DIGITS_APART = PreTokenizer((DIGITS_APART,))
_GPT2 = PreTokenizer((GPT2,))
_LLAMA3 = PreTokenizer((LLAMA3,), whole_words=True)
_QWEN2 = PreTokenizer((QWEN2,))

PRE_TOKENIZERS = {
    "smollm": _DIGITS_APART,
    "starcoder": _DIGITS_APART,
    "refact": _DIGITS_APART,
    "codeshell": _DIGITS_APART,
    "command-r": _DIGITS_APART,
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    "mpt": _GPT2,
    "olmo": _GPT2,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "falcon3": _LLAMA3,
    "dbrx": PreTokenizer((LLAMA3,)),
    "smaug-bpe": PreTokenizer((LLAMA3,)),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "stablelm2": _QWEN2,
    "tekken": PreTokenizer((TEKKEN,), whole_words=True),
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
}
