"""Draws the stepper: lines of styled text for a screen of any size. What it draws is in `stepper_state.py`.

A line is a list of (style, text); the styles are those of STYLES, or "". No text of a model reaches a line unescaped, and no line
is wider than the screen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from puna.cli.stepper_bars import CandidateRow, ShareAt, bar, draw_cells, name_of, surprise_class, token_texts
from puna.cli.stepper_headings import headings
from puna.cli.stepper_help import help_lines, short_keys
from puna.cli.stepper_save import shown_number
from puna.cli.trace_view import percent, quoted
from puna.cli.width import cut, display_width, pad
from puna.cli.word_wrap import wrapped
from puna.glassbox.greedy import GREEDY
from puna.progress import printable
from puna.units import counted

if TYPE_CHECKING:
    from puna.cli.stepper_state import Panel, Stepping
    from puna.glassbox.explorer import Branch, OptionRank
    from puna.glassbox.trace import TracedStep

StyledLine = list[tuple[str, str]]
# Named colours: a terminal's own, so that they are seen on light and dark. Without colours, marks and words say the same.
STYLES = {
    "title": "bold",
    "head": "bold",
    "dim": "ansibrightblack",
    "here": "reverse bold",
    "given": "underline",
    "marked": "reverse",
    "taken": "bold ansigreen",
    "cut": "ansibrightblack",
    "message": "bold",
    "surprise1": "ansicyan",
    "surprise2": "ansigreen",
    "surprise3": "ansiyellow",
    "surprise4": "ansired",
}
WORKING = "The model computes …"
MAX_STRIP = 4  # lines of the answer
LEAST_CELL = 11  # of a stage: a bar of four cells and its number
SHARE_WIDTH = 6  # "100.0%"
LABELS = "123456789"
SETTINGS = ("temperature", "top_p", "top_k", "min_p")
TALL = 20  # lines of a screen that has room for a label of the draw
OFF = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}


def screen(state: Stepping, width: int, height: int) -> list[StyledLine]:
    """The whole screen, `height` lines."""
    foot = list(_foot(state, width))[-max(height - 2, 1) :]
    body = _BODIES[state.panel](state, width, max(height - len(foot), 0))[: max(height - len(foot), 0)]
    body += [[] for _ in range(height - len(foot) - len(body))]
    return [_clipped(line, width) for line in (*body, *foot)]


def text_of(lines: Sequence[StyledLine]) -> list[str]:
    """The lines without their styles."""
    return ["".join(text for _, text in line).rstrip() for line in lines]


def _clipped(line: StyledLine, width: int) -> StyledLine:
    """A line that surely fits."""
    kept, used = [], 0
    for style, text in line:
        text = cut(text, width - used)
        used += display_width(text)
        kept.append((f"class:{style}" if style else "", text))
    return kept


def _foot(state: Stepping, width: int) -> Iterator[StyledLine]:
    """What is asked, or said; and the keys."""
    if state.question is not None:
        for line in wrapped(printable(state.question.prompt), width)[:3]:
            yield [("message", line)]
        return
    message = WORKING if state.is_working and state.growth is None else state.message
    for line in wrapped(printable(message), width)[:3] if message else ():
        yield [("message", line)]
    yield [("dim", short_keys(width, state.panel != "step"))]


# ---- a step -----------------------------------------------------------------------------------------------------------------


def _step_body(state: Stepping, width: int, height: int) -> list[StyledLine]:
    top = [[("title", _title(state, width))], *_strip(state, width, max(1, min(MAX_STRIP, height // 5))), [("dim", "─" * width)]]
    if state.growth is not None:
        return [*top, *([("", line)] for line in _growing(state, width))]
    if state.step is None:
        return [*top, *([("", line)] for line in _without_step(state, width))]
    head = [*_head(state, state.step, width), [("dim", cut(_settings(state), width))]]
    cuts = [[("", line)] for line in _cuts(state.step, width)]
    draw = _draw(state, state.step, width, has_label=height >= TALL)
    room = height - len(top) - len(head) - len(draw)
    cuts = cuts[: max(0, room - 2 - min(len(state.rows), 5))]
    return [*top, *head, *_table(state, state.step, width, max(room - len(cuts), 3)), *cuts, *draw]


def _title(state: Stepping, width: int) -> str:
    branch = state.branch
    if branch is None:
        return cut("puna trace", width)
    count = len(state.explorer.branches)
    place = f"branch {shown_number(branch.number)}, one of {count}" if count > 1 else "one branch"
    parted = "" if branch.parent is None else f"; it leaves branch {shown_number(branch.parent)} at token {branch.at + 1}"
    return cut(f"puna trace  {place}{parted}", width)


def _strip(state: Stepping, width: int, height: int) -> list[StyledLine]:
    """The answer's tokens, as many lines of them as there is room for, around the one that is looked at."""
    lines: list[StyledLine] = [[]]
    used, here = 0, 0
    for index, text in enumerate(token_texts(state.tokens)):
        text = cut(text, width)
        size = display_width(text)
        if used + size > width:
            lines.append([])
            used = 0
        lines[-1].append((_style(state, index), text))
        used += size
        here = len(lines) - 1 if index <= state.at else here
    if state.is_at_end:
        if used + 1 > width:
            lines.append([])
        lines[-1].append(("here", "▏"))
        here = len(lines) - 1
    first = max(0, min(here - height // 2, len(lines) - height))
    return lines[first : first + height]


def _style(state: Stepping, index: int) -> str:
    if index == state.at:
        return "here"
    branch = state.branch
    if branch is None or index >= len(branch.steps):
        return ""
    step = branch.steps[index]
    if step.is_given:
        return "given"
    kind = surprise_class(step)
    return "dim" if kind is None else f"surprise{kind}" if kind else ""


def _growing(state: Stepping, width: int) -> Iterator[str]:
    assert state.growth is not None
    yield f"The answer goes on: {counted(state.growth.num_tokens, 'token')}. Ctrl-C stops it."
    yield ""
    yield from wrapped(printable(" ".join(state.growth.text.split())), width)[-8:]


def _without_step(state: Stepping, width: int) -> Iterator[str]:
    branch = state.branch
    if branch is None:
        yield "There is no answer yet."
    elif state.is_at_end:
        yield from wrapped(f"The end: {state.explorer.why(branch.number)}. f: go on with a text of yours.", width)
    else:
        yield "…"


def _head(state: Stepping, step: TracedStep, width: int) -> Iterator[StyledLine]:
    """Which token it is, and how it was taken."""
    place = f"Token {state.at + 1} of {len(state.tokens)}: "
    if state.is_at_end:
        why = state.explorer.why(state.current)
        text = f"The end: {why}. {name_of(step.token)} would follow. Enter goes on from here."
    elif state.tried is not None:
        taken = f"{place}with these settings {name_of(step.token)} would be taken"
        same = step.token.id == state.tokens[state.at].id
        was = "as it was" if same else f"it was {name_of(state.tokens[state.at])}"
        text = f"{taken}, {was}. Enter goes on from here with them."
    elif step.logprob is None:
        text = f"{place}{name_of(step.token)}, which the form of the answer leaves no choice of."
    else:
        text = f"{place}{name_of(step.token)}, {_taken(step)}. {_standing(step)}{_ending(state)}"
    return ([("head", line)] for line in wrapped(printable(text), width)[:3])


def _taken(step: TracedStep) -> str:
    if step.is_given:
        return "given; it would have been another"
    return "drawn" if step.draw is not None else "the likeliest, as always at temperature 0"


def _ending(state: Stepping) -> str:
    """Of the last token: why nothing follows."""
    return f" The answer ends here: {state.explorer.why(state.current)}." if state.at == len(state.tokens) - 1 else ""


def _standing(step: TracedStep) -> str:
    """The token among the model's own candidates."""
    assert step.logprob is not None
    bits = max(0.0, -step.logprob / math.log(2))
    return f"For the model: {percent(math.exp(step.logprob))}, rank {step.rank}, surprise {bits:.1f} bits."


def _settings(state: Stepping) -> str:
    params = state.params
    values = [
        f"{name} {'off' if OFF.get(name) == getattr(params, name) else format(getattr(params, name), 'g')}" for name in SETTINGS
    ]
    seed = f"  seed {params.seed}" if params.temperature > 0 else "  no draw"
    return ("tried: " if state.tried is not None else "") + "  ".join(values) + seed


def _cuts(step: TracedStep, width: int) -> Iterator[str]:
    """What each filter removed, in words; and that temperature 0 leaves one token."""
    for stage in step.stages:
        if stage.name == GREEDY:
            yield cut(printable(f"{GREEDY}: only the likeliest stays, {quoted(stage.top[0].text)}; nothing is drawn"), width)
        elif (removed := stage.cut) is not None:
            last = f"the last to stay is {quoted(removed.last_kept.text)}, {percent(removed.last_kept.probability)}"
            text = f"{stage.name} cuts {counted(removed.num_removed, 'token')}, together {percent(removed.probability)}; {last}"
            yield cut(printable(text), width)


# ---- the table of candidates ------------------------------------------------------------------------------------------------


def _table(state: Stepping, step: TracedStep, width: int, height: int) -> Iterator[StyledLine]:
    """The candidates through the stages, `height` lines with those of the head."""
    if not step.stages:
        return
    label = min(20, max(12, width // 4))
    stages = _shown_stages(step, max(1, (width - label) // LEAST_CELL))
    cell = (width - label) // len(stages)
    head = headings([step.stages[index] for index in stages], state.params.temperature, height)
    for number, (name, cells) in enumerate(head):
        style = "dim" if number else "head"
        yield [
            ("dim", pad(cut(name.rjust(label - 1), label - 1), label)),
            *((style, pad(cut(one, cell - 1), cell)) for one in cells),
        ]
    room = max(1, height - len(head))
    first = max(0, min(state.selected - room // 2, len(state.rows) - room))
    for number, row in enumerate(state.rows[first : first + room], start=first):
        yield _candidate(state, step, number, row, label, [row.shares[index] for index in stages], cell)


def _shown_stages(step: TracedStep, count: int) -> list[int]:
    """The stages for which there is room: the first, the last, and those between that cut most."""
    last = len(step.stages) - 1
    between = range(1, last)

    def weight(index: int) -> float:
        removed = step.stages[index].cut
        return 0.0 if removed is None else removed.num_removed

    kept = sorted(between, key=weight, reverse=True)[: max(0, count - 2)]
    ends = [0, last] if count > 1 and last else [last]
    return sorted({*ends, *kept})


def _candidate(
    state: Stepping, step: TracedStep, number: int, row: CandidateRow, label: int, shares: Sequence[ShareAt], cell: int
) -> StyledLine:
    is_taken, is_marked = row.id == step.token.id, number == state.selected
    name = pad(cut(f"{number + 1:>2} {'●' if is_taken else ' '}{row.name}", label - 1), label)
    style = "marked" if is_marked else "taken" if is_taken else ""
    return [(style, name), *((_cell_style(share, is_taken), pad(_cell(share, cell - 1), cell)) for share in shares)]


def _cell_style(share: ShareAt, is_taken: bool) -> str:
    return "taken" if is_taken and share.share is not None else "cut" if share.share is None else ""


def _cell(at: ShareAt, width: int) -> str:
    if at.share is None:
        return "cut" if at.is_cut else "·"
    return f"{bar(at.share, width - SHARE_WIDTH - 1)} {percent(at.share):>{SHARE_WIDTH}}"


# ---- the draw ---------------------------------------------------------------------------------------------------------------


DRAW = "The draw: the candidates side by side by number, each as wide as likely"


def _draw(state: Stepping, step: TracedStep, width: int, has_label: bool) -> list[StyledLine]:
    """All that could be taken, side by side between 0 and 1, and the number that was drawn."""
    if step.draw is None or width < 20:
        return []
    inner, last = width - 4, step.stages[-1] if step.stages else None
    if last is None:
        return []
    ids, shares = [one.id for one in last.top], [one.probability for one in last.top]
    numbers = {row.id: number for number, row in enumerate(state.rows)}
    line: StyledLine = [("dim", "0 ")]
    for token_id in draw_cells(step.draw, step.token.id, ids, shares, inner):
        number = numbers.get(-1 if token_id is None else token_id, len(LABELS))
        mark = "·" if token_id is None else LABELS[number] if number < len(LABELS) else "+"
        line.append(("taken" if token_id == step.token.id else "", mark))
    place = min(int(step.draw.uniform * inner), inner - 1)
    words = f"{step.draw.uniform:.4f} was drawn"
    under = (
        " " * (2 + place) + "▲ " + words
        if 2 + place + 2 + len(words) <= width
        else " " * max(0, place - len(words) + 1) + words + " ▲"
    )
    label: list[StyledLine] = [[("dim", cut(DRAW, width))]] if has_label else []
    return [*label, [*line, ("dim", " 1")], [("taken", cut(under, width))]]


# ---- other pages ------------------------------------------------------------------------------------------------------------


HELP = "Help. A guided tour of these stages: puna explain sampling"


def _help_body(state: Stepping, width: int, height: int) -> list[StyledLine]:
    lines = list(help_lines(width))
    state.scrolled = max(0, min(state.scrolled, len(lines) - height + 1))
    shown = lines[state.scrolled : state.scrolled + height - 1]
    return [[("title", cut(HELP, width))], *([("", line)] for line in shown)]


def _tree_body(state: Stepping, width: int, height: int) -> list[StyledLine]:
    rows = state.tree()
    first = max(0, min(state.in_tree - height // 2, len(rows) - height + 1))
    lines: list[StyledLine] = [[("title", "The branches")]]
    for row, (depth, branch) in enumerate(rows[first : first + height - 1], start=first):
        text = f"{'  ' * min(depth, max(1, width // 8))}{'└ ' if depth else ''}{_branch_words(state, branch)}"
        style = "marked" if row == state.in_tree else "taken" if branch.number == state.current else ""
        lines.append([(style, cut(text, width))])
    return lines


def _branch_words(state: Stepping, branch: Branch) -> str:
    texts = token_texts(state.explorer.tokens(branch.number)[branch.at :][:40])
    from_where = "" if branch.parent is None else f" at token {branch.at + 1}:"
    return f"{shown_number(branch.number)}{from_where} {_joined(texts)}  ({counted(len(branch.token_ids), 'token')})"


def _joined(texts: Sequence[str]) -> str:
    return cut("".join(texts), 48)


def _ranks_body(state: Stepping, width: int, height: int) -> list[StyledLine]:
    place = "at the end" if state.is_at_end else f"in the place of token {state.at + 1}"
    lines: list[StyledLine] = [[("title", cut(f"Options {place}, the likeliest first", width))]]
    lines += [[("dim", line)] for line in wrapped(RANKS, width)]
    for number, one in enumerate(state.ranks, start=1):
        lines += [[(style, line)] for style, line in _rank_lines(number, one, width)]
    return lines[:height]


RANKS = (
    "As a whole: how likely the model is to write all of it here. Per token: the mean, which does not favour short options. Both"
    " are the model's own, without temperature and filters."
)


def _rank_lines(number: int, one: OptionRank, width: int) -> Iterator[tuple[str, str]]:
    yield "head", cut(f"{number}. {quoted(one.text[:200])}", width)
    words = f"as a whole {_small(one.logprob)} (log {one.logprob:.2f}), per token {_small(one.mean_logprob)}"
    for line in wrapped(words, width, "   "):
        yield "", line
    parts = (f"{name_of(token)} {_small(logprob)}" for token, logprob in zip(one.tokens[:40], one.logprobs))
    for line in wrapped(printable("  ".join(parts)), width - 3)[:2]:
        yield "dim", cut(f"   {line}", width)


def _small(logprob: float) -> str:
    """A probability that may be very small.

    >>> _small(-0.5), _small(-20.0)
    ('60.7%', '2.1e-09')
    """
    probability = math.exp(logprob)
    return percent(probability) if probability >= 0.001 else f"{probability:.1e}"


_BODIES: dict[Panel, Callable[[Stepping, int, int], list[StyledLine]]] = {
    "step": _step_body,
    "help": _help_body,
    "tree": _tree_body,
    "ranks": _ranks_body,
}
