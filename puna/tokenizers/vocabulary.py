"""A tokenizer over a checked vocabulary: the common part of byte-level BPE and SentencePiece.

This class has control tokens, BOS and EOS, decoding and all checks of the file's arrays; the subclass splits plain text.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NoReturn

from puna import checks
from puna.errors import ContextLengthError, ModelFormatError, UsageError
from puna.formats.base import TokenizerSpec
from puna.formats.token_types import CONTROL, UNKNOWN, USER_DEFINED
from puna.formats.turn_markers import end_ids
from puna.formats.vocabulary import piece_texts, piece_types

MAX_SEARCHED = 1 << 21  # characters of all tokens to match in a text; the automaton takes 80 bytes for each

Segments = Iterator[tuple[str, int | None]]


class VocabularyTokenizer(ABC):
    """Implements `tokenizers.base.Tokenizer`. Nothing changes after construction."""

    utf8_errors = "replace"  # one U+FFFD for what could have begun a character, as in tiktoken and `tokenizers`
    controls_part_bytes = False
    controls_are_text = True  # if they are shown, the tokenizer did not add the space after one at the beginning
    token_bytes: Callable[[int], bytes]

    def __init__(self, spec: TokenizerSpec) -> None:
        self._pieces = piece_texts(spec)
        self._frame: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())  # ids around a text instead of BOS and EOS alone
        self._types = piece_types(spec)
        _require_searchable(spec, self._pieces, self._types)
        self.vocab_size = len(self._pieces)
        self.token_bytes = _TokenBytes(self._visible_bytes).__getitem__
        self.bos_id = _checked_id(spec, "bos_token_id", spec.bos_id, spec.add_bos)
        self.eos_id = _checked_id(spec, "eos_token_id", spec.eos_id, spec.add_eos)
        _checked_id(spec, "unknown_token_id", spec.unk_id, False)
        _checked_id(spec, "padding_token_id", spec.pad_id, False)
        self.add_bos = spec.add_bos
        self.add_eos = spec.add_eos
        self.special_tokens = self._ids_of_type(CONTROL)
        eot_id = _checked_id(spec, "eot_token_id", spec.eot_id, False)
        more = {_checked_id(spec, "stop_ids", token_id, False) for token_id in spec.stop_ids}
        self.stop_ids = end_ids(self.special_tokens) | {i for i in (self.eos_id, eot_id, *more) if i is not None}
        # A guard cannot break up one letter, so a person could not type it: it never matches.
        self._cut_at_controls = cutter({text: i for text, i in self.special_tokens.items() if len(text) > 1})

    def __repr__(self) -> str:
        ends = ((name, token_id) for name, token_id in (("BOS", self.bos_id), ("EOS", self.eos_id)) if token_id is not None)
        named = [f"{name} {token_id} {self._pieces[token_id][:40]!r}" for name, token_id in ends]
        return f"<{', '.join([f'{type(self).__name__}: {self.vocab_size} tokens', *named])}>"

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "a tokenizer cannot be pickled or copied",
            hint="Threads can share it; in another process, load the model or its tokenizer file there.",
        )

    def encode(
        self,
        text: str,
        *,
        bos: bool | None = None,
        eos: bool | None = None,
        special: bool = False,
        guard: str = "",
        limit: int | None = None,
    ) -> list[int]:
        checks.unicode("the text", text)
        if limit is not None:
            self._require_fits(text, guard, limit)
        ids = self._encode_text(text, special, guard)
        return self._framed(ids, self.add_bos if bos is None else bos, self.add_eos if eos is None else eos)

    def _encode_text(self, text: str, special: bool, guard: str) -> list[int]:
        """Ids of `text`, with nothing added before or after it; for the rest see `encode`."""
        ids: list[int] = []
        for number, (piece, control_id) in enumerate(self._cut_at_controls(text) if special else [(text, None)]):
            plain = piece.replace(guard, "") if guard else piece
            ids += self._encode_plain(plain, is_first=number == 0) if control_id is None else [control_id]
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        parts: list[list[bytes]] = [[]]  # joined once: to append to bytes is to copy them
        spoken = False
        for token_id in map(self._checked, ids):
            if self._is_silent(token_id):
                if self.controls_part_bytes:
                    parts.append([])
                if not skip_special:
                    parts[-1].append(self._silent_bytes(token_id, not spoken))
                    spoken = spoken or self.controls_are_text
            else:
                parts[-1].append(self._bytes_of(token_id) if spoken else self.first_bytes(token_id))
                spoken = True
        return "".join(b"".join(part).decode("utf-8", self.utf8_errors) for part in parts)

    def _silent_bytes(self, token_id: int, is_first: bool) -> bytes:
        """A control token's bytes when it is not skipped. `is_first`: nothing precedes it."""
        return self._pieces[token_id].encode()

    def _visible_bytes(self, token_id: int) -> bytes:
        return b"" if self._is_silent(self._checked(token_id)) else self._bytes_of(token_id)

    def first_bytes(self, token_id: int) -> bytes:
        return self.token_bytes(token_id)

    def piece(self, token_id: int) -> str:
        return self._pieces[self._checked(token_id)]

    def strips_leading_space(self) -> bool:
        return False

    def _require_fits(self, text: str, guard: str, limit: int) -> None:
        """Refuse a text that cannot fit: splitting takes a second and more for each MB, and ignores Ctrl-C."""
        num_bytes = len(text.encode()) - (text.count(guard) * len(guard.encode()) if guard else 0)
        if num_bytes > limit and num_bytes > limit * self._longest:
            raise ContextLengthError.of(f"at least {math.ceil(num_bytes / self._longest)}", limit)

    @cached_property
    def _longest(self) -> float:
        """The most bytes of a text that one id can stand for. Any thread computes the same."""
        return max(
            len(self._pieces[i].encode()) if self._is_silent(i) else len(self._bytes_of(i)) for i in range(self.vocab_size)
        )

    @abstractmethod
    def _encode_plain(self, text: str, is_first: bool) -> list[int]:
        """Ids of text in which control tokens have no meaning. `is_first`: nothing precedes it."""

    @abstractmethod
    def _bytes_of(self, token_id: int) -> bytes:
        """Bytes of a token that is neither control nor unknown."""

    def _checked(self, token_id: int) -> int:
        if not 0 <= token_id < self.vocab_size:  # Python would accept a negative index
            raise UsageError(f"token id {token_id} is outside the vocabulary, which has the ids 0..{self.vocab_size - 1}")
        return token_id

    def _is_silent(self, token_id: int) -> bool:
        return self._types[token_id] in (CONTROL, UNKNOWN)

    def _ids_of_type(self, wanted: int) -> dict[str, int]:
        if wanted not in self._types:  # far faster than to look at each
            return {}
        return {self._pieces[i]: i for i, kind in enumerate(self._types) if kind == wanted and self._pieces[i]}

    def _framed(self, ids: list[int], bos: bool, eos: bool) -> list[int]:
        """`ids` between BOS and EOS, as requested; neither is doubled."""
        first = list(self._frame[0] or [_required("BOS", self.bos_id)]) if bos else []
        last = list(self._frame[1] or [_required("EOS", self.eos_id)]) if eos else []
        has_first, has_last = ids[: len(first)] == first, ids[len(ids) - len(last) :] == last
        return (first if not has_first else []) + ids + (last if not has_last else [])


