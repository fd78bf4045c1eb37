"""The parts of a `tokenizer.json` that puna gives to the `tokenizers` library: the known parts, and what each may hold.

A part is a table of its keys and what is allowed there. What is not in the tables is refused by name. A file may be hostile, so
everything that the library trusts is checked here: expressions, compiled maps, and how much they let a text grow (`growth.py`).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from puna.errors import UnsupportedModelError
from puna.formats.expressions import TooCostly, require_tame
from puna.formats.growth import decoded_growth, encoded_growth
from puna.formats.json_file import JsonObject
from puna.formats.mapped import shown
from puna.formats.pretokenizers import PRE_TOKENIZERS
from puna.formats.sentencepiece_model import checked_charsmap
from puna.formats.vocabulary import MAX_TOKENS

MAX_STEPS = 32
MAX_DEPTH = 8
MAX_TEXT = 256  # characters that a step puts in
MAX_GROWTH = 128  # of a text's bytes, by all steps of the normalizer and the pre-tokenizer; Llama 2's have 12, T5's 66
MAX_DECODED_GROWTH = 16  # of a token's bytes; published decoders let nothing grow

JsonValue = Any
PartCheck = Callable[[JsonObject, str], JsonValue]  # the value of a key, checked
KNOWN_EXPRESSIONS = {stage for pre in PRE_TOKENIZERS.values() for stage in pre.stages}


def _refuse(part: JsonObject, what: str) -> NoReturn:
    raise UnsupportedModelError(f"{part.file}: {what}, which puna does not read")


# ---- allowed values of a key ------------------------------------------------------------------------------------------


def _flag(default: bool) -> PartCheck:
    return lambda part, key: part.flag(key, default)


def _maybe_flag(part: JsonObject, key: str) -> bool | None:
    return None if part.values.get(key) is None else part.flag(key)


def _text(part: JsonObject, key: str) -> str:
    text = part.text(key)
    if text is None or len(text) > MAX_TEXT:
        part.fail(key, f"is {shown(text)}; a text of at most {MAX_TEXT} characters is needed")
    return _unicode(part, key, text)


def _unicode(part: JsonObject, key: str, text: str) -> str:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        part.fail(key, f"is {shown(text)}, not Unicode")
    return text


def _letter(part: JsonObject, key: str) -> str:
    text = _text(part, key)
    if len(text) != 1:
        part.fail(key, f"is {shown(text)}; one character is needed")
    return text


def _number(part: JsonObject, key: str) -> int:
    number = part.integer(key)
    if number is None or not 0 <= number <= MAX_TEXT:
        part.fail(key, f"is {shown(number)}; 0 to {MAX_TEXT} are possible")
    return number


def _positive(part: JsonObject, key: str) -> int:
    number = part.integer(key)
    if number is None or not 1 <= number <= 1 << 20:
        part.fail(key, f"is {shown(number)}; 1 to {1 << 20} are possible")
    return number


def _one_of(*allowed: str) -> PartCheck:
    def check(part: JsonObject, key: str) -> str:
        text = part.text(key) or allowed[0]
        if text not in allowed:
            part.fail(key, f"is {shown(text)}; allowed: {', '.join(allowed)}")
        return text

    return check


def _pattern(part: JsonObject, key: str) -> dict[str, str]:
    """The value {"String": ...} or {"Regex": ...}."""
    given = part.object(key)
    values = {} if given is None else given.values
    if given is None or list(values) not in (["String"], ["Regex"]):
        part.fail(key, f"is {shown(part.values.get(key))}; a String or a Regex is needed")
    kind = next(iter(values))
    text = _unicode(given, kind, given.text(kind) or "")
    if not text:
        given.fail(kind, "is empty")
    if kind == "Regex" and text not in KNOWN_EXPRESSIONS:
        try:
            require_tame(text)
        except TooCostly as error:
            _refuse(part, f"the tokenizer's expression {shown(text)} holds {error}")
    return {kind: text}


def _charsmap(part: JsonObject, key: str) -> str | None:
    """SentencePiece's compiled map, in base64."""
    text = part.text(key)
    try:
        data = base64.b64decode(text or "", validate=True)
    except (binascii.Error, ValueError):
        part.fail(key, "is not base64")
    if not checked_charsmap(part.file, data):
        part.fail(key, "is empty")
    return text


