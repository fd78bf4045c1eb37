"""A traced source is data: nothing of it is executed, it ends within its limits, and what is unknown is told with its line."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from puna.explain.source.tracer import limits
from puna.explain.source.tracer.limits import MAX_STEPS
from puna.explain.source.tracing import SourceRun
from tests.explain.source.tracer.toy import run, sampling

# What a hostile source tries -> a word of why it stops.
HOSTILE = {
    "open('/tmp/x', 'w').write('x')": "not",
    "__import__('os').system('true')": "__import__",
    "import os\nos.system('true')": "os",
    "eval('1')": "eval",
    "exec('x = 1')": "exec",
    "().__class__.__bases__[0].__subclasses__()": "__class__",
    "torch.__class__": "torch",
    "probs.__class__": "__class__",
    "probs.array": "array",
    "probs.numpy().tofile('/tmp/x')": "numpy",
    "f.__globals__": "__globals__",
    "getattr(probs, '__class__')": "getattr",
    "'{0.__class__}'.format(probs)": "format",
    "torch.load('/tmp/x')": "load",
    "torch.save(probs, '/tmp/x')": "save",
    "torch.zeros(10 ** 6, 10 ** 6)": "larger",
    "torch.zeros(4000, 4000).expand(4000, 4000, 4000)": "",
    "torch.ones(2000, 1) @ torch.ones(1, 2000) @ torch.ones(2000, 2000) @ torch.ones(2000, 2000)": "",
    "x = [0] * 10 ** 12": "longer",
    "x = 'a' * 10 ** 12": "longer",
    "x = 10 ** 10 ** 10": "too large",
    "x = 2\nwhile True:\n    x = x * x": "too large",
    "x = [1]\nwhile True:\n    x = x + x": "longer",
    "x = []\nwhile True:\n    x.append(x)": "steps",
    "while True:\n    pass": "steps",
    "for i in range(10 ** 15):\n    pass": "steps",
    "list(range(10 ** 15))": "longer",
    "[i for i in range(10 ** 9)]": "steps",
    "x = torch.arange(10 ** 12)": "larger",
    "x = torch.arange(0, 1, 1e-300)": "",
    "f(probs)": "nested",
    "(lambda g: g(g))(lambda g: g(g))": "nested",
    "x = f'{1:>1000000000}'\nreturn nosuch": "nosuch",
    "x = probs.repeat(10 ** 6, 10 ** 6)": "larger",
    "torch.rand(10 ** 9)": "larger",
    "x = torch.zeros(3000, 1) + torch.zeros(1, 3000) + torch.zeros(3000, 1, 1)": "larger",
    "x = torch.zeros(2 ** 20)[torch.zeros(2 ** 20, dtype=torch.long), None]\nx = x + x.t()": "larger",
    "x = probs.split(0)": "above 0",
    "x = torch.topk(probs, 10 ** 9)": "values",
    "with open('/tmp/x', 'w') as g:\n    g.write('x')": "open",
    "global y": "global",
    "class A:\n    pass": "class",
    "del probs": "del",
    "import subprocess\nsubprocess.run(['true'])": "subprocess",
    "raise SystemExit": "SystemExit",
    "assert False": "AssertionError",
    "x = [1, 2][5]": "IndexError",
    "x = {'a': 1}['b']": "KeyError",
    "x = 1 / 0": "zero",
    "x = math.exp(10000)": "OverflowError",
    "x = int('9' * 5000)": "",
    "if probs:\n    pass": "neither true nor false",
    "x = probs.cumsum(7)": "axis",
    "x = torch.softmax(run=1)": "arguments",
    "x = torch.cumsum(probs, -1, budget=None)\nreturn nosuch": "nosuch",
    "a = [1]\nb = [1]\nfor i in range(60):\n    a = [a, a]\n    b = [b, b]\nx = a == b": "steps",
    "a = [1]\nb = [1]\nfor i in range(60):\n    a = [a, a]\n    b = [b, b]\nx = [a].index(b)": "steps",
    "x = 1.5 in range(10 ** 15)\nreturn nosuch": "nosuch",
    "a = []\nfor i in range(7):\n    a = [a] * 300\nx = torch.tensor(a)": "steps",
    "x = torch.multinomial(torch.ones(4000000, 1), 1)": "draws more than",
    "x = torch.ones(8000000, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1).nonzero()": "larger",
    "x = 5\nif x == 0:\n    pass\n" + "elif x == 1:\n    pass\n" * 1200 + "return nosuch": "nosuch",
    "a = []\na.append(a)\nb = []\nb.append(b)\nx = a == b": "",
}


@pytest.mark.parametrize("body", HOSTILE)
def test_a_hostile_line_ends_the_run_and_is_named(body: str) -> None:
    started = time.monotonic()
    done, did = heard(sampling(body))
    assert did == []
    assert done.stop is not None and HOSTILE[body] in done.stop.reason, done.stop
    assert done.stop.line >= 6 or "nested" in done.stop.reason or not done.stop.line
    assert time.monotonic() - started < 20 and not Path("/tmp/x").exists()


COPIES = ("-a", "~(a > 0)", "a.double()", "a.to(torch.float64)", "torch.tensor(a)", "a.sum([])", "a.nonzero()", "torch.where(a)",
    "a[:, None].argmax(1)", "a[:, None].max(1)", "a.logsumexp(0)", "a.reshape(100, 100).t().reshape(10000)", "[0] * 1000",
    "b.copy()", "b[:]", "set(b)", "reversed(b)", "list(b)", "t.upper()", "t.split('a')", "t[:]", "{1: b}.values()",
    "torch.isin(c, a)", "torch.multinomial(a, 1)")  # fmt: skip


@pytest.mark.parametrize("made", COPIES)
def test_whatever_makes_a_copy_counts(made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_TOTAL", 1 << 17)
    lines = "a, b, c, t = torch.ones(10000), list(range(500)), torch.ones(2), 'a' * 500\nwhile True:\n    x = "
    done = run(sampling(lines + made))
    assert done.stop is not None and "numbers" in done.stop.reason, done.stop


def test_arguments_that_hold_themselves_are_shown_up_to_a_depth() -> None:
    body = "  d = {}\n  d['d'] = d\n  prompt_tokens[0] = d\n  while True:\n    model(d).argmax(-1)"
    done = run(f"def f(prompt_tokens, model):\n{body}")
    assert done.stop is not None and done.arguments[0].value.kind == "list"


EVENTS = ("open", "exec", "import", "os.", "subprocess.", "socket.", "shutil.", "ctypes.")
_heard: list[str] = []
_listens = False


def _hear(event: str, _: object) -> None:
    if _listens and event.startswith(EVENTS):
        _heard.append(event)


sys.addaudithook(_hear)  # it cannot be taken back, so it listens only when it is told to


def heard(source: str) -> tuple[SourceRun, list[str]]:
    """The run of a source, and what Python's interpreter did meanwhile beside computing: files, imports, executed code."""
    global _listens
    _heard.clear()
    run(sampling("return probs"))  # what is imported late is here then
    _listens = True
    try:
        return run(source), list(_heard)
    finally:
        _listens = False


