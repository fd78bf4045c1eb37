"""The official clients for Node.js. `make clients` installs them; without Node.js or a package its test is skipped."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.server.serving import RunningServer
from tests.server.standins import calling

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / ".node-clients" / "node_modules"
SCRIPTS = Path(__file__).parent / "npm"
HELLO = [{"role": "user", "content": "hello"}]
CALL = '<call>look{"at": "Lima"}</call>'

Ask = Callable[[str, str], Any]


@pytest.fixture
def ask(server: RunningServer, tmp_path: Path) -> Ask:
    """Runs a script against the server: what it prints."""

    def run(script: str, package: str) -> Any:
        node = shutil.which("node")
        if node is None:
            pytest.skip("Node.js is not here")
        if not (PACKAGES / package).is_dir():
            pytest.skip(f"the npm package {package} is not here: make clients installs it")
        shutil.copy(SCRIPTS / script, tmp_path)
        (tmp_path / "node_modules").symlink_to(PACKAGES)
        with calling(CALL):
            done = subprocess.run(
                [node, str(tmp_path / script), f"http://127.0.0.1:{server.port}"], capture_output=True, text=True, timeout=60
            )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_openai(server: RunningServer, ask: Ask) -> None:
    drawn = server.llm.chat(HELLO, max_tokens=9, temperature=0.7, seed=5).text
    greedy = server.llm.chat(HELLO, max_tokens=9).text
    found = ask("openai.mjs", "openai")
    assert found["whole"] == found["streamed"] == drawn
    assert found["response"] == found["responseStreamed"] == greedy
    assert [(call["name"], json.loads(call["arguments"])) for call in found["calls"]] == [("look", {"at": "Lima"})] * 2
    np.testing.assert_allclose(found["embedding"], server.llm.embed(["a llama"])[0], rtol=1e-6)
    assert found["models"] == ["tiny", "caller"]
    error = found["error"]
    assert error["isNotFound"] and (error["status"], error["code"]) == (404, "model_not_found")
    assert error["id"].startswith("req_")


def test_anthropic(server: RunningServer, ask: Ask) -> None:
    expected = server.llm.chat([{"role": "system", "content": "be brief"}, *HELLO], max_tokens=9).text
    found = ask("anthropic.mjs", "@anthropic-ai/sdk")
    assert found["whole"] == found["streamed"] == expected
    assert found["calls"] == [{"name": "look", "input": {"at": "Lima"}}] * 2
    assert found["counted"] == len(server.llm.encode_chat(HELLO))
    assert found["models"] == ["tiny", "caller"]
    assert found["error"]["isNotFound"] and found["error"]["status"] == 404 and found["error"]["id"].startswith("req_")


def test_ollama(server: RunningServer, ask: Ask) -> None:
    drawn = server.llm.chat(HELLO, max_tokens=9, temperature=0.7, seed=5).text
    found = ask("ollama.mjs", "ollama")
    assert found["whole"] == found["streamed"] == drawn
    assert found["calls"] == [{"name": "look", "input": {"at": "Lima"}}]
    assert found["generated"] == server.llm.chat("hello", max_tokens=9).text
    np.testing.assert_allclose(found["embedding"], server.llm.embed(["a llama"])[0], rtol=1e-6)
    assert found["models"] == found["running"] == ["tiny:latest", "caller:latest"]
    assert found["capabilities"] == ["completion"]
    assert found["error"]["status"] == 404 and "not served" in found["error"]["message"]