class _TokenBytes(dict[int, bytes]):
    """Token id -> its bytes, found at the first use: an answer asks for each of its tokens, mostly for the same few thousand."""

    def __init__(self, find: Callable[[int], bytes]) -> None:
        self._find = find

    def __missing__(self, token_id: int) -> bytes:
        found = self[token_id] = self._find(token_id)
        return found


def _required(name: str, token_id: int | None) -> int:
    if token_id is None:
        raise UsageError(f"{name} was requested, but the model's tokenizer has no {name} token")
    return token_id


def _require_searchable(spec: TokenizerSpec, pieces: list[str], types: list[int]) -> None:
    """Check the size before the tokens become an automaton."""
    total = sum(len(piece) for piece, kind in zip(pieces, types) if kind in (CONTROL, USER_DEFINED))
    if total > MAX_SEARCHED:
        problem = f"are {total} characters where control and added ones count; at most {MAX_SEARCHED} are read"
        raise ModelFormatError(spec.source, "tokenizer tokens", None, problem)


def cutter(tokens: dict[str, int]) -> Callable[[str], Segments]:
    """A function that splits text at every occurrence of one of `tokens`, the leftmost first and of those the longest.

    It yields (text between, None) and (token, id), in order. The search is an automaton (Aho-Corasick) of the `tokenizers`
    library: linear in the text for any tokens, which a regular expression would not be.

    >>> list(cutter({"<s>": 7})("a<s><s> b"))
    [('a', None), ('<s>', 7), ('<s>', 7), (' b', None)]
    """
    if not tokens:
        return lambda text: iter([(text, None)] if text else [])
    from tokenizers import AddedToken, Tokenizer, models

    nothing = Tokenizer(models.WordLevel({"": 0}, unk_token=""))  # each text between is one unknown word: id 0
    nothing.add_special_tokens([AddedToken(text, normalized=False) for text in tokens])

    beginnings = {text[:2] for text in tokens}  # mostly two or three

    def cut(text: str) -> Segments:
        if not any(beginning in text for beginning in beginnings):  # true for most texts: the automaton takes 0.3 s per MB
            yield from [(text, None)] if text else []
            return
        for start, end in nothing.encode(text, add_special_tokens=False).offsets:
            piece = text[start:end]
            yield piece, tokens.get(piece)

    return cut


def _checked_id(spec: TokenizerSpec, name: str, token_id: int | None, needed: bool) -> int | None:
    if token_id is None and needed:
        raise ModelFormatError(spec.source, name, None, "is missing, but the file says to add this token")
    if token_id is not None and not 0 <= token_id < len(spec.tokens):
        raise ModelFormatError(spec.source, name, None, f"is {token_id}, but there are {len(spec.tokens)} tokens")
    return token_id
