"""What the stepper draws with characters: bars of probability, the number that was drawn, the answer's tokens."""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from puna.cli.trace_view import quoted
from puna.progress import printable

if TYPE_CHECKING:
    from puna.glassbox.trace import Draw, Stage, TracedStep, TracedToken

EIGHTHS = " ▏▎▍▌▋▊▉█"
NOT_WHOLE = "·"  # stands for a token that holds a part of a character only
LINE_END = "⏎"
SURPRISES = (0.5, 0.25, 0.1, 0.02)  # least probability of the classes 0..3; 4 is below them


def bar(share: float, width: int) -> str:
    """A bar of a share of 1, to an eighth of a cell; what is not 0 is seen.

    >>> bar(0.5, 4), bar(0.33, 4), bar(0.001, 4), bar(1.0, 4)
    ('██  ', '█▍  ', '▏   ', '████')
    """
    eighths = min(8 * width, max(round(8 * width * share), 1 if share > 0 else 0))
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(width)


class ShareAt(NamedTuple):
    """What a candidate has at a stage: a share of 1, or None and why: it is cut, or not among the candidates that are listed."""

    share: float | None
    is_cut: bool = False


class CandidateRow(NamedTuple):
    """A candidate, through all stages of a step."""

    id: int
    name: str
    shares: tuple[ShareAt, ...]  # one for each stage


def candidate_rows(step: TracedStep, token: Callable[[int], TracedToken]) -> list[CandidateRow]:
    """The candidates that any stage lists, those of the model first, then what was taken without being listed. `token` spells an
    id."""
    ids = dict.fromkeys(one.id for stage in step.stages for one in stage.top)
    if step.stages:
        ids.setdefault(step.token.id)
    return [CandidateRow(one, name_of(token(one)), tuple(_share_at(stage, one) for stage in step.stages)) for one in ids]


def name_of(token: TracedToken) -> str:
    """A token for a person: its text in quotes, or the bytes of a part of a character.

    >>> from puna.glassbox.trace import TracedToken
    >>> name_of(TracedToken(0, "", " a", "2061", False)), name_of(TracedToken(0, "", "\ufffd", "e282", False))
    ('" a"', 'bytes e282')
    """
    is_whole = "\ufffd" not in token.text or token.is_control
    return quoted(token.text) if is_whole else f"bytes {token.bytes}"


def _share_at(stage: Stage, token_id: int) -> ShareAt:
    listed = (*stage.top, *([] if stage.chosen is None else [stage.chosen]))
    found = next((one.probability for one in listed if one.id == token_id), None)
    return ShareAt(found, found is None and len(stage.top) >= stage.num_candidates)


def draw_cells(draw: Draw, taken: int, ids: Sequence[int], shares: Sequence[float], width: int) -> list[int | None]:
    """The line 0..1 in cells: the id of the candidate at the middle of each; None: of one that is not listed.

    `taken`: the token that was taken. `ids`, `shares`: those of the last stage's candidates, in the order of `draw.starts`.

    >>> from puna.glassbox.trace import Draw
    >>> draw_cells(Draw(0.1, 0.0, 0.5, starts=(0.0, 0.75)), 7, [7, 9], [0.5, 0.25], 4)
    [7, 7, None, 9]
    """
    parts = [(start, start + share, one) for start, share, one in zip(draw.starts, shares, ids)]
    parts.append((draw.low, draw.high, taken))
    middles = [(cell + 0.5) / width for cell in range(width)]
    return [next((one for low, high, one in parts if low <= middle < high), None) for middle in middles]


def surprise_class(step: TracedStep) -> int | None:
    """0 for an expected token up to 4; None for one that nobody sampled."""
    if step.logprob is None:
        return None
    return next((kind for kind, least in enumerate(SURPRISES) if math.exp(step.logprob) >= least), len(SURPRISES))


def token_texts(tokens: Sequence[TracedToken]) -> list[str]:
    """What each token shows in the answer. A character of several tokens stands where the last of them is.

    >>> from puna.glassbox.trace import TracedToken
    >>> token_texts([TracedToken(0, "", "", data.hex(), False) for data in (b"a", b"\\xe2\\x82", b"\\xac", b"\\n")])
    ['a', '·', '€', '⏎']
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [_shown(token, decoder) for token in tokens]


def _shown(token: TracedToken, decoder: codecs.IncrementalDecoder) -> str:
    if token.is_control:
        return printable(token.piece)
    text = decoder.decode(bytes.fromhex(token.bytes))
    return printable(text.replace("\r\n", LINE_END).replace("\n", LINE_END)) or NOT_WHOLE
