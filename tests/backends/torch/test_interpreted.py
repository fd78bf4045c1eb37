"""Runs the tests of the Triton kernels under Triton's interpreter, in processes of their own: its setting is read at import."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
NUM_SHARES = 2  # of all tests: on two cores, neither may keep one busy alone


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("share", range(1, NUM_SHARES + 1))
def test_kernels_do_what_plain_torch_does(share: int, request: pytest.FixtureRequest) -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("this is the process that was started")
    files = map(str, sorted(FOLDER.glob("kernels/test_*.py")))
    tier = request.config.option.markexpr  # the one that is run here
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", tier, *files]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PUNA_TEST_SHARE": f"{share}/{NUM_SHARES}"}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they need none
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=FOLDER.parents[2])
    if done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
        pytest.skip(done.stdout.strip().splitlines()[-2])
    assert done.returncode == 0, done.stdout + done.stderr
