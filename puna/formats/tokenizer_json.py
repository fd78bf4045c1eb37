"""`tokenizer.json` of Hugging Face's `tokenizers` -> TokenizerSpec. Of what the format allows, two families are read:

byte-level BPE ("bpe": GPT-2, Llama 3, Qwen2, SmolLM2) and SentencePiece BPE by merges ("spm": Llama 1 and 2, Mistral). Every part
that changes how a text is cut is understood or refused by name; expressions are compared with those of `patterns.py`, never run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from puna.errors import UnsupportedModelError
from puna.formats.added_tokens import listed_tokens, unused, with_added
from puna.formats.base import TokenizerSpec
from puna.formats.json_file import BYTE_ORDER_MARK, JsonObject
from puna.formats.mapped import shown
from puna.formats.patterns import GPT2, LLAMA3
from puna.formats.pretokenizers import PRE_TOKENIZERS
from puna.formats.token_types import BYTE, NORMAL, UNKNOWN, UNUSED
from puna.formats.vocabulary import MAX_TOKEN_BYTES, MAX_TOKENS

SPACE = "\u2581"

DIGIT, DIGITS = r"\p{N}", r"\p{N}+"
# Expressions in the order in which they cut -> our name of the splitter; the usual name where several cut alike.
SPLITTERS = {pre.stages: name for name, pre in reversed(PRE_TOKENIZERS.items())} | {
    (DIGIT, GPT2): "smollm",
    (LLAMA3,): "llama-bpe",
    (GPT2,): "gpt-2",
}


class Cutting(NamedTuple):
    """What normalizer and pre-tokenizer come to."""

    kind: str
    pre: str = "default"
    normalizer: str = ""
    add_space_prefix: bool = False
    prefix_first_only: bool = False
    prefix_unless_space: bool = False
    splits_at_spaces: bool = False


def matches(head: bytes) -> bool:
    return head.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] == b"{" and b"\0" not in head


def tokenizer_of(document: JsonObject) -> tuple[TokenizerSpec, tuple[str, ...]]:
    """The tokenizer, and what a person should hear about it. UnsupportedModelError for what puna does not do."""
    model = _model(document)
    tokens = _tokens(model)
    cutting = _cutting(document)
    unknown = model.values["vocab"].get(model.text("unk_token") or "")
    spec = TokenizerSpec(
        kind=cutting.kind,
        tokens=[token.encode("utf-8", "surrogatepass") for token in tokens],
        token_types=np.array(_types(model, cutting.kind, tokens), np.int32),
        merges=_merges(model, cutting),
        pre=cutting.pre,
        unk_id=unknown,
        normalizer=cutting.normalizer,
        add_space_prefix=cutting.add_space_prefix,
        prefix_first_only=cutting.prefix_first_only,
        prefix_unless_space=cutting.prefix_unless_space,
        whole_words=_whole_words(model, cutting),
        source=str(document.file),
    )
    return _framed(document, with_added(spec, listed_tokens(document))), tuple(_notices(document))


def _unsupported(file: Path, what: str) -> NoReturn:
    raise UnsupportedModelError(f"{file}: {what}, which puna does not read")


def _kind(part: JsonObject) -> str:
    return part.text("type") or ""


# ---- model ----------------------------------------------------------------------------------------------------------


def _model(document: JsonObject) -> JsonObject:
    model = document.object("model")
    if model is None:
        document.fail("model", "is missing")
    kind = model.text("type") or ("BPE" if "merges" in model.values else "none")
    if kind != "BPE":
        _unsupported(document.file, f"the tokenizer's model is {shown(kind)}")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.values.get(key):
            _unsupported(document.file, f"the tokenizer's model has {key} {shown(model.values[key])}")
    return model


def _tokens(model: JsonObject) -> list[str]:
    """The tokens by id. An id that nothing has is unused."""
    vocabulary = model.object("vocab")
    if vocabulary is None or not vocabulary.values:
        model.fail("vocab", "is missing or empty")
    by_id: dict[int, str] = {}
    most = min(MAX_TOKENS, 1024 + 2 * len(vocabulary.values))
    for text, token_id in vocabulary.values.items():
        if type(token_id) is not int or not 0 <= token_id < most:
            vocabulary.fail(shown(text), f"has the id {shown(token_id)}; a whole number of 0 to {most - 1} is needed")
        if len(text) > MAX_TOKEN_BYTES:
            vocabulary.fail(shown(text), f"has {len(text)} characters; at most {MAX_TOKEN_BYTES} are read")
        if by_id.setdefault(token_id, text) != text:
            vocabulary.fail(shown(text), f"has the id {token_id}, as {shown(by_id[token_id])} has")
    return [by_id.get(token_id, unused(token_id).decode()) for token_id in range(max(by_id) + 1)]


def _types(model: JsonObject, kind: str, tokens: list[str]) -> list[int]:
    known = set(model.values["vocab"].values())
    types = [NORMAL if token_id in known else UNUSED for token_id in range(len(tokens))]
    if kind == "spm" and model.flag("byte_fallback"):
        names = {f"<0x{byte:02X}>" for byte in range(256)}
        types = [BYTE if token in names else kind for token, kind in zip(tokens, types)]
    unknown = model.text("unk_token")
    if kind == "spm" and unknown in model.values["vocab"]:
        types[model.values["vocab"][unknown]] = UNKNOWN
    return types


def _merges(model: JsonObject, cutting: Cutting) -> list[bytes]:
    """ "a b" or ["a", "b"] -> "a b"."""
    merges = []
    for number, entry in enumerate(model.array("merges")):
        pair = entry.split(" ") if isinstance(entry, str) else entry
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) and x and " " not in x for x in pair)):
            model.fail(f"merges[{number}]", f"is {shown(entry)}; two tokens are needed")
        merges.append(" ".join(pair).encode("utf-8", "surrogatepass"))
        if cutting.splits_at_spaces and SPACE in "".join(pair)[1:]:
            _unsupported(model.file, "the tokenizer cuts at spaces but has merges across them")
    return merges


def _whole_words(model: JsonObject, cutting: Cutting) -> bool | None:
    ignore_merges = model.flag("ignore_merges")
    if cutting.kind == "spm":
        if ignore_merges:
            _unsupported(model.file, "the tokenizer is SentencePiece's but has ignore_merges")
        return None
    return None if ignore_merges == PRE_TOKENIZERS[cutting.pre].whole_words else ignore_merges


# ---- normalizer and pre-tokenizer -----------------------------------------------------------------------------------


def _steps(document: JsonObject, key: str, inner: str) -> list[JsonObject]:
    """A part and, where it is a Sequence, what it consists of."""
    part = document.object(key)
    if part is None:
        return []
    return list(part.objects(inner)) if _kind(part) == "Sequence" else [part]


def _cutting(document: JsonObject) -> Cutting:
    steps = _steps(document, "pre_tokenizer", "pretokenizers")
    is_byte_level = any(_kind(step) == "ByteLevel" for step in steps)
    return _byte_level(document, steps) if is_byte_level else _sentencepiece(document, steps)


def _byte_level(document: JsonObject, steps: list[JsonObject]) -> Cutting:
    stages = tuple(stage for step in steps for stage in _stages(step))
    if stages not in SPLITTERS:
        _unsupported(document.file, f"the tokenizer cuts words by {shown(stages)}")
    normalizers = [_kind(step) for step in _steps(document, "normalizer", "normalizers")]
    if normalizers not in ([], ["NFC"]):
        _unsupported(document.file, f"the tokenizer's normalizer is {shown(normalizers)}")
    _require_decoders(document, {"ByteLevel"})
    return Cutting("bpe", SPLITTERS[stages], "".join(normalizers))


def _stages(step: JsonObject) -> list[str]:
    """The expressions that a step cuts by."""
    kind = _kind(step)
    if kind == "ByteLevel":
        if step.flag("add_prefix_space", True):
            _unsupported(step.file, "the tokenizer adds a space before a text (ByteLevel with add_prefix_space)")
        return [GPT2] if step.flag("use_regex", True) else []
    if kind == "Digits":
        return [DIGIT if step.flag("individual_digits") else DIGITS]
    if kind == "Split":
        pattern = step.object("pattern")
        # All of our expressions match all of a text: what they leave, or what they take out, is the same pieces.
        way = (step.text("behavior"), step.flag("invert"))
        expression = None if pattern is None else pattern.text("Regex")
        if expression is None or way not in (("Isolated", False), ("Removed", True)):
            _unsupported(step.file, f"the tokenizer cuts words by {shown(step.values)}")
        return [expression]
    _unsupported(step.file, f"the tokenizer's pre-tokenizer holds {shown(kind)}")


def _sentencepiece(document: JsonObject, steps: list[JsonObject]) -> Cutting:
    prepends, replaced = _normalizing(document)
    spaces = _spaces(document, steps, prepends, replaced)
    _require_decoders(document, {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"})
    return spaces


def _normalizing(document: JsonObject) -> tuple[bool, bool]:
    """Whether the normalizer adds a space, and whether it writes spaces as U+2581."""
    prepends, replaced = False, False
    for step in _steps(document, "normalizer", "normalizers"):
        if _kind(step) == "Prepend" and step.text("prepend") == SPACE:
            prepends = True
        elif _kind(step) == "Replace" and step.values.get("pattern") == {"String": " "} and step.text("content") == SPACE:
            replaced = True
        else:
            _unsupported(document.file, f"the tokenizer's normalizer holds {shown(step.values)}")
    return prepends, replaced


def _spaces(document: JsonObject, steps: list[JsonObject], prepends: bool, replaced: bool) -> Cutting:
    """A Metaspace adds its space where a text begins with no such space, thus never behind a Prepend."""
    found = tuple(_metaspace(step) for step in steps)
    if replaced and found == BEGINNING_ONLY and not prepends:
        return Cutting("spm", add_space_prefix=True, prefix_first_only=True)
    if len(found) > 1 or (found and (replaced or found[0].replacement != SPACE)):
        _unsupported(document.file, f"the tokenizer's pre-tokenizer holds {shown([step.values for step in steps])}")
    if not (found or replaced):
        _unsupported(document.file, "the tokenizer is neither byte-level nor one that writes spaces as U+2581")
    scheme, splits = (found[0].scheme, found[0].splits) if found else ("never", False)
    adds = not prepends and scheme != "never"
    return Cutting("spm", "default", "", prepends or adds, adds and scheme == "first", adds, splits)


class Metaspace(NamedTuple):
    """A step that writes spaces as `replacement`, and may add one."""

    replacement: str
    scheme: str
    splits: bool


# Behind a normalizer that leaves no plain space, these add U+2581 at the beginning of a text, in any case (our writer's).
BEGINNING_ONLY = (Metaspace(" ", "first", False), Metaspace(SPACE, "never", False))


def _metaspace(step: JsonObject) -> Metaspace:
    scheme = step.text("prepend_scheme") or ("always" if step.flag("add_prefix_space", True) else "never")
    if _kind(step) != "Metaspace" or scheme not in ("always", "first", "never"):
        _unsupported(step.file, f"the tokenizer's pre-tokenizer holds {shown(step.values)}")
    return Metaspace(step.text("replacement") or SPACE, scheme, step.flag("split", True))


def _require_decoders(document: JsonObject, allowed: set[str]) -> None:
    for step in _steps(document, "decoder", "decoders"):
        if _kind(step) not in allowed:
            _unsupported(document.file, f"the tokenizer's decoder holds {shown(_kind(step))}")


# ---- what frames a text ---------------------------------------------------------------------------------------------


def _framed(document: JsonObject, spec: TokenizerSpec) -> TokenizerSpec:
    """`spec` with the special tokens that the post-processor puts before and behind a text."""
    ids = {token.decode("utf-8", "surrogatepass"): token_id for token_id, token in enumerate(spec.tokens)}
    first, last = _template(document)
    for text in (first, last):
        if text and text not in ids:
            document.fail("post_processor", f"puts {shown(text)} beside a text; that is no token")
    return replace(
        spec,
        bos_id=ids.get(first),
        eos_id=ids.get(last),
        add_bos=first != "",
        add_eos=last != "",
    )


def _template(document: JsonObject) -> tuple[str, str]:
    """The special tokens before and behind a text; "" for none."""
    first, last = "", ""
    for step in _steps(document, "post_processor", "processors"):
        if _kind(step) == "ByteLevel":  # it moves offsets, not tokens
            continue
        if _kind(step) != "TemplateProcessing":
            _unsupported(document.file, f"the tokenizer's post-processor holds {shown(_kind(step))}")
        names = [_template_name(part) for part in step.objects("single")]
        if names.count(None) != 1 or len(names) > 3 or (len(names) == 3 and names[1] is not None):
            _unsupported(document.file, f"the tokenizer frames a text with {shown(names)}")
        at = names.index(None)
        first, last = (names[0] or "") if at else "", (names[-1] or "") if at < len(names) - 1 else ""
    return first, last


def _template_name(part: JsonObject) -> str | None:
    """The special token of a part of a template; None where it is the text."""
    special = part.object("SpecialToken")
    return None if special is None else special.text("id")


def _notices(document: JsonObject) -> Iterator[str]:
    for key in ("truncation", "padding"):
        if document.values.get(key):
            yield f"{document.file.name}: its {key} is not applied"
    flags = ("single_word", "lstrip", "rstrip")
    marked = [str(token.values["content"]) for token in document.objects("added_tokens") if any(map(token.flag, flags))]
    if marked:
        yield f"{document.file.name}: {shown(marked)} should take the spaces beside them; puna keeps those spaces"
