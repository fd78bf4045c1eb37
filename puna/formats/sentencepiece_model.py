"""SentencePiece's `tokenizer.model`: a serialized ModelProto -> TokenizerSpec.

The wire format of protobuf is read by hand, within bounds. What the file says of the training is passed over, but everything
that changes how a text is cut is taken or refused. Field numbers are those of sentencepiece_model.proto.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from puna.errors import ModelFormatError, UnsupportedModelError
from puna.formats.base import TokenizerSpec
from puna.formats.mapped import shown

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are of the past
NORMAL, UNKNOWN, CONTROL, LAST_TYPE = 1, 2, 3, 6
MAX_PIECES = 1 << 22
MODEL_TYPES = {1: "Unigram", 2: "BPE", 3: "words", 4: "characters"}
BPE = 2

# Our field -> TrainerSpec's field of the piece, and what stands there by default.
SPECIAL_PIECES = {"unk_id": (45, b"<unk>"), "bos_id": (46, b"<s>"), "eos_id": (47, b"</s>"), "pad_id": (48, b"<pad>")}

Field = tuple[int, int | bytes]  # number, value; a 32-bit number is its four bytes


def matches(head: bytes) -> bool:
    """Whether a file that begins with `head` is a ModelProto: its first field is a piece that is not empty."""
    return head[:1] == b"\x0a" and len(head) > 2 and head[1] > 0 and head[2:3] == b"\x0a"


def read_sentencepiece_model(path: Path, data: bytes) -> TokenizerSpec:
    """The tokenizer of a `tokenizer.model`. UnsupportedModelError for what is not BPE."""
    pieces, trainer, normalizer = _read_model(path, data)
    _require_supported(path, trainer)
    tokens = [piece for piece, _, _ in pieces]
    types = np.array([kind for _, _, kind in pieces], np.int32)
    special = {name: _special_id(tokens, types, trainer, name) for name in SPECIAL_PIECES}
    return TokenizerSpec(
        kind="spm",
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
        charsmap=_checked_charsmap(path, _bytes(normalizer, 2, b"")),
        remove_extra_spaces=_flag(normalizer, 4, True),
        source=str(path),
    )


# ---- protobuf -------------------------------------------------------------------------------------------------------


def _fields(path: Path, data: bytes, what: str) -> Iterator[Field]:
    """The fields of a message, in order."""
    at, end = 0, len(data)

    def fail(problem: str) -> ModelFormatError:
        return ModelFormatError(path, what, at, problem)

    while at < end:
        tag, at = _varint(path, data, at, what)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise fail("has a field of number 0, which protobuf does not have")
        if wire == VARINT:
            value, at = _varint(path, data, at, what)
            yield number, value
            continue
        if wire not in (BYTES, FIXED32, FIXED64):
            raise fail(f"has a field of wire type {wire}; 0, 1, 2 and 5 are known")
        length = 4 if wire == FIXED32 else 8
        if wire == BYTES:
            length, at = _varint(path, data, at, what)
        if length > end - at:
            raise fail(f"has a field of {length} bytes, but {end - at} remain")
        yield number, data[at : at + length]
        at += length


def _varint(path: Path, data: bytes, at: int, what: str) -> tuple[int, int]:
    """The number at `at`, of ten bytes at most, and where it ends."""
    value = 0
    for shift, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    raise ModelFormatError(path, what, at, "has a number that does not end")


Piece = tuple[bytes, float, int]
Message = dict[int, int | bytes]


def _read_model(path: Path, data: bytes) -> tuple[list[Piece], Message, Message]:
    """Pieces, TrainerSpec, NormalizerSpec."""
    pieces: list[Piece] = []
    trainer: Message = {}
    normalizer: Message = {}
    for number, value in _fields(path, data, "model"):
        if number == 1:
            if len(pieces) == MAX_PIECES:
                raise ModelFormatError(path, "pieces", None, f"are more than {MAX_PIECES}")
            pieces.append(_read_piece(path, value, len(pieces)))
        elif number in (2, 3):
            (trainer if number == 2 else normalizer).update(_fields(path, _message(path, value, number), f"field {number}"))
        elif number == 5 and any(key == 2 and text for key, text in _fields(path, _message(path, value, 5), "field 5")):
            raise UnsupportedModelError(f"{path}: the tokenizer changes characters when it decodes, which puna does not")
    if not pieces:
        raise ModelFormatError(path, "pieces", None, "are missing")
    return pieces, trainer, normalizer


def _message(path: Path, value: int | bytes, number: int) -> bytes:
    if not isinstance(value, bytes):
        raise ModelFormatError(path, f"field {number}", None, f"is the number {value}; a message is needed")
    return value


def _read_piece(path: Path, value: int | bytes, number: int) -> Piece:
    text, score, kind = b"", 0.0, NORMAL
    what = f"piece {number}"
    for key, part in _fields(path, _message(path, value, 1), what):
        if key == 1 and isinstance(part, bytes):
            text = part
        elif key == 2 and isinstance(part, bytes) and len(part) == 4:
            (score,) = struct.unpack("<f", part)
        elif key == 3 and isinstance(part, int):
            kind = part
        elif key in (1, 2, 3):
            raise ModelFormatError(path, what, None, f"has field {key} of the wrong type")
    if not 1 <= kind <= LAST_TYPE:
        raise ModelFormatError(path, what, None, f"is of type {kind}; 1 to {LAST_TYPE} are known")
    if not math.isfinite(score):
        raise ModelFormatError(path, what, None, f"has the score {score}, not a finite number")
    return text, score, kind


def _flag(message: Message, number: int, default: bool) -> bool:
    return bool(message.get(number, default))


def _bytes(message: Message, number: int, default: bytes) -> bytes:
    value = message.get(number, default)
    return value if isinstance(value, bytes) else default


# ---- what the settings mean -----------------------------------------------------------------------------------------


def _require_supported(path: Path, trainer: Message) -> None:
    kind = trainer.get(3, 1)
    if kind != BPE:
        name = MODEL_TYPES.get(kind, str(kind)) if isinstance(kind, int) else "unreadable"
        raise UnsupportedModelError(f"{path}: the SentencePiece model is of type {name}; puna reads BPE")
    if _flag(trainer, 24, False):
        raise UnsupportedModelError(f"{path}: the SentencePiece model puts spaces behind words; puna reads those that put them before")


def _special_id(tokens: list[bytes], types: npt.NDArray[np.int32], trainer: Message, name: str) -> int | None:
    """The id of a piece that the trainer names, where it is there and of the right type."""
    field, default = SPECIAL_PIECES[name]
    piece = _bytes(trainer, field, default)
    wanted = UNKNOWN if name == "unk_id" else CONTROL
    return next((i for i in np.flatnonzero(types == wanted).tolist() if tokens[i] == piece), None)


def _normalizer_name(path: Path, normalizer: Message) -> str:
    if not _flag(normalizer, 5, True):
        raise UnsupportedModelError(f"{path}: the SentencePiece model keeps spaces as spaces; puna reads those that write U+2581")
    name = _bytes(normalizer, 1, b"")
    if not _bytes(normalizer, 2, b""):
        return ""  # without a map, nothing is changed, whatever the name
    try:
        return name.decode("ascii")
    except UnicodeDecodeError:
        raise ModelFormatError(path, "normalizer name", None, f"is {shown(name)}, not ASCII") from None


def _checked_charsmap(path: Path, charsmap: bytes) -> bytes:
    """A map of characters that the library may walk: a double-array trie (Darts), then texts that end in NUL.

    The library trusts every offset in it. Here each must stay within: from unit i, the walk goes to (i ^ offset) ^ byte.
    """
    if not charsmap:
        return b""
    num_bytes = int.from_bytes(charsmap[:4], "little") if len(charsmap) >= 4 else 0
    texts = charsmap[4 + num_bytes :]
    if num_bytes % 1024 or not 1024 <= num_bytes < len(charsmap) - 4 or texts[-1:] != b"\0":
        raise ModelFormatError(path, "normalizer charsmap", None, "does not hold a trie and texts of the sizes that it names")
    units = np.frombuffer(charsmap, "<u4", num_bytes // 4, 4)
    places = np.arange(len(units), dtype=np.uint32)
    is_value = units >> 31 == 1
    offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
    reached = np.where(is_value, 0, (places ^ offsets) | 0xFF)
    values = np.where(is_value, units & 0x7FFFFFFF, 0)
    if int(reached.max()) >= len(units) or int(values.max()) >= len(texts):
        raise ModelFormatError(path, "normalizer charsmap", None, "leads outside itself")
    return charsmap