def test_values_before_the_unknown_line_stay() -> None:
    done = run(sampling("x = probs.sum(-1)\ny = nosuch(x)\nz = x + 1"))
    assert done.stop is not None and (done.stop.line, done.stop.reason) == (8, "nosuch is not known here")
    names = [name for records in done.records.values() for name in records.first[0].names]
    assert "x" in names and "z" not in names


def test_the_program_s_own_exceptions_are_caught_as_python_catches_them() -> None:
    body = "try:\n    x = [1].index(5)\nexcept (KeyError, ValueError):\n    x = -1\nfinally:\n    y = 2\nreturn x + y"
    done = run(sampling(body))
    assert done.stop is None and done.result is not None and done.result.values == 1


def test_functions_defaults_closures_and_generators_work() -> None:
    body = (
        "k = 3\ndef g(a, b=2, *c, d=1, **e):\n    return a + b + len(c) + d + k + len(e)\ndef h():\n    for i in range(3):\n"
        "        yield i * k\nreturn [g(1), g(1, 5, 0, 0, d=2, z=1), [*h()], (lambda x: x * 2)(4)]"
    )
    done = run(sampling(body))
    assert done.stop is None and done.result is not None and done.result.values == [7, 14, [0, 3, 6], 8]


def test_loops_with_break_continue_and_else_run_as_in_python() -> None:
    body = (
        "seen = []\nfor i in range(5):\n    if i == 1:\n        continue\n    if i == 3:\n        break\n    seen.append(i)\n"
        "else:\n    seen.append(99)\nwhile len(seen) < 4:\n    seen.append(len(seen))\nelse:\n    seen.append(-1)\nreturn seen"
    )
    done = run(sampling(body))
    assert done.result is not None and done.result.values == [0, 2, 2, 3, -1]


def test_output_is_left_out_but_not_what_is_only_called_like_it() -> None:
    body = "def print_and_add(items):\n    items.append(1)\nx = []\nprint('a', x)\nprint_and_add(x)\nlogger.info('b')\nreturn x"
    done = run(sampling(body))
    assert done.stop is None and done.result is not None and done.result.values == [1]


def test_a_limit_of_steps_is_told_in_numbers() -> None:
    done = run(sampling("while True:\n    pass"))
    assert done.stop is not None and f"{MAX_STEPS:,} steps" in done.stop.reason


@pytest.mark.filterwarnings("error")
def test_a_number_that_is_too_large_becomes_infinite_without_a_warning() -> None:
    done = run(sampling("return probs + 1e300"))
    assert done.stop is None and done.result is not None
