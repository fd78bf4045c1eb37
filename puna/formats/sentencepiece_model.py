"""SentencePiece's `tokenizer.model`: a serialized ModelProto <-> TokenizerSpec.

The reader ignores what the file says of the training; whatever changes how a text is split is read or refused. Fields by
their numbers in sentencepiece_model.proto:
  ModelProto: pieces 1, trainer_spec 2, normalizer_spec 3, denormalizer_spec 5. SentencePiece: piece 1, score 2, type 3.
  TrainerSpec: model_type 3, vocab_size 4, treat_whitespace_as_suffix 24, byte_fallback 35, then the ids and names of the special
  pieces. NormalizerSpec: name 1, precompiled_charsmap 2, add_dummy_prefix 3, remove_extra_whitespaces 4, escape_whitespaces 5.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from puna.errors import DamagedFileError, ModelFormatError, UnsupportedModelError
from puna.formats.base import TokenizerSpec
from puna.formats.mapped import shown
from puna.formats.protobuf import BYTES, FIXED32, fields, message_field, number_field, varint
from puna.formats.token_types import BYTE, CONTROL, MAX_TYPE, NORMAL, UNKNOWN
from puna.formats.vocabulary import MAX_TOKEN_BYTES, MAX_TOKENS

SCORE_TAG = varint(2 << 3 | FIXED32)
MAX_PIECE_FIELDS = 16  # the format has 3
CHARSMAP_LEVELS = 64  # of a trie that are walked; published maps have 30
MODEL_TYPES = {1: "Unigram", 2: "BPE", 3: "words", 4: "characters"}
KINDS = {1: "unigram", 2: "spm"}  # those that puna reads -> TokenizerSpec's name

# Our field -> TrainerSpec's fields of the id and of the piece, and the default piece.
SPECIAL_PIECES = {
    "unk_id": (40, 45, b"<unk>"),
    "bos_id": (41, 46, b"<s>"),
    "eos_id": (42, 47, b"</s>"),
    "pad_id": (43, 48, b"<pad>"),
}


def matches(head: bytes) -> bool:
    """Whether a file that begins with `head` is a ModelProto: its first field is a piece that is not empty."""
    return head[:1] == b"\x0a" and len(head) > 2 and head[1] > 0 and head[2:3] == b"\x0a"


def read_sentencepiece_model(path: Path, data: bytes) -> TokenizerSpec:
    """The tokenizer of a `tokenizer.model`. UnsupportedModelError if it is neither BPE nor Unigram."""
    pieces, trainer, normalizer = _read_model(path, data)
    kind = _supported_kind(path, trainer)
    tokens = [piece for piece, _, _ in pieces]
    types = np.array([kind for _, _, kind in pieces], np.int32)
    special = {name: _special_id(tokens, types, trainer, name) for name in SPECIAL_PIECES}
    return TokenizerSpec(
        kind=kind,
        tokens=tokens,
        scores=np.array([score for _, score, _ in pieces], np.float32),
        token_types=types,
        bos_id=special["bos_id"],
        eos_id=special["eos_id"],
        unk_id=special["unk_id"],
        pad_id=special["pad_id"],
        add_bos=special["bos_id"] is not None,
        add_space_prefix=_flag(normalizer, 3, True),
        normalizer=_normalizer_name(path, normalizer),
        charsmap=checked_charsmap(path, _bytes(normalizer, 2, b"")),
        remove_extra_spaces=_flag(normalizer, 4, True),
        source=str(path),
    )


# ---- reading the file ------------------------------------------------------------------------------------------------

ModelPiece = tuple[bytes, float, int]
ProtobufFields = dict[int, int | bytes]


def _read_model(path: Path, data: bytes) -> tuple[list[ModelPiece], ProtobufFields, ProtobufFields]:
    """Pieces, TrainerSpec, NormalizerSpec."""
    pieces: list[ModelPiece] = []
    trainer: ProtobufFields = {}
    normalizer: ProtobufFields = {}
    seen: set[int] = set()
    for number, value in fields(path, data, "model", MAX_TOKENS):
        if number != 1 and number in seen:
            raise ModelFormatError(path, f"field {number}", None, "occurs twice")
        seen.add(number)
        if number == 1:
            pieces.append(_read_piece(path, value, len(pieces)))
        elif number in (2, 3):
            (trainer if number == 2 else normalizer).update(fields(path, _message(path, value, number), f"field {number}"))
        elif number == 5 and any(key == 2 and text for key, text in fields(path, _message(path, value, 5), "field 5")):
            raise UnsupportedModelError(f"{path}: the tokenizer changes characters when it decodes, which puna does not")
    if not pieces:
        raise ModelFormatError(path, "pieces", None, "are missing")
    return pieces, trainer, normalizer


def _message(path: Path, value: int | bytes, number: int) -> bytes:
    if not isinstance(value, bytes):
        raise ModelFormatError(path, f"field {number}", None, f"is the number {value}; a message is needed")
    return value


def _read_piece(path: Path, value: int | bytes, number: int) -> ModelPiece:
    text, score, kind = b"", 0.0, NORMAL
    what = f"piece {number}"
    for key, part in fields(path, _message(path, value, 1), what, MAX_PIECE_FIELDS):
        if key == 1 and isinstance(part, bytes):
            if len(part) > MAX_TOKEN_BYTES:
                raise ModelFormatError(path, what, None, f"has {len(part)} bytes; at most {MAX_TOKEN_BYTES} are read")
            text = part
        elif key == 2 and isinstance(part, bytes) and len(part) == 4:
            (score,) = struct.unpack("<f", part)
        elif key == 3 and isinstance(part, int):
            kind = part
        elif key in (1, 2, 3):
            raise ModelFormatError(path, what, None, f"has field {key} of the wrong type")
    if not 1 <= kind <= MAX_TYPE:
        raise ModelFormatError(path, what, None, f"is of type {kind}; 1 to {MAX_TYPE} are known")
    if not math.isfinite(score):
        raise ModelFormatError(path, what, None, f"has the score {score}, not a finite number")
    return text, score, kind


def _flag(message: ProtobufFields, number: int, default: bool) -> bool:
    return bool(message.get(number, default))


def _bytes(message: ProtobufFields, number: int, default: bytes) -> bytes:
    value = message.get(number, default)
    return value if isinstance(value, bytes) else default


# ---- what the settings mean -----------------------------------------------------------------------------------------


def _supported_kind(path: Path, trainer: ProtobufFields) -> str:
    number = trainer.get(3, 1)
    kind = KINDS.get(number) if isinstance(number, int) else None
    if kind is None:
        name = MODEL_TYPES.get(number, str(number)) if isinstance(number, int) else "unreadable"
        raise UnsupportedModelError(f"{path}: the SentencePiece model is of type {name}; puna reads BPE and Unigram")
    if _flag(trainer, 24, False):
        raise UnsupportedModelError(
            f"{path}: the SentencePiece model puts spaces after words; puna reads those that put them before"
        )
    return kind


def _special_id(tokens: list[bytes], types: npt.NDArray[np.int32], trainer: ProtobufFields, name: str) -> int | None:
    """The id of a piece that the trainer names, if the piece is there and has the right type."""
    _, field, default = SPECIAL_PIECES[name]
    piece = _bytes(trainer, field, default)
    wanted = UNKNOWN if name == "unk_id" else CONTROL
    return next((i for i in np.flatnonzero(types == wanted).tolist() if tokens[i] == piece), None)


def _normalizer_name(path: Path, normalizer: ProtobufFields) -> str:
    if not _flag(normalizer, 5, True):
        raise UnsupportedModelError(f"{path}: the SentencePiece model keeps spaces as spaces; puna reads those that write U+2581")
    name = _bytes(normalizer, 1, b"")
    if not _bytes(normalizer, 2, b""):
        return ""  # without a map nothing changes, whatever the name
    try:
        return name.decode("ascii")
    except UnicodeDecodeError:
        raise ModelFormatError(path, "normalizer name", None, f"is {shown(name)}, not ASCII") from None


def checked_charsmap(path: Path, charsmap: bytes) -> bytes:
    """A map of characters that the library may walk: a double-array trie (Darts), then texts that end in NUL.

    The library trusts every offset in it. Here each must stay inside: from unit i, the walk goes to (i ^ offset) ^ byte.
    """
    if not charsmap:
        return b""
    num_bytes = int.from_bytes(charsmap[:4], "little") if len(charsmap) >= 4 else 0
    texts = charsmap[4 + num_bytes :]
    if num_bytes % 1024 or not 1024 <= num_bytes < len(charsmap) - 4 or texts[-1:] != b"\0":
        raise DamagedFileError(path, "normalizer charsmap", None, "does not hold a trie and texts of the sizes that it names")
    units = np.frombuffer(charsmap, "<u4", num_bytes // 4, 4)
    indices = np.arange(len(units), dtype=np.uint32)
    is_value = units >> 31 == 1
    offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
    reached = np.where(is_value, 0, (indices ^ offsets) | 0xFF)
    values = np.where(is_value, units & 0x7FFFFFFF, 0)
    if int(reached.max()) >= len(units) or int(values.max()) >= len(texts):
        raise DamagedFileError(path, "normalizer charsmap", None, "leads outside itself")
    return charsmap


def charsmap_growth(charsmap: bytes) -> float:
    """Bytes that a checked map puts in the place of one byte, at most.

    The trie is walked by levels, all nodes of a level at once: a node's children stand around its index ^ its offset. Keys of
    more than CHARSMAP_LEVELS bytes count as having so many, and the longest of all texts.
    """
    num_bytes = int.from_bytes(charsmap[:4], "little")
    units = np.frombuffer(charsmap, "<u4", num_bytes // 4, 4)
    indices = np.arange(len(units), dtype=np.uint32)
    bases = indices ^ ((units >> 10) << ((units & (1 << 9)) >> 6))
    ends = np.flatnonzero(np.frombuffer(charsmap, np.uint8, offset=4 + num_bytes) == 0)
    longest = float(np.diff(ends, prepend=-1).max() - 1)
    is_node = units >> 31 == 0
    is_new = is_node.copy()
    is_base = np.zeros(len(units), bool)
    level, growth = np.zeros(1, np.intp), 0.0
    for depth in range(1, CHARSMAP_LEVELS + 1):
        if len(level) == 0 or growth >= longest / depth:
            return growth
        is_base[:] = False
        is_base[bases[level]] = True
        level = np.flatnonzero(is_new & is_base[indices ^ (units & 0xFF)])
        is_new[level] = False
        values = units[bases[level[(units[level] >> 8) & 1 == 1]]] & 0x7FFFFFFF
        found = np.searchsorted(ends, values)
        if np.any(found == len(ends)):
            return math.inf  # a text outside of the map
        growth = max(growth, float((ends[found] - values.astype(np.int64)).max(initial=0)) / depth)
    return max(growth, longest / CHARSMAP_LEVELS)


# ---- writing --------------------------------------------------------------------------------------------------------


def sentencepiece_model(spec: TokenizerSpec, scores: Sequence[float]) -> bytes:
    """A serialized ModelProto: `spec`'s pieces with these scores."""
    types = [NORMAL] * len(spec.tokens) if spec.token_types is None else spec.token_types.tolist()
    model_type = next(number for number, kind in KINDS.items() if kind == spec.kind)
    trainer = (
        number_field(3, model_type) + number_field(4, len(spec.tokens)) + number_field(35, BYTE in types) + _special_pieces(spec)
    )
    return _pieces(spec.tokens, scores, types) + message_field(2, trainer) + message_field(3, _normalizer_spec(spec))


