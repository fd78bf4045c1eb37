"""The keys of the stepper, and what its help says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from puna.cli.width import display_width, pad
from puna.cli.word_wrap import wrapped


class KeyHelp(NamedTuple):
    """A key as a person reads it, and what it does."""

    keys: str
    about: str


KEYS = (
    KeyHelp("→ ←", "the next token of the answer, and the one before (also n and b)"),
    KeyHelp("Home End", "the first and the last token; g asks for a number"),
    KeyHelp("1 … 9", "go on from the candidate of that number in the place of this token"),
    KeyHelp("↑ ↓ Enter", "mark a candidate, and go on from it"),
    KeyHelp("c", "go on from a candidate: type its number, or a text (a space is put before it if the token here has one)"),
    KeyHelp("f", 'go on from a text in the place of this token; in "quotes" no space is put before it'),
    KeyHelp("t p k m", "temperature, top-p, top-k, min-p: the step is shown with the value while you type it"),
    KeyHelp("s", "any other setting, such as seed 7, typical_p 0.9, mirostat 2 or max_tokens 50"),
    KeyHelp("Enter", "with other settings: the answer goes on from here with them"),
    KeyHelp("Esc", "leave the other settings, or this page"),
    KeyHelp("r", "draw again from this token on, with another seed"),
    KeyHelp("o", "which of these: type options with | between them; each is ranked as a whole and per token"),
    KeyHelp("v", "the branches as a tree: ↑ ↓ mark one, Enter goes there; [ and ] go there directly"),
    KeyHelp("u", "take back the last step"),
    KeyHelp("w", "save this branch: its trace (.json), a page (.html), a receipt (.receipt)"),
    KeyHelp("Ctrl-C", "stop an answer that is on its way; else, twice, quit"),
    KeyHelp("q Ctrl-D", "quit; the answer of the branch is printed"),
)
SCREEN = (
    "Above stands the answer. The marked token is the one that is looked at; the colour of each says how surprising it was for"
    " the model, from white over cyan, green and yellow to red; a token that you gave is underlined.",
    "Below, each row is a candidate for this place, and each column a stage: first the model's own probabilities, then what each"
    " filter left of them. ● is the token that was taken. cut: the filter removed it. A dot: it is not among the likeliest that"
    " are listed. tokens left: how many can still be taken; entropy: how open the choice still is. At temperature 0 nothing"
    " is drawn: a last column gives the likeliest 100%.",
    "The draw shows all candidates side by side between 0 and 1, each as wide as it is likely, named by its number (+: above"
    " 9); the mark below is the random number that was drawn, and it fell on the token that was taken.",
    "A setting that you change is tried on this step only, without the model. mirostat and adaptive-p depend on the tokens"
    " before: with them the step is that of a run with these settings from the first token on, to which the tokens were given.",
)
WORDS = (
    *("token", "logits", "probability", "candidate", "surprise", "entropy", "rank of a token", "logprob", "filter"),
    *("temperature", "top-k", "top-p", "min-p", "draw", "seed", "greedy", "prefix cache"),
)
LEARN = "puna explain sampling is a guided tour of these stages on a live model; puna explain lists the other tours."
KEY_WIDTH = 14  # cells
BACK = "↑↓ move  Enter takes it  Esc back"
SHORT = (  # what the last line of the screen says: the first that fits
    "←→ token  1-9 choose  t p k m settings  f text  o options  v tree  u undo  w save  ? help  q quit",
    "←→ token  1-9 choose  tpkm settings  f text  o options  v tree  ? help  q quit",
    "←→ 1-9 t p k m f o v u w  ? help  q quit",
    "? help  q quit",
)


def short_keys(width: int, is_page: bool = False) -> str:
    """The most important keys, in one line; those of a page over the step."""
    return next((line for line in ((BACK, "Esc") if is_page else SHORT) if display_width(line) <= width), "")


def help_lines(width: int) -> Iterator[str]:
    """The keys, what is on the screen, and the words, in lines of at most `width` cells."""
    from puna.glassbox.report.terms import terms

    yield "Keys"
    for one in KEYS:
        yield from wrapped(one.about, width, pad(f"  {one.keys}", KEY_WIDTH), " " * KEY_WIDTH)
    yield from ("", "What is on the screen")
    for text in SCREEN:
        yield from wrapped(text, width, "  ", "  ")
    yield from ("", "To learn more")
    yield from wrapped(LEARN, width, "  ", "  ")
    yield from ("", "Words")
    for word in WORDS:
        yield from wrapped(f"{word}: {terms()[word]}", width, "  ", "    ")
