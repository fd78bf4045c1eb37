"""`tokenizer.json` of Hugging Face's `tokenizers` -> TokenizerSpec.

puna understands two families: byte-level BPE ("bpe": GPT-2, Llama 3, Qwen2, SmolLM2) and SentencePiece BPE by merges ("spm":
Llama 1 and 2, Mistral). Their TokenizerSpec fields say what such a file says, so that every format can hold them. Any other
file is kept as its `pipeline`, and the library itself splits by it; `only_json` then says what no other format could hold. puna
refuses by name parts that are in no table of `library_parts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from puna.errors import UnsupportedModelError
from puna.formats.added_tokens import listed_tokens, unused, with_added
from puna.formats.base import TokenizerSpec
from puna.formats.json_file import BYTE_ORDER_MARK, JsonObject
from puna.formats.library_parts import as_text, library_parts
from puna.formats.mapped import shown
from puna.formats.patterns import GPT2, LLAMA3
from puna.formats.pretokenizers import PRE_TOKENIZERS
from puna.formats.token_types import BYTE, NORMAL, UNKNOWN, UNUSED
from puna.formats.vocabulary import MAX_TOKEN_BYTES, MAX_TOKENS

SPACE = "\u2581"

DIGIT, DIGITS = r"\p{N}", r"\p{N}+"
# Expressions in the order in which they split -> our name of the splitter; the usual name if several split alike.
SPLITTERS = {pre.stages: name for name, pre in reversed(PRE_TOKENIZERS.items())} | {
    (DIGIT, GPT2): "smollm",
    (LLAMA3,): "llama-bpe",
    (GPT2,): "gpt-2",
    (*PRE_TOKENIZERS["deepseek-llm"].stages[:-1], DIGIT): "deepseek-llm",  # its vocabulary joins no digits
}


class _Beyond(Exception):
    """The fields of a TokenizerSpec cannot say what the file holds; the message names it."""


class Cutting(NamedTuple):
    """The result of normalizer and pre-tokenizer."""

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
    """The tokenizer, and notices about it. UnsupportedModelError for what puna does not do."""
    model = _model(document)
    kind = _kind(model)
    parts = library_parts(document)
    cutting, only_json = _understood(document, model, parts)
    tokens = _tokens(model) if kind == "BPE" else _unigram_tokens(model)
    spec = TokenizerSpec(
        kind=cutting.kind,
        tokens=[token.encode("utf-8", "surrogatepass") for token in tokens],
        scores=None if kind == "BPE" else _unigram_scores(model),
        token_types=np.array(_types(model, cutting.kind, tokens), np.int32),
        merges=_merges(model) if kind == "BPE" else (),
        pre=cutting.pre,
        unk_id=_unknown_id(model),
        normalizer=cutting.normalizer,
        add_space_prefix=cutting.add_space_prefix,
        prefix_first_only=cutting.prefix_first_only,
        prefix_unless_space=cutting.prefix_unless_space,
        whole_words=None if only_json else _whole_words(model, cutting),
        only_json=only_json,
        source=str(document.file),
    )
    first, last = _frame(document)
    whole = _framed(document, with_added(spec, listed_tokens(document)), first, last)
    is_plain = not only_json and _is_plain(model, cutting, parts) and len(first) < 2 and len(last) < 2
    options: dict[str, object] = {"type": kind, "size": len(tokens), "unk_token": None, "unk_id": None}
    options |= {"unk_token": model.text("unk_token")} if kind == "BPE" else {"unk_id": model.integer("unk_id")}
    options |= {key: model.flag(key) for key in ("fuse_unk", "byte_fallback", "ignore_merges")}
    pipeline = parts | {"model": options, "first": first, "last": last, "is_plain": is_plain}
    return replace(whole, pipeline=as_text(pipeline)), tuple(_notices(document))


def _unsupported(file: Path, what: str) -> NoReturn:
    raise UnsupportedModelError(f"{file}: {what}, which puna does not read")


def _kind(part: JsonObject) -> str:
    return part.text("type") or ("BPE" if "merges" in part.values else "")


def _understood(document: JsonObject, model: JsonObject, parts: dict[str, list[Any]]) -> tuple[Cutting, str]:
    """The file in our own fields, or why they cannot say it."""
    try:
        if _kind(model) == "Unigram":
            raise _Beyond("its tokenizer.json holds a Unigram model")
        cutting = _cutting(document)
        _require_splits_alike(model, cutting)
        _whole_words(model, cutting)
    except _Beyond as error:
        kinds = [part["type"] for part in (*parts["normalizer"], *parts["pre_tokenizer"])]
        kind = "unigram" if _kind(model) == "Unigram" else "bpe" if "ByteLevel" in kinds else "spm"
        return Cutting(kind, "", add_space_prefix=_strips(parts)), str(error)
    return cutting, ""


def _strips(parts: dict[str, list[Any]]) -> bool:
    """Whether the decoder strips a space from the beginning of a text."""
    steps = parts["decoder"]
    return any(step["type"] == "Strip" or step.get("prepend_scheme", "never") != "never" for step in steps)


def _is_plain(model: JsonObject, cutting: Cutting, parts: dict[str, list[Any]]) -> bool:
    """Whether the model's options and the decoder are those of our own classes."""
    decoders = parts["decoder"]
    if cutting.kind == "bpe":
        odd = model.values.get("unk_token") is not None or model.flag("byte_fallback")
        return not odd and decoders in ([], [{"type": "ByteLevel"}])
    replaces = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    strips = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    usual = [replaces, {"type": "ByteFallback"}, {"type": "Fuse"}, *([strips] if cutting.add_space_prefix else [])]
    return model.flag("fuse_unk") and decoders in ([], usual)


