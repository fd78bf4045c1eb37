"""Fetches models for commands, and asks first about a missing model that has a short name, naming its size.

While a model is downloaded, the kernels that it needs are compiled: its first run need not wait for them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from puna.cli.terminal import tell
from puna.errors import PunaError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from puna.config import EngineConfig
    from puna.progress import Reporter

HEADERS_S = 5.0  # how long to wait for the headers of a model that was itself fetched sooner
ANSWERS = {"y": True, "yes": True, "n": False, "no": False}
Confirm = Callable[[str], bool]  # question -> whether a person agrees


def by_line(question: str, otherwise: bool = True) -> bool:
    """The answer of a person who types a line; Enter alone means `otherwise`. click.Abort for Ctrl-C and Ctrl-D."""
    answers = {**ANSWERS, "": otherwise}
    while (agreed := answers.get(_typed(question))) is None:
        tell(f"Type y or n, or press Enter for {'yes' if otherwise else 'no'}.")
    return agreed


def _typed(question: str) -> str:
    line: str = click.prompt(question, default="", err=True, prompt_suffix="", show_default=False)
    return line.strip().lower()


def fetch(name: str | None, config: EngineConfig | None, report: Reporter) -> Path:
    """Fetch or verify a model, and begin to compile its kernels as soon as its header is known. Raises what `hub.pull` raises.

    `config` names the device; None: the environment does.
    """
    # Two threads that import a package and a module of it at once may meet a half-made module; so these are imported here.
    import puna.formats
    import puna.tokenizers  # noqa: F401
    from puna import hub

    compiling = threading.Thread(target=_begin_to_compile, args=(name, config), daemon=True)
    with suppress(RuntimeError):  # no thread can be started
        compiling.start()
    path = hub.pull(name, report)
    if compiling.is_alive():  # it holds a temporary folder
        compiling.join(HEADERS_S)
    return path


def _begin_to_compile(name: str | None, config: EngineConfig | None) -> None:
    """Begin to compile the kernels of a model that is being fetched. Errors are left to the download and to the first run."""
    from puna.backends import begin_to_compile, choose_device
    from puna.config import EngineConfig

    with suppress(PunaError, OSError):
        begin_to_compile(choose_device(config or EngineConfig.from_env()), lambda: _types(name))


def _types(name: str | None) -> Sequence[str]:
    from puna import hub
    from puna.hub.headers import matrix_types

    text = hub.DEFAULT_MODEL if name is None else name
    if (wheel := hub.wheel_model(text)) is not None:
        return wheel.weight_types
    on_hub = hub.name_on_hub(text)
    return () if on_hub is None else matrix_types(str(on_hub))


def offer(model: str | None, config: EngineConfig | None, report: Reporter, confirm: Confirm = by_line) -> None:
    """Fetch a missing published model if the person at the terminal agrees. Without a terminal, do nothing: loading then
    raises the error that names `puna pull`.

    Raises PunaError if the person does not agree, and what `hub.pull` raises.
    """
    from puna import hub

    if not is_terminal() or hub.absent_source(model) is None:
        return
    assert model is not None
    if config is not None:
        from puna.backends import require_device

        require_device(config)
    require_consent(model, confirm)
    fetch(model, config, report)


def require_consent(model: str, confirm: Confirm = by_line) -> None:
    """Ask before a missing published model is fetched. PunaError if the answer is no."""
    from puna import hub

    source = hub.absent_source(model)
    if source is None:
        return
    tell(*hub.source_lines(source))
    if not confirm("Fetch it? [Y/n] "):
        raise PunaError(f"{model} was not fetched", hint=f"To fetch it later: puna pull {model}")


def is_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()