def _pieces(tokens: Sequence[bytes], scores: Sequence[float], types: Sequence[int]) -> bytes:
    """All pieces. What surrounds a piece's text depends on its length, its score and its type, so no piece is built by itself."""
    numbers = np.asarray(scores, "<f4").tobytes()
    heads, tails = _PieceHeads(), {kind: number_field(3, kind or NORMAL) for kind in set(types)}
    parts = zip(
        map(heads.__getitem__, map(len, tokens)),
        tokens,
        repeat(SCORE_TAG, len(tokens)),
        (numbers[at : at + 4] for at in range(0, len(numbers), 4)),
        map(tails.__getitem__, types),
        strict=True,
    )
    return b"".join(chain.from_iterable(parts))


class _PieceHeads(dict[int, bytes]):
    """The length of a text -> what precedes it in a piece; a score takes five bytes, a type two."""

    def __missing__(self, length: int) -> bytes:
        text = varint(1 << 3 | BYTES) + varint(length)
        found = self[length] = varint(1 << 3 | BYTES) + varint(len(text) + length + 7) + text
        return found


def _special_pieces(spec: TokenizerSpec) -> bytes:
    ids = ((getattr(spec, name), *numbers) for name, numbers in SPECIAL_PIECES.items())
    return b"".join(
        number_field(id_field, -1)
        if token_id is None
        else number_field(id_field, token_id) + message_field(piece_field, spec.tokens[token_id])
        for token_id, id_field, piece_field, _ in ids
    )


def _normalizer_spec(spec: TokenizerSpec) -> bytes:
    flags = number_field(3, spec.add_space_prefix) + number_field(4, spec.remove_extra_spaces) + number_field(5, True)
    charsmap = message_field(2, spec.charsmap) if spec.charsmap else b""
    return message_field(1, (spec.normalizer or "identity").encode()) + charsmap + flags
