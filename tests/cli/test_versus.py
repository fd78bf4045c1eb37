"""puna bench --vs: which programs it takes, what it says of the others, its table and its JSON, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from puna.cli.width import display_width
from puna.peers import PEERS
from tests.cli.conftest import Puna
from tests.machine.test_children import is_gone
from tests.peers.conftest import fake_llama_cpp as fake_llama_cpp  # a fixture
from tests.peers.conftest import tiny_gguf as tiny_gguf  # a fixture

BRIEF = ("--device", "reference", "--repeat", "2", "--prompt-tokens", "4", "--decode-tokens", "2", "--depth", "8")


def test_each_measure_has_both_rates_and_their_ratio(fake_llama_cpp: Path, tiny_gguf: Path, puna: Puna) -> None:
    done = puna("bench", str(tiny_gguf), "--vs", "llama.cpp,ctranslate2", *BRIEF)
    assert done.code == 0, done.err
    assert max(map(display_width, done.out.splitlines()[1:])) <= 80
    for words in (
        "llama.cpp 0.0.1, weights: the file's types",
        "prompt     4 tokens",
        "answer     2 tokens",
        "answer    64 after",
    ):
        assert words in done.out
    assert "the machine, before and after: " in done.out and "Medians of 2 pairs" in done.out
    problem = next(line for line in done.err.splitlines() if line.startswith("puna: ctranslate2: "))
    assert problem.removeprefix("puna: ") in " ".join(done.out.split()) and "pip install ctranslate2" in problem


def test_a_line_of_json_has_everything(fake_llama_cpp: Path, tiny_gguf: Path, puna: Puna) -> None:
    facts = json.loads(puna("bench", str(tiny_gguf), "--vs", "llama.cpp", "--json", *BRIEF).out)
    (peer,) = facts["peers"]
    assert (peer["name"], peer["version"], facts["computes"], facts["pairs"], facts["problems"]) == (
        "llama.cpp", "0.0.1", "F32", 2, {})  # fmt: skip
    assert facts["device"]["threads"] >= 1 and facts["threads"] is None and facts["version"] and peer["model"] == str(tiny_gguf)
    assert [row["test"] for row in peer["tests"]] == ["pp4", "tg2", "tg64 @ d8"]
    assert all(len(row["pairs"]) == 2 and row["min"] <= row["ratio"] <= row["max"] for row in peer["tests"])
    assert peer["limits_before"].keys() == peer["limits_after"].keys()


def test_one_that_cannot_load_the_model_does_not_stop_the_others(
    fake_llama_cpp: Path, tiny_gguf: Path, puna: Puna, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PROBLEM", "unknown model architecture")
    done = puna("bench", str(tiny_gguf), "--vs", "llama.cpp", *BRIEF)
    assert done.code == 1 and "puna: llama.cpp: ValueError: unknown model architecture\n" in done.err
    assert "none of the programs of --vs could run" in done.err


@pytest.mark.parametrize(
    ("flags", "said", "hint"),
    [
        (("--vs", "lama.cpp"), f"--vs names 'lama.cpp'; it takes {', '.join(PEERS)}, all", "Did you mean llama.cpp?"),
        (("--vs", "vllm", "--peer-python", "sglang=/python"), "--peer-python names 'sglang'", ""),
        (("--vs", "vllm", "--peer-python", "llama.cpp=/python"), "which --vs does not", "Add it: --vs vllm,llama.cpp"),
        (("--vs", "vllm", "--peer-model", "/folder"), "write NAME=PATH", "For example: vllm=/folder"),
        (("--vs", "vllm", "--peer-model", "vllm=/no/such"), "there is no such file or folder", "Check the path."),
    ],
)
def test_a_wrong_flag_is_refused_with_what_is_allowed(puna: Puna, flags: tuple[str, ...], said: str, hint: str) -> None:
    done = puna("bench", *flags)
    assert done.code == 2 and said in done.err and hint in done.err and "Traceback" not in done.err


def test_if_none_is_installed_each_has_its_command_and_no_model_is_loaded(puna: Puna) -> None:
    done = puna("bench", "no-such.gguf", "--vs", "vllm,llama.cpp", "--peer-python", "no-such-python")
    assert done.code == 1 and done.err.count("no-such-python is no Python of 3.11 or newer") == 2
    assert "none of the programs of --vs is installed" in done.err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_other_program_too(
    fake_llama_cpp: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
) -> None:
    monkeypatch.setenv("FAKE_NEVER_ENDS", str(tmp_path / "pid"))
    command = [sys.executable, "-m", "puna", "bench", str(tiny_gguf), "--vs", "llama.cpp", *BRIEF]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()):
            assert process.poll() is None and time.monotonic() < until, process.communicate()
            time.sleep(0.02)
        process.send_signal(number)
        process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 128 + number and is_gone(int((tmp_path / "pid").read_text()))
