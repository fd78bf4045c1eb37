"""puna rerank: the documents of flags and of a file, the best first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from puna.llm import LLM
from puna.progress import SILENT
from tests.cli.conftest import Puna
from tests.test_rerank import gguf_that_ranks

ON_REFERENCE = ("--device", "reference")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(gguf_that_ranks(tmp_path_factory.mktemp("rerank") / "m.gguf", "yes", "no"))


def test_documents_of_flags_and_lines_are_sorted(model: str, puna: Puna, tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("he said it was big\n\nlily\n", "utf-8")
    asked = ("rerank", model, "the big day", "--document", "the day", *ON_REFERENCE)
    documents = ["the day", "he said it was big", "lily"]
    with LLM(model, device="reference", report=SILENT) as llm:
        expected = llm.rerank("the big day", documents)
    found = json.loads(puna(*asked, "--documents", str(tmp_path / "d.txt"), "--json").out)["ranked"]
    assert [(one["index"], one["score"]) for one in found] == [(one.index, one.score) for one in expected]
    done = puna(*asked, "--documents", "-", "--top-n", "2", stdin="he said it was big\nlily")
    assert done.out == "".join(f"{one.score:9.4f}  {documents[one.index]}\n" for one in expected[:2])
    assert done.err.splitlines()[-1].startswith("3 documents, ")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("q",), "there are no documents\nGive --document"),
        (("q", "--documents", "no.txt"), "--documents no.txt cannot be read: "),
        (("q", "--document", " "), "document 0 is empty"),
        ((" ", "--document", "a"), "the query is empty"),
        (("q", "--document", "a", "--top-n", "0"), "--top-n is 0; a whole number of at least 1 is needed"),
    ],
)
def test_what_cannot_be_ranked_is_refused(model: str, puna: Puna, words: tuple[str, ...], problem: str) -> None:
    done = puna("rerank", model, *words, *ON_REFERENCE)
    assert done.code == 2 and problem in done.err
