"""The full screen of `puna trace` in a terminal: keys in, lines out. What they mean is in `stepper_state.py`, what is drawn in
`stepper_view.py`. The model works in a thread of its own, so that a key always has an effect.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from puna.cli.stepper_state import Stepping
from puna.cli.stepper_view import STYLES, screen
from puna.errors import PunaError

if TYPE_CHECKING:
    from prompt_toolkit import Application
    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.layout import Layout

    from puna.glassbox.explorer import Explorer
    from puna.llm import LLM

EVERY_S = 0.1  # between two pictures of an answer on its way
ESCAPE_S = 0.05  # that Esc waits for the rest of a key that begins with it
MAX_TYPED = 4000  # characters of a line
PAGE = 10  # rows of Page Up and Page Down

# Keys -> what they do, while nothing is asked and nothing runs.
ACTIONS: Mapping[tuple[str, ...], Callable[[Stepping], None]] = {
    ("right", "n", " "): lambda state: state.move(1),
    ("left", "b"): lambda state: state.move(-1),
    ("home",): lambda state: state.go_to(0),
    ("end",): Stepping.last,
    ("g",): Stepping.ask_place,
    ("down",): lambda state: state.mark(1),
    ("up",): lambda state: state.mark(-1),
    ("pagedown",): lambda state: state.mark(PAGE),
    ("pageup",): lambda state: state.mark(-PAGE),
    ("enter",): Stepping.enter,
    ("escape",): Stepping.back,
    ("c",): Stepping.ask_choice,
    ("f",): Stepping.ask_text,
    ("r",): Stepping.redraw,
    ("t",): lambda state: state.ask_setting("temperature"),
    ("p",): lambda state: state.ask_setting("top_p"),
    ("k",): lambda state: state.ask_setting("top_k"),
    ("m",): lambda state: state.ask_setting("min_p"),
    ("s",): Stepping.ask_any_setting,
    ("o",): Stepping.ask_options,
    ("v",): lambda state: state.show("tree"),
    ("]",): lambda state: state.visit(1),
    ("[",): lambda state: state.visit(-1),
    ("u",): Stepping.undo,
    ("w",): Stepping.ask_file,
    ("?", "h"): lambda state: state.show("help"),
    **{(str(number),): partial(lambda number, state: state.choose(number), number) for number in range(1, 10)},
}


def step_through(llm: LLM, explorer: Explorer) -> Stepping:
    """Show an answer to a person, who explores it until they leave. Raises what keeps the first answer from being made."""
    stepper = TraceStepper(llm, explorer)
    stepper.run()
    return stepper.state


class TraceStepper:
    """The application."""

    def __init__(self, llm: LLM, explorer: Explorer) -> None:
        self.state = Stepping(llm, explorer, self._work)
        self._thread: threading.Thread | None = None
        self._is_busy = self._is_warned = False
        self._buffer = self._make_buffer()
        self.app = self._make_app()

    def run(self) -> None:
        """Until the person leaves. What runs then is ended."""
        try:
            self.app.run(pre_run=self._begin)
        finally:
            self.state.stop()
            if self._thread is not None:
                self._thread.join()

    # ---- the model, in a thread ---------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.state.start()

    def _work(self, work: Callable[[], Any], then: Callable[[Any], None], failed: Callable[[], None]) -> None:
        self._is_busy = True
        self._thread = threading.Thread(target=self._do, args=(work, then, failed), name="puna-explorer", daemon=True)
        self._thread.start()
        self.app.create_background_task(self._redraw_while_busy())

    def _do(self, work: Callable[[], Any], then: Callable[[Any], None], failed: Callable[[], None]) -> None:
        """In the thread: do the work; the rest is done by the thread of the screen."""
        try:
            rest = partial(then, work())
        except BaseException as error:  # noqa: BLE001 - told, or raised, by the thread of the screen
            rest = partial(self._failed, failed, error)
        with contextlib.suppress(RuntimeError):  # the person has left
            self._loop.call_soon_threadsafe(self._end, rest)

    def _end(self, rest: Callable[[], None]) -> None:
        self._is_busy = False
        try:
            rest()
        except BaseException as error:  # noqa: BLE001 - raised by `run`
            self._exit(error)
        self._sync()

    def _failed(self, failed: Callable[[], None], error: BaseException) -> None:
        failed()
        if not isinstance(error, PunaError) or self.state.branch is None:
            raise error
        self.state.tell(error)

    async def _redraw_while_busy(self) -> None:
        while self._is_busy:
            await asyncio.sleep(EVERY_S)
            self.app.invalidate()

    # ---- the screen ---------------------------------------------------------------------------------------------------------

    def _make_app(self) -> Application[None]:
        from prompt_toolkit import Application
        from prompt_toolkit.styles import Style

        app: Application[None] = Application(
            layout=self._layout(), key_bindings=self._keys(), style=Style.from_dict(STYLES), full_screen=True
        )
        app.ttimeoutlen = app.timeoutlen = ESCAPE_S
        return app

    def _layout(self) -> Layout:
        from prompt_toolkit.filters import Condition
        from prompt_toolkit.layout import BufferControl, ConditionalContainer, FormattedTextControl, HSplit, Window
        from prompt_toolkit.layout import Layout as RootLayout

        self._body = FormattedTextControl(self._text, focusable=True, show_cursor=False)
        line = BufferControl(self._buffer, input_processors=[], focus_on_click=False)
        prefix: Any = lambda number, wraps: "> "  # noqa: E731
        typed = ConditionalContainer(Window(line, height=1, get_line_prefix=prefix), Condition(lambda: self._is_asking))
        return RootLayout(HSplit([Window(self._body, wrap_lines=False), typed]), focused_element=self._body)

    @property
    def _is_asking(self) -> bool:
        return self.state.question is not None

    def _text(self) -> StyleAndTextTuples:
        size = self.app.output.get_size()
        parts: StyleAndTextTuples = []
        for number, line in enumerate(screen(self.state, size.columns, size.rows - (1 if self._is_asking else 0))):
            parts += [("", "\n")] if number else []
            parts += line
        return parts

    # ---- keys ---------------------------------------------------------------------------------------------------------------

    def _keys(self) -> KeyBindings:
        from prompt_toolkit.filters import Condition
        from prompt_toolkit.key_binding import KeyBindings
        from prompt_toolkit.keys import Keys

        keys = KeyBindings()
        is_asking, is_busy = Condition(lambda: self._is_asking), Condition(lambda: self._is_busy)
        is_free = ~is_asking & ~is_busy
        for names, action in ACTIONS.items():
            for name in names:
                keys.add(name, filter=is_free, eager=True)(partial(self._act, action))
        keys.add(Keys.Any, filter=~is_asking)(lambda event: None)
        keys.add(Keys.BracketedPaste, filter=~is_asking, eager=True)(lambda event: None)
        for name in ("q", "c-d"):
            keys.add(name, filter=~is_asking, eager=True)(lambda event: self._exit())
        for name in ("c-c", "<sigint>"):
            keys.add(name, eager=True)(lambda event: self._interrupted())
        for name in ("escape", "c-d"):
            keys.add(name, filter=is_asking, eager=True)(partial(self._act, Stepping.leave_question))
        keys.add("up", filter=is_asking, eager=True)(lambda event: self._moved(1))
        keys.add("down", filter=is_asking, eager=True)(lambda event: self._moved(-1))
        keys.add(Keys.BracketedPaste, filter=is_asking, eager=True)(lambda event: self._pasted(event.data))
        if hasattr(signal, "SIGTSTP"):
            keys.add("c-z", eager=True)(lambda event: self.app.suspend_to_background())
        return keys

    def _act(self, action: Callable[[Stepping], None], event: Any = None) -> None:
        self._is_warned = False
        action(self.state)
        self._sync()

    def _interrupted(self) -> None:
        """Ctrl-C stops what is on its way or asked; else the second one leaves."""
        if self._is_asking:
            self.state.leave_question()
        elif self.state.growth is not None:
            self.state.stop()
        elif self._is_warned:
            self._exit()
        else:
            self._is_warned = True
            self.state.message = "Press Ctrl-C again, or q, to leave."
        self._sync()

    def _exit(self, error: BaseException | None = None) -> None:
        if not self.app.is_done and self.app.is_running:
            if error is None:
                self.app.exit()
            else:
                self.app.exit(exception=error)

    def _sync(self) -> None:
        """Show what there is now, and let the keys go where they belong."""
        wanted = self._buffer if self._is_asking else self._body
        if not self.app.layout.has_focus(wanted):
            self._buffer.reset()
            self.app.layout.focus(wanted)
        self.app.invalidate()

    # ---- the line that is typed ---------------------------------------------------------------------------------------------

    def _make_buffer(self) -> Buffer:
        from prompt_toolkit.buffer import Buffer

        return Buffer(multiline=False, accept_handler=self._accepted, on_text_changed=self._changed)

    def _accepted(self, buffer: Buffer) -> bool:
        self._act(lambda state: state.answer(buffer.text))
        return True  # the text is reset when the next line is asked for

    def _changed(self, buffer: Buffer) -> None:
        if len(buffer.text) > MAX_TYPED:
            buffer.text = buffer.text[:MAX_TYPED]
            return
        if (question := self.state.question) is not None:
            question.changed(buffer.text)

    def _moved(self, by: int) -> None:
        if (question := self.state.question) is not None:
            self._buffer.text = question.moved(self._buffer.text, by)
            self._buffer.cursor_position = len(self._buffer.text)

    def _pasted(self, text: str) -> None:
        room = MAX_TYPED - len(self._buffer.text)
        self._buffer.insert_text(text[:room].replace("\r\n", "\n").replace("\r", "\n"))
