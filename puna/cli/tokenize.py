"""puna tokenize: shows the tokens of a text."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from puna.cli.options import json_option, read_template_args, split_model, template_arg_option, tokenizer_option
from puna.cli.terminal import TerminalReporter, given_text, print_json, printable, tell
from puna.cli.width import cut, pad
from puna.errors import UsageError
from puna.units import counted

if TYPE_CHECKING:
    from puna.tokenizers.base import Tokenizer

# Signs of vocabularies -> the text that they stand for, and the same in words.
MARKS = {"Ġ": (" ", "a space"), "▁": (" ", "a space"), "Ċ": ("\n", "the end of a line"), "ĉ": ("\t", "a tab")}
PIECE_WIDTH, BYTES_WIDTH = 24, 44  # cells; a line with the id has at most 80


@click.command()
@click.argument("words", nargs=-1, metavar="[MODEL] TEXT")
@click.option("--special", is_flag=True, help="Read control tokens in TEXT as tokens, not as text.")
@click.option("--chat", "as_chat", is_flag=True, help="TEXT is a message: use the chat template of the model.")
@template_arg_option
@tokenizer_option
@json_option
def command(
    words: tuple[str, ...],
    special: bool,
    as_chat: bool,
    template_args: tuple[str, ...],
    tokenizer: Path | None,
    as_json: bool,
) -> None:
    """Print the id, the piece and the bytes of each token of TEXT (- reads standard input).

    With --tokenizer FILE or FOLDER, no model is needed.
    """
    model, text = split_model(words, "TEXT")
    text = given_text(text, "TEXT")
    _require_chat(as_chat, special, template_args)
    made, template = _tokenizer(model, tokenizer)
    ids = _chat_ids(text, made, template, template_args) if as_chat else made.encode(text, special=special)
    if as_json:
        pieces = [made.piece(i) for i in ids]
        print_json({"ids": ids, "pieces": pieces, "bytes": [made.token_bytes(i).hex() for i in ids]})
        return
    for i in ids:
        data = made.token_bytes(i)
        print(f"{i:>7}  {pad(shown_piece(made.piece(i), data), PIECE_WIDTH)}  {cut(data.hex(' '), BYTES_WIDTH)}".rstrip())
    tell(
        f"{counted(len(ids), 'token')}, {len(text)} characters, {len(text.encode())} bytes",
        spelling((made.piece(i), made.token_bytes(i)) for i in ids),
    )


def spelling(tokens: Iterable[tuple[str, bytes]]) -> str:
    """What the signs in these tokens' pieces stand for, and one piece that is spelled otherwise; "" if all are plain.

    >>> spelling([("Ġhello", b" hello"), ("Ċ", b"\\n")]), spelling([("Ã©", "é".encode()), ("a", b"a")]), spelling([("a", b"a")])
    ('In a piece, Ġ is a space, Ċ is the end of a line.', "In a piece, Ã© is 'é'.", '')
    """
    shown = [(piece, data.decode("utf-8", "replace")) for piece, data in tokens if data]
    said = [
        f"{mark} is {words}" for mark, (_, words) in MARKS.items() if any(mark in p and mark not in text for p, text in shown)
    ]
    others = (f"{piece} is {text!r}" for piece, text in shown if "\ufffd" not in text and _without_marks(piece) != text)
    said += [printable(other) for other in islice(others, 1)]
    return f"In a piece, {', '.join(said)}." if said else ""


def _without_marks(piece: str) -> str:
    return "".join(MARKS[sign][0] if sign in MARKS else sign for sign in piece)


def shown_piece(piece: str, data: bytes) -> str:
    r"""A piece as the vocabulary spells it, in at most PIECE_WIDTH cells; the bytes of a part of a character.

    >>> shown_piece("Ġhello", b" hello"), shown_piece("ðŁ", b"\xf0\x9f")
    ('Ġhello', '<F0 9F>')
    """
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return cut(f"<{data.hex(' ').upper()}>", PIECE_WIDTH)
    return cut(printable(piece), PIECE_WIDTH)


def _require_chat(as_chat: bool, special: bool, template_args: tuple[str, ...]) -> None:
    if template_args and not as_chat:
        raise UsageError("--template-arg has no effect without --chat", hint="Add --chat.")
    if special and as_chat:
        raise UsageError("--special has no effect with --chat: a message is text", hint="Leave one of them out.")


def _chat_ids(text: str, tokenizer: Tokenizer, template: str | None, given: tuple[str, ...]) -> list[int]:
    from puna.chat import encode_chat, unread_args

    variables = read_template_args(given)
    for name in unread_args(variables, template) if variables else ():
        tell(f"puna: the chat template of this model does not read {name}: it has no effect")
    return encode_chat([{"role": "user", "content": text}], tokenizer, template, template_args=variables)


def _tokenizer(model: str | None, tokenizer: Path | None) -> tuple[Tokenizer, str | None]:
    """The model's tokenizer and chat template, or only the tokenizer that --tokenizer names. Reads no weights."""
    from puna import hub
    from puna.errors import UnsupportedModelError
    from puna.formats import open_checkpoint, what_to_give
    from puna.formats.tokenizer_files import read_tokenizer_alone
    from puna.formats.turn_markers import with_markers
    from puna.tokenizers import build_tokenizer

    if model is None and tokenizer is not None:
        spec, notices = read_tokenizer_alone(tokenizer.expanduser())
        spec, markers = with_markers(spec, None)
        with TerminalReporter() as report:
            for notice in (*notices, *markers):
                report.notice(notice)
        return build_tokenizer(spec), None
    with TerminalReporter() as report:
        path = hub.resolve(model, report)
        checkpoint = open_checkpoint(path, tokenizer)
        for notice in checkpoint.notices:
            report.notice(notice)
    if checkpoint.tokenizer is None:
        raise UnsupportedModelError(f"{path} has no tokenizer", hint=what_to_give(checkpoint.notices))
    return build_tokenizer(checkpoint.tokenizer), checkpoint.chat_template
