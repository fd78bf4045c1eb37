"""A `tokenizer.json`, run by its own library: `tokenizers` matches added tokens, normalizes, splits into words and merges.

This module ensures that untrusted text never becomes a control token, gives the bytes of each token, and checks the file's
arrays. The library's model has no control tokens: in their places are pieces that no text spells.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from puna.errors import ModelFormatError, UsageError
from puna.formats.base import TokenizerSpec
from puna.formats.byte_letters import BYTES, byte_alphabet
from puna.formats.growth import encoded_growth
from puna.formats.mapped import shown
from puna.formats.token_types import BYTE, CONTROL, UNKNOWN, UNUSED, USER_DEFINED
from puna.tokenizers.bpe import merge_pairs
from puna.tokenizers.sentencepiece import BYTE_PIECE, EACH_BYTE
from puna.tokenizers.vocabulary import VocabularyTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library
    from tokenizers.models import Model
    from tokenizers.normalizers import Normalizer
    from tokenizers.pre_tokenizers import PreTokenizer

TokenizerStep = dict[str, Any]
ALPHABET = frozenset(byte_alphabet())
SPACE = "\u2581"
MAX_BYTES = 1 << 28  # that a text may become: the library holds 17 bytes for each, and cannot be interrupted
# Steps of a normalizer, or of a pre-tokenizer, that take nothing away, so that a text's length bounds its number of tokens.
KEEPING = frozenset({"Prepend", "ByteLevel", "Metaspace", "Digits", "UnicodeScripts"})


class _Cut(NamedTuple):
    """The library, set up. An added token that its model lacks has an id of its own there, after all others."""

    library: Library
    behind: dict[int, int]  # that id -> ours


class LibraryTokenizer(VocabularyTokenizer):
    """Any kind whose spec has a `pipeline`. Safe to share between threads: the library locks its own cache."""

    def __init__(self, spec: TokenizerSpec) -> None:
        super().__init__(spec)
        self._steps: dict[str, Any] = json.loads(spec.pipeline)
        self._frame = (tuple(self._steps["first"]), tuple(self._steps["last"]))
        self._flags = dict(spec.added_flags)
        self._spell = _spelling(self._steps["decoder"], spec.kind)
        self._is_byte_level = _is_byte_level(self._steps["decoder"], spec.kind)
        self.utf8_errors = "replace" if self._is_byte_level else EACH_BYTE
        self._model = _model(spec, self._steps["model"], self._pieces, self._types)
        self._normalizer, self._words, self._later_words = _prepared(spec, self._steps)
        self._growth = encoded_growth(self._steps["normalizer"], self._steps["pre_tokenizer"])
        self._added = [i for i in range(self.vocab_size) if self._is_looked_for(i)]
        self._full = self._cut(self._model, self._words, self.vocab_size)
        self._plain = self._cut(self._model, self._words, self.vocab_size, special=False)
        self._never = frozenset(i for i, kind in enumerate(self._types) if kind == CONTROL)
        missing = set(byte_alphabet()) - set(self._pieces) if spec.kind == "bpe" and not self._has_unknown() else set()
        self._missing = frozenset(BYTES[ord(letter)] for letter in missing)

    # ---- text -> ids ------------------------------------------------------------------------------------------------

    def _encode_text(self, text: str, special: bool, guard: str) -> list[int]:
        if not special:
            return self._plain_ids(text.replace(guard, "") if guard else text, is_first=True)
        if guard and (guard in text or self._has_other_spellings):
            return self._encode_guarded(text, guard)
        return self._ids(self._full, text)

    def _encode_guarded(self, text: str, guard: str) -> list[int]:
        """Match control tokens in the text with its guards, then encode the text between them without."""
        spans = list(self._control_spans(text))
        wanted = [span for span in spans if text[span[0] : span[1]].strip() == self._pieces[span[2]].strip()]
        if guard not in text and wanted == spans:
            return self._ids(self._full, text)
        ids: list[int] = []
        start = 0
        for begin, end, token_id in wanted:
            ids += self._plain_ids(text[start:begin].replace(guard, ""), start == 0)
            ids.append(token_id)
            start = end
        return ids + self._plain_ids(text[start:].replace(guard, ""), start == 0)

    @cached_property
    def _has_other_spellings(self) -> bool:
        """Whether a normalizer can make a control token of a text that does not spell it, which no guard breaks up."""
        return self._normalizer is not None and any("n" in self._flags.get(i, "") for i in self._never)

    def _control_spans(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Beginning, end and id of each control token that the library finds."""
        self._require_room(text)
        found = self._finder.library.encode(text, add_special_tokens=False)
        for (begin, end), theirs in zip(found.offsets, found.ids):
            token_id = self._finder.behind.get(theirs)
            if token_id is not None and token_id in self._never:
                yield begin, end, token_id

    @cached_property
    def _finder(self) -> _Cut:
        """Matches added tokens as the whole does, and makes one unknown word of the text between two of them."""
        from tokenizers import models

        return self._cut(models.WordLevel({"": 0}, unk_token=""), None, 1)

    def _plain_ids(self, text: str, is_first: bool) -> list[int]:
        if not text:
            return []
        return self._ids(self._plain if is_first else self._plain_later, text)

    @cached_property
    def _plain_later(self) -> _Cut:
        if self._later_words is None:
            return self._plain
        return self._cut(self._model, self._later_words, self.vocab_size, special=False)

    def _ids(self, cut: _Cut, text: str) -> list[int]:
        self._require_room(text)
        if self._missing:
            self._refuse_missing(text)
        given: list[int] = cut.library.encode_batch_fast([text], add_special_tokens=False)[0].ids
        if not self._never.isdisjoint(given):
            raise UsageError("the text holds a character for which this model's vocabulary has no token", hint="Remove it.")
        size = self.vocab_size
        return [i if i < size else cut.behind[i] for i in given] if given and max(given) >= size else given

    def _require_room(self, text: str) -> None:
        """UsageError, before the library begins, for a text that may fill the memory."""
        if 4 * len(text) * self._growth <= MAX_BYTES:
            return
        num_bytes, most = len(text.encode()), int(MAX_BYTES / self._growth)
        if num_bytes > most:
            problem = f"the text has {num_bytes} bytes; this tokenizer takes at most {most} at once"
            raise UsageError(problem, hint="Shorten the text.")

    def _refuse_missing(self, text: str) -> None:
        """Refuse a byte without a token: the library would drop it silently."""
        normal = text if self._normalizer is None else self._normalizer.normalize_str(text)
        if lost := set(normal.encode()) & self._missing:
            raise UsageError(
                f"the text holds the byte 0x{min(lost):02X}, for which this model's vocabulary has no token",
                hint="Remove that character from the text.",
            )

    def _has_unknown(self) -> bool:
        return self._steps["model"].get("unk_token") in self._pieces

    def _encode_plain(self, text: str, is_first: bool) -> list[int]:
        return self._plain_ids(text, is_first)

    @cached_property
    def _longest(self) -> float:
        steps = [*self._steps["normalizer"], *self._steps["pre_tokenizer"]]
        keeps = all(step["type"] in KEEPING or _replaces_spaces(step) for step in steps)
        takes = any(set(flags) & set("lrn") for flags in self._flags.values())
        spells_all = self._steps["model"]["byte_fallback"] and self._types.count(BYTE) == 256
        fuses = self._has_unknown() and not spells_all  # one id stands for a run of unknown characters
        bounded = keeps and not takes and not fuses and not self._missing and self._steps["model"]["type"] == "BPE"
        return max(len(piece.encode()) for piece in self._pieces) if bounded else math.inf

    # ---- the library's objects --------------------------------------------------------------------------------------

    def _is_looked_for(self, token_id: int) -> bool:
        """Whether to match a token: the file's, or a control token of a file beside it, and only if a guard can break it up."""
        kind, piece = self._types[token_id], self._pieces[token_id]
        if kind == USER_DEFINED:
            return bool(piece) and token_id in self._flags
        return len(piece) > 1 and (kind == CONTROL or (kind == UNKNOWN and token_id in self._flags))

    def _cut(self, model: Model, words: PreTokenizer | None, size: int, special: bool = True) -> _Cut:
        """`size`: the model's number of ids. `special`: match control tokens."""
        from tokenizers import AddedToken, Tokenizer

        library = Tokenizer(model)
        if words is not None:
            library.pre_tokenizer = words
        if self._normalizer is not None:
            library.normalizer = self._normalizer
        tokens = []
        for token_id in self._added:
            flags = self._flags.get(token_id, "")
            lstrip, rstrip, single, normalized = (letter in flags for letter in "lrsn")
            kind = {"lstrip": lstrip, "rstrip": rstrip, "single_word": single, "normalized": normalized}
            tokens.append(AddedToken(self._pieces[token_id], special=self._is_silent(token_id), **kind))
        library.add_tokens(tokens)
        library.encode_special_tokens = not special
        theirs = ((library.token_to_id(self._pieces[i]), i) for i in self._added)
        return _Cut(library, {token_id: i for token_id, i in theirs if token_id is not None and token_id >= size})

    # ---- ids -> text ------------------------------------------------------------------------------------------------

    def _bytes_of(self, token_id: int) -> bytes:
        return self._spelled_bytes(token_id, is_first=False)

    def first_bytes(self, token_id: int) -> bytes:
        return b"" if self._is_silent(self._checked(token_id)) else self._spelled_bytes(token_id, is_first=True)

    def _silent_bytes(self, token_id: int, is_first: bool) -> bytes:
        return self._spelled_bytes(token_id, is_first)

    def _spelled_bytes(self, token_id: int, is_first: bool) -> bytes:
        """Added tokens of byte-level BPE are plain text; the library reads their letters as bytes where it can."""
        text = self._spelled.get(token_id, self._pieces[token_id])
        is_added = token_id in self._flags and self._types[token_id] in (USER_DEFINED, CONTROL)
        return text.encode() if is_added and self._is_byte_level else self._spell(text, is_first)

    @cached_property
    def _spelled(self) -> dict[int, str]:
        """The text of added tokens that match in the normalized text."""
        if self._normalizer is None:
            return {}
        return {i: self._normalizer.normalize_str(self._pieces[i]) for i in self._added if "n" in self._flags.get(i, "")}

    def strips_leading_space(self) -> bool:
        return any(step["type"] in ("Strip", "Metaspace") for step in self._steps["decoder"])


