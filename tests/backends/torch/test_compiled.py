"""Compiles every kernel with Triton for cards that need not be present; the compiler is stricter than the interpreter.

Compiled as the launchers launch them on a card of each architecture. Runs in the ordinary process, with no GPU. What has been
compiled stays in the tests' cache, until its source, its options or Triton change: Triton's own cache knows.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.own_cache import OWN

HERE = Path(__file__)
KEPT = OWN / "triton"
# What one program may have of shared memory: A100, RTX 30, RTX 40, H100, B200, RTX 50.
SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux"),
    pytest.mark.skipif(shutil.which("cc") is None and "CC" not in os.environ, reason="Triton has no C compiler here"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled in the interpreter's process"),
]


def compiled(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """What the compiler says of each kernel."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(folder)}
    command = [sys.executable, "-m", "tests.backends.torch.compile_kernels", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE.parents[3])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def require_that_all_fit(kernels: list[dict[str, Any]]) -> None:
    assert not [kernel for kernel in kernels if kernel["shared"] > SHARED_BYTES[kernel["arch"]]]


def require_one_order_of_sums(kernels: list[dict[str, Any]]) -> None:
    """Any number of rows uses the same instructions; otherwise a row's bits would depend on the batch."""
    found = defaultdict(set)
    for kernel in kernels:
        if kernel["kernel"] == "matvec_kernel" and kernel["is_launched"]:
            of = kernel["constants"]
            found[kernel["arch"], of["KIND"], of["MODE"], of["COLUMNS"], of["PDL"]].add(tuple(kernel["products"]))
    assert found and not {key: ways for key, ways in found.items() if len(ways) > 1}


def test_kernels_compile_and_fit_the_card() -> None:
    kernels = compiled(KEPT, "--usual", "90")
    assert len(kernels) > 20
    require_that_all_fit(kernels)


def test_the_largest_kernels_fit_a_card_for_the_home() -> None:
    kernels = compiled(KEPT, "--largest", "86")
    assert len(kernels) > 10
    require_that_all_fit(kernels)


@pytest.mark.full
@pytest.mark.parametrize("arch", SHARED_BYTES)
def test_all_kernels_fit_every_card_and_sum_in_one_order(arch: int, tmp_path: Path) -> None:
    kernels = compiled(tmp_path, "--all", str(arch))
    assert len(kernels) > 250
    require_that_all_fit(kernels)
    require_one_order_of_sums(kernels)
