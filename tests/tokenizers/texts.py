"""Texts that are difficult for tokenizers, drawn with a seed."""

from __future__ import annotations

import random
import unicodedata

WORDS = (
    "the llama sees the high plain",
    "Die Straße führt übers Größenmaß, Herr Müller-Lüdenscheidt",
    "L'été naïf à l'œuvre",
    "中文分词没有空格，标点。",
    "日本語のテキスト、カタカナとひらがな",
    "한국어 문장입니다",
    "שלום עולם",
    "مرحبا بالعالم ١٢٣",
    "हिन्दी में लिखा",
    "ภาษาไทยไม่มีช่องว่าง",
    "Привет, мир! Ёлка",
    "e\u0301 a\u0308 n\u0303o o\u0302\u0323",
    "👩‍👩‍👧‍👦 🦙🏔️ 👍🏽 🇵🇪",
    "ﬁ ① ½ Ⅷ ＡＢＣ　全角 ℃",
    "don't we'll THEY'RE I'VE 'tis it's'",
    "1234567890 3.14159 1,000,000 0x7f 12 345",
    "def f(x: int) -> str:\n    return f'{x!r}'\n\n\tpass  # 注释\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i]; }\r\n",
    "https://example.org/a?b=c&d=%20#e",
    "<s></s><unk><0x0A><pad>",
    "<|begin_of_text|><|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
    "<|im_start|>system<|im_end|><|endoftext|>",
    "[INST] <<SYS>>\nno\n<</SYS>>\n\n [/INST]",
    "Ġthe ĊČ Ã©",
)
SPACES = (" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u3000", "\u2003", "\u200b", "\ufeff", " " * 17)
CONTROLS = "\0\x01\x02\x03\x07\x08\x1b\x7f\x85\u2028\u2029"
RUNS = " aA1.=-_#\n日é"


def is_settled(c: str) -> bool:
    """Whether Unicode 3.2 and today agree on `c`: libraries differ in how new their tables are."""
    return unicodedata.category(c) == unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Cs")


def texts(seed: int, count: int) -> list[str]:
    """`count` texts, no two alike."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(_part(rng) for _ in range(rng.randint(1, 5)))] = None
    return list(found)


def _part(rng: random.Random) -> str:
    kind = rng.randrange(8)
    if kind < 4:
        words = rng.choice(WORDS)
        first = rng.randrange(len(words))
        return words[first : first + rng.randint(1, 24)]
    if kind == 4:
        return rng.choice(SPACES)
    if kind == 5:
        return rng.choice(RUNS) * rng.randint(1, 20)
    if kind == 6:
        return "".join(_settled(rng) for _ in range(rng.randint(1, 4)))
    return rng.choice(CONTROLS)


def _settled(rng: random.Random) -> str:
    while True:
        c = chr(rng.choice((rng.randrange(0x80, 0x800), rng.randrange(0x800, 0x10000), rng.randrange(0x10000, 0x30000))))
        if not 0xD800 <= ord(c) < 0xE000 and is_settled(c):
            return c
