"""The kernels of other CPUs, run on this one: plain LLVM vectors give the same bits as x86's own instructions."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from puna.backends.cpu import host
from puna.backends.cpu.layout import KINDS
from puna.backends.cpu.packing import pack
from puna.errors import DeviceError
from tests.backends.cpu.test_kernels import activations, run_multiply
from tests.conformance.test_backends import CPU_QUANTS, K_QUANTS, PAGES, QUANTS, forward, loaded, random_ids, random_model
from tests.fakes import make_tensor

FAMILIES = (("Q8_0", "like-gemma"), ("Q4_1", "experts-2-of-5"))
MODELS = (*((quant, "plain") for quant in QUANTS), *((quant, "wide") for quant in K_QUANTS + CPU_QUANTS), *FAMILIES)


def digest() -> str:
    """Of the logits of small models in every weight type, and with what only some families have."""
    total = hashlib.sha256()
    for quant, shape in MODELS:
        checkpoint = random_model(shape, quant, seed=1)
        with loaded("cpu", checkpoint) as backend:
            total.update(forward(backend, (random_ids(checkpoint.config, 21), 0, PAGES)).tobytes())
    return total.hexdigest()


def digest_of_products() -> str:
    """Of products of the types that levels compute each in their own way: odd groups; all tiles, rests and extremes of tokens."""
    total, rng = hashlib.sha256(), np.random.default_rng(2)
    for quant in ("Q8_0", "Q4_0", "Q4_1", *CPU_QUANTS):
        columns = max(160, KINDS[quant].block)
        matrix = pack(make_tensor("w", rng.standard_normal((61, columns)).astype(np.float32), quant), KINDS[quant])
        for tokens in range(1, 14):
            x = rng.choice(np.array([-1, -0.3, 0.01, 1], np.float32), tokens * columns) * np.float32(tokens)
            stride, records, _ = activations(x, tokens, columns, are_quantised=True)
            y = np.zeros((tokens, 64), np.float32)
            run_multiply(matrix, records.ctypes.data, stride, tokens, y.ctypes.data, y.strides[0], 8)
            total.update(y.tobytes())
    return total.hexdigest()


def on_level(level: str, function: str) -> str:
    """What a digest is with the kernels of another level."""
    code = (
        f"from puna.backends.cpu import host; from tests.backends.cpu import test_simd; print(host.LEVEL, test_simd.{function}())"
    )
    env = os.environ | {"PUNA_SIMD": level}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    found, made = done.stdout.split()
    if found != level:
        pytest.skip(f"this CPU has no {level}")
    return made


@pytest.mark.parametrize("level", ["avx2", "avxvnni"])
def test_products_of_older_cpus_have_the_same_bits(level: str) -> None:
    if level == host.LEVEL:
        pytest.skip("it is this CPU's own")
    assert on_level(level, "digest_of_products") == digest_of_products()


@pytest.mark.full
@pytest.mark.parametrize("level", ["avxvnni", "avx2", "portable"])
def test_kernels_of_all_levels_give_the_same_bits(level: str) -> None:
    """Compiled anew once per version, every type: half a minute each. Behind `full` for that."""
    assert on_level(level, "digest") == digest()


def test_a_level_that_the_cpu_lacks_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM would abort the process."""
    monkeypatch.setattr(host, "IS_X86", True)
    monkeypatch.setenv("PUNA_SIMD", "avx512")
    monkeypatch.setattr(host, "CPU_FEATURES", frozenset({"avx2", "fma", "f16c"}))
    assert host._level() == "avx2"
    monkeypatch.setattr(host, "CPU_FEATURES", frozenset({"avx2", "fma", "f16c", "avxvnni"}))
    assert host._level() == "avxvnni"
    monkeypatch.setenv("PUNA_SIMD", "portable")
    assert host._level() == "portable"
    monkeypatch.setattr(host, "IS_X86", False)
    assert host._level() == "portable"


def test_a_level_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_SIMD", "avx1024")
    with pytest.raises(DeviceError, match=f"PUNA_SIMD is 'avx1024'; this CPU has .*{host.LEVEL}"):
        host.require_cpu()
