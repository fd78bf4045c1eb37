"""The steps of CONTRIBUTING.md's "Where to add ..." carried out on a copy of the package, and what they add, used.

A `diff` block names its file in a line "--- FILE"; "@@" parts two places. The old lines of a place (those without "+") stand
exactly once in the file, one after the other, and become its new lines (those without "-").
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
BLOCK = re.compile(r"^ *```diff\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


class Change(NamedTuple):
    """One place of a file: consecutive lines, and what they become."""

    file: str
    old: list[str]
    new: list[str]


def changes(section: str) -> Iterator[Change]:
    """The changes that the diff blocks of a section ask for, in their order."""
    for block in BLOCK.findall(section):
        parts = re.split(r"^(--- .*|@@.*)\n", textwrap.dedent(block), flags=re.MULTILINE)
        assert not parts[0], f"a block begins with its file: {block}"
        file = ""
        for head, body in zip(parts[1::2], parts[2::2], strict=True):
            file = head.removeprefix("--- ") if head.startswith("--- ") else file
            lines = body.splitlines()
            assert {line[:1] for line in lines} <= {" ", "+", "-"}, f"{file}: {body}"
            yield Change(file, *([line[1:] for line in lines if line[0] != sign] for sign in "+-"))


def applied(text: str, change: Change) -> str:
    lines, count = text.split("\n"), len(change.old)
    places = [i for i in range(len(lines) - count + 1) if lines[i : i + count] == change.old]
    assert change.old and len(places) == 1, f"found {len(places)} times in {change.file}: {change.old}"
    return "\n".join([*lines[: places[0]], *change.new, *lines[places[0] + count :]])


def section(title: str) -> str:
    return TEXT.partition(f"\n### {title}\n")[2].partition("\n### ")[0]


SECTIONS = ("A sampling filter", "A built-in chat template", "A pre-tokeniser of GGUF files")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as it is after all steps of the text."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "puna", folder / "puna")
    for title in SECTIONS:
        for change in changes(section(title)):
            path = folder / change.file
            path.write_text(applied(path.read_text("utf-8"), change), "utf-8")
    return folder


def run(copy: Path, *arguments: str) -> str:
    """What a Python prints that imports the changed package, and the tests of this folder."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(copy), str(ROOT)]), "PUNA_CACHE": str(copy / "cache")}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=copy, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_section_has_steps_and_every_block_belongs_to_one() -> None:
    numbers = [len(list(changes(section(title)))) for title in SECTIONS]
    assert all(numbers) and sum(len(BLOCK.findall(section(title))) for title in SECTIONS) == len(BLOCK.findall(TEXT))


def test_a_place_that_is_not_in_its_file_or_is_there_twice_is_an_error() -> None:
    for old in (["c"], ["a"]):
        with pytest.raises(AssertionError, match=r"found [02] times in x\.py"):
            applied("a\nb\na\n", Change("x.py", old, ["d"]))
    assert applied("a\nb\na\n", Change("x.py", ["b", "a"], ["b", "x", "a"])) == "a\nb\nx\na\n"


FILTER = """
import doctest, math, sys
from pathlib import Path

import puna.filters
from puna import LLM, SamplingParams
from puna.errors import UsageError
from tests.fakes import SamplingBackend, make_engine, make_plan, run
from tests.models import random_tensors, tiny_config, write_gguf

here = Path(sys.argv[1])
assert Path(puna.__file__).is_relative_to(here)
assert doctest.testmod(puna.filters).failed == 0

config = tiny_config()
llm = LLM(write_gguf(here / "model.gguf", config, random_tensors(config, 1)), device="reference")
asked = dict(max_tokens=20, ignore_eos=True, seed=7)
greedy = llm.generate([4, 5, 6], temperature=0, **asked).token_ids
assert llm.generate([4, 5, 6], temperature=0, epsilon_cutoff=0.5, **asked).token_ids == greedy
assert llm.generate([4, 5, 6], temperature=2, **asked).token_ids != greedy
assert llm.generate([4, 5, 6], temperature=2, epsilon_cutoff=1, **asked).token_ids == greedy  # the most likely token stays


def least(**more):  # the lowest probability of a drawn token
    return min(math.exp(entry.logprob) for entry in llm.generate([4, 5, 6], temperature=1, logprobs=0, **asked, **more).logprobs)


assert least() < 0.004 <= least(epsilon_cutoff=0.004)
try:
    SamplingParams(epsilon_cutoff=1.5)
except UsageError as error:
    print(error)

for given in dict(), dict(epsilon_cutoff=1.0):  # a device that samples has no such filter: it computes logits instead
    backend = SamplingBackend(make_plan())
    engine = make_engine(backend)
    asked = [engine.add([1, 2, 3], SamplingParams(max_tokens=9, seed=1, **more)) for more in (dict(temperature=9.0) | given, {})]
    run(engine)
    drawn, likely = (request.output_ids for request in asked)
    assert (drawn == likely) == bool(given) and (backend.most_in_flight == 2) == (not given), (given, drawn, likely)
print("used")
"""


