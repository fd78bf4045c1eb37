"""The tour of the tokenizer: a person's own text as pieces, ids and bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from puna import chat
from puna.detokenize import Detokenizer
from puna.explain.code import code_of
from puna.explain.live import LiveModel
from puna.explain.merging import merge_steps
from puna.explain.parts import Bar, Bars, Block, Quoted, TextTable, TourPart
from puna.explain.words import Words

EXAMPLE = "How many r's are in strawberry? 🦙"
EMOJI = "🦙"
MAX_ROWS = 24  # of a table
# The same, or nearly, in several kinds of text.
SAMPLES = {
    "english": "The llama lives in the high mountains of Peru.",
    "german": "Das Lama lebt in den hohen Bergen von Peru.",
    "chinese": "羊驼生活在秘鲁的高山上。",
    "python": "for i in range(10):\n    print(i, end=' ')",
    "digits": "3.14159265358979323846",
}


def tour(live: LiveModel, say: Words, text: str) -> Iterator[TourPart]:
    live.ids(text)  # refuses an empty one
    word = max(re.findall(r"\w+", text) or [text], key=len)
    yield _pieces(live, say, text)
    yield _words(live, say, word)
    if steps := list(merge_steps(live.spec, f" {word}"))[:MAX_ROWS]:
        yield _merges(live, say, word, steps)
    yield _bytes(live, say, next((sign for sign in text if not sign.isascii()), EMOJI))
    if live.template is not None:
        yield _marks(live, say, text)
    yield _costs(live, say)


def pieces_of(live: LiveModel, text: str) -> list[str]:
    return [live.tokenizer.piece(one) for one in live.plain_ids(text)]


def _pieces(live: LiveModel, say: Words, text: str) -> TourPart:
    ids = live.plain_ids(text)
    is_same = b"".join(map(live.tokenizer.token_bytes, ids)) == text.encode()
    rows = [
        (str(one), live.tokenizer.piece(one), live.quoted(one), live.tokenizer.token_bytes(one).hex(" ").upper())
        for one in ids[:MAX_ROWS]
    ]
    left_out = [("...", "", "", "")] if len(ids) > MAX_ROWS else []
    facts = {"count": len(ids), "characters": len(text), "bytes": len(text.encode()), "vocabulary": live.tokenizer.vocab_size}
    return TourPart.of(
        say("pieces.title"),
        say.prose("pieces.text", **facts),
        Quoted(text),
        TextTable(say.head("pieces.head"), (*rows, *left_out)),
        say.prose("pieces.after" if is_same else "pieces.space", **facts),
        code_of(type(live.tokenizer).encode),
    )


def _words(live: LiveModel, say: Words, word: str) -> TourPart:
    letter = max(word.lower(), key=word.lower().count)
    forms = dict.fromkeys((f" {word}", word, word.capitalize(), word.upper(), "".join(f" {sign}" for sign in word)))
    rows = []
    for form in forms:
        pieces = pieces_of(live, form)
        counts = [
            live.tokenizer.token_bytes(one).decode("utf-8", "replace").lower().count(letter) for one in live.plain_ids(form)
        ]
        ids = " ".join(map(str, live.plain_ids(form)))
        rows.append((f'"{form}"', " + ".join(pieces), ids, "+".join(map(str, counts))))
    return TourPart.of(
        say("words.title"),
        say.prose("words.text", word=word, letter=letter, total=word.lower().count(letter)),
        TextTable(tuple(cell.replace("@", letter) for cell in say.head("words.head")), tuple(rows)),
        say.prose("words.after", word=word, letter=letter),
    )


def _merges(live: LiveModel, say: Words, word: str, steps: list[list[str]]) -> TourPart:
    rows = tuple((str(number), " ".join(pieces)) for number, pieces in enumerate(steps))
    return TourPart.of(
        say("merges.title"),
        say.prose("merges.text", word=word),
        TextTable(say.head("merges.head"), rows),
        say.prose(
            "merges.after", merges=len(steps) - 1, pieces=len(steps[-1]), rules=len(live.spec.merges) or len(live.spec.tokens)
        ),
    )


def _bytes(live: LiveModel, say: Words, sign: str) -> TourPart:
    ids, detokenizer = live.plain_ids(sign), Detokenizer(live.tokenizer, at_start=True)
    rows = [(str(one), live.tokenizer.token_bytes(one).hex(" ").upper(), f'"{detokenizer.push(one)}"') for one in ids]
    return TourPart.of(
        say("bytes.title"),
        say.prose("bytes.text", sign=sign, bytes=sign.encode().hex(" ").upper(), count=len(ids)),
        TextTable(say.head("bytes.head"), tuple(rows)),
        say.prose("bytes.after"),
        code_of(Detokenizer.push),
    )


def _marks(live: LiveModel, say: Words, text: str) -> TourPart:
    ids = live.chat_ids(text)
    control = [one for one in ids if not live.tokenizer.token_bytes(one)]
    blocks: list[Block] = [Quoted(live.tokenizer.decode(ids, skip_special=False))]
    if control:
        name = live.tokenizer.piece(control[0])
        typed = " + ".join(pieces_of(live, name))
        blocks += say.prose("marks.typed", name=name, id=control[0], typed=typed)
    facts = {"count": len(ids), "own": len(live.plain_ids(text)), "control": len(control), "kinds": len(set(control))}
    return TourPart.of(
        say("marks.title"),
        say.prose("marks.text"),
        blocks[0],
        say.prose("marks.after", **facts),
        blocks[1:],
        code_of(chat.break_up),
    )


def _costs(live: LiveModel, say: Words) -> TourPart:
    counts = {name: len(live.plain_ids(text)) for name, text in SAMPLES.items()}
    per_token = {name: len(text) / counts[name] for name, text in SAMPLES.items()}
    most = max(per_token.values())
    bars = tuple(
        Bar(say(f"costs.{name}"), per_token[name] / most, say("costs.shown", rate=per_token[name], count=counts[name]))
        for name in SAMPLES
    )
    return TourPart.of(say("costs.title"), say.prose("costs.text"), Bars(bars), say.prose("costs.after"))
