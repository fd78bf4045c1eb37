"""A comparison in a terminal: lines fit, hostile texts are shown as text, and each kind of end has its words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from puna.cli.against_view import diff_lines
from puna.cli.width import display_width
from puna.glassbox.diff import FORMAT, ComparedRun, Divergence, LayerErrors, OtherRun, Parting, RunDiff, SharedCandidate
from puna.glassbox.trace import Candidate, Draw

EVIL = "\x1b]0;x\x07 日本 " * 9
RUN = ComparedRun("m", "m.gguf", "cpu", "as-is", "f16", {"max_tokens": 3}, None, (1, 2, 3), "abc", "length")
ONE, TWO = Candidate(1, "one", 2.0, 0.5, -0.7), Candidate(2, "two", 1.9, 0.4, -0.9)
PAIRS = SharedCandidate(ONE, replace(ONE, probability=0.3)), SharedCandidate(TWO, replace(TWO, probability=0.6))
GREEDY = Parting(1, *PAIRS, draw=None, margin=0.001, is_near_tie=True)
KL = Divergence(0.5, 1.0, 1, (0.1, 1.0, None), 4, 0.5)
OTHER = OtherRun(replace(RUN, name="kv-type=int8"), 1, GREEDY, KL, LayerErrors((0.0, 0.1, 0.2), 1, 9, 3), "")


def shown(other: OtherRun, width: int = 80) -> str:
    lines = list(diff_lines(RunDiff(FORMAT, "0", (1,), RUN, (other,)), width))
    assert max(map(display_width, lines)) <= width and all(line.isprintable() for line in lines)
    return " ".join(" ".join(lines).split())


WORDS = [
    ({}, "They part at token 2. By the models' own"),
    ({}, "margin 0.001 between their logarithms in this run: a near-tie".replace("margin", "Margin")),
    ({}, "50.0% 30.0% the first run takes it"),
    ({}, "mean 0.5, largest 1 at token 2; the same token is the likeliest for 50.0%"),
    ({}, "4 tokens were not compared"),
    ({}, "Hidden states differ from layer 1 on by 0.1 of their size, in the end by 0.2"),
    ({"parting": None, "num_equal": 3}, "The answers are the same, all 3 tokens."),
    (
        {"parting": replace(GREEDY, draw=Draw(0.5, 0.4, 0.51), margin=0.01, is_near_tie=False)},
        "This run drew 0.500000, and its token",
    ),
    ({"parting": Parting(3, None, None, None, None, False)}, "the first run has ended"),
    ({"parting": Parting(2, PAIRS[0], None, None, None, False), "run": replace(RUN, token_ids=(1, 2))}, "this run has ended"),
    ({"parting": Parting(1, None, None, None, None, False)}, "a form left no choice"),
    ({"layers": LayerErrors((0.0, 0.0), None, None, 3)}, "no layer differs, at 3 positions"),
    ({"layers": LayerErrors((0.5, None), 0, 1, 3)}, "differ from the embedding on by 0.5"),
    ({"layers": None, "why_no_layers": "because"}, "Layers are not compared: because."),
    ({"divergence": Divergence(0.0, 0.0, 0, (0.0,), 0, 1.0)}, "agree on each token of the first answer: KL 0"),
]


@pytest.mark.parametrize(("change", "words"), WORDS, ids=[words[:24] for _, words in WORDS])
def test_each_finding_has_its_words(change: dict[str, object], words: str) -> None:
    assert words in shown(replace(OTHER, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [40, 80])
def test_every_line_fits_and_no_text_of_a_model_controls_the_terminal(width: int) -> None:
    run = replace(RUN, name=EVIL, text=EVIL, model=EVIL, settings={"stop": EVIL})
    pair = SharedCandidate(replace(ONE, text=EVIL), replace(ONE, text=EVIL))
    kl = replace(KL, per_step=(0.1,) * 300)
    shown(replace(OTHER, run=run, parting=replace(GREEDY, first=pair, other=pair), divergence=kl, why_no_layers=EVIL), width)
