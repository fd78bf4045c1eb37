"""docs/how-generate-works.md: each step names functions that exist, and its lines of Python give what stands there."""

from __future__ import annotations

import ast
import doctest
import re
from pathlib import Path

import pytest

from puna import hub
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "how-generate-works.md").read_text("utf-8")
STEPS = re.split(r"^## (?=\d+\. )", TEXT, flags=re.MULTILINE)[1:]
TITLES = [step.partition("\n")[0] for step in STEPS]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PYTHON = "".join(text for language, text in BLOCKS if language == "python")
PLACES = re.compile(r"`(puna/[\w/]+\.py)`: ((?:`[\w.]+`(?:,\s+)?)+)")


def defined_in(file: str) -> set[str]:
    """The functions and classes of a file; a method as Class.method."""
    nodes = ast.parse((ROOT / file).read_text("utf-8")).body
    names = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return names | {
        f"{owner.name}.{node.name}"
        for owner in nodes
        if isinstance(owner, ast.ClassDef)
        for node in owner.body
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("step", STEPS, ids=TITLES)
def test_a_step_names_functions_that_exist_and_shows_its_work(step: str) -> None:
    where, _, rest = step.partition("\nWhere: ")[2].partition("\n\n")
    places = PLACES.findall(where)
    assert places and len(places) == where.count("puna/")
    for file, names in places:
        assert set(re.findall(r"`([\w.]+)`", names)) <= defined_in(file), file
    assert "```python" in rest or "```sh" in rest


def test_the_steps_are_in_the_order_of_the_data() -> None:
    words = ("messages", "tokens", "request", "prefill", "logits", "sampling", "decode", "text", "end", "one call")
    assert [word in title.lower() for word, title in zip(words, TITLES, strict=True)] == [True] * len(words)
    assert [int(title.partition(".")[0]) for title in TITLES] == list(range(1, len(TITLES) + 1))


def test_every_function_beside_metas_is_named_in_its_step() -> None:
    rows = [line.strip("| ").split(" | ") for line in TEXT.partition("## Beside")[2].splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 6
    for _, ours, number in rows:
        steps = "".join(STEPS[int(n) - 1] for n in number.split(", "))
        assert all(re.search(rf"[`.]{name}\b", steps) for name in re.findall(r"`([\w.]+)`", ours)), ours


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path, flags: int = 0) -> str:
    """The report of all lines of Python, with `model` as the default model; "" if they give what stands there."""
    monkeypatch.setattr(hub, "resolve", lambda *_: model)
    monkeypatch.setattr(hub, "types_to_fetch", lambda *_: ())
    test = doctest.DocTestParser().get_doctest(PYTHON, {}, "how-generate-works", None, None)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=flags).run(test, out=said.append)
    return "".join(said)


def test_the_lines_of_python_give_what_stands_there(default_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, monkeypatch, default_model) == ""


class AnyOutput(doctest.OutputChecker):
    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return True


def test_they_run_on_any_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they give: the default model is not everywhere."""
    config = tiny_config(max_context=128)
    write_gguf(tmp_path / "model.gguf", config, random_tensors(config, 1), "F32", bpe_tokenizer())
    monkeypatch.setenv("PUNA_DEVICE", "reference")
    monkeypatch.setattr(doctest, "OutputChecker", AnyOutput)
    assert run(tmp_path, monkeypatch, tmp_path / "model.gguf") == ""


def test_the_readme_links_the_page_and_the_page_the_glossary() -> None:
    assert "(docs/how-generate-works.md)" in (ROOT / "README.md").read_text("utf-8") and "(glossary.md)" in TEXT


def test_the_page_is_calm() -> None:
    assert "!" not in TEXT