# ---- model ----------------------------------------------------------------------------------------------------------


MODELS = ("BPE", "Unigram")


def _model(document: JsonObject) -> JsonObject:
    model = document.object("model")
    if model is None:
        document.fail("model", "is missing")
    if _kind(model) not in MODELS:
        _unsupported(document.file, f"the tokenizer's model is {shown(_kind(model) or 'none')}")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.values.get(key):
            _unsupported(document.file, f"the tokenizer's model has {key} {shown(model.values[key])}")
    for key in ("fuse_unk", "byte_fallback", "ignore_merges"):
        model.flag(key)
    return model


def _unknown_id(model: JsonObject) -> int | None:
    if _kind(model) == "BPE":
        unknown: int | None = model.values["vocab"].get(model.text("unk_token") or "")
        return unknown
    unknown = model.integer("unk_id")
    if unknown is not None and not 0 <= unknown < len(model.array("vocab")):
        model.fail("unk_id", f"is {unknown}; the vocabulary has {len(model.array('vocab'))} tokens")
    return unknown


def _unigram_tokens(model: JsonObject) -> list[str]:
    entries = model.array("vocab")
    if not 1 <= len(entries) <= MAX_TOKENS:
        model.fail("vocab", f"has {len(entries)} tokens; 1 to {MAX_TOKENS} are read")
    for number, entry in enumerate(entries):
        is_pair = isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)
        if not is_pair or isinstance(entry[1], bool) or not isinstance(entry[1], int | float) or not abs(entry[1]) < MAX_SCORE:
            model.fail(f"vocab[{number}]", f"is {shown(entry)}; a text and a finite number are needed")
        if not 1 <= len(entry[0]) <= MAX_TOKEN_BYTES:
            model.fail(f"vocab[{number}]", f"has {len(entry[0])} characters; 1 to {MAX_TOKEN_BYTES} are read")
    return [text for text, _ in entries]


MAX_SCORE = 1e30


def _unigram_scores(model: JsonObject) -> npt.NDArray[np.float64]:
    return np.array([score for _, score in model.array("vocab")], np.float64)


def _tokens(model: JsonObject) -> list[str]:
    """The tokens by id. An id without a token is unused."""
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
    known = set(model.values["vocab"].values()) if _kind(model) == "BPE" else set(range(len(tokens)))
    types = [NORMAL if token_id in known else UNUSED for token_id in range(len(tokens))]
    if kind != "bpe" and model.flag("byte_fallback"):
        names = {f"<0x{byte:02X}>" for byte in range(256)}
        types = [BYTE if token in names else kind for token, kind in zip(tokens, types)]
    unknown = _unknown_id(model)
    if kind != "bpe" and unknown is not None:
        types[unknown] = UNKNOWN
    return types


def _merges(model: JsonObject) -> list[bytes]:
    """ "a b" or ["a", "b"] -> "a b"."""
    merges = []
    for number, entry in enumerate(model.array("merges")):
        pair = entry.split(" ") if isinstance(entry, str) else entry
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) and x and " " not in x for x in pair)):
            model.fail(f"merges[{number}]", f"is {shown(entry)}; two tokens are needed")
        merges.append(" ".join(pair).encode("utf-8", "surrogatepass"))
    return merges


def _require_splits_alike(model: JsonObject, cutting: Cutting) -> None:
    space = SPACE.encode()
    if cutting.splits_at_spaces and any(space in merge[1:] for merge in _merges(model)):
        raise _Beyond("it cuts at spaces but has merges across them")


