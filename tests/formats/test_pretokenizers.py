"""Every splitter cuts as the `regex` module does by the same expressions, and in time that grows with the text only."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest
import regex
from tokenizers import Regex, pre_tokenizers

from puna.formats.pretokenizers import PRE_TOKENIZERS
from tests.tokenizers.libraries import FRAGMENTS

SEED = 17
DISTINCT = {pre.stages: name for name, pre in reversed(PRE_TOKENIZERS.items())}
WORDS = [
    *FRAGMENTS,
    "Hello",
    "WORLD",
    "ΩK",
    "ὼώ",
    "ΐ",
    "Ꙁꙁ",
    "ǅ",
    "'LL",
    "!!",
    "//",
    "a.b",
    "$=`",
    "。",
    "«»",
    "1234567",
    "Ⅷ",
    "٣٤",
    "(x)",
    "|",
]
WORDS += ["<sentinel:12>", "IMGIMGABZ", "    ", "\r", " \n ", "ᄀ", "ࠀ", "a\u0300", "हिन्दी", "ﾟ", "'s", "\u2028", "\u200b"]


def words(name: str, text: str) -> list[str]:
    cuts = [pre_tokenizers.Split(Regex(stage), "isolated") for stage in PRE_TOKENIZERS[name].stages]
    return [word for word, _ in pre_tokenizers.Sequence(cuts).pre_tokenize_str(text)]


def oracle(name: str, text: str) -> list[str]:
    """The same, by another engine: what matches is a word, and so is what lies between."""
    pieces = [text]
    for stage in PRE_TOKENIZERS[name].stages:
        cut = regex.compile(stage)
        pieces = [piece for word in pieces for piece in _cut(cut, word)]
    return pieces


def _cut(cut: regex.Pattern[str], text: str) -> list[str]:
    places = sorted({0, len(text), *(place for match in cut.finditer(text) for place in match.span())})
    return [text[start:end] for start, end in pairwise(places)]


@pytest.mark.parametrize("name", DISTINCT.values())
def test_a_splitter_cuts_as_another_engine_does_by_the_same_expressions(name: str) -> None:
    rng = random.Random(f"{SEED} {name}")
    for _ in range(300):
        text = "".join(rng.choice(WORDS) for _ in range(rng.randint(1, 12)))
        assert words(name, text) == oracle(name, text), repr(text)


@pytest.mark.parametrize("name", DISTINCT.values())
def test_a_splitter_takes_linear_time_for_runs_of_one_thing(name: str) -> None:
    for run in (" ", "A", "日", "1", "\n", "!", "\u0301", " a"):
        start = time.process_time()
        words(name, run * 10_000)
        assert time.process_time() - start < 2, repr(run)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "deepseek-llm",
            "Hello, w\u00f6rld 日本! 12\n\n",
            ["Hello", ",", " w", "\u00f6", "rld", " ", "日本", "!", " ", "12", "\n", "\n"],
        ),
        ("deepseek-coder", "x = foo(12)\n", ["x", " =", " foo", "(", "1", "2", ")", "\n"]),
        ("deepseek-v3", "ab 12345 日本語です.x", ["ab", " ", "123", "45", " ", "日本語です", ".x"]),
        ("deepseek-r1-qwen", "It's 12", ["It", "'s", " ", "1", "2"]),
        ("gpt-4o", "I'm HELLOWorld 1234 a//\n", ["I'm", " HELLOWorld", " ", "123", "4", " a", "//\n"]),
        ("llama4", "don't", ["don't"]),
        ("seed-coder", "a!\n\n12", ["a", "!", "\n\n", "1", "2"]),
        ("tekken", "HelloWorld's 12", ["Hello", "World", "'s", " ", "1", "2"]),
        ("falcon3", "It'S 1234", ["It", "'S", " ", "123", "4"]),
        ("qwen35", "हिन्दी 1", ["हिन्दी", " ", "1"]),
        ("bailingmoe", "a \n\nb", ["a", " \n\n", "b"]),
        ("viking", "a, b12", ["a", ",", " b", "1", "2"]),
        ("falcon", "a`b 1234", ["a", "`", "b", " ", "123", "4"]),
        ("chameleon", "IMGIMGABZ<sentinel:4> x", ["IMGIMGABZ", "<", "sentinel", ":", "4", ">", " x"]),
    ],
)
def test_words_are_cut_as_the_family_of_that_name_cuts_them(name: str, text: str, expected: list[str]) -> None:
    assert words(name, text) == expected


def test_names_that_llama_cpp_cuts_alike_are_one() -> None:
    """As src/llama-vocab.cpp of llama.cpp groups them."""
    for group in (
        ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
        ("gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "a.x-4.0", "mellum", "modern-bert", "exaone4", "trillion", "jais"),
        ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"),
        ("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "stablelm2", "hunyuan", "megrez", "grok-2", "solar-open"),
        ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"),
        ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"),
        ("deepseek-v3", "hunyuan-dense", "joyai-llm"),
        ("poro-chat", "bloom", "gpt3-finnish"),
        ("bailingmoe", "bailingmoe2", "llada-moe"),
    ):
        assert len({(PRE_TOKENIZERS[name].stages, PRE_TOKENIZERS[name].whole_words) for name in group}) == 1, group