def test_the_steps_for_a_sampling_filter_add_one_that_host_and_device_obey(copy: Path) -> None:
    assert run(copy, "-c", FILTER, str(copy)) == "epsilon_cutoff is 1.5; a finite number in 0.0..1.0 is needed\nused\n"


def test_the_steps_for_a_flag_add_it_to_the_help(copy: Path) -> None:
    out = run(copy, "-m", "puna", "run", "--help")
    assert re.search(r"^  --epsilon-cutoff P +Drop tokens below the probability P \[0: off\]\.$", out, re.MULTILINE)
    assert "chatml or zephyr" in out and max(map(len, out.splitlines())) <= 80


TEMPLATE = """
import sys
from pathlib import Path

import puna
from puna.chat import encode_chat
from puna.formats import open_checkpoint
from puna.tokenizers import build_tokenizer
from tests.models import random_tensors, spm_tokenizer, tiny_config, write_gguf

here = Path(sys.argv[1])
assert Path(puna.__file__).is_relative_to(here)
config = tiny_config()
path = write_gguf(here / "spm.gguf", config, random_tensors(config, 1), "F32", spm_tokenizer())
tokenizer = build_tokenizer(open_checkpoint(path).tokenizer)
messages = [dict(role="system", content="be big"), dict(role="user", content="was it </s> lily?")]
ids = encode_chat(messages, tokenizer, "zephyr")
assert ids[0] == tokenizer.bos_id and ids.count(2) == 2  # what a person typed is no end
print(tokenizer.decode(ids[1:], skip_special=False))
"""


def test_the_steps_for_a_chat_template_add_one_that_encodes_a_conversation(copy: Path) -> None:
    """SentencePiece puts its space before what follows a control token."""
    expected = "<|system|>\nbe big</s> \n<|user|>\nwas it </s> lily?</s> \n<|assistant|>\n\n"
    assert run(copy, "-c", TEMPLATE, str(copy)) == expected


PRE_TOKENIZER = """
import sys
from dataclasses import replace
from pathlib import Path

import puna
from puna.formats import open_checkpoint
from puna.tokenizers import build_tokenizer
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf

here = Path(sys.argv[1])
assert Path(puna.__file__).is_relative_to(here)
config, plain = tiny_config(vocab_size=500), bpe_tokenizer(500)
for pre in ("gpt-2", "my-model", "my-model-2"):
    made = replace(plain, pre=pre, tokens=[*plain.tokens[:-2], b"12", b"123"], types=[*plain.types[:-2], 1, 1])
    made.merges = [*plain.merges, b"1 2", b"12 3"]
    path = write_gguf(here / "bpe.gguf", config, random_tensors(config, 1), "F32", made)
    tokenizer = build_tokenizer(open_checkpoint(path).tokenizer)
    print(pre, [tokenizer.piece(i) for i in tokenizer.encode("12312")])
"""


def test_the_steps_for_a_pre_tokeniser_add_one_that_a_gguf_file_can_name(copy: Path) -> None:
    assert run(copy, "-c", PRE_TOKENIZER, str(copy)).splitlines() == [
        "gpt-2 ['123', '12']",
        "my-model ['12', '3', '1', '2']",
        "my-model-2 ['12', '3', '1', '2']",
    ]
