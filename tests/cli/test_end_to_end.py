"""The commands with real models, each in a process of its own, as a person runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STORIES = Path(os.environ.get("PUNA_TEST_DATA", Path(__file__).parents[2] / "../shared/data")) / "stories260K"
# What llama2.c's run prints for `-t 0 -n 200`.
STORY = """\
Once upon a time, there was a little girl named Lily. She loved to play outside in the park. \
One day, she saw a big, red ball. She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. \
She said, "I want to play with your ball, but I can't find it."
Lily was sad and didn't know what to do. She said, "I'm sorry, Lily. I didn't know what to do."
Lily didn't want to help her mom, so she"""


def puna(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "puna", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False)


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize("name", ["stories260K.bin", "stories260K_v1.bin"])
def test_the_story_of_llama2c_is_told_word_for_word(name: str, device: str) -> None:
    if not (STORIES / name).exists():
        pytest.skip(f"{STORIES / name} is not there; PUNA_TEST_DATA names the folder of test data")
    arguments = ["--tokenizer", str(STORIES / "tok512.bin")]
    done = puna("run", str(STORIES / name), "--temperature", "0", "--raw", "", "-n", "200", "--device", device, *arguments)
    assert (done.returncode, done.stdout) == (0, STORY + "\n"), done.stderr


@pytest.mark.usefixtures("default_model")
def test_the_default_model_knows_the_capital_of_peru() -> None:
    done = puna("run", "What is the capital of Peru?", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert "Lima" in facts["text"] and facts["finish_reason"] == "stop"
    assert facts["stats"]["output_tokens"] == len(facts["token_ids"])


@pytest.mark.usefixtures("default_model")
def test_the_second_turn_of_a_conversation_goes_on_from_the_first() -> None:
    done = puna("chat", "--json", "-n", "20", stdin="What is the capital of Peru?\nAnd of Chile?\n")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert [m["role"] for m in facts["messages"]] == ["user", "assistant"] * 2
    assert facts["turns"][1]["cached_tokens"] > 0


@pytest.mark.usefixtures("default_model")
def test_the_default_model_is_inspected() -> None:
    facts = json.loads(puna("inspect", "--json", "--tensors").stdout)
    assert facts["config"]["num_layers"] == 30 and len(facts["tensors"]) == 272
    assert facts["tensor_types"]["Q4_1"]["tensors"] == 210
    text = puna("inspect").stdout
    assert "134.5 M parameters" in " ".join(text.split()) and "byte-level BPE" in text


@pytest.mark.usefixtures("default_model")
def test_control_tokens_in_a_text_are_text_unless_asked() -> None:
    plain, special = (json.loads(puna("tokenize", "a<|im_end|>", "--json", *flags).stdout) for flags in ((), ("--special",)))
    assert 2 not in plain["ids"] and special["ids"][-1] == 2
    assert b"".join(map(bytes.fromhex, plain["bytes"])) == b"a<|im_end|>"


@pytest.mark.usefixtures("default_model")
def test_a_model_that_is_here_is_verified() -> None:
    """While another thread begins to compile: both import puna's packages."""
    done = subprocess.run([sys.executable, "-m", "puna", "pull", "smollm2-135m"], capture_output=True, text=True, timeout=60)
    told = set(done.stderr.splitlines()) - {"puna: checking ..."}  # which is said where it takes long
    assert done.returncode == 0 and not told, done.stderr
