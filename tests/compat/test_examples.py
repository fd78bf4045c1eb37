"""The examples and the module, started with python, with torchrun and as forked ranks (`tests.forked`), without a GPU."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import ForkServer, environment
from tests.models import random_tensors, tiny_config, write_llama2c

ROOT = Path(__file__).parents[2]
CONFIG = tiny_config(num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, hidden_size=16, ffn_size=24, max_context=512)
PYTHON, TORCHRUN = [sys.executable], [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node"]
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torchrun comes with torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    write_llama2c(path / "model.bin", CONFIG, random_tensors(CONFIG, seed=5))
    return path


def start(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    words, variables = [str(word) for word in command], environment() | {"PYTHONWARNINGS": "default"}
    return subprocess.run(words, env=variables, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


EXAMPLES = [
    pytest.param(PYTHON, "text_completion.py", 4, 128, id="text_completion.py"),
    pytest.param(PYTHON, "chat_completion.py", 4, 512, id="chat_completion.py"),
    pytest.param([*TORCHRUN, "1"], "text_completion.py", 4, 128, id="torchrun", marks=needs_torch),
]


@pytest.mark.parametrize(("by", "example", "num_answers", "length"), EXAMPLES)
def test_an_example_answers_all_its_prompts(by: list[str], example: str, num_answers: int, length: int, folder: Path) -> None:
    flags: list[str | Path] = ["--ckpt_dir", folder, "--tokenizer_path", folder / "tokenizer.bin", "--max_seq_len", str(length)]
    done = start(*by, ROOT / "examples" / example, *flags, "--max_batch_size=4", "--max_gen_len=3")
    assert done.returncode == 0, done.stderr
    assert re.match(r"Loaded in \d+\.\d\d seconds\n", done.stdout)
    assert done.stdout.count("\n==================================\n") == num_answers
    assert len(re.findall(r"^> ", done.stdout, re.MULTILINE)) == num_answers


@pytest.mark.parametrize("example", ["text_completion.py", "chat_completion.py"])
def test_two_processes_share_a_model_and_one_of_them_speaks(
    example: str, folder: Path, fork_server: ForkServer, tmp_path: Path
) -> None:
    words = [str(ROOT / "examples" / example), "--ckpt_dir", str(folder), "--temperature", "0", "--max_gen_len", "8"]
    alone, shared = start(*PYTHON, *words), fork_server.run(2, words, tmp_path)
    assert (alone.returncode, shared.returncode) == (0, 0), shared.stderr
    assert shared.stdout.partition("\n")[2] == alone.stdout.partition("\n")[2], "but for the time of loading"


def test_a_number_of_processes_that_does_not_divide_the_heads_is_refused_with_those_that_do(
    folder: Path, fork_server: ForkServer, tmp_path: Path
) -> None:
    done = fork_server.run(3, [str(ROOT / "examples/text_completion.py"), "--ckpt_dir", str(folder)], tmp_path)
    assert done.returncode != 0 and "cannot be split in 3 parts: it has 2 heads" in done.stderr and "1, 2." in done.stderr


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        ([], 2, "--ckpt_dir is missing"),
        (["--ckpt_dir", "/nowhere"], None, "no checkpoint files found in /nowhere"),
        (["--ckpt_dir", "x", "--warmth", "1"], 2, "there is no flag --warmth"),
        (["--ckpt_dir", "x", "--top_p", "much"], 2, "--top_p is 'much'; a number is needed"),
        (["--ckpt_dir", "x", "--max_gen_len"], 2, "--max_gen_len needs a value"),
        (["--help"], 0, "--max_seq_len"),
    ],
)
def test_flags_that_cannot_be_are_told(flags: list[str], code: int | None, words: str) -> None:
    done = start(*PYTHON, ROOT / "examples/text_completion.py", *flags)
    assert words in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert done.returncode == code if code is not None else done.returncode > 0


def test_llama2c_is_a_program(folder: Path) -> None:
    done = start(*PYTHON, "-m", "puna.compat.llama2c", "model.bin", "-t", "0", "-n", "5", "-i", "hi", cwd=folder)
    assert done.returncode == 0 and done.stdout.startswith("hi") and done.stderr.startswith("achieved tok/s: ")
    assert start(*PYTHON, "-m", "puna.compat.llama2c").returncode == 1


def test_llama2c_ends_quietly_where_nobody_reads(folder: Path) -> None:
    command = f"{sys.executable} -m puna.compat.llama2c model.bin -n 500 | head -c 1"
    done = start("bash", "-c", command, cwd=folder)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize("redirection", ["> /dev/full", ">&-", "<&-", "2>&-"])
def test_llama2c_has_words_for_streams_that_cannot_be_used(redirection: str, folder: Path) -> None:
    for mode in ("generate", "chat"):
        command = f"{sys.executable} -m puna.compat.llama2c model.bin -n 4 -m {mode} -i hi {redirection}"
        done = start("bash", "-c", command, cwd=folder)
        assert "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr


def test_llama2c_has_a_help(folder: Path) -> None:
    done = start(*PYTHON, "-m", "puna.compat.llama2c", "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: ")
