"""puna tokenize: what a text is to the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from puna.cli.options import json_option, read_template_args, split_model, template_arg_option, tokenizer_option
from puna.cli.terminal import TerminalReporter, given_text, print_json, printable, tell
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.tokenizers.base import Tokenizer


@click.command()
@click.argument("words", nargs=-1, metavar="[MODEL] TEXT")
@click.option("--special", is_flag=True, help="The text of control tokens becomes their ids.")
@click.option("--chat", "as_chat", is_flag=True, help="TEXT as a message, in the chat template of the model.")
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
    """Print the id, the piece and the bytes of each token of TEXT (- for standard input).

    With --tokenizer and no MODEL, a tokenizer's file is enough.
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
        print(f"{i:>7}  {printable(made.piece(i)):<24}  {made.token_bytes(i).hex(' ')}".rstrip())
    tell(f"{len(ids)} tokens, {len(text)} characters, {len(text.encode())} bytes")


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
    """The model's tokenizer and chat template; the weights are not read. A tokenizer's file alone gives no template."""
    from puna import hub
    from puna.errors import UnsupportedModelError
    from puna.formats import open_checkpoint, what_to_give
    from puna.formats.tokenizer_files import read_tokenizer_file
    from puna.tokenizers import build_tokenizer

    if model is None and tokenizer is not None:
        if tokenizer.expanduser().is_dir():
            raise UsageError(f"{tokenizer} is a folder", hint="Give the tokenizer's file, or the folder of a model as MODEL.")
        return build_tokenizer(read_tokenizer_file(tokenizer.expanduser(), None)), None
    with TerminalReporter() as report:
        path = hub.resolve(model, report)
    checkpoint = open_checkpoint(path, tokenizer)
    if checkpoint.tokenizer is None:
        raise UnsupportedModelError(f"{path} comes without a tokenizer", hint=what_to_give(checkpoint.notices))
    return build_tokenizer(checkpoint.tokenizer), checkpoint.chat_template
