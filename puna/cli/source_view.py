"""A source taken apart, for a terminal: block by block, the lines, what they do, what they set, in a width of cells."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from puna.cli.width import cut, display_width, pad
from puna.cli.word_wrap import KEPT, wrapped
from puna.progress import printable
from puna.units import counted

if TYPE_CHECKING:
    from puna.explain.source.explained import BlockNote, CallNote, ExplainedSource, OutlineRow, ParameterNote, SourcePart
    from puna.explain.source.tracer.snapshots import Snapshot
    from puna.explain.source.tracing import SourceRun

NAME_WIDTH = 16  # cells of the column of names
INDENT = "  "
STANDARD_INPUT = "-"
GLUE = "\ufffc"  # a space at which no line ends, until the text is printable
MAX_VALUE = 160  # characters of a value
MAX_LINES = 60  # of one block
MAX_CHARACTERS = 1000  # of one line
MAX_OUTLINE = 60  # rows of an outline
Page = list[str]


def pages(report: ExplainedSource, width: int, place: str) -> Iterator[Page]:
    """The report in pages, each of which a person takes in at once. `place`: how the file was named, for commands."""
    yield list(_opening(report, width, place))
    for part in report.parts:
        head = list(_part_head(part, report, width))
        for number, block in enumerate(part.blocks):
            page = list(_block(block, part, report, width))
            yield [*head, *page] if number == 0 and len(head) + len(page) < 30 else page if number else [*head, *page]
            head = []
        if head:
            yield head
    if report.problem is not None:
        yield list(_problem(report, width))


def _paragraph(text: str, width: int, first: str = "", rest: str | None = None) -> list[str]:
    return wrapped(printable(text).replace(GLUE, KEPT), width, first, rest)


# ---- the file ---------------------------------------------------------------------------------------------------------------


def _opening(report: ExplainedSource, width: int, place: str) -> Iterator[str]:
    kinds = [row.kind for row in report.outline]
    counts = [f"{count} {plural if count > 1 else kind}" for kind, plural in PLURALS if (count := kinds.count(kind))]
    held = f": {', '.join(counts)}" if counts else ""
    yield from _paragraph(f"{report.file}, {counted(report.num_lines, 'line')}{held}", width)
    yield from _paragraph(
        "puna has read this source as text: nothing of it was executed or imported. The sentences come from its syntax alone.",
        width,
    )
    if report.model is not None:
        yield from _paragraph(f"Values are measured: its loops were carried out as data, on {report.model}.", width)
    if report.asked is not None:
        yield from _paragraph(f"Lines with ~ are the words of {report.asked}, which may be wrong.", width)
    if report.problem is not None:
        problem = report.problem
        yield from _paragraph(f"Only up to line {problem.read_to}: line {problem.line} is no Python ({problem.cause}).", width)
    if report.symbol is None:
        yield from _outline(report, width, place)
    yield ""


PLURALS = (("class", "classes"), ("function", "functions"), ("method", "methods"))


def _outline(report: ExplainedSource, width: int, place: str) -> Iterator[str]:
    if not report.outline:
        return
    yield ""
    top = [row for row in report.outline if len(report.outline) <= MAX_OUTLINE or row.kind != "method" or row.loop]
    for row in top[:MAX_OUTLINE]:
        yield from _outline_row(row, width)
    if len(top) > MAX_OUTLINE:
        yield from _paragraph(f"and {len(top) - MAX_OUTLINE} more", width, INDENT)
    shown = {part.name for part in report.parts}
    if not any(row.name in shown for row in report.outline):
        loops = sorted((row.loop, row.first, row.name) for row in report.outline if row.loop)
        example = loops[0][-1] if loops else report.outline[0].name
        yield ""
        file = "FILE" if place == STANDARD_INPUT else place
        yield from _paragraph(f"Take one apart, block by block: puna explain {file}:{example}", width)


def _outline_row(row: OutlineRow, width: int) -> Iterator[str]:
    depth = row.name.count(".")
    head = f"{INDENT * depth}{row.name.rpartition('.')[2]}"
    loop = f"[{row.loop}] " if row.loop else ""
    says = row.says or ("" if row.loop else f"a {row.kind}")
    text = f"{row.first:>6}  {head}  {loop}{says}".rstrip()
    yield cut(printable(text), width)


def _problem(report: ExplainedSource, width: int) -> Iterator[str]:
    problem = report.problem
    assert problem is not None
    yield _rule(f"line {problem.line}, column {problem.column}", width)
    if problem.text:
        yield cut(printable(f"{problem.line:>5} | {problem.text}"), width)
        yield ""
    yield from _paragraph(f"Here the file stops being Python: {problem.cause}. puna read up to line {problem.read_to}.", width)
    if problem.hint:
        yield from _paragraph(problem.hint, width)


# ---- a function -------------------------------------------------------------------------------------------------------------


def _part_head(part: SourcePart, report: ExplainedSource, width: int) -> Iterator[str]:
    if part.name:
        title = printable(f"{part.name}, a {part.kind}, lines {part.first} to {part.last}")
        yield cut(title, width)
        yield "═" * min(width, display_width(title))
    elif part.blocks:
        yield "The file's own lines"
        yield "═" * 20
    if part.says:
        yield from _paragraph(f'Its author says: "{part.says}"', width)
    for note in part.notes:
        yield from _paragraph(note, width)
    if part.loop is not None:
        yield from _paragraph(f"puna recognises it as a {part.loop.kind}: {LOOPS[str(part.loop.kind)]}", width)
    if part.run is not None:
        yield from _run_words(part, part.run, width)
    if part.parameters:
        yield ""
        yield "It is given"
        for one in part.parameters:
            yield from _parameter(one, width)
    if part.returns:
        yield from _paragraph(f"It returns {part.returns}.", width)
    if part.run is not None and part.run.function == part.name and part.run.result is not None:
        yield from _paragraph(f"In the run it returned {_value_words(part.run.result)}.", width)
    yield ""


LOOPS = {
    "generation loop": "it calls the model for each new token, and chooses the token from what the model says.",
    "sampling step": "it takes the next token from the numbers that the model gave.",
}


def _run_words(part: SourcePart, run: SourceRun, width: int) -> Iterator[str]:
    if run.function != part.name:
        yield from _paragraph(f"Its values are from the run of {run.function}.", width)
        return
    stop = run.stop
    if stop is not None:
        end = "" if stop.is_own else "From there on puna can only read."
        yield from _paragraph(f"The run went up to line {stop.line}: {stop.reason}. {end}".rstrip(), width)


def _parameter(one: ParameterNote, width: int) -> Iterator[str]:
    default = f"if left out, {one.default}" if one.default is not None else ""
    words = "; ".join(filter(None, (one.meaning, one.kind, default)))
    yield from _named(one.name, words or "a value", width)
    if one.value is not None:
        yield from _paragraph(f"here {_value_words(one.value)}", width, INDENT * 2 + " " * NAME_WIDTH)


def _named(name: str, words: str, width: int, line: int | None = None) -> Iterator[str]:
    """A name in its column, and words beside it; of a long name, below it. `line`: its number in front."""
    before = INDENT * 2 if line is None else f"{INDENT}{line:>4}  "
    shown = printable(name)
    start = " " * (len(before) + NAME_WIDTH)
    if display_width(shown) < NAME_WIDTH:
        yield from _paragraph(words, width, before + pad(shown, NAME_WIDTH), start)
    else:
        yield cut(f"{before}{shown}", width)
        yield from _paragraph(words, width, start)


# ---- a block ----------------------------------------------------------------------------------------------------------------


def _rule(title: str, width: int) -> str:
    head = f"── {printable(title)} "
    return cut(head + "─" * max(0, width - display_width(head)), width)


def _block(block: BlockNote, part: SourcePart, report: ExplainedSource, width: int) -> Iterator[str]:
    span = f"line {block.first}" if block.first == block.last else f"lines {block.first} to {block.last}"
    yield _rule(span if block.cell is None else f"cell {block.cell} of the notebook, {span} of its code", width)
    yield from _source_lines(block, width)
    yield ""
    if block.lead:
        yield from _paragraph(block.lead, width, INDENT)
    for one in block.sentences:
        first = f"{INDENT}{one.line or '':>4}  {INDENT * one.depth}"
        yield from _paragraph(one.text, width, first, " " * len(first))
    yield from _standing(block, part, width)
    yield from _measured(block, width)
    yield from _static_names(block, width)
    yield from _notes(block, width)
    if block.prose is not None:
        yield ""
        yield from _paragraph(f"{report.asked} says:", width, "~ ", "~ ")
        for paragraph in filter(str.strip, block.prose.split("\n")):
            yield from _paragraph(paragraph, width, "~ ", "~ ")
    yield ""


def _source_lines(block: BlockNote, width: int) -> Iterator[str]:
    """The lines with their numbers; a line longer than the width goes on below. Of a huge block, the beginning."""
    rows = [row for number, line in enumerate(block.lines[:MAX_LINES], block.first) for row in _rows_of(number, line, width - 8)]
    yield from rows[:MAX_LINES]
    if len(block.lines) > MAX_LINES or len(rows) > MAX_LINES:
        yield "      | ..."


def _rows_of(number: int, line: str, room: int) -> Iterator[str]:
    text = printable(line.rstrip()[:MAX_CHARACTERS].expandtabs(4))
    first = _piece(text, room)
    yield f"{number:>5} | {first}".rstrip()
    rest, indent = text[len(first) :].lstrip(), " " * min(len(text) - len(text.lstrip()) + 4, room // 2)
    while rest:
        piece = _piece(rest, room - len(indent))
        yield f"      | {indent}{piece}".rstrip()
        rest = rest[len(piece) :].lstrip()
    if len(line.rstrip()) > MAX_CHARACTERS:
        yield "      | ..."


def _piece(text: str, room: int) -> str:
    """As much of a text as fits, up to a space or a comma if one is near."""
    end, used = 0, 0
    while end < len(text) and used + display_width(text[end]) <= room:
        used += display_width(text[end])
        end += 1
    if end >= len(text):
        return text
    least = max(0, end - 30)
    near = max(text.rfind(sign, least, end) for sign in " ,(")
    return text[: near + 1] if near > least and text[:near].strip() else text[: max(end, 1)]


def _standing(block: BlockNote, part: SourcePart, width: int) -> Iterator[str]:
    """Whether the run came here, and how often."""
    run = part.run
    if run is None:
        return
    stop = run.stop
    if stop is not None and block.first <= stop.line <= block.last:
        words = stop.reason if stop.is_own else f"from here on puna can only read: {stop.reason}"
        yield from _paragraph(f"In the run, {words} (line {stop.line}).", width, INDENT)
    elif block.is_cold:
        yield from _paragraph("Not reached in this run, but in a second one, at temperature 0.", width, INDENT)
    elif block.executions == 0 and block.sentences:
        words = "its loop has no round." if block.is_reached else "not reached."
        yield from _paragraph(f"In this run: {words}", width, INDENT)
    elif block.truths:
        yield from _paragraph(_truth_words(block), width, INDENT)


def _truth_words(block: BlockNote) -> str:
    told = ["true" if one else "not true" for one in block.truths]
    which = "Its condition is" if len(told) == 1 else "Its conditions are, in their order,"
    rounds = " in the first round" if (block.executions or 0) > 1 else ""
    return f"{which} {', '.join(told)} here{rounds}."


def _measured(block: BlockNote, width: int) -> Iterator[str]:
    """What the run held after each line: the parts of tensors that it took, the results of calls, the names that it set."""
    rows = [
        (one.line, 0, one.code, _value_words(one.value) + (f"; it takes, {one.takes}" if one.takes else ""))
        for one in block.slices
        if one.value
    ]
    rows += [
        (one.line, 1, f"{_short(one.name)}(...)", _value_words(one.value))
        for one in block.calls
        if one.value and not _is_kept(one, block)
    ]
    rows += [
        (one.line, 2, one.name, ("at temperature 0: " if one.is_cold else "") + _value_words(one.value) + _later_words(one.later))
        for one in block.names
        if one.value
    ]
    if not rows:
        return
    rounds = f", the first of {block.executions} times" if (block.executions or 0) > 1 else ""
    yield ""
    yield from _paragraph(f"Measured{rounds}:", width, INDENT)
    for line, _, name, words in sorted(rows, key=lambda row: row[:2]):
        yield from _named(name, words, width, line)
    for call in block.calls:
        if call.draws:
            yield from _paragraph(_draw_words(call), width, f"{INDENT}{call.line:>4}  ", " " * 8)


def _later_words(later: Sequence[Snapshot]) -> str:
    """The values of the next rounds, if each is short."""
    shown = [_numbers(one) if not one.texts else ", ".join(_quoted(text) for text in one.texts) for one in later]
    if not shown or any(len(text) > 24 for text in shown):
        return ""
    return f"; in the next rounds {'; '.join(text.replace(' ', GLUE) for text in shown)}"


def _short(name: str) -> str:
    return name.replace("torch.nn.functional.", "F.")


def _draw_words(call: CallNote) -> str:
    """The random numbers of a call. They are puna's: a generator of PyTorch's gives others."""
    told = [f"{one.uniform:.4f} for row {one.row}, which fell on position {one.position}" for one in call.draws[:4]]
    return f"Drawn (puna's random numbers, not PyTorch's): {'; '.join(told)}."


def _is_kept(call: CallNote, block: BlockNote) -> bool:
    """Whether a call's result is what a name of the block holds: it is shown once."""
    return any(one.value == call.value for one in block.names)


