"""Statements read as plain sentences."""

from __future__ import annotations

import ast

import pytest

from puna.explain.source.expressions import Known
from puna.explain.source.imports import aliases_of
from puna.explain.source.sentences import sentences, type_words

IMPORTS = "import torch, math\nimport torch.nn.functional as F\n"
SAID = {
    "x = 3": "x is set to 3.",
    "a, b = 0, None": "a is set to 0, b is set to None.",
    "a, b = b, a": "a, b become (b, a).",
    "bsz = len(prompt_tokens)": "bsz becomes the number of items of prompt_tokens.",
    "m = min(len(t) for t in p)": "m becomes the smallest of the number of items of t, for each t in p.",
    "t = min(s, g + p)": "t becomes the smallest of s and g + p.",
    "t = torch.full((b, n), pad)": "t becomes a tensor of shape (b, n), filled with pad.",
    "t[k, : len(r)] = torch.tensor(r)": "t[k, :len(r)] is overwritten with a tensor made of r.",
    "p = torch.softmax(z[:, -1] / T, dim=-1)": "p becomes z[:, -1] / T turned into probabilities by a softmax "
    "along the last axis.",
    "s, i = torch.sort(p, dim=-1, descending=True)": "s, i become p in falling order along the last axis, and "
    "the position that "
    "each value had before.",
    "m = c - s > p": "m becomes whether c - s is greater than p.",
    "s.div_(s.sum(dim=-1, keepdim=True))": "s is divided in place by the sum of s along the last axis.",
    "n = torch.where(m[:, i], t[:, i], n)": "n becomes t[:, i] where m[:, i] is true, and n elsewhere.",
    "e |= (~m[:, i]) & (n == eos)": "e becomes true also where both m[:, i] is not true and n equals eos.",
    "l = -F.cross_entropy(input=z, target=t)": "l becomes the log-probability that z gives to each of t.",
    "assert n <= m, 'no'": "Stops with an AssertionError unless n is at most m.",
    "if all(e):\n    break": "If all of e are true:|Ends the loop here.",
    "for k, t in enumerate(p):\n    pass": "For each t of p, with its number k:|Does nothing.",
    "for _ in range(n):\n    continue": "n times:|Goes on with the next round of the loop.",
    "while True:\n    x += 1": "Again and again, until a break or a return:|x grows by 1.",
    "while x < 3 and not y:\n    x -= 1": "As long as x is less than 3 and y is not true:|x shrinks by 1.",
    "with torch.no_grad():\n    f(x)": "Inside, PyTorch keeps nothing for training: less memory, more speed "
    "(torch.no_grad()):|Calls f(x).",
    "try:\n    i = t.index(e)\nexcept ValueError:\n    pass": "Tries this:|i becomes the position of e in t.|If "
    "that raises ValueError:|"
    "Does nothing.",
    "out.append(toks)": "toks is added at the end of the list out.",
    "return (a, b if c else None)": "Returns (a, b if c else None).",
    "raise ValueError('too long. Shorten it.')": 'Stops with ValueError: "too long"',
    "def g(a, b=1):\n    'Adds.'": 'Defines the function g(a, b=1). Its author says: "Adds."',
    "class A(B):\n    pass": "Defines the class A, a kind of B.",
    "loss.backward()": "Computes, from loss back, how each weight should change.",
    "x: int = 5": "x is set to 5 (a whole number).",
    "del x, y": "Forgets x, y.",
    "yield tok": "Gives tok to the caller, and waits until the next one is asked for.",
    "ok = any(x > 1 for x in xs)": "ok becomes whether it holds at least once, for each x in xs: x is greater than 1.",
    "v = float('-inf')": "v becomes minus infinity.",
    "b = x.shape[0]": "b becomes the length of x along the first axis.",
    "if __name__ == '__main__':\n    main()": "Only if this file is run as a program, not when it is "
    "imported:|Calls main().",
    "if a:\n    x = 1\nelif b:\n    x = 2\nelse:\n    x = 3": "If a is true:|x is set to 1.|Otherwise, if b is "
    "true:|x is set to 2.|"
    "Otherwise:|x is set to 3.",
    "import os\nfrom a import b as c": "Uses os; b as c from a.",
}  # fmt: skip


@pytest.mark.parametrize("source", SAID)
def test_a_statement_reads_as(source: str) -> None:
    known = Known(aliases_of(ast.parse(IMPORTS)))
    assert "|".join(one.text for one in sentences(ast.parse(source).body, known)) == SAID[source]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ("List[List[int]]", "a list of lists of whole numbers"),
        ("Optional[float]", "a real number, or None"),
        ("int | None", "a whole number, or None"),
        ("Tuple[List[int], Optional[str]]", "a tuple of a list of whole numbers and a text, or None"),
        ("torch.Tensor", "a tensor"),
        ("'LongTensor'", "a tensor of whole numbers"),
        ("dict[str, int]", "a dictionary from texts to whole numbers"),
        ("Literal['a', 'b']", "one of 'a', 'b'"),
        ("MyType", "MyType"),
    ],
)
def test_a_type_reads_as(annotation: str, words: str) -> None:
    assert type_words(ast.parse(annotation, mode="eval").body) == words


def test_statements_of_every_kind_have_words() -> None:
    every = (
        "async def f():\n async for x in y: pass\n async with z as w: await q\n"
        "match a:\n case 1: pass\nglobal g\nlambda: 0\nx = y = 1"
    )
    told = [one.text for one in sentences(ast.parse(every).body, Known({}))]
    assert len(told) >= 6 and not any("no words" in text for text in told)
