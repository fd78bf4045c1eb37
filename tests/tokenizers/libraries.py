"""Small tokenizers of the `tokenizers` library, random parts for them, and random texts that hold their tokens."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from puna.formats.patterns import GPT2, LLAMA3, QWEN2, TEKKEN
from puna.formats.tokenizer_files import read_tokenizer_file
from puna.tokenizers import build_tokenizer
from puna.tokenizers.base import Tokenizer as OurTokenizer

SPACE = "▁"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_level() -> Tokenizer:
    """As GPT-2's, with a few merges."""
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("a", "b"), ("Ġ", "a"), ("Ċ", "Ċ"), ("Ã", "©"), ("<", "|")]
    pieces = [*LETTERS, *(a + b for a, b in merges)]
    library = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return library


def pieces(scheme: str) -> Tokenizer:
    """As Llama 2's. `scheme`: "prepend" adds the space by a normalizer, others by a Metaspace of that scheme."""
    merges = [(SPACE, "t"), ("h", "e"), (SPACE + "t", "he"), (SPACE, SPACE), (SPACE, "a"), ("a", "b"), ("i", "n")]
    words = ["<unk>", "<s>", "</s>", *BYTES, SPACE, *"abcdefghijklmnopqrstuvwxyz<>|é\n", *(a + b for a, b in merges)]
    model = models.BPE({word: i for i, word in enumerate(words)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    return _spaced(Tokenizer(model), scheme)


def unigram(scheme: str) -> Tokenizer:
    """As T5's: scores that no two ways of cutting share."""
    rng = random.Random(5)
    words = [
        SPACE,
        *"abcdefghijklmnopqrstuvwxyz<>|é\n",
        "he",
        SPACE + "the",
        SPACE + "a",
        "ab",
        "in",
        SPACE + SPACE,
        "tok",
        "the",
    ]
    scored = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((piece, -8.0 - rng.random()) for piece in BYTES)]
    scored += [(word, -2.0 - rng.random() * 3) for word in words]
    return _spaced(Tokenizer(models.Unigram(scored, 0, True)), scheme)


def _spaced(library: Tokenizer, scheme: str) -> Tokenizer:
    if scheme == "prepend":
        library.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    else:
        library.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    library.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    library.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    library.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    return library


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "prepend": lambda: pieces("prepend"),
    "metaspace first": lambda: pieces("first"),
    "metaspace always": lambda: pieces("always"),
    "metaspace never": lambda: pieces("never"),
    "unigram": lambda: unigram("always"),
    "unigram first": lambda: unigram("first"),
}
TOKENS = ("<|im_start|>", "<|im_end|>", "tok", "<a", "a>b", " x ", "the")
FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")


def ours(library: Tokenizer, path: Path) -> OurTokenizer:
    """puna's tokenizer of what the library writes."""
    library.save(str(path))
    return build_tokenizer(read_tokenizer_file(path, None))


def changed(library: Tokenizer, path: Path, **changes: Any) -> Path:
    """What the library writes, with these keys."""
    path.write_text(json.dumps(json.loads(library.to_str()) | changes), "utf-8")
    return path


FRAGMENTS = [
    " ",
    "  ",
    "\n",
    "\t",
    "▁",
    "the",
    " the",
    "in",
    "ab",
    "é",
    "e\u0301",
    "ＡＢ",
    "ﬁ",
    "日本",
    "🦙",
    "1",
    "234",
    "'s",
    "<",
    "|>",
    "<|",
]
FRAGMENTS += ["İ", "ß", "\u00a0", "\u3000", "\u200d", "!?", "x", "Ab", "한국", "\r\n", "ไทย", "_", "-", "\u0000", "\ufeff"]


def texts(rng: random.Random, count: int, tokens: tuple[str, ...] = TOKENS) -> list[str]:
    """Texts of fragments and tokens, the tokens beside spaces, letters and each other."""
    pool = [*FRAGMENTS, *tokens, *tokens, *(f" {token}" for token in tokens), *(f"{token} " for token in tokens)]
    return ["".join(rng.choice(pool) for _ in range(rng.randint(1, 8))) for _ in range(count)]


# ---- random parts ---------------------------------------------------------------------------------------------------

REGEXES = [
    GPT2,
    LLAMA3,
    QWEN2,
    TEKKEN,
    r"\s+",
    r"[\r\n]",
    r"\p{N}{1,3}",
    r"\p{Lu}\p{Ll}*",
    r" ?[^\s]+",
    r"(?i)ab",
    r"(?=(\d{3})+(?!\d))",
    r".",
]
BEHAVIORS = ["isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"]


def random_normalizer(rng: random.Random) -> Any:
    kinds: list[Callable[[], Any]] = [
        normalizers.NFC,
        normalizers.NFD,
        normalizers.NFKC,
        normalizers.NFKD,
        normalizers.Lowercase,
        normalizers.StripAccents,
        normalizers.Nmt,
        lambda: normalizers.Strip(rng.random() < 0.5, rng.random() < 0.5),
        lambda: normalizers.Prepend(rng.choice([SPACE, "x", " "])),
        lambda: normalizers.Replace(rng.choice([" ", "a", "é", "the"]), rng.choice([SPACE, "", "bb", " "])),
        lambda: normalizers.Replace(Regex(rng.choice([r"\s+", "[ab]+", r"\d", " {2,}"])), rng.choice([" ", "", "z"])),
        lambda: normalizers.BertNormalizer(
            rng.random() < 0.5, rng.random() < 0.5, rng.choice([None, True, False]), rng.random() < 0.5
        ),
    ]
    chosen = [rng.choice(kinds)() for _ in range(rng.choice([1, 1, 2, 3]))]
    return chosen[0] if len(chosen) == 1 else normalizers.Sequence(chosen)


def random_words(rng: random.Random, is_byte_level: bool) -> Any:
    kinds: list[Callable[[], Any]] = [
        lambda: pre_tokenizers.Split(Regex(rng.choice(REGEXES)), rng.choice(BEHAVIORS), rng.random() < 0.3),
        lambda: pre_tokenizers.Split(rng.choice([" ", "a", "the", "\n"]), rng.choice(BEHAVIORS), rng.random() < 0.3),
        lambda: pre_tokenizers.Digits(rng.random() < 0.5),
        lambda: pre_tokenizers.Punctuation(rng.choice(BEHAVIORS)),
        pre_tokenizers.Whitespace,
        pre_tokenizers.WhitespaceSplit,
        pre_tokenizers.BertPreTokenizer,
        pre_tokenizers.UnicodeScripts,
        lambda: pre_tokenizers.CharDelimiterSplit(rng.choice(" a_")),
        lambda: pre_tokenizers.Metaspace(SPACE, rng.choice(["first", "always", "never"]), rng.random() < 0.5),
    ]
    chosen = [rng.choice(kinds)() for _ in range(rng.choice([1, 1, 2, 3]))]
    if is_byte_level:
        chosen.append(pre_tokenizers.ByteLevel(rng.random() < 0.5, use_regex=rng.random() < 0.5))
    return chosen[0] if len(chosen) == 1 else pre_tokenizers.Sequence(chosen)