def _prepend_scheme(part: JsonObject, key: str) -> str:
    """Files from before 2024 have `add_prefix_space` instead."""
    fallback = "always" if part.flag("add_prefix_space", True) else "never"
    return _one_of("always", "first", "never")(part, key) if part.values.get(key) is not None else fallback


# ---- the tables -----------------------------------------------------------------------------------------------------

Table = Mapping[str, Mapping[str, PartCheck]]
BEHAVIOR = _one_of("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous")
METASPACE: Mapping[str, PartCheck] = {"replacement": _letter, "prepend_scheme": _prepend_scheme, "split": _flag(True)}
BYTE_LEVEL: Mapping[str, PartCheck] = {"add_prefix_space": _flag(True), "trim_offsets": _flag(True), "use_regex": _flag(True)}

NORMALIZERS: Table = {
    "NFC": {},
    "NFD": {},
    "NFKC": {},
    "NFKD": {},
    "Lowercase": {},
    "StripAccents": {},
    "Nmt": {},
    "ByteLevel": {},
    "Strip": {"strip_left": _flag(True), "strip_right": _flag(True)},
    "Prepend": {"prepend": _text},
    "Replace": {"pattern": _pattern, "content": _text},
    "Precompiled": {"precompiled_charsmap": _charsmap},
    "BertNormalizer": {
        "clean_text": _flag(True),
        "handle_chinese_chars": _flag(True),
        "strip_accents": _maybe_flag,
        "lowercase": _flag(True),
    },
}
PRE_TOKENIZERS_OF_LIBRARY: Table = {
    "ByteLevel": BYTE_LEVEL,
    "Metaspace": METASPACE,
    "Split": {"pattern": _pattern, "behavior": BEHAVIOR, "invert": _flag(False)},
    "Digits": {"individual_digits": _flag(False)},
    "Punctuation": {"behavior": BEHAVIOR},
    "CharDelimiterSplit": {"delimiter": _letter},
    "BertPreTokenizer": {},
    "Whitespace": {},
    "WhitespaceSplit": {},
    "UnicodeScripts": {},
    "FixedLength": {"length": _positive},
}
DECODERS: Table = {
    "ByteLevel": {},
    "Metaspace": METASPACE,
    "Replace": {"pattern": _pattern, "content": _text},
    "ByteFallback": {},
    "Fuse": {},
    "Strip": {"content": _letter, "start": _number, "stop": _number},
}


@dataclass(frozen=True, slots=True)
class Section:
    """Where the file keeps parts of one kind."""

    key: str
    inner: str  # the key of a Sequence's parts
    name: str  # for messages
    table: Table


NORMALIZER = Section("normalizer", "normalizers", "normalizer", NORMALIZERS)
PRE_TOKENIZER = Section("pre_tokenizer", "pretokenizers", "pre-tokenizer", PRE_TOKENIZERS_OF_LIBRARY)
DECODER = Section("decoder", "decoders", "decoder", DECODERS)

Part = dict[str, JsonValue]


def library_parts(document: JsonObject) -> dict[str, list[Part]]:
    """The steps of each section, nested Sequences flattened in order, all checked. Raises UnsupportedModelError for a part that
    is in no table, ModelFormatError for a part with a forbidden value."""
    parts = {section.key: _steps(document, section) for section in (NORMALIZER, PRE_TOKENIZER, DECODER)}
    _require_decodable(document, parts[DECODER.key])
    _require_bounded_growth(document, parts)
    return parts


def _steps(document: JsonObject, section: Section) -> list[Part]:
    part = document.object(section.key)
    steps = [] if part is None else _flat(part, section, 0)
    if len(steps) > MAX_STEPS:
        _refuse(document, f"the tokenizer's {section.name} has {len(steps)} steps")
    return steps


def _flat(part: JsonObject, section: Section, depth: int) -> list[Part]:
    kind = part.text("type") or ""
    if kind == "Sequence" and depth < MAX_DEPTH:
        return [step for inner in part.objects(section.inner) for step in _flat(inner, section, depth + 1)]
    keys = section.table.get(kind)
    if keys is None:
        _refuse(part, f"the tokenizer's {section.name} holds {shown(kind)}")
    return [{"type": kind} | {key: check(part, key) for key, check in keys.items()}]


