"""The program `llm`, with a model that its configuration file names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.serving import RunningServer

pytest.importorskip("llm")


def test_a_prompt(server: RunningServer, tmp_path: Path) -> None:
    lines = ["- model_id: mine", "  model_name: tiny", f"  api_base: http://127.0.0.1:{server.port}/v1", "  can_stream: true", ""]
    (tmp_path / "extra-openai-models.yaml").write_text("\n".join(lines))
    command = [sys.executable, "-m", "llm", "-m", "mine", "hello", "-o", "max_tokens", "9", "--key", "none"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "LLM_USER_PATH": str(tmp_path)}, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().removesuffix("\n") == server.llm.chat("hello", max_tokens=9).text
