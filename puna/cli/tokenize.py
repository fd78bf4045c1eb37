"""puna tokenize: the tokens of a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from puna.cli.options import json_option, split_model, tokenizer_option
from puna.cli.terminal import TerminalReporter, given_text, print_json, printable, tell
from puna.cli.width import cut, pad

if TYPE_CHECKING:
    from puna.tokenizers.base import Tokenizer

PIECE_WIDTH, BYTES_WIDTH = 24, 44  # cells; with the id a line has at most 80


@click.command()
@click.argument("words", nargs=-1, metavar="[MODEL] TEXT")
@click.option("--special", is_flag=True, help="Read control tokens in TEXT as tokens, not as text.")
@tokenizer_option
@json_option
def command(words: tuple[str, ...], special: bool, tokenizer: Path | None, as_json: bool) -> None:
    """Print the id, the piece and the bytes of each token of TEXT (- reads standard input).

    With --tokenizer FILE or FOLDER, no model is needed.
    """
    model, text = split_model(words, "TEXT")
    text = given_text(text, "TEXT")
    made = _tokenizer(model, tokenizer)
    ids = made.encode(text, special=special)
    if as_json:
        pieces = [made.piece(i) for i in ids]
        print_json({"ids": ids, "pieces": pieces, "bytes": [made.token_bytes(i).hex() for i in ids]})
        return
    for i in ids:
        data = made.token_bytes(i)
        print(f"{i:>7}  {pad(shown_piece(made.piece(i), data), PIECE_WIDTH)}  {cut(data.hex(' '), BYTES_WIDTH)}".rstrip())
    tell(f"{len(ids)} tokens, {len(text)} characters, {len(text.encode())} bytes")


def shown_piece(piece: str, data: bytes) -> str:
    r"""A piece as the vocabulary spells it, in at most PIECE_WIDTH cells; if it is a part of a character, its bytes.

    >>> shown_piece("Ġhello", b" hello"), shown_piece("ðŁ", b"\xf0\x9f")
    ('Ġhello', '<F0 9F>')
    """
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return cut(f"<{data.hex(' ').upper()}>", PIECE_WIDTH)
    return cut(printable(piece), PIECE_WIDTH)


def _tokenizer(model: str | None, tokenizer: Path | None) -> Tokenizer:
    """The model's tokenizer; without a model, the one that --tokenizer names. No weight is read."""
    from puna import hub
    from puna.errors import UnsupportedModelError
    from puna.formats import open_checkpoint, what_to_give
    from puna.formats.tokenizer_files import read_tokenizer_alone
    from puna.tokenizers import build_tokenizer

    if model is None and tokenizer is not None:
        spec, notices = read_tokenizer_alone(tokenizer.expanduser())
        with TerminalReporter() as report:
            for notice in notices:
                report.notice(notice)
        return build_tokenizer(spec)
    with TerminalReporter() as report:
        path = hub.resolve(model, report)
    checkpoint = open_checkpoint(path, tokenizer)
    if checkpoint.tokenizer is None:
        raise UnsupportedModelError(f"{path} has no tokenizer", hint=what_to_give(checkpoint.notices))
    return build_tokenizer(checkpoint.tokenizer)