def _require_bounded_growth(document: JsonObject, parts: Mapping[str, list[Part]]) -> None:
    """Each section has at most one ByteLevel: the letters of the first are bytes to the next."""
    for section in (NORMALIZER, PRE_TOKENIZER, DECODER):
        if (count := [step["type"] for step in parts[section.key]].count("ByteLevel")) > 1:
            _refuse(document, f"the tokenizer's {section.name} holds ByteLevel {count} times")
    try:
        encoded = encoded_growth(parts[NORMALIZER.key], parts[PRE_TOKENIZER.key])
        decoded = decoded_growth(parts[DECODER.key])
    except TooCostly as error:
        _refuse(document, f"the tokenizer holds {error}")
    if encoded > MAX_GROWTH:
        _refuse(document, f"the tokenizer's normalizer and pre-tokenizer let a text grow {encoded:.0f} times")
    if decoded > MAX_DECODED_GROWTH:
        _refuse(document, f"the tokenizer's decoder lets a token grow {decoded:.0f} times")


def _require_decodable(document: JsonObject, steps: list[Part]) -> None:
    """Tokens become text one by one: no step may depend on a text's end or on more than one token."""
    kinds = [step["type"] for step in steps]
    if "ByteLevel" in kinds and len(kinds) > 1:
        _refuse(document, f"the tokenizer's decoder is {shown(kinds)}")
    is_bytes = is_fused = False
    for step, kind in zip(steps, kinds):
        replaces = kind == "Metaspace" or (kind == "Replace" and "String" in step["pattern"])
        strips = kind == "Strip" and is_fused and step["start"] <= 1 and step["stop"] == 0
        wanted = {"Metaspace": replaces, "Replace": replaces and not is_bytes, "ByteFallback": not is_fused, "Strip": strips}
        if not wanted.get(kind, True) or (kind == "Metaspace" and is_bytes):
            _refuse(document, f"the tokenizer's decoder holds {shown(step)} in that place")
        is_bytes = is_bytes or kind in ("ByteFallback", "Fuse")
        is_fused = is_fused or kind == "Fuse"


def checked_pipeline(kept: JsonObject, num_tokens: int) -> tuple[str, tuple[tuple[int, str], ...]]:
    """A pipeline that a GGUF file holds as text, and its added tokens' flags: checked like those of a tokenizer.json."""
    sections = (NORMALIZER, PRE_TOKENIZER, DECODER)
    sequences = {section.key: {"type": "Sequence", section.inner: kept.array(section.key)} for section in sections}
    parts = library_parts(JsonObject(kept.file, sequences, kept.name))
    model = kept.object("model")
    options = {} if model is None else model.values
    wanted = {"BPE": (("unk_token", str),), "Unigram": (("unk_id", int),)}.get(str(options.get("type")))
    if model is None or wanted is None:
        kept.fail("model", f"is {shown(options)}; a BPE or Unigram model is needed")
    size = model.integer("size")
    if size is None or not 0 <= size <= MAX_TOKENS:
        model.fail("size", f"is {shown(size)}; 0 to {MAX_TOKENS} are possible")
    for name, kind in wanted:
        if not isinstance(options.get(name), kind | None):
            model.fail(name, f"is {shown(options.get(name))}")
    flags = {key: model.flag(key) for key in ("fuse_unk", "byte_fallback", "ignore_merges")}
    unk_id = options.get("unk_id")
    if unk_id is not None and not (isinstance(unk_id, int) and 0 <= unk_id < num_tokens):
        model.fail("unk_id", f"is {shown(unk_id)}; there are {num_tokens} tokens")
    frame = {key: kept.whole_numbers(key) for key in ("first", "last")}
    if any(token_id >= num_tokens for ids in frame.values() for token_id in ids):
        kept.fail("first", f"or last holds an id that is none of the {num_tokens} tokens")
    model_part = {"type": options["type"], "size": size, "unk_token": options.get("unk_token"), "unk_id": unk_id} | flags
    return as_text(parts | {"model": model_part, "is_plain": kept.flag("is_plain")} | frame), tuple(_added_flags(kept))


def _added_flags(kept: JsonObject) -> Iterator[tuple[int, str]]:
    for entry in kept.array("added_flags"):
        if not (isinstance(entry, list) and len(entry) == 2 and type(entry[0]) is int and isinstance(entry[1], str)):
            kept.fail("added_flags", f"holds {shown(entry)}; an id and letters are needed")
        yield entry[0], entry[1]


def as_text(parts: Mapping[str, object]) -> str:
    return json.dumps(parts, ensure_ascii=False, sort_keys=True)
