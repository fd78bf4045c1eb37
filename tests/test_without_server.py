"""puna without its server: on a copy, the server, its command and its tests are deleted, and the rest is as green as before.

The short form imports every module and runs the tests that know of the server; the full one runs the whole suite.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEFT = shutil.ignore_patterns(".*", "build", "dist")
# What is deleted: the room, the command, the page that is made from the room, and their tests.
DELETED = (
    *("puna/server", "puna/cli/serve.py", "scripts/wires.py", "scripts/page_pictures.py"),
    *("tests/server", "tests/clients", "tests/cli/test_serve.py"),
)
# The rows of tables that name them: file -> what a row begins with.
ROWS = {
    "puna/cli/main.py": r'    "serve": ',
    "tests/test_architecture.py": r'    "(server|clients)/',
    "tests/cli/test_foreign.py": r'        \("serve ',
}
PYTEST = ("-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider")  # -rfE: the end of its output names what failed
# Packages that only the server needs; pydantic is also for `schema=...`.
SERVERS_OWN = ("starlette", "uvicorn", "prometheus_client")
IMPORT_ALL = f"""
import importlib, sys
from pathlib import Path
sys.modules |= dict.fromkeys({SERVERS_OWN!r})  # importing one of them fails
for path in sorted(Path("puna").rglob("*.py")):
    name = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    if not name.startswith("puna.backends.torch") and name != "puna.__main__":
        importlib.import_module(name)
"""
# Tests that name the server's files, or that use the server where it is there. Those of all texts take seconds: the full form.
OF_OTHERS = (
    "tests/test_architecture.py::test_every_test_file_says_what_it_tests",
    "tests/cli/test_remote.py",
    "tests/cli/test_foreign.py",
    "scripts",
    "tests/cli/test_main.py::test_every_command_has_help_and_json",
)


@pytest.fixture
def without(tmp_path: Path) -> Path:
    """A copy of the project without the server."""
    copy = tmp_path / "puna"
    shutil.copytree(ROOT, copy, ignore=LEFT, symlinks=True)
    for name in DELETED:
        place = copy / name
        assert place.exists(), name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    for name, start in ROWS.items():
        lines = (copy / name).read_text("utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not re.match(start, line)]
        assert len(kept) < len(lines), f"{name}: no row begins with {start}"
        (copy / name).write_text("".join(kept), "utf-8")
    return copy


def python(folder: Path, *words: str, timeout: float = 120) -> None:
    """Run Python in the copy, whose modules come before those of an installed puna."""
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_every_module_is_imported_without_the_server_and_its_packages(without: Path) -> None:
    python(without, "-c", IMPORT_ALL)


def test_the_tests_that_know_of_the_server_are_green(without: Path) -> None:
    python(without, *PYTEST, *OF_OTHERS)


@pytest.mark.full
def test_every_other_test_is_green(without: Path) -> None:
    parallel = ("-n", "auto", "--maxprocesses", "4", "--dist", "worksteal")
    python(without, *PYTEST, *parallel, "--deselect", "tests/test_without_server.py", timeout=3600)
