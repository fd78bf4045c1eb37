"""Runs the tests of the Triton kernels under Triton's interpreter, each file in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
SHARES = {
    "test_kernels_graph.py": 3,
    "test_kernels_model.py": 2,
}  # of files that take long: no test may keep one worker busy alone
PARTS = [
    (path.name, f"{share}/{SHARES.get(path.name, 1)}")
    for path in sorted(FOLDER.glob("test_kernels_*.py"))
    for share in range(1, SHARES.get(path.name, 1) + 1)
]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize(("name", "share"), PARTS)
def test_kernels_do_what_plain_torch_does(name: str, share: str, request: pytest.FixtureRequest) -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("this is the process that was started")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / name)]
    command += ["-m", request.config.option.markexpr]  # the tier that is run here
    environment = os.environ | {"TRITON_INTERPRET": "1", "PUNA_TEST_SHARE": share}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=FOLDER.parents[2])
    if done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
        pytest.skip(done.stdout.strip().splitlines()[-2])
    assert done.returncode == 0, done.stdout + done.stderr
