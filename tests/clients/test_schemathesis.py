"""RELIABILITY C1: schemathesis tries every route of the OpenAPI document, with valid and invalid requests. `make clients` has it.

Its check `positive_data_acceptance` is left out: a model refuses by name what no document can tell, such as ids beyond its
vocabulary, a budget of thoughts where it has none, and messages that its template does not take.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.server.serving import SETTINGS, quick_llm, quick_model, serving

pytest.importorskip("schemathesis")

NUM_CASES = 5000
ASKED = {"prompt": "hello", "max_tokens": 4}
OPTIONS = (
    *("--phases", "examples,coverage,fuzzing,stateful", "--mode", "all", "--max-examples", "10", "--seed", "16"),
    *("--checks", "all", "--exclude-checks", "positive_data_acceptance", "--generation-allow-x00", "true"),
    *("--max-response-time", "10", "--request-timeout", "20", "--continue-on-failure", "--no-shrink", "--no-color"),
    *("--generation-database", "none", "--warnings", "off"),
)


def test_no_request_breaks_the_server(tmp_path: Path) -> None:
    with serving(quick_model(), settings=replace(SETTINGS, max_tokens=4), load=lambda *_: quick_llm()) as server:
        known = server.post("/v1/completions", ASKED).json["choices"][0]["text"]
        command = [sys.executable, "-c", "import schemathesis.cli as cli; cli.schemathesis()", "run"]
        url = f"http://127.0.0.1:{server.port}/openapi.json"
        done = subprocess.run([*command, url, *OPTIONS], capture_output=True, text=True, timeout=900, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        found = re.search(r"([\d,]+) generated", done.stdout)
        assert found is not None and int(found[1].replace(",", "")) >= NUM_CASES, done.stdout[-800:]
        assert server.post("/v1/completions", ASKED).json["choices"][0]["text"] == known
