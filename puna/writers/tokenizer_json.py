"""TokenizerSpec -> the object of a `tokenizer.json`, which Hugging Face's `tokenizers` reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from puna.errors import UnsupportedModelError
from puna.formats.added_tokens import FLAGS
from puna.formats.base import TokenizerSpec
from puna.formats.mapped import shown
from puna.formats.patterns import DIGITS_APART, GPT2
from puna.formats.piece_order import merges_of
from puna.formats.pretokenizers import PRE_TOKENIZERS
from puna.formats.token_types import BYTE, CONTROL, UNKNOWN, UNUSED, USER_DEFINED
from puna.formats.vocabulary import piece_texts, piece_types

Part = dict[str, Any]
SPACE = "\u2581"
BYTE_LEVEL: Part = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
# Stages that published files do not spell as expressions.
USUAL_PARTS: dict[str, list[Part]] = {
    GPT2: [BYTE_LEVEL | {"use_regex": True}],
    DIGITS_APART: [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL | {"use_regex": True}],
}


def _beside_text(first: list[int], last: list[int], texts: list[str]) -> Part | None:
    """The ids before and after a text, as a template."""
    if not first and not last:
        return None
    names = {"first": first, "last": last}
    special = [{"SpecialToken": {"id": name, "type_id": 0}} if ids else None for name, ids in names.items()]
    single = [part for part in (special[0], {"Sequence": {"id": "A", "type_id": 0}}, special[1]) if part]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            name: {"id": name, "ids": ids, "tokens": [texts[i] for i in ids]} for name, ids in names.items() if ids
        },
    }


def _of_pipeline(spec: TokenizerSpec, texts: list[str]) -> Part:
    """The parts of the tokenizer.json that the source came from."""
    pipeline = json.loads(spec.pipeline)
    options = pipeline["model"]
    size = options["size"]
    if options["type"] == "Unigram":
        if spec.scores is None:
            raise UnsupportedModelError(f"{spec.source}: the Unigram model has no scores")
        model = options | {"vocab": list(zip(texts[:size], spec.scores.tolist()))}
    else:
        merges = [merge.decode("utf-8", "replace").split(" ") for merge in spec.merges]
        vocabulary = {text: i for i, (text, kind) in enumerate(zip(texts[:size], piece_types(spec))) if kind != UNUSED}
        model = options | {"vocab": vocabulary, "merges": merges}
    del model["size"]
    return {
        "normalizer": _sequence("normalizers", pipeline["normalizer"]),
        "pre_tokenizer": _sequence("pretokenizers", pipeline["pre_tokenizer"]),
        "post_processor": _beside_text(pipeline["first"], pipeline["last"], texts),
        "decoder": _sequence("decoders", pipeline["decoder"]),
        "model": model,
    }


def tokenizer_json(spec: TokenizerSpec) -> Part:
    """The whole file. UnsupportedModelError if `tokenizers` could not do the same."""
    texts = piece_texts(spec)
    if len(set(texts)) < len(texts):
        twice = shown(next(text for text, count in Counter(texts).items() if count > 1))
        raise UnsupportedModelError(f"{spec.source}: tokenizer.json cannot hold this tokenizer: {twice} is a token twice")
    beginning = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added_tokens(spec)}
    if spec.pipeline:
        return beginning | _of_pipeline(spec, texts)
    if spec.kind == "unigram":
        raise UnsupportedModelError(
            f"{spec.source}: tokenizer.json cannot hold this tokenizer: SentencePiece's Unigram model splits differently there",
            hint="SentencePiece's tokenizer.model and gguf can hold it.",
        )
    _require_order(spec)
    return beginning | {
        "normalizer": _normalizer(spec),
        "pre_tokenizer": _pre_tokenizer(spec),
        "post_processor": _post_processor(spec, texts),
        "decoder": _decoder(spec),
        "model": _model(spec, texts),
    }


def _require_order(spec: TokenizerSpec) -> None:
    if (token_id := found_behind_space(spec)) is not None:
        text = shown(piece_texts(spec)[token_id])
        raise UnsupportedModelError(
            f"{spec.source}: tokenizer.json cannot hold this tokenizer: it looks for {text} after the space that it adds",
            hint="SentencePiece's tokenizer.model and gguf can hold it.",
        )


def found_behind_space(spec: TokenizerSpec) -> int | None:
    """A user-defined token that SentencePiece looks for after the space it adds; `tokenizers` looks for all of them first."""
    later = (i for i, kind in enumerate(piece_types(spec)) if kind == USER_DEFINED and i not in spec.found_first)
    return next(later, None) if spec.kind == "spm" and spec.add_space_prefix and not spec.pipeline else None


def added_tokens(spec: TokenizerSpec) -> list[Part]:
    """The tokens to match before a text is split."""
    given = dict(spec.added_flags)
    return [
        {"id": token_id, "content": text, **_flags(given.get(token_id, "")), "special": kind != USER_DEFINED}
        for token_id, (text, kind) in enumerate(zip(piece_texts(spec), piece_types(spec)))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED) and text
    ]


def _flags(letters: str) -> dict[str, bool]:
    return {name: letter in letters for letter, name in reversed(FLAGS.items())}


def changes_text(spec: TokenizerSpec) -> bool:
    """Whether it changes characters or spaces in SentencePiece's way, which only a tokenizer.model can express."""
    return bool(spec.charsmap) or spec.remove_extra_spaces