def _replaces_spaces(step: TokenizerStep) -> bool:
    if step["type"] == "Split":
        return bool(step["behavior"] != "Removed")
    return step == {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


# ---- model ----------------------------------------------------------------------------------------------------------


def _model(spec: TokenizerSpec, options: TokenizerStep, pieces: list[str], types: list[int]) -> Model:
    """The library's model. Tokens added to it, control tokens and unused ones become pieces that no text spells."""
    from tokenizers import models

    first = {piece: i for i, piece in reversed([*enumerate(pieces)])}  # of two ids for a text, the first counts
    own = [
        piece if _is_own(i, types[i], options) and first[piece] == i else f"\U0010ffff\U0010ffff{i}\U0010ffff"
        for i, piece in enumerate(pieces)
    ]
    _require_no_loss(spec, options, types)
    if options["type"] == "Unigram":
        if spec.scores is None or len(spec.scores) != len(pieces):
            raise ModelFormatError(spec.source, "tokenizer scores", None, "are missing")
        scored = list(zip(own, spec.scores.tolist()))
        return models.Unigram(scored, options["unk_id"], bool(options["byte_fallback"]))
    vocabulary = {piece: i for i, piece in enumerate(own)}
    unknown = options["unk_token"]
    unknown_id = pieces.index(unknown) if unknown in pieces else None
    return models.BPE(
        vocabulary,
        merge_pairs(spec, vocabulary),
        unk_token=None if unknown_id is None else own[unknown_id],
        fuse_unk=bool(options["fuse_unk"]),
        byte_fallback=bool(options["byte_fallback"]),
        ignore_merges=bool(options["ignore_merges"]),
    )


def _is_own(token_id: int, kind: int, options: TokenizerStep) -> bool:
    return token_id < options["size"] and kind not in (CONTROL, UNUSED)


def _require_no_loss(spec: TokenizerSpec, options: TokenizerStep, types: list[int]) -> None:
    """Without an unknown token the library's BPE drops what it cannot spell, and its Unigram fails, bytes or not."""
    if options["type"] == "Unigram" and options["unk_id"] is None:
        raise ModelFormatError(spec.source, "tokenizer tokens", None, "hold no unknown token, which a Unigram model needs")
    if spec.kind == "spm" and options["unk_token"] is None and types.count(BYTE) < 256:
        problem = "hold neither an unknown token nor all 256 byte tokens: some characters would be dropped"
        raise ModelFormatError(spec.source, "tokenizer tokens", None, problem)


# ---- normalizer and pre-tokenizer -----------------------------------------------------------------------------------


def _prepared(spec: TokenizerSpec, steps: TokenizerStep) -> tuple[Normalizer | None, PreTokenizer | None, PreTokenizer | None]:
    """The normalizer, the pre-tokenizer, and the pre-tokenizer for text inside a prompt, if different: a Metaspace may add its
    space at the beginning only."""
    later = [
        step | {"prepend_scheme": "never"} if step.get("prepend_scheme") == "first" else step for step in steps["pre_tokenizer"]
    ]
    normalizer, words = _read(spec, steps["normalizer"], steps["pre_tokenizer"])
    return normalizer, words, None if later == steps["pre_tokenizer"] else _read(spec, [], later)[1]


def _read(
    spec: TokenizerSpec, normalizers: list[TokenizerStep], words: list[TokenizerStep]
) -> tuple[Normalizer | None, PreTokenizer | None]:
    """Use the library's own reader, on a tokenizer.json that holds nothing else."""
    from tokenizers import Tokenizer

    document: TokenizerStep = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": normalizers} if normalizers else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": words} if words else None,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    try:
        library = Tokenizer.from_str(json.dumps(document))
    except Exception as error:  # the library raises nothing narrower
        problem = f"are refused by the tokenizers library: {shown(str(error))}"
        raise ModelFormatError(spec.source, "normalizer and pre_tokenizer", None, problem) from error
    return library.normalizer, library.pre_tokenizer


