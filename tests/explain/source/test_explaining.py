"""What of a file is taken apart: all of a small one, the outline of a long one, and what a name asks for."""

from __future__ import annotations

import pytest

from puna.explain.source import explaining
from puna.explain.source.explained import ExplainedSource
from puna.explain.source.reading import source_of
from tests.explain.source.tracer.toy import ToyModel

LOOPS = """import torch
LIMIT = 3
class Sampler:
    kind = "s"
    def draw(self, probs):
        return torch.multinomial(top(probs), LIMIT)
    def other(self):
        pass
def top(probs):
    return probs.masked_fill(probs < 0.01, 0.0)
def again(probs):
    def inner(x):
        return torch.multinomial(x, 1)
    return inner(probs)
"""


def explained(text: str, symbol: str | None = None, *, whole: bool = False) -> ExplainedSource:
    return explaining.explain_text(source_of(text, "t.py"), symbol, ToyModel, whole=whole)


def test_a_small_file_is_taken_apart_whole() -> None:
    report = explained(LOOPS)
    assert [part.name for part in report.parts] == ["", "Sampler", "Sampler.draw", "Sampler.other", "top", "again"]
    assert [part.name for part in report.parts if part.run] == ["Sampler.draw", "again"] and report.model == "toy"
    assert [row.name for row in report.outline] == [*(part.name for part in report.parts[1:]), "again.inner"]


def test_a_name_brings_the_functions_that_its_run_went_through() -> None:
    report = explained(LOOPS, "draw")
    assert [part.name for part in report.parts] == ["Sampler.draw", "top"]
    (block,) = report.parts[1].blocks
    assert block.names[0].name == "return" and block.names[0].value is not None and block.names[0].value.shape == (2, 40)
    assert [part.name for part in explained(LOOPS, "again").parts] == ["again"]


def test_a_class_brings_its_methods_unless_it_is_long() -> None:
    assert [part.name for part in explained(LOOPS, "Sampler").parts][:3] == ["Sampler", "Sampler.draw", "top"]
    long = LOOPS.replace('    kind = "s"\n', '    kind = "s"\n' * 500)
    assert [part.name for part in explained(long, "Sampler").parts] == ["Sampler"]
    assert "Sampler.other" in [part.name for part in explained(long, "Sampler", whole=True).parts]


def test_without_a_model_nothing_is_run() -> None:
    report = explaining.explain_text(source_of(LOOPS, "t.py"), None, lambda: None)
    assert report.model is None and not any(part.run for part in report.parts)
    assert not any("left out" in note for part in report.parts for note in part.notes)


def test_loops_share_a_limit_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "MAX_RUNS_S", -1.0)
    first, second = (part for part in explained(LOOPS).parts if part.loop)
    assert first.run is not None and second.run is None
    assert second.notes == ["Its values are left out: the loops before it took too long."]


def test_of_a_broken_file_what_can_be_read_is_taken_apart() -> None:
    report = explained(LOOPS + "def broken(:\n    pass\n")
    assert report.problem is not None and report.problem.line == 15 and len(report.parts) == 6
