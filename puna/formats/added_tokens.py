"""Added tokens and special tokens (BOS, EOS, ...) of a Hugging Face folder, from `tokenizer.json`, `tokenizer_config.json`,
`special_tokens_map.json` and `added_tokens.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.errors import ModelFormatError
from puna.formats.base import TokenizerSpec
from puna.formats.json_file import JsonObject
from puna.formats.mapped import shown
from puna.formats.token_types import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from puna.formats.vocabulary import MAX_TOKEN_BYTES, MAX_TOKENS, piece_types

MAX_PAIRS = 20_000  # of tokens to compare
PLAIN = (NORMAL, USER_DEFINED, UNUSED)
ROLES = {"bos_token": "bos_id", "eos_token": "eos_id", "unk_token": "unk_id", "pad_token": "pad_id"}


FLAGS = {"l": "lstrip", "r": "rstrip", "s": "single_word", "n": "normalized"}


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is matched before a text is split."""

    id: int
    text: str
    special: bool  # text that a person types never becomes this token
    # Letters of FLAGS: it takes the spaces to its left ("l") or right ("r"), matches only where no letter or digit touches it
    # ("s"), matches in the normalized text ("n").
    flags: str = ""


def listed_tokens(document: JsonObject) -> Iterator[AddedToken]:
    """`added_tokens` of a tokenizer.json: a list of objects."""
    for entry in document.objects("added_tokens"):
        yield _token(entry, entry.integer("id"))


def decoder_tokens(config: JsonObject) -> Iterator[AddedToken]:
    """`added_tokens_decoder` of a tokenizer_config.json: id -> object."""
    decoder = config.object("added_tokens_decoder")
    for key in [] if decoder is None else decoder.values:
        entry = decoder.object(key) if decoder is not None else None
        if entry is None or not (key.isascii() and key.isdigit() and len(key) < 10):
            config.fail("added_tokens_decoder", f"has the key {shown(key)}; an id and an object are needed")
        yield _token(entry, int(key))


def mapped_tokens(document: JsonObject) -> Iterator[AddedToken]:
    """An added_tokens.json: text -> id. This old format does not say what is special: a text that looks like a tag is."""
    for text in document.values:
        token_id = document.integer(text)
        if token_id is None or token_id < 0 or not text:
            document.fail(text, f"has the id {shown(token_id)}")
        yield AddedToken(token_id, text, special=text[:1] + text[-1:] in ("<>", "[]"))


def _token(entry: JsonObject, token_id: int | None) -> AddedToken:
    text = entry.text("content")
    if token_id is None or token_id < 0 or not text:
        entry.fail("", "lacks id or content")
    if len(text) > MAX_TOKEN_BYTES:
        entry.fail("content", f"has {len(text)} characters; at most {MAX_TOKEN_BYTES} are read")
    special = entry.flag("special")
    flags = "".join(letter for letter, name in FLAGS.items() if entry.flag(name, name == "normalized" and not special))
    return AddedToken(token_id, text, special, flags)


def with_added(spec: TokenizerSpec, added: Iterable[AddedToken]) -> TokenizerSpec:
    """`spec` with these tokens; the last of two for one id counts. Ids in between that have no token stay unused."""
    by_id = {token.id: token for token in added}
    if not by_id:
        return spec
    _require_ids(spec, by_id)
    tokens, types = list(spec.tokens), piece_types(spec)
    filled = max(len(tokens), max(by_id) + 1)
    types += [UNUSED] * (filled - len(tokens))
    tokens += [unused(token_id) for token_id in range(len(tokens), filled)]
    first = {i for i, token in by_id.items() if not token.special and types[i] in (NORMAL, UNUSED)} | set(spec.found_first)
    for token in by_id.values():
        tokens[token.id] = token.text.encode("utf-8", "surrogatepass")
        types[token.id] = _type(token, types[token.id])
    flags = dict(spec.added_flags) | {token.id: token.flags for token in by_id.values()}
    return replace(
        spec,
        tokens=tokens,
        token_types=np.array(types, np.int32),
        scores=_lengthened(spec, filled),
        added_flags=tuple(sorted(flags.items())),
        found_first=() if spec.kind == "bpe" else tuple(sorted(first)),
    )


def settled(spec: TokenizerSpec) -> TokenizerSpec:
    """`spec` without the pipeline of `tokenizers` if its other fields say the same."""
    if not _suffice(spec):
        return spec if spec.pipeline else replace(spec, added_flags=())
    return replace(spec, pipeline="", added_flags=(), merges=spec.merges if spec.scores is None else ())


def _suffice(spec: TokenizerSpec) -> bool:
    """Whether the fields of `spec` say all that its pipeline does: control tokens match first, and there are no other added
    tokens. Byte-level BPE may have other added tokens if no text can match both kinds.
    """
    if not spec.pipeline or spec.only_json or not json.loads(spec.pipeline)["is_plain"]:
        return False
    types = piece_types(spec)
    flags = {flags for token_id, flags in spec.added_flags if types[token_id] in (CONTROL, UNKNOWN, USER_DEFINED)}
    if spec.kind == "bpe":
        may_be_normalized = not spec.normalizer and len(flags) == 1
        return flags <= ({"", "n"} if may_be_normalized else {""}) and not _overlap(spec, types)
    return flags <= {""} and USER_DEFINED not in types