def _sequence(name: str, parts: list[Part]) -> Part | None:
    """A single part alone, several as a Sequence."""
    return {"type": "Sequence", name: parts} if len(parts) > 1 else next(iter(parts), None)


def _normalizer(spec: TokenizerSpec) -> Part | None:
    if spec.kind == "bpe":
        return {"type": spec.normalizer} if spec.normalizer else None
    if changes_text(spec):
        raise UnsupportedModelError(
            f"{spec.source}: tokenizer.json cannot hold this tokenizer: it changes characters or spaces in SentencePiece's way",
            hint="SentencePiece's tokenizer.model and gguf can hold it.",
        )
    if _prefix(spec) == "metaspace":
        return None
    prepend = [{"type": "Prepend", "prepend": SPACE}] if _prefix(spec) == "prepend" else []
    return _sequence("normalizers", [*prepend, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}])


def _prefix(spec: TokenizerSpec) -> str:
    """Which part adds the space. Metaspace does if a text begins with none; Prepend always does, at each part of a text. For
    always at the beginning only, a Replace precedes two Metaspaces: the first matches only a plain space, and when it runs no
    text has one.
    """
    if not spec.add_space_prefix:
        return ""
    if spec.prefix_unless_space:
        return "metaspace"
    return "two" if spec.prefix_first_only else "prepend"


def _pre_tokenizer(spec: TokenizerSpec) -> Part | None:
    if spec.kind == "bpe":
        return _sequence("pretokenizers", list(_byte_level_parts(spec.pre)))
    scheme = "first" if spec.prefix_first_only else "always"
    parts = {
        "metaspace": [_metaspace(SPACE, scheme)],
        "two": [_metaspace(" ", "first"), _metaspace(SPACE, "never")],
    }
    return _sequence("pretokenizers", parts.get(_prefix(spec), []))


def _metaspace(replacement: str, scheme: str) -> Part:
    return {"type": "Metaspace", "replacement": replacement, "prepend_scheme": scheme, "split": False}


def _byte_level_parts(pre: str) -> Iterator[Part]:
    stages = PRE_TOKENIZERS[pre].stages
    if stages[-1:] == (GPT2,) or stages == (DIGITS_APART,):
        yield from USUAL_PARTS[stages[0]]
        return
    for stage in stages:
        yield {"type": "Split", "pattern": {"Regex": stage}, "behavior": "Isolated", "invert": False}
    yield BYTE_LEVEL | {"use_regex": False}


def _post_processor(spec: TokenizerSpec, texts: list[str]) -> Part | None:
    """The tokens before and after a text."""
    first = texts[spec.bos_id] if spec.add_bos and spec.bos_id is not None else None
    last = texts[spec.eos_id] if spec.add_eos and spec.eos_id is not None else None

    def framed(name: str, type_id: int) -> list[Part]:
        parts: list[tuple[str, str | None]] = [("SpecialToken", first), ("Sequence", name), ("SpecialToken", last)]
        return [{kind: {"id": text, "type_id": type_id}} for kind, text in parts if text is not None]

    template = {
        "type": "TemplateProcessing",
        "single": framed("A", 0),
        "pair": framed("A", 0) + framed("B", 1),
        "special_tokens": {
            text: {"id": text, "ids": [token_id], "tokens": [text]}
            for text, token_id in ((first, spec.bos_id), (last, spec.eos_id))
            if text is not None
        },
    }
    byte_level = [BYTE_LEVEL | {"add_prefix_space": True, "trim_offsets": False, "use_regex": True}] if spec.kind == "bpe" else []
    return _sequence("processors", [*byte_level, *([] if first is last is None else [template])])


def _decoder(spec: TokenizerSpec) -> Part | None:
    if spec.kind == "bpe":
        return BYTE_LEVEL | {"add_prefix_space": True, "use_regex": True}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if spec.add_space_prefix else []
    spaces = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    return _sequence("decoders", [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip])


def _model(spec: TokenizerSpec, texts: list[str]) -> Part:
    is_pieces = spec.kind == "spm"
    types = piece_types(spec)
    whole_words = spec.whole_words if is_pieces or spec.whole_words is not None else PRE_TOKENIZERS[spec.pre].whole_words
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": next((texts[i] for i, kind in enumerate(types) if kind == UNKNOWN), None) if is_pieces else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": is_pieces,
        "byte_fallback": is_pieces and BYTE in types,
        "ignore_merges": bool(whole_words),
        "vocab": {text: token_id for token_id, text in enumerate(texts)},
        "merges": merges_of(spec) if is_pieces else [merge.decode("utf-8", "replace").split(" ") for merge in spec.merges],
    }