def _static_names(block: BlockNote, width: int) -> Iterator[str]:
    measured = {one.name for one in block.names if one.value is not None}
    names = [one for one in block.names if one.value is None and one.what and one.name not in measured]
    if names:
        yield ""
        yield from _paragraph("Its names:", width, INDENT)
    for one in names:
        yield from _named(one.name, one.what, width)


def _notes(block: BlockNote, width: int) -> Iterator[str]:
    calls = [one for one in block.calls if one.does]
    takes = [one for one in block.slices if one.value is None]
    if calls or takes or block.settings:
        yield ""
    for part in takes:
        yield from _paragraph(f"{part.code}: {part.takes}.", width, INDENT, INDENT * 2)
    for call in calls:
        shape = f" Shape: {call.shape}." if call.shape and call.shape != "one number" else ""
        yield from _paragraph(f"{_short(call.name)}: {call.does}{shape}", width, INDENT, INDENT * 2)
    for setting in block.settings:
        words = f"{setting.name}={setting.value}: {setting.meaning}."
        yield from _paragraph(words, width, INDENT, INDENT * 2)


# ---- values -----------------------------------------------------------------------------------------------------------------


def _value_words(value: Snapshot) -> str:
    """A value in a line: its type and shape, its first numbers, what they spell."""
    kind = f"{value.dtype} {_shape(value.shape)}" if value.kind == "tensor" else _plain_kind(value)
    numbers = "None" if value.kind == "None" else "" if value.values is None else _numbers(value)
    words = [f"{kind} {numbers}".strip()]
    if value.largest:
        words.append(f"largest of the first row: {', '.join(_large(one.text, one.position, one.value) for one in value.largest)}")
    if value.texts:
        words.append("spells " + ", ".join(_glued(one) for one in value.texts))
    return "; ".join(words)


