"""`make demo` and `make test` show what pip does: one line on a terminal, nothing elsewhere, and always pip's errors."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import pip_install

ROOT = Path(__file__).parents[1]
# What pip 23 and 25 write to stdout, with what must not appear.
SAID = """Looking in indexes: https://user:secret@packages.example/simple
Obtaining file:///home/me/puna
  Installing build dependencies: started
  Building editable for puna (pyproject.toml): started
Requirement already satisfied: click in ./.venv/lib (from puna==0.1.0)
Collecting numpy>=2.0 (from puna==0.1.0)
  Using cached numpy-2.3.5-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (62 kB)
Downloading llvmlite-0.46.0-cp311-cp311-manylinux2014_x86_64.whl (56.3 MB)
Installing collected packages: numpy, llvmlite, numba
Successfully installed numba-0.63.1
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def pip(said: str = SAID, errors: str = "", code: int = 0) -> list[str]:
    """A command that writes what pip would."""
    program = "import sys; sys.stdout.write(sys.argv[1]); sys.stderr.write(sys.argv[2]); sys.exit(int(sys.argv[3]))"
    return [sys.executable, "-c", program, said, errors, str(code)]


def shown(command: list[str]) -> tuple[int, str]:
    stream = Terminal()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        return pip_install.show(process, stream), stream.getvalue()


def test_one_line_names_what_pip_works_on_and_is_gone_at_the_end() -> None:
    code, text = shown(pip())
    stages = list(dict.fromkeys(re.findall(r"pip: (.*?) \.\.\. \d+ s", text)))
    assert code == 0 and stages == [
        "starting pip", "fetching the build tools", "building puna", "looking for numpy", "fetching llvmlite, 56.3 MB",
        "installing 3 packages",
    ]  # fmt: skip
    assert "\n" not in text and re.search(r"\r +\r$", text) and max(map(len, text.split("\r"))) < 80


def test_no_host_no_folder_and_no_other_noise_is_shown() -> None:
    _, text = shown(pip())
    assert not re.search(r"example|secret|home|satisfied|metadata|Successfully", text)


def test_the_errors_of_pip_stand_on_lines_of_their_own_and_its_code_is_kept() -> None:
    code, text = shown(pip(errors="ERROR: no matching distribution\n  for numpy\n", code=1))
    assert code == 1 and [line.rpartition("\r")[2] for line in text.split("\n")][:2] == [
        "ERROR: no matching distribution",
        "  for numpy",
    ]


def test_without_a_terminal_pip_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "pip.py").write_text("import sys; print(sys.argv[1:])")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "scripts.pip_install", "-e", "."],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "['install', '--disable-pip-version-check', '--quiet', '-e', '.']" and done.stderr == ""


def test_it_needs_nothing_that_is_installed() -> None:
    code = "import sys; sys.path.insert(0, '.'); import scripts.pip_install; print('site' in sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-I", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def made(*arguments: str) -> str:
    """What `make` prints, with the environment as it is."""
    words = ["make", "-o", ".venv/.demo", *arguments]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False).stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_what_make_prints_fits_80_columns_and_its_paths_and_commands_stand_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a-folder-with-a-long-name-of-more-than-forty-letters" / "bin"
    link = folder / "puna"
    first = made("install", f"BINDIR={folder}")
    assert f"\n  {link}\n" in first and f'\n  export PATH="{folder}:$PATH"\n' in first and link.is_symlink()
    made("uninstall", f"BINDIR={folder}")
    link.touch()
    texts = (first, made("install", f"BINDIR={folder}"), made("uninstall", f"BINDIR={folder}"), made("help"))
    lines = [line for text in texts for line in text.splitlines()]
    assert [line for line in lines if len(line) > 80 and str(folder) not in line] == []
    assert all(line.startswith(("  ", "removed")) for line in lines if str(folder) in line) and "make install " in texts[-1]


@pytest.mark.parametrize("target", ["gpu", r"\$\(VENV\)/.demo", r"\$\(VENV\)/.test"])
def test_the_makefile_installs_through_it_and_says_so_first(target: str) -> None:
    rule = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert rule is not None and re.match(r'\t@echo "installing .*\n\t@\$\(PIP\) ', rule[1])
    assert "pip install" not in (ROOT / "Makefile").read_text("utf-8")