def _whole_words(model: JsonObject, cutting: Cutting) -> bool | None:
    ignore_merges = model.flag("ignore_merges")
    if cutting.kind == "spm":
        if ignore_merges:
            raise _Beyond("it is SentencePiece's but has ignore_merges")
        return None
    return None if ignore_merges == PRE_TOKENIZERS[cutting.pre].whole_words else ignore_merges


# ---- normalizer and pre-tokenizer -----------------------------------------------------------------------------------


def _beyond(what: str) -> NoReturn:
    raise _Beyond(what)


def _steps(document: JsonObject, key: str, inner: str) -> list[JsonObject]:
    """A part and, if it is a Sequence, its parts."""
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
        _beyond(f"it cuts words by {shown(stages)}")
    normalizers = [_kind(step) for step in _steps(document, "normalizer", "normalizers")]
    if normalizers not in ([], ["NFC"]):
        _beyond(f"its normalizer is {shown(normalizers)}")
    _require_decoders(document, {"ByteLevel"})
    return Cutting("bpe", SPLITTERS[stages], "".join(normalizers))


def _stages(step: JsonObject) -> list[str]:
    """The expressions by which a step splits."""
    kind = _kind(step)
    if kind == "ByteLevel":
        if step.flag("add_prefix_space", True):
            _beyond("it adds a space before a text (ByteLevel with add_prefix_space)")
        return [GPT2] if step.flag("use_regex", True) else []
    if kind == "Digits":
        return [DIGIT if step.flag("individual_digits") else DIGITS]
    if kind == "Split":
        pattern = step.object("pattern")
        way = (step.text("behavior"), step.flag("invert"))
        expression = None if pattern is None else pattern.text("Regex")
        # If an expression matches all of a text, the pieces between matches and the matches are the same.
        matches_all = expression is not None and expression.endswith(r"|\s+")
        if expression is None or way not in ((("Isolated", False), ("Removed", True)) if matches_all else (("Isolated", False),)):
            _beyond(f"it cuts words by {shown(step.values)}")
        return [expression.replace("\r", r"\r").replace("\n", r"\n")]  # some files hold the characters themselves
    _beyond(f"its pre-tokenizer holds {shown(kind)}")