def _overlap(spec: TokenizerSpec, types: list[int]) -> bool:
    """Whether a control token and another added token can overlap in some text."""
    control = [token for token, kind in zip(spec.tokens, types) if kind == CONTROL and token]
    others = [token for token, kind in zip(spec.tokens, types) if kind == USER_DEFINED and token]
    if len(control) * len(others) > MAX_PAIRS:
        return True
    return any(_touch(a, b) or _touch(b, a) for a in control for b in others)


def _touch(a: bytes, b: bytes) -> bool:
    """Whether `b` is inside `a`, or begins where `a` ends."""
    return b in a or any(a.endswith(b[:length]) for length in range(1, min(len(a), len(b))))


def _require_ids(spec: TokenizerSpec, by_id: Mapping[int, AddedToken]) -> None:
    """Require that each id is plausible and each text has one id."""
    most = min(MAX_TOKENS, 1024 + 2 * (len(spec.tokens) + len(by_id)))
    if max(by_id) >= most:
        problem = f"{shown(by_id[max(by_id)].text)} has the id {max(by_id)}; 0 to {most - 1} are possible here"
        raise ModelFormatError(spec.source, "added tokens", None, problem)
    ids = {text: token_id for token_id, text in enumerate(spec.tokens)}
    for token_id, token in by_id.items():
        if (other := ids.setdefault(token.text.encode("utf-8", "surrogatepass"), token_id)) != token_id and other not in by_id:
            problem = f"{shown(token.text)} has two ids, {other} and {token_id}"
            raise ModelFormatError(spec.source, "added tokens", None, problem)


def _type(token: AddedToken, before: int) -> int:
    if token.special:
        return UNKNOWN if before == UNKNOWN else CONTROL
    return USER_DEFINED if before in (NORMAL, UNUSED) else before


def padded(spec: TokenizerSpec, vocab_size: int) -> TokenizerSpec:
    """`spec` with an unused token for each further row of the embedding."""
    if len(spec.tokens) == vocab_size:
        return spec
    more = range(len(spec.tokens), vocab_size)
    types = np.array([*piece_types(spec), *[UNUSED] * len(more)], np.int32)
    tokens = [*spec.tokens, *map(unused, more)]
    return replace(spec, tokens=tokens, token_types=types, scores=_lengthened(spec, vocab_size))


def unused(token_id: int) -> bytes:
    """The text of an unused id: no text is split into it."""
    return b"[PAD%d]" % token_id


def _lengthened(spec: TokenizerSpec, count: int) -> npt.NDArray[np.floating[Any]] | None:
    return None if spec.scores is None else np.pad(spec.scores, (0, count - len(spec.scores)))


# ---- roles ----------------------------------------------------------------------------------------------------------


def roles(document: JsonObject) -> dict[str, str]:
    """Role -> token text, from tokenizer_config.json or special_tokens_map.json: a text, or an object with `content`."""
    found = {part: _role(document, part) for part in ROLES}
    return {part: text for part, text in found.items() if text}


def _role(document: JsonObject, part: str) -> str | None:
    if not isinstance(document.values.get(part), dict):
        return document.text(part)
    entry = document.object(part)
    return None if entry is None else entry.text("content")


def with_roles(spec: TokenizerSpec, parts: Mapping[str, str]) -> tuple[TokenizerSpec, tuple[str, ...]]:
    """`spec` with the tokens of these roles, which become control tokens; and a notice for each text that is no token."""
    ids = {token: token_id for token_id, token in enumerate(spec.tokens)}
    types, found, notices = piece_types(spec), {}, []
    for part, text in parts.items():
        token_id = ids.get(text.encode("utf-8", "surrogatepass"))
        if token_id is None:
            notices.append(f"{part} {shown(text)} is not used: the tokenizer has no such token")
            continue
        found[ROLES[part]] = token_id
        if part != "unk_token" and types[token_id] in PLAIN:
            types[token_id] = CONTROL
    return replace(spec, token_types=np.array(types, np.int32), **found), tuple(notices)  # type: ignore[arg-type]


def special_texts(document: JsonObject) -> Iterator[str]:
    """`additional_special_tokens` and `extra_special_tokens`: texts, or objects with `content`; by name or in a list."""
    extra = document.values.get("extra_special_tokens")
    more = extra.values() if isinstance(extra, dict) else document.array("extra_special_tokens")
    for entry in [*document.array("additional_special_tokens"), *more]:
        text = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(text, str):
            yield text


def with_special(spec: TokenizerSpec, texts: Iterable[str]) -> TokenizerSpec:
    """`spec` with its tokens among `texts` made control tokens."""
    special = {text.encode("utf-8", "surrogatepass") for text in texts}
    pairs = zip(spec.tokens, piece_types(spec))
    types = [CONTROL if token in special and kind in PLAIN else kind for token, kind in pairs]
    return replace(spec, token_types=np.array(types, np.int32))
