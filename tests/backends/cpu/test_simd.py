"""The kernels of other CPUs, run on this one: plain LLVM vectors give the same bits as x86's own instructions."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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


EVERY_FORM = ("Q8_0", "Q4_1", "Q5_K", "Q6_K", "Q2_K")  # signed; with a minimum; with a zero; with runs; with minimums of runs


def digest_of_products(quants: Sequence[str] = EVERY_FORM) -> str:
    """Of products of types that levels compute each in their own way: odd groups; all tiles, rests and extremes of tokens."""
    total, rng = hashlib.sha256(), np.random.default_rng(2)
    for quant in quants:
        matrix = pack(make_tensor("w", rng.standard_normal((61, 256)).astype(np.float32), quant), KINDS[quant])
        for tokens in (*range(1, 14), 50):
            x = rng.choice(np.array([-1, -0.3, 0.01, 1], np.float32), tokens * 256) * np.float32(tokens)
            stride, records, _ = activations(x, tokens, 256, are_quantised=True)
            y = np.zeros((tokens, 64), np.float32)
            run_multiply(matrix, records.ctypes.data, stride, tokens, y.ctypes.data, y.strides[0], 8)
            total.update(y.tobytes())
    return total.hexdigest()


def printed(code: str, **env: str) -> str:
    """What a program prints that has `host` and this module."""
    start = "from puna.backends.cpu import host; "
    done = subprocess.run([sys.executable, "-c", start + code], env=os.environ | env, capture_output=True, text=True, check=True)
    return done.stdout


def on_level(level: str, function: str) -> str:
    """What a digest is with the kernels of another level."""
    code = f"from tests.backends.cpu import test_simd; print(host.LEVEL, test_simd.{function}())"
    found, made = printed(code, PUNA_SIMD=level).split()
    if found != level:
        pytest.skip(f"this CPU has no {level}")
    return made


def emulated(level: str, cache: Path) -> str:
    """The digest of products with a level whose products of bytes are made by plain vectors. So any CPU can run it."""
    code = (
        f"host.LEVEL, host.EMULATES, host.PORTABLE = {level!r}, True, True; "
        "from tests.backends.cpu import test_simd; print(test_simd.digest_of_products())"
    )
    return printed(code, PUNA_CACHE=str(cache)).strip()


@pytest.mark.parametrize("level", ["avx2", "avxvnni"])
def test_products_of_older_cpus_have_the_same_bits(level: str) -> None:
    if level == host.LEVEL:
        pytest.skip("it is this CPU's own")
    assert on_level(level, "digest_of_products") == digest_of_products()


@pytest.mark.parametrize("level", ["avx512", pytest.param("avxvnni", marks=pytest.mark.full), "dotprod"])
def test_products_of_other_cpus_have_the_same_bits(level: str, tmp_path: Path) -> None:
    """All but the one instruction is what those CPUs run: tiles, panels, what a sum begins with, and how it ends."""
    assert emulated(level, tmp_path) == digest_of_products()


INSTRUCTIONS = {  # that products of bytes use
    "avx512": r"vpdpbusd\s.*%zmm",
    "avxvnni": r"\{vex\}\s+vpdpbusd\s.*%ymm",
    "avx2": r"vpmaddubsw\s.*%ymm",
    "dotprod": r"sdot\s+v\d+\.4s, v\d+\.16b, v\d+\.16b",
    "portable": r"s?mull?2?\s+v\d+\.8h",
}


@pytest.mark.parametrize("level", INSTRUCTIONS)
def test_products_compile_for_their_cpu(level: str) -> None:
    """Machine code is made, not run."""
    command = [sys.executable, "-m", "scripts.assembly", "multiply_q8_0", "--level", level]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(INSTRUCTIONS[level], done.stdout)


@pytest.mark.full
@pytest.mark.parametrize("level", ["avxvnni", "avx2", "portable"])
def test_kernels_of_all_levels_give_the_same_bits(level: str) -> None:
    """Compiled anew once per version, every type: half a minute each. Behind `full` for that."""
    assert on_level(level, "digest") == digest()


def test_a_level_that_the_cpu_lacks_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM would abort the process."""
    monkeypatch.setenv("PUNA_SIMD", "avx512")
    monkeypatch.setattr(host, "CPU_FEATURES", frozenset({"avx2", "fma", "f16c"}))
    assert host._level() == "avx2"
    monkeypatch.setattr(host, "CPU_FEATURES", frozenset({"avx2", "fma", "f16c", "avxvnni"}))
    assert host._level() == "avxvnni"
    monkeypatch.setenv("PUNA_SIMD", "portable")
    assert host._level() == "portable"


def test_cpus_that_are_not_x86_have_levels_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUNA_SIMD", raising=False)
    monkeypatch.setattr(host, "CPU_FEATURES", frozenset({"neon", "dotprod", "i8mm"}))
    assert host._level() == "dotprod"
    monkeypatch.setattr(host, "CPU_FEATURES", frozenset({"neon"}))
    assert host._level() == "portable"


def test_a_level_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_SIMD", "avx1024")
    with pytest.raises(DeviceError, match=f"PUNA_SIMD is 'avx1024'; this CPU has .*{host.LEVEL}"):
        host.require_cpu()
