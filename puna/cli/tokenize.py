"""puna tokenize: what a text is to the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from puna.cli.options import json_option, split_model, tokenizer_option
from puna.cli.terminal import TerminalReporter, given_text, print_json, printable, tell

if TYPE_CHECKING:
    from puna.tokenizers.base import Tokenizer


@click.command()
@click.argument("words", nargs=-1, metavar="[MODEL] TEXT")
@click.option("--special", is_flag=True, help="The text of control tokens becomes their ids.")
@tokenizer_option
@json_option
def command(words: tuple[str, ...], special: bool, tokenizer: Path | None, as_json: bool) -> None:
    """Print the id, the piece and the bytes of each token of TEXT (- for standard input).

    With --tokenizer and no MODEL, a tokenizer's file is enough.
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
        print(f"{i:>7}  {printable(made.piece(i)):<24}  {made.token_bytes(i).hex(' ')}".rstrip())
    tell(f"{len(ids)} tokens, {len(text)} characters, {len(text.encode())} bytes")


def _tokenizer(model: str | None, tokenizer: Path | None) -> Tokenizer:
    """The model's tokenizer, or, where only a tokenizer's file is named, that; weights stay on the disk."""
    from puna import hub
    from puna.errors import UnsupportedModelError, UsageError
    from puna.formats import open_checkpoint, what_to_give
    from puna.formats.tokenizer_files import read_tokenizer_file_told
    from puna.formats.turn_markers import with_markers
    from puna.tokenizers import build_tokenizer

    if model is None and tokenizer is not None:
        if tokenizer.expanduser().is_dir():
            raise UsageError(f"{tokenizer} is a folder", hint="Give the tokenizer's file, or the folder of a model as MODEL.")
        spec, notices = read_tokenizer_file_told(tokenizer.expanduser(), None)
        spec, markers = with_markers(spec, None)
        with TerminalReporter() as report:
            for notice in (*notices, *markers):
                report.notice(notice)
        return build_tokenizer(spec)
    with TerminalReporter() as report:
        path = hub.resolve(model, report)
        checkpoint = open_checkpoint(path, tokenizer)
        for notice in checkpoint.notices:
            report.notice(notice)
    if checkpoint.tokenizer is None:
        raise UnsupportedModelError(f"{path} comes without a tokenizer", hint=what_to_give(checkpoint.notices))
    return build_tokenizer(checkpoint.tokenizer)
