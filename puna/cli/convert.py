"""puna convert: a model into another format."""

from __future__ import annotations

import time
from pathlib import Path

import click

from puna.cli.options import Whole, json_option, tokenizer_option
from puna.cli.terminal import TerminalReporter, print_json, shown_path, tell
from puna.errors import UsageError
from puna.paths import typed_path
from puna.units import megabytes

FORMATS = "gguf, safetensors, meta or llama2c"
TYPES = "q8_0, q4_0, q4_1, q4_k (or q4_k_m), q6_k, f16, bf16 or f32"


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path())
@click.option("--to", metavar="FORMAT", help=f"Format of DST: {FORMATS}.")
@click.option("--quantize", metavar="TYPE", help=f"{TYPES} [as in the source, exactly].")
@click.option("--shards", type=Whole(), default=1, metavar="N", help="Split the weights into N files.")
@click.option("--force", is_flag=True, help="Replace DST when the new file is complete.")
@tokenizer_option
@json_option
def command(
    source: str,
    target: str,
    to: str | None,
    quantize: str | None,
    shards: int,
    force: bool,
    tokenizer: Path | None,
    as_json: bool,
) -> None:
    """Convert the model SRC (a path or a name in the cache) to DST, with its tokenizer and chat template.

    DST is a file for gguf, otherwise a folder. If the conversion is interrupted, what was there before stays.
    """
    from puna import hub
    from puna.convert import convert, file_needed, makes_folder

    if to is None:
        raise UsageError("--to is missing", hint=f"Give the format of DST: {FORMATS}.")
    target_path = typed_path(target, "DST")
    if target.endswith("/") and not makes_folder(to, shards):  # which the path no longer shows
        raise file_needed(target_path, to)
    started = time.perf_counter()
    with TerminalReporter() as report:
        path = hub.resolve(source, report)
        made = convert(
            path, target_path, to=to, quantize=quantize, shards=shards, tokenizer=tokenizer, overwrite=force, report=report
        )
    if as_json:
        print_json(
            {
                "path": shown_path(made.path),
                "bytes": made.num_bytes,
                "types": dict(made.types),
                "exact": made.exact,
                "losses": list(made.losses),
            }
        )
        return
    print(made.path)
    rest = "the source's numbers, except for the losses above" if made.losses else "requantised"
    exactly = "exactly the source's numbers" if made.exact else rest
    tell(f"{megabytes(made.num_bytes, 1)} in {time.perf_counter() - started:.1f} s, {exactly}, read again and compared")