def _sentencepiece(document: JsonObject, steps: list[JsonObject]) -> Cutting:
    prepends, replaced = _normalizing(document)
    spaces = _spaces(document, steps, prepends, replaced)
    _require_decoders(document, {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"})
    return spaces


def _normalizing(document: JsonObject) -> tuple[bool, bool]:
    """Whether the normalizer adds a space, and whether it writes spaces as U+2581."""
    prepends, replaced = False, False
    for step in _steps(document, "normalizer", "normalizers"):
        if _kind(step) == "Prepend" and not prepends and step.text("prepend") == SPACE:
            prepends = True
        elif _kind(step) == "Replace" and step.values.get("pattern") == {"String": " "} and step.text("content") == SPACE:
            replaced = True
        else:
            _beyond(f"its normalizer holds {shown(step.values)}")
    return prepends, replaced


def _spaces(document: JsonObject, steps: list[JsonObject], prepends: bool, replaced: bool) -> Cutting:
    """A Metaspace adds its space only to a text that does not begin with one, so never after a Prepend."""
    found = tuple(_metaspace(step) for step in steps)
    if replaced and found == BEGINNING_ONLY and not prepends:
        return Cutting("spm", add_space_prefix=True, prefix_first_only=True)
    if len(found) > 1 or (found and (replaced or found[0].replacement != SPACE)):
        _beyond(f"its pre-tokenizer holds {shown([step.values for step in steps])}")
    if not (found or replaced):
        _beyond("it is neither byte-level nor one that writes spaces as U+2581")
    scheme, splits = (found[0].scheme, found[0].splits) if found else ("never", False)
    adds = not prepends and scheme != "never"
    return Cutting("spm", "default", "", prepends or adds, adds and scheme == "first", adds, splits)


class Metaspace(NamedTuple):
    """A step that writes spaces as `replacement`, and may add one."""

    replacement: str
    scheme: str
    splits: bool


# After a normalizer that leaves no plain space, these always add U+2581 at the beginning of a text (our writer's).
BEGINNING_ONLY = (Metaspace(" ", "first", False), Metaspace(SPACE, "never", False))


def _metaspace(step: JsonObject) -> Metaspace:
    scheme = step.text("prepend_scheme") or ("always" if step.flag("add_prefix_space", True) else "never")
    if _kind(step) != "Metaspace" or scheme not in ("always", "first", "never"):
        _beyond(f"its pre-tokenizer holds {shown(step.values)}")
    return Metaspace(step.text("replacement") or SPACE, scheme, step.flag("split", True))


def _require_decoders(document: JsonObject, allowed: set[str]) -> None:
    for step in _steps(document, "decoder", "decoders"):
        if _kind(step) not in allowed:
            _beyond(f"its decoder holds {shown(_kind(step))}")


# ---- what frames a text ---------------------------------------------------------------------------------------------


Ids = list[int]


def _framed(document: JsonObject, spec: TokenizerSpec, first: Ids, last: Ids) -> TokenizerSpec:
    """`spec` with BOS and EOS, the outermost ids that the post-processor puts before and after a text."""
    for token_id in (*first, *last):
        if not 0 <= token_id < len(spec.tokens):
            document.fail("post_processor", f"puts the id {token_id} beside a text; there are {len(spec.tokens)} tokens")
    return replace(
        spec,
        bos_id=first[0] if first else None,
        eos_id=last[-1] if last else None,
        add_bos=bool(first),
        add_eos=bool(last),
    )


TemplatePiece = list[int | None]  # ids, and None in place of the text


def _frame(document: JsonObject) -> tuple[Ids, Ids]:
    """The ids before and after a text. The library hands the result of one post-processor to the next, as several pieces."""
    pieces: list[TemplatePiece] = [[None]]
    for step in _steps(document, "post_processor", "processors"):
        kind = _kind(step)
        if kind not in FRAMES:
            _unsupported(document.file, f"the tokenizer's post-processor holds {shown(kind)}")
        pieces = FRAMES[kind](step, pieces)
        if sum(map(len, pieces)) > MAX_FRAME:
            document.fail("post_processor", f"puts more than {MAX_FRAME} tokens beside a text")
    whole = [token_id for piece in pieces for token_id in piece]
    if whole.count(None) != 1:
        _unsupported(document.file, f"the tokenizer's post-processor holds the text {whole.count(None)} times")
    at = whole.index(None)
    return [i for i in whole[:at] if i is not None], [i for i in whole[at + 1 :] if i is not None]


MAX_FRAME = 64


def _templated(step: JsonObject, pieces: list[TemplatePiece]) -> list[TemplatePiece]:
    """A template for one piece, or for two; each of its parts becomes a piece."""
    if len(pieces) > 2:
        _unsupported(step.file, f"the tokenizer's post-processor makes a template of {len(pieces)} pieces")
    return [_template_piece(step, part, pieces) for part in step.objects("single" if len(pieces) == 1 else "pair")]


def _template_piece(step: JsonObject, part: JsonObject, pieces: list[TemplatePiece]) -> TemplatePiece:
    """The ids of a special token, or the piece that the part names."""
    sequence = part.object("Sequence")
    if sequence is None:
        return [*_template_ids(step, part)]
    number = {"A": 0, "B": 1}.get(sequence.text("id") or "", len(pieces))
    if number >= len(pieces):
        part.fail("Sequence", f"is {shown(sequence.text('id'))}; there are {len(pieces)} pieces")
    return pieces[number]


def _bracketed(step: JsonObject, pieces: list[TemplatePiece], is_roberta: bool) -> list[TemplatePiece]:
    """`cls` before the first piece and `sep` after each; RoBERTa's has `sep` before the others too."""
    first, last = _paired_id(step, "cls"), _paired_id(step, "sep")
    others: list[TemplatePiece] = [[*([last] if is_roberta else []), *piece, last] for piece in pieces[1:]]
    return [[first, *pieces[0], last], *others]


def _template_ids(step: JsonObject, part: JsonObject) -> tuple[int, ...]:
    special = part.object("SpecialToken")
    if special is None:
        part.fail("", "is neither a Sequence nor a SpecialToken")
    tokens = step.object("special_tokens")
    entry = None if tokens is None else tokens.object(special.text("id") or "")
    if entry is None:
        step.fail("special_tokens", f"lacks {shown(special.text('id'))}, which the template names")
    return entry.whole_numbers("ids")


def _paired_id(step: JsonObject, key: str) -> int:
    pair = step.array(key)
    if len(pair) != 2 or type(pair[1]) is not int or pair[1] < 0:
        step.fail(key, f"is {shown(pair)}; a text and an id are needed")
    token_id: int = pair[1]
    return token_id


FRAMES: dict[str, Callable[[JsonObject, list[TemplatePiece]], list[TemplatePiece]]] = {
    "ByteLevel": lambda _, pieces: pieces,  # it moves offsets, not tokens
    "TemplateProcessing": _templated,
    "BertProcessing": lambda step, pieces: _bracketed(step, pieces, is_roberta=False),
    "RobertaProcessing": lambda step, pieces: _bracketed(step, pieces, is_roberta=True),
}


def _notices(document: JsonObject) -> Iterator[str]:
    for key in ("truncation", "padding"):
        if document.values.get(key):
            yield f"{document.file.name}: puna does not apply its {key}"
