"""puna explain TOPIC: shows a tour, part by part in a terminal, whole elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from puna.cli.interrupts import ending_soon
from puna.cli.options import load_model, require_text
from puna.cli.terminal import TerminalReporter, print_json
from puna.cli.tour_view import ink_for, part_lines
from puna.cli.width import report_width
from puna.cli.word_wrap import wrapped
from puna.explain.words import FRAME, Words

if TYPE_CHECKING:
    from puna.explain.live import LiveModel
    from puna.explain.parts import TourPart
    from puna.explain.tours import TourPages
    from puna.llm import LLM

BACK, END = ("b", "back"), ("q", "quit", "exit")


def show_tour(topic: str, text: str | None, language: str, flags: dict[str, Any], *, whole: bool, as_json: bool) -> None:
    """Show the tour of a topic. In a terminal it stops after each part, unless it is to be `whole`."""
    from puna.explain.tours import TourPages, parts_of

    with ending_soon(), live_model(flags) as live:
        pages = TourPages(parts_of(topic, live, language, text))
        if as_json:
            parts = [part.as_json() for part in pages]
            print_json({"topic": topic, "language": language, "model": str(live.path), "parts": parts})
            return
        print("\n".join(wrapped(Words(language, topic)("title"), report_width(sys.stdout))), end="\n\n")
        if whole or not is_terminal():
            for number, part in enumerate(pages, start=1):
                print_part(part, number)
        else:
            walk(pages, Words(language, FRAME))


def is_terminal() -> bool:
    """Whether a person sees each part and can answer."""
    return sys.stdin.isatty() and sys.stdout.isatty()


@contextmanager
def live_model(flags: dict[str, Any]) -> Iterator[LiveModel]:
    """The model of a tour; what the tour has loaded of it is closed at the end."""
    from puna import hub
    from puna.cli.fetch import offer
    from puna.explain.live import LiveModel

    model, tokenizer = flags["model"], flags["tokenizer"]

    def load(settings: dict[str, Any]) -> LLM:
        with TerminalReporter() as reporter:
            return load_model(model, {"tokenizer": tokenizer, **settings}, reporter, needs_template=False)

    with TerminalReporter() as report:
        offer(model, None, report)
        live = LiveModel(hub.resolve(model, report), load, tokenizer, TerminalReporter)
        require_text(live.checkpoint, needs_template=False)
    try:
        yield live
    finally:
        live.close()


def print_part(part: TourPart, number: int) -> None:
    print("\n".join(part_lines(part, str(number), report_width(sys.stdout), ink_for(sys.stdout))), flush=True)


def walk(pages: TourPages, frame: Words) -> None:
    """Show the parts, one at a time: the next, the one before, until the person has enough."""
    number = 0
    while (part := pages.page(number)) is not None:
        print_part(part, number + 1)
        asked = frame("first" if number == 0 else "next")
        answer = _answer(asked)
        if answer in END:
            return
        number = max(0, number - 1) if answer in BACK else number + 1
    print("\n".join(wrapped(frame("end"), report_width(sys.stdout))))


def _answer(asked: str) -> str:
    """What a person types after a part; the end of the input ends the tour."""
    try:
        answer = input(f"{asked} ").strip().lower()
    except EOFError:
        answer = END[0]
    print()
    return answer
