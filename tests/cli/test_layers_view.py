"""puna trace --layers: a table of the lens and pictures of attention in 80 columns; no text of a model controls the terminal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from puna.cli.layers_view import layers_lines
from puna.cli.width import display_width
from puna.glassbox.schema import trace_schema
from puna.glassbox.trace import Trace
from puna.llm import LLM
from puna.progress import SILENT
from tests.cli.conftest import Puna
from tests.cli.test_trace import ON_REFERENCE
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf

ASKED = ("the big", "--raw", "-n", "6", "--ignore-eos", *ON_REFERENCE)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = tiny_config(num_layers=3)
    path: Path = tmp_path_factory.mktemp("layers") / "m.gguf"
    return str(write_gguf(path, config, random_tensors(config, 1), "F32", bpe_tokenizer(config.vocab_size)))


@pytest.fixture(scope="module")
def trace(model: str) -> Trace:
    with LLM(model, device="reference", report=SILENT) as llm:
        return llm.trace("the \x1b[2J big", max_tokens=6, ignore_eos=True, layers="all")


def test_a_person_sees_the_lens_and_where_the_heads_looked(model: str, puna: Puna) -> None:
    done = puna("trace", model, *ASKED, "--layers", "2-3")
    asked = json.loads(puna("trace", model, *ASKED, "--layers", "2-3", "--json").out)
    jsonschema.validate(asked, trace_schema())
    positions = asked["layers"]["positions"]
    assert [one["step"] for one in positions] == [1, 2] and done.code == 0
    lines = done.out.splitlines()
    table = lines[next(number for number, line in enumerate(lines) if line.startswith("layer ")) :][:6]
    assert [line.split()[0] for line in table] == ["layer", "0", "1", "2", "3", "first"]
    for one, column in zip(positions, (6, 20), strict=True):
        cell = table[4][column : column + 14].rstrip()
        assert cell.endswith("*") and f"{one['layers'][3]['top'][0]['probability']:.0%}" in cell
    assert "second pass" in done.out and "2. " in done.out and "3. " in done.out


def test_without_a_value_the_first_tokens_are_shown_and_a_layers_heads_one_by_one(model: str, puna: Puna) -> None:
    plain, heads = puna("trace", model, *ASKED, "--layers"), puna("trace", model, *ASKED, "--heads", "2")
    assert plain.code == heads.code == 0 and plain.out.count("\nfirst from") == 2
    assert sum(f"\n{number}. " in plain.out.partition("looked")[2] for number in range(1, 9)) == 6
    assert heads.out.count("layer 2 head") == 6 * 4 and "layer 1 head" not in heads.out


def test_positions_whose_steps_the_trace_has_no_room_for_are_shown(model: str) -> None:
    with LLM(model, device="reference", report=SILENT) as llm:
        trace = llm.trace("x", max_tokens=12, ignore_eos=True, layers="answer", max_candidates=1)
    assert trace.num_left_out and trace.layers is not None and trace.layers.positions
    assert list(layers_lines(trace, 80, 1))


@pytest.mark.parametrize("width", [40, 80])
def test_every_line_fits_and_no_text_of_a_model_controls_the_terminal(trace: Trace, width: int) -> None:
    assert trace.layers is not None
    evil = replace(trace.layers.positions[0].token, text="\x1b]0;x\x07 日本 " * 9)
    positions = tuple(replace(one, token=evil, taken=evil) for one in trace.layers.positions)
    shown = replace(trace, layers=replace(trace.layers, positions=positions, num_left_out=3))
    for heads in (None, 2):
        lines = list(layers_lines(shown, width, heads))
        assert max(map(display_width, lines)) <= width and all(line.isprintable() for line in lines)
        assert any("3 further positions" in line for line in lines)


def test_a_trace_without_layers_says_nothing_of_them(trace: Trace) -> None:
    assert list(layers_lines(replace(trace, layers=None), 80)) == []
    assert trace.layers is not None
    nothing = replace(trace, layers=replace(trace.layers, positions=(), distance=None))
    assert any("None of the chosen positions" in line for line in layers_lines(nothing, 80))


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--layers", "two"), "--layers is 'two'; write tokens of the answer"),
        (("--layers", "3-2"), "--layers is '3-2'"),
        (("--layers", "0"), "--layers is '0'"),
        (("--layers=",), "--layers is ''"),
        (("--heads", "9"), "--heads is 9; the model has 3 layers"),
        (("--heads", "0"), "--heads is 0"),
        (("--layers", "--context-shift"), "drops its oldest tokens"),
    ],
)
def test_what_cannot_be_shown_is_refused(model: str, puna: Puna, words: tuple[str, ...], problem: str) -> None:
    done = puna("trace", model, *ASKED, *words)
    assert done.code == 2 and problem in done.err
