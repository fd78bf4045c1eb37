"""`puna serve`: what it says when it cannot start, and its help. tests/server has the server itself."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from puna.install import extra_command
from tests.cli.conftest import Puna
from tests.models import random_tensors, tiny_config, write_gguf


def failures(model: Path, tmp_path: Path, busy_port: int) -> dict[str, list[object]]:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(model.read_bytes()[:1000])
    return {
        "a busy port": [model, "--port", busy_port],
        "no such file": [tmp_path / "nothing.gguf"],
        "a damaged file": [damaged],
        "no key beyond loopback": [model, "--host", "0.0.0.0", "--port", 0],
        "no such address": [model, "--host", "203.0.113.1", "--port", 0],
        "no address at all": [model, "--host", "nobody.invalid.", "--port", 0],
        "a port beyond ports": [model, "--port", 70000],
        "no number": [model, "--port", "http"],
        "a negative wait": [model, "--drain", -1],
        "a time that is none": [model, "--keep-alive", "soon"],
        "two models of one name": [model, model],
        "a context beyond the memory": [model, "--max-context", 0, "--vram", 1, "--device", "nothing"],
        "an empty key": [model, "--api-key", ""],
    }


def test_start_failures_are_one_or_two_lines(puna: Puna, tmp_path: Path) -> None:
    config = tiny_config()
    model = write_gguf(tmp_path / "tiny.gguf", config, random_tensors(config, 1))
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        for name, words in failures(model, tmp_path, busy.getsockname()[1]).items():
            done = puna("serve", "--device", "reference", *map(str, words))
            lines = done.err.strip().splitlines()
            assert done.code in (1, 2) and not done.out, (name, done)
            assert 1 <= len(lines) <= 2 and "internal error" not in done.err, (name, lines)


def test_the_help_fits_one_screen(puna: Puna) -> None:
    """Forty lines of 80 characters; the options of serving come first."""
    lines = puna("serve", "--help").out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    assert lines.index(next(line for line in lines if "--port" in line)) < 15


def test_a_missing_package_is_named_with_a_command_that_works() -> None:
    """puna is on no package index, so no command may ask for it by name."""
    code = "import sys; sys.modules['uvicorn'] = None; from puna.cli import main; sys.exit(main.run(['serve']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, "needs the package uvicorn" in done.stderr) == (2, True)
    assert extra_command("serve") in done.stderr
