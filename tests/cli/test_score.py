"""puna score: the figures of LLM.score, in the order given."""

from __future__ import annotations

import json

import pytest

from puna.llm import LLM
from puna.progress import SILENT
from tests.cli.conftest import Puna
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf

ON_REFERENCE = ("--device", "reference")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = tiny_config()
    path = tmp_path_factory.mktemp("score") / "m.gguf"
    return str(write_gguf(path, config, random_tensors(config, 1), "F32", bpe_tokenizer(config.vocab_size)))


def test_each_option_has_its_scores(model: str, puna: Puna) -> None:
    options = [" day", ' he said "no"']
    asked = ("score", model, "the big", *(word for text in options for word in ("--option", text)), *ON_REFERENCE)
    done, found = puna(*asked), json.loads(puna(*asked, "--json").out)["options"]
    with LLM(model, device="reference", report=SILENT) as llm:
        expected = llm.score("the big", options)
    assert [one["logprob"] for one in found] == [one.logprob for one in expected]
    assert [one["text"] for one in found] == options and [len(one["token_ids"]) for one in found] == [
        len(one.token_ids) for one in expected
    ]
    _, *lines = done.out.splitlines()
    assert [line.split()[0] for line in lines] == [f"{one.logprob:.4f}" for one in expected]
    assert lines[1].endswith(json.dumps(options[1])) and "2 options, " in done.err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("hi",), "there are no options to score\nGive --option"),
        (("hi", "--option", ""), "option 0 adds no token to the prompt"),
        ((), "the prompt of the options is missing"),
    ],
)
def test_what_cannot_be_scored_is_refused(model: str, puna: Puna, words: tuple[str, ...], problem: str) -> None:
    done = puna("score", model, *words, *ON_REFERENCE) if words else puna("score", "--option", "a")
    assert done.code == 2 and problem in done.err
