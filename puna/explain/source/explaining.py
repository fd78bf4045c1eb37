"""From a file and a name to the whole report: what to take apart, and which loops to run on a model."""

from __future__ import annotations

import ast
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from puna.errors import PunaError
from puna.explain.source.explained import Dissection, ExplainedSource, SourcePart
from puna.explain.source.reading import SourceText, read_source
from puna.explain.source.symbols import Definition, find
from puna.explain.source.tracer.values import LanguageModel
from puna.explain.source.tracing import SourceRun, run_both_ways

SMALL = 250  # lines; of a longer file, without a name, puna shows the outline
MAX_RUNS_S = 60.0  # for all loops of a file together; each has its own limit, too
LONGEST_CLASS = 400  # lines; of a longer class, its methods are only named

ModelLoader = Callable[[], LanguageModel | None]  # None: there is no model, so nothing is run


def explain_file(path: Path, symbol: str | None, load: ModelLoader | None, *, whole: bool = False) -> ExplainedSource:
    """Take a file apart, or a function of it. `load` gives the model for its loops; None: no loop is run.

    whole: all functions of a long file, too. PunaError for what cannot be read, or a name that is not there.
    """
    return explain_text(read_source(path), symbol, load, whole=whole)


def explain_text(source: SourceText, symbol: str | None, load: ModelLoader | None, *, whole: bool = False) -> ExplainedSource:
    """The same for a text that is read already."""
    file = Dissection(source)
    report = ExplainedSource(source.name, symbol, len(source.lines), file.outline(), problem=source.problem)
    wanted = _wanted(file, symbol, whole)
    runner = _Runner(file, load, report)
    if symbol is None and (wanted or not file.definitions) and (own := file.file_part()) is not None:
        report.parts.append(own)
    for definition in wanted:
        run = runner.run(definition)
        part = file.part(definition, run)
        if part.loop is not None and run is None and report.model is not None:
            part.notes.append("Its values are left out: the loops before it took too long.")
        report.parts.append(part)
        if symbol is not None and run is not None:
            shown = {one.name for one in wanted} | {one.name for one in report.parts}
            report.parts += (one for one in _helpers(file, definition, run) if one.name not in shown)
    return report


def _wanted(file: Dissection, symbol: str | None, whole: bool) -> list[Definition]:
    """The definitions to take apart."""
    top = [one for one in file.definitions if _is_outer(one)]
    if symbol is None:
        return top if whole or len(file.source.lines) <= SMALL else []
    try:
        found = find(file.definitions, symbol, file.source.name)
    except PunaError as error:
        problem = file.source.problem
        if problem is not None:
            error.give_hint(f"{file.source.name} is readable only up to line {problem.read_to}: {problem.cause}.")
        raise
    return [one for definition in found for one in _with_methods(file, definition, whole)]


def _is_outer(definition: Definition) -> bool:
    """Whether a definition is a part of its own: functions inside functions are told where they stand."""
    return definition.owner is not None or "." not in definition.name


def _with_methods(file: Dissection, definition: Definition, whole: bool) -> Iterator[Definition]:
    yield definition
    length = (definition.node.end_lineno or 0) - definition.first_line
    if definition.kind == "class" and (whole or length <= LONGEST_CLASS):
        yield from (one for one in file.definitions if one.owner is definition.node and one.kind == "method")


def _helpers(file: Dissection, definition: Definition, run: SourceRun) -> Iterator[SourcePart]:
    """The functions of the file that a run went through, with what they did in it."""
    lines = {position[0] for position in run.records}
    for one in file.definitions:
        first, last = one.first_line, one.node.end_lineno or one.node.lineno
        inside = definition.first_line <= first and last <= (definition.node.end_lineno or 0)
        if one.kind != "class" and not inside and any(first <= line <= last for line in lines):
            yield file.part(one, run)


class _Runner:
    """Runs the loops of a file, and loads the model before the first one."""

    def __init__(self, file: Dissection, load: ModelLoader | None, report: ExplainedSource) -> None:
        self._file, self._load, self._report = file, load, report
        self._model: LanguageModel | None = None
        self._ends = math.inf  # known when the model is loaded

    def run(self, definition: Definition) -> SourceRun | None:
        """A loop's run; None for what is no loop, without a model, and if the loops before took too long."""
        loop = self._file.loop_of(definition)
        if loop is None or self._load is None or time.monotonic() > self._ends:
            return None
        if self._model is None and (model := self._load()) is not None:
            self._model, self._report.model = model, model.name
            self._ends = time.monotonic() + MAX_RUNS_S
        if self._model is None:
            self._load = None
            return None
        assert isinstance(definition.node, ast.FunctionDef)
        return run_both_ways(definition.name, definition.node, loop, self._file.scope(definition), self._model)