def _plain_kind(value: Snapshot) -> str:
    if value.shape is not None:
        return f"{value.kind} of {value.shape[0]}"
    return "" if value.kind in ("int", "float", "bool", "str", "None") else value.kind


def _shape(shape: Sequence[int] | None) -> str:
    return f"({', '.join(map(str, shape or ()))}{',' if shape and len(shape) == 1 else ''})"


def _numbers(value: Snapshot) -> str:
    text = _nested(value.values, value.shape or (), value.kind == "tensor")
    return (text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "...").replace(", ", f",{GLUE}" if len(text) < 40 else ", ")


def _nested(values: Any, shape: Sequence[int], is_tensor: bool) -> str:
    if isinstance(values, dict):
        return "{" + ", ".join(f"{key}: {_nested(one, (), False)}" for key, one in values.items()) + "}"
    if not isinstance(values, list):
        return _number(values)
    more = len(values) < shape[0] if shape else len(values) >= 6
    inner = shape[1:] if is_tensor else ()
    shown = [_nested(one, inner, is_tensor) for one in values]
    return f"[{', '.join([*shown, *(['...'] if more else [])])}]"


def _number(value: Any) -> str:
    """
    >>> _number(0.4315544962882), _number(3), _number(True), _number(None), _number(0.0)
    ('0.4316', '3', 'True', 'None', '0.0')
    """
    if isinstance(value, float):
        return f"{value:.4g}" if value != int(value) or abs(value) >= 1e6 else f"{value:.1f}"
    return _quoted(value) if isinstance(value, str) and value not in ("inf", "-inf", "nan") else str(value)


def _large(text: str | None, position: int, value: Any) -> str:
    where = f"at{GLUE}{position}" if text is None else _quoted(text).replace(" ", GLUE)
    return f"{where}{GLUE}{_number(value)}"


def _glued(text: str) -> str:
    """A text in quotes; no line ends within a short one."""
    return _quoted(text).replace(" ", GLUE) if len(text) < 20 else _quoted(text)


def _quoted(text: str) -> str:
    return json.dumps(cut(text, 60), ensure_ascii=False)
