"""Every kernel through Triton's compiler, for a card that need not be there: what the interpreter forgives, this does not.

Compiled for an H100 (sm_90) as the launchers launch them. Runs in the ordinary process, with no GPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__)
SHARED_BYTES = 227 << 10  # what one program may have on an H100


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux")
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled in the interpreter's process")
def test_kernels_compile_and_fit_the_card(tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.backends.torch.compile_kernels"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE.parents[3])
    assert done.returncode == 0, done.stdout + done.stderr
    shared = json.loads(done.stdout.splitlines()[-1])
    assert len(shared) > 20
    assert not {name: size for name, size in shared.items() if size > SHARED_BYTES}
