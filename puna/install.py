"""The commands that install extras of puna, depending on how puna was installed: it is on no package index.

extra_command("gpu")     'make gpu', "/clone/.venv/bin/python -m pip install -e '/clone[gpu]'", or the extra's packages by name
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

MAKE_TARGETS = ("gpu",)  # extras that the Makefile installs
HERE = Path(__file__).resolve().parents[1]


def clone() -> Path | None:
    """The folder with puna's sources; None if puna was installed from a wheel."""
    try:
        is_ours = 'name = "puna"' in (HERE / "pyproject.toml").read_text("utf-8", errors="replace")
    except OSError:
        return None
    return HERE if is_ours else None


def extra_command(extra: str) -> str:
    """The command, for a person to type, that installs an extra of puna into the current environment."""
    folder = clone()
    if folder is not None and _is_made_by_make(folder) and extra in MAKE_TARGETS:
        return f"make {extra}" if Path.cwd() == folder else f"make -C {_quoted(str(folder))} {extra}"
    if folder is not None:
        return f"{python()} -m pip install -e {_quoted(f'{folder}[{extra}]')}"
    return f"{python()} -m pip install {' '.join(map(_quoted, requirements(extra)))}"


def again(package: str) -> str:
    """The command that installs a package again, with all that it needs: pip leaves one alone that it believes to be whole."""
    return f"{pip()} install --force-reinstall {package}"


def pip() -> str:
    """How to call pip for the current environment: `pip` if it is activated."""
    return "pip" if os.environ.get("VIRTUAL_ENV") == sys.prefix else f"{python()} -m pip"


def python() -> str:
    """The current Python, as the first word of a command."""
    word = _quoted(sys.executable)
    return f"& {word}" if sys.platform == "win32" else word


def source() -> str:
    """The folder or wheel that pip can install puna from, as one word of a command."""
    return _quoted(str(clone() or _wheel() or "FOLDER-OF-PUNA"))


def requirements(extra: str) -> list[str]:
    """The packages of an extra, from the metadata of the installed puna.

    >>> "torch>=2.11" in requirements("gpu")
    True
    """
    from importlib import metadata

    try:
        lines = metadata.requires("puna") or []
    except metadata.PackageNotFoundError:
        lines = []
    found = [_of_extra(line, extra) for line in lines]
    return [name for name in found if name]


def _of_extra(line: str, extra: str) -> str:
    """The requirement without its conditions; "" if it belongs to another extra or another system.

    >>> _of_extra("torch>=2.11; extra == 'gpu'", "gpu"), _of_extra("numpy>=2.0", "gpu")
    ('torch>=2.11', '')
    """
    name, _, condition = line.partition(";")
    condition = condition.replace('"', "'")
    if f"extra == '{extra}'" not in condition:
        return ""
    is_linux_only = "sys_platform == 'linux'" in condition
    return "" if is_linux_only and sys.platform != "linux" else name.strip().replace(" ", "")


def _is_made_by_make(folder: Path) -> bool:
    """Whether the Makefile made this environment, and make is installed."""
    return Path(sys.prefix) == folder / ".venv" and (folder / "Makefile").is_file() and shutil.which("make") is not None


def _wheel() -> Path | None:
    """The wheel or folder that pip installed puna from, if it still exists."""
    from importlib import metadata
    from urllib.request import url2pathname  # imports an HTTP client: 40 ms

    try:
        told = json.loads(metadata.distribution("puna").read_text("direct_url.json") or "{}")
        path = Path(url2pathname(unquote(urlparse(str(told.get("url", ""))).path)))
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        return None
    return path if path.name and path.exists() else None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'" if sys.platform == "win32" else shlex.quote(text)
