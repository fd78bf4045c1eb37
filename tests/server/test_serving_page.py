"""docs/serving.md, and what README.md says of the server: requests work as they are typed, examples of files can be read."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from puna.server.wires import WIRES
from tests.cli.conftest import Puna
from tests.cli.conftest import puna as puna  # a fixture
from tests.server.serving import RunningServer
from tests.test_commands import puna_problem, typed_in

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str, *pages: str) -> list[str]:
    return [block for page in pages for block in re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)]


def here(text: str, server: RunningServer) -> str:
    """A text of the page, for the server of this test and its model."""
    return text.replace(ADDRESS, f"http://127.0.0.1:{server.port}").replace("smollm2-135m", "tiny")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
def test_requests_by_curl_work_as_they_are_typed(server: RunningServer) -> None:
    lines = [line for page in ("docs/serving.md", "README.md") for line in typed_in(page) if line.startswith("curl ")]
    assert lines
    for line in lines:
        done = subprocess.run([*shlex.split(here(line, server)), "-s"], capture_output=True, text=True, timeout=60, check=True)
        answer = json.loads(done.stdout)
        assert answer["choices"][0]["message"]["content"], answer


def test_puna_uses_the_server_as_it_is_typed(server: RunningServer, puna: Puna) -> None:
    lines = [line for line in typed_in("docs/serving.md") if " --server " in line]
    assert len(lines) == 2
    for line in lines:
        done = puna(*shlex.split(here(line, server))[1:], "-n", "8", "--seed", "1", "--ignore-eos", stdin="Hi\n")
        assert done.code == 0 and done.out.strip(), done.err


def test_programs_of_the_openai_client_run(server: RunningServer, tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="openai is not installed")
    program = tmp_path / "program.py"
    for text in blocks("python", PAGE, README):
        if "import openai" in text:
            program.write_text(here(text, server), "utf-8")
            stream = runpy.run_path(str(program))["stream"]
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_examples_of_files_can_be_read() -> None:
    assert [tomllib.loads(text)["model_providers"]["puna"]["wire_api"] for text in blocks("toml", PAGE)] == ["responses"]
    assert all(isinstance(json.loads(text), dict) for text in blocks("json", PAGE))
    for program in blocks("python", PAGE):
        compile(program, "serving.md", "exec")


def test_the_routes_that_it_names_are_served() -> None:
    table = PAGE.split("## What it speaks")[1].split("## ")[0]
    paths = {route.path for wire in WIRES for route in wire.routes} | {"/health", "/metrics", "/openapi.json"}
    assert set(re.findall(r"`(/[\w/.-]+)`", table)) <= paths


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    unit = tmp_path / "puna.service"
    text = (ROOT / "docs" / "puna.service").read_text("utf-8")
    unit.write_text(text.replace("/opt/puna/.venv/bin/puna", sys.executable), "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_and_the_image_start_commands_that_exist() -> None:
    unit = (ROOT / "docs" / "puna.service").read_text("utf-8")
    image = (ROOT / "docs" / "Dockerfile").read_text("utf-8")
    started = [re.findall(r"^ExecStart=\S+/puna (.*)$", unit, re.MULTILINE)[0]]
    started.append(" ".join(json.loads(re.findall(r"^CMD (.*)$", image, re.MULTILINE)[0])))
    assert [puna_problem(words) for words in started] == ["", ""]
    for sources in re.findall(r"^COPY (.*) /opt/puna\S*$", image, re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())
