"""The plan against what loading takes: every format and type on the CPU, K and V when they are full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from puna.convert import convert
from puna.model.rope import RopeConfig
from puna.model.spec import plain_model
from puna.model.weights import tensor_shapes
from tests.models import random_tensors, spm_tokenizer, write_gguf

MIB = 1 << 20
SHARE = 0.03
BESIDE = 64 * MIB  # the bar, of the whole process
OWN = 12 * MIB  # what loading itself may take beside the weights: stacks of threads, tables, what LLVM keeps

VOCAB = 2048
CONFIG = plain_model(4, 8, 4, 64, 512, 1536, VOCAB, 4096, norm_eps=1e-5, rope=RopeConfig(theta=10000.0), name="middling")
WIDE_KV = plain_model(16, 64, 64, 128, 32, 32, VOCAB, 512, norm_eps=1e-5, rope=RopeConfig(theta=10000.0), name="wide")
TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q4_k", "q6_k")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a process's own memory is read from /proc")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("middling") / "f32.gguf"
    write_gguf(path, CONFIG, random_tensors(CONFIG, 1), "F32", spm_tokenizer(VOCAB))
    measured("cpu", str(path))  # compiles the kernels, if that was not done yet: the compiler stays in the process that called it
    return path


def measured(device: str, *arguments: str) -> list[dict[str, int]]:
    command = [sys.executable, "-m", "tests.machine.resident", device, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def require_near(facts: dict[str, int], what: str) -> None:
    off = facts["actual"] - facts["predicted"]
    assert abs(off) <= SHARE * facts["predicted"] + OWN, f"{what}: {facts}"
    off = facts["process"] - facts["process_predicted"]
    assert abs(off) <= SHARE * facts["process_predicted"] + BESIDE, f"{what}: {facts}"


def test_every_type_takes_what_was_planned(source: Path, tmp_path: Path) -> None:
    for kind in TYPES:
        path = tmp_path / f"{kind}.gguf"
        convert(source, path, to="gguf", quantize=kind)
        (facts,) = measured("cpu", str(path))
        require_near(facts, kind)


@pytest.mark.parametrize("to", ["safetensors", "meta", "llama2c"])
def test_every_format_takes_what_was_planned(source: Path, tmp_path: Path, to: str) -> None:
    path = tmp_path / to
    convert(source, path, to=to)
    (facts,) = measured("cpu", str(path))
    require_near(facts, to)


@pytest.mark.parametrize("device", ["torch", "reference"])  # reference reads F32 where the file is mapped, so it gets F16
def test_the_other_backends_take_what_was_planned(source: Path, tmp_path: Path, device: str) -> None:
    path = tmp_path / "f16.gguf"
    convert(source, path, to="gguf", quantize="f16")
    (facts,) = measured(device, str(path))
    assert abs(facts["actual"] - facts["predicted"]) <= SHARE * facts["predicted"] + OWN, facts


def test_k_and_v_take_what_was_planned(tmp_path: Path) -> None:
    nothing = {name: np.zeros(shape, np.float32) for name, shape in tensor_shapes(WIDE_KV).items()}
    path = write_gguf(tmp_path / "wide.gguf", WIDE_KV, nothing, "F16", spm_tokenizer(VOCAB))
    (facts,) = measured("cpu", "--fill", "--f32", str(path))
    assert facts["kv_predicted"] == 256 * MIB
    assert facts["kv_actual"] == pytest.approx(facts["kv_predicted"], rel=0.01), facts
