"""The kernels of other CPUs, run on this one: plain LLVM vectors give the same bits as x86's own instructions."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from tests.conformance.test_backends import K_QUANTS, PAGES, QUANTS, forward, loaded, random_ids, random_model

FAMILIES = (("Q8_0", "like-gemma"), ("Q4_1", "experts-2-of-5"))
MODELS = (*((quant, "plain") for quant in QUANTS), *((quant, "wide") for quant in K_QUANTS), *FAMILIES)


def digest() -> str:
    """Of the logits of small models in every weight type, and with what only some families have."""
    total = hashlib.sha256()
    for quant, shape in MODELS:
        checkpoint = random_model(shape, quant, seed=1)
        with loaded("cpu", checkpoint) as backend:
            total.update(forward(backend, (random_ids(checkpoint.config, 21), 0, PAGES)).tobytes())
    return total.hexdigest()


@pytest.mark.full
def test_portable_kernels_give_the_same_bits() -> None:
    """Compiled anew once per version, every type: half a minute. Behind `full` for that."""
    code = "from tests.backends.cpu.test_simd import digest; print(digest())"
    env = os.environ | {"PUNA_PORTABLE_KERNELS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()
