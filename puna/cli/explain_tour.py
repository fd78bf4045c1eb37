"""puna explain TOPIC: shows a tour, part by part in a terminal, whole elsewhere."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from puna.cli.interrupts import ending_soon
from puna.cli.options import load_model, require_text
from puna.cli.terminal import TerminalReporter, print_json
from puna.cli.tour_view import ink_for, part_lines, screens_of, source_lines
from puna.cli.width import report_width
from puna.cli.word_wrap import wrapped
from puna.explain.topics import TOPICS
from puna.explain.words import FRAME, Words

if TYPE_CHECKING:
    from puna.explain.live import LiveModel
    from puna.explain.parts import TourPart
    from puna.llm import LLM

LEAST_HEIGHT = 12  # lines of a screen
BACK, SOURCE, END = ("b", "back"), ("s", "source"), ("q", "quit", "exit")


def show_tour(topic: str, text: str | None, language: str, flags: dict[str, Any], *, whole: bool, as_json: bool) -> None:
    """Show the tour of a topic. In a terminal it stops after each screen, unless it is to be `whole`."""
    from puna.explain.tours import parts_of

    with ending_soon(), live_model(flags) as live:
        parts = parts_of(topic, live, language, text)
        if as_json:
            told = [part.as_json() for part in parts]
            print_json({"topic": topic, "language": language, "model": str(live.path), "parts": told})
            return
        print("\n".join(wrapped(Words(language, topic)("title"), report_width(sys.stdout))), end="\n\n")
        if whole or not is_terminal():
            for number, part in enumerate(parts, start=1):
                print("\n".join(lines_of(part, number)), flush=True)
        else:
            walk(Screens(_screens(parts)), Words(language, FRAME), topic)


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


def lines_of(part: TourPart, number: int) -> Iterator[str]:
    """A part as lines for the terminal as it is now."""
    return part_lines(part, str(number), report_width(sys.stdout), ink_for(sys.stdout))


def screen_height() -> int:
    """Lines that are seen at once, with the question below them."""
    return max(LEAST_HEIGHT, shutil.get_terminal_size().lines - 3)


class TourScreen(NamedTuple):
    """Lines that are seen at once, and the code that their part names."""

    lines: list[str]
    source: list[str]


def _screens(parts: Iterator[TourPart]) -> Iterator[TourScreen]:
    for number, part in enumerate(parts, start=1):
        source = list(source_lines(part, report_width(sys.stdout), ink_for(sys.stdout)))
        for lines in screens_of(lines_of(part, number), screen_height()):
            yield TourScreen(lines, source)


class Screens:
    """Screens to go through in both directions. Each is made once, when it is first shown."""

    def __init__(self, screens: Iterator[TourScreen]) -> None:
        self._screens, self._seen = screens, list[TourScreen]()

    def at(self, number: int) -> TourScreen | None:
        """The screen of that number, from 0 on; None after the last one."""
        while len(self._seen) <= number:
            if (screen := next(self._screens, None)) is None:
                return None
            self._seen.append(screen)
        return self._seen[number]


def walk(screens: Screens, frame: Words, topic: str) -> None:
    """Show the screens of a tour, one at a time: the next, the one before, until the person has enough."""
    number = 0
    while (screen := screens.at(number)) is not None:
        print("\n".join(screen.lines), end="\n\n", flush=True)
        asked = question(frame, has_back=number > 0, has_source=bool(screen.source))
        while (answer := answer_to(asked)) in SOURCE:
            print("\n".join(screen.source), flush=True)
        if answer in END:
            return
        number = max(0, number - 1) if answer in BACK else number + 1
    print("\n".join(wrapped(_ending(frame, topic), report_width(sys.stdout))))


def _ending(frame: Words, topic: str) -> str:
    """The last words of a tour: the topic to take next."""
    later = TOPICS[TOPICS.index(topic) + 1 :]
    return frame("then", topic=later[0]) if later else frame("end")


def question(frame: Words, *, has_back: bool, has_source: bool = False) -> str:
    """The line that asks for the next key, with the keys that there are."""
    keys = [name for name, is_there in (("back", has_back), ("source", has_source)) if is_there]
    return frame("keys", keys="".join(frame(f"key_{name}") for name in keys))


def answer_to(asked: str) -> str:
    """What a person types after a part; the end of the input ends the tour."""
    try:
        answer = input(f"{asked} ").strip().lower()
    except EOFError:
        answer = END[0]
    print()
    return answer
