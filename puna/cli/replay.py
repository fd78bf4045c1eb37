"""puna replay: run the prompt of a receipt again, and compare token for token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from puna.cli.interrupts import ending_soon
from puna.cli.options import MODEL, OUTPUT, HeadedCommand, Utf8, engine_options, json_option, load_model, tokenizer_option, under
from puna.cli.save import save_text
from puna.cli.terminal import TerminalReporter, print_json
from puna.errors import UsageError
from puna.files import read_small
from puna.progress import printable
from puna.units import counted, megabytes

if TYPE_CHECKING:
    from puna.glassbox.receipt import Receipt
    from puna.glassbox.replay import Difference, Replay
    from puna.glassbox.trace import Candidate

MAX_BYTES = 1 << 26


@click.command(cls=HeadedCommand)
@click.argument("file", type=Utf8(), metavar="FILE")
@click.argument("model", type=Utf8(), required=False, metavar="[MODEL]")
@engine_options
@under(MODEL, tokenizer_option)
@under(OUTPUT, json_option)
def command(file: str, model: str | None, as_json: bool, **flags: Any) -> int:
    """Run again what `puna run --receipt FILE` ran, and compare token for token.

    MODEL: where its model is now [where it was]. Weights and tokenizer must be the same; device, --weights and --kv-type may be
    others. Exit code 1 if a token differs: then the step, both tokens and their margin are shown.
    """
    receipt = read_receipt(Path(file).expanduser())
    with TerminalReporter() as report:
        llm = load_model(model or receipt.model, flags, report, needs_template=False)
    with ending_soon(), llm:
        found = llm.replay(receipt)
    if as_json:
        print_json(found.as_json())
    else:
        print("\n".join(replay_lines(found, receipt)))
    return 0 if found.is_verified else 1


def read_receipt(path: Path) -> Receipt:
    """The receipt in a file. UsageError if there is none."""
    from puna.glassbox.receipt import Receipt

    try:
        data = read_small(path, MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="Give the path of a receipt.") from None
    if data is None or len(data) > MAX_BYTES:
        raise UsageError(f"{path} is no file of up to {megabytes(MAX_BYTES)}", hint="Give the path of a receipt.")
    return Receipt.read(data.decode("utf-8", "replace"), str(path))


def write_receipts(path: str, receipts: list[Receipt]) -> None:
    """Write the receipt of an answer; of several samples each one's, under the names of `numbered`."""
    for number, receipt in enumerate(receipts, 1):
        text = json.dumps(receipt.as_json(), ensure_ascii=False, indent=1)
        save_text(numbered(Path(path).expanduser(), number, len(receipts)), text + "\n", overwrite=True)


def numbered(path: Path, number: int, count: int) -> Path:
    """The file of one of `count` samples.

    >>> numbered(Path("r.json"), 1, 1).name, numbered(Path("r.json"), 2, 3).name
    ('r.json', 'r-2.json')
    """
    return path if count == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def replay_lines(found: Replay, receipt: Receipt) -> list[str]:
    """What a replay found, for people."""
    if found.difference is None:
        return [f"verified: {counted(found.num_equal, 'token')} of {found.num_tokens} are the same on {found.backend}"]
    there = printable(f"the receipt's run was on {receipt.backend}, with puna {receipt.engine}")
    return [
        f"differs: {counted(found.num_equal, 'token')} of {found.num_tokens} are the same on {found.backend}; {there}",
        *_difference_lines(found.difference),
    ]


def _difference_lines(one: Difference) -> list[str]:
    if one.expected is None or one.found is None:
        return [f"step {one.step + 1}: one of the runs ended, or a form left no choice"]
    rows = [f"step {one.step + 1}", f"  receipt {_shown(one.expected)}", f"  here    {_shown(one.found)}"]
    if one.draw is not None:
        rows.append(f"  the number {one.draw.uniform:.6f} fell in {one.draw.low:.6f} to {one.draw.high:.6f}")
    kind = "a near-tie" if one.is_near_tie else "no near-tie"
    return [*rows, f"  margin {one.margin:.6f}, {kind}"]


def _shown(token: Candidate) -> str:
    text = printable(json.dumps(token.text, ensure_ascii=False))
    return f"{text} ({token.id}): logit {token.logit:.4f}, log-probability {token.logprob:.4f}"
