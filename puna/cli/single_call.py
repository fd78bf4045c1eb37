"""What embed, rerank and score share: they load a model, without a chat template, call it once, and print its whole result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from puna.cli.interrupts import ending_soon
from puna.cli.options import MODEL, OUTPUT, engine_options, json_option, load_model, tokenizer_option, under
from puna.cli.terminal import TerminalReporter, print_json, shown_path, tell

if TYPE_CHECKING:
    from puna.llm import LLM

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Result:
    """What a call gave. Only one of `facts` and `lines` is read."""

    facts: Callable[[], dict[str, Any]]  # for --json
    lines: Iterable[str]
    counts: str  # of what was computed, for stderr


def call_options(function: F) -> F:
    """Add the flags that these commands share."""
    return engine_options(under(MODEL, tokenizer_option)(under(OUTPUT, json_option)(function)))


def call_model(model: str | None, flags: dict[str, Any], as_json: bool, call: Callable[[LLM], Result]) -> None:
    """Load MODEL, print what `call` makes with it, and how long that took."""
    with TerminalReporter() as report:
        llm = load_model(model, flags, report, needs_template=False)
    with ending_soon(), llm:
        started = time.perf_counter()
        result = call(llm)
        seconds = time.perf_counter() - started
        if as_json:
            print_json({"model": shown_path(llm.path), **result.facts()})
        else:
            print("\n".join(result.lines))
        tell(f"{result.counts}, {seconds:.2f} s")