# ---- decoder --------------------------------------------------------------------------------------------------------

Spelling = Callable[[str, bool], bytes]  # (token, whether it is the first) -> its bytes


def _is_byte_level(steps: list[TokenizerStep], kind: str) -> bool:
    return any(step["type"] == "ByteLevel" for step in steps) or (not steps and kind == "bpe")


def _spelling(steps: list[TokenizerStep], kind: str) -> Spelling:
    if _is_byte_level(steps, kind):
        return lambda text, is_first: _of_letters(text)
    steps = steps or [{"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never"}]

    def spell(text: str, is_first: bool) -> bytes:
        encoding = "utf-8"
        for step in steps:
            if step["type"] == "ByteFallback" and (match := BYTE_PIECE.fullmatch(text)):
                text, encoding = chr(int(match[1], 16)), "latin-1"
            text = SPELLINGS[step["type"]](step, text, is_first)
        return text.encode(encoding)

    return spell


def _of_letters(text: str) -> bytes:
    """A token with a letter that is no byte's is its own UTF-8, as in the library."""
    return text.translate(BYTES).encode("latin-1") if ALPHABET.issuperset(text) else text.encode()


def _strip(step: TokenizerStep, text: str, is_first: bool) -> str:
    kept = text.lstrip(step["content"]) if is_first else text
    return text[min(step["start"], len(text) - len(kept)) :]


def _metaspace(step: TokenizerStep, text: str, is_first: bool) -> str:
    return text.replace(step["replacement"], "" if is_first and step["prepend_scheme"] != "never" else " ")


SPELLINGS: dict[str, Callable[[TokenizerStep, str, bool], str]] = {
    "Replace": lambda step, text, _: text.replace(step["pattern"]["String"], step["content"]),
    "Metaspace": _metaspace,
    "Strip": _strip,
    "ByteFallback": lambda step, text, _: text,
    "Fuse": lambda step, text, _: text,
}
