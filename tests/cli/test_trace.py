"""puna trace: the same answer as puna run, all that led to it as JSON, and a view for 80 columns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from puna.cli.trace_view import trace_lines
from puna.cli.width import display_width
from puna.glassbox.schema import trace_schema
from puna.llm import LLM
from puna.progress import SILENT
from tests.cli.conftest import Puna
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf

ON_REFERENCE = ("--device", "reference")
DRAWN = ("--temperature", "0.8", "--top-p", "0.6", "--top-k", "40", "--seed", "42", "-n", "6", "--ignore-eos")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = tiny_config()
    path = tmp_path_factory.mktemp("trace") / "m.gguf"
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    return str(write_gguf(path, config, random_tensors(config, 1), "F32", bpe_tokenizer(config.vocab_size), template))


def test_the_json_is_valid_and_the_answer_that_of_run(model: str, puna: Puna) -> None:
    asked = (model, "the big", *DRAWN, *ON_REFERENCE)
    trace, answer = (json.loads(puna(command, *asked, "--json").out) for command in ("trace", "run"))
    jsonschema.validate(trace, trace_schema())
    assert trace["token_ids"] == answer["token_ids"] and trace["text"] == answer["text"] and trace["seed"] == 42
    assert trace["prompt"]["text"] == "user: the big\n"
    assert [stage["name"] for stage in trace["steps"][0]["stages"]] == ["model", "top_k", "top_p", "temperature"]


def test_a_person_sees_each_stage_and_the_draw(model: str, puna: Puna) -> None:
    done = puna("trace", model, "the big", "--raw", "--top", "3", *DRAWN, *ON_REFERENCE)
    trace = json.loads(puna("trace", model, "the big", "--raw", "--top", "3", "--json", *DRAWN, *ON_REFERENCE).out)
    assert done.code == 0
    for part in (
        "Meta's generate: 1 x", "puna: no padding.", "one number is drawn (seed 42)", "top_p: top_p 0.6. Keep the smallest set",
        "1. ", "6. ", f"{trace['steps'][5]['draw']['uniform']:.6f} was drawn", "It ends because max_tokens is 6.",
    ):  # fmt: skip
        assert part in done.out, part
    assert trace["prompt"]["given"] == "the big" and len(trace["steps"][0]["stages"][0]["top"]) == 3


def test_prompts_beside_each_other_are_two_rows_of_metas_batch(model: str, puna: Puna) -> None:
    asked = (model, "the big red bird", "--raw", "--beside", "the big", *DRAWN, *ON_REFERENCE)
    done, traces = puna("trace", *asked), json.loads(puna("trace", *asked, "--json").out)["traces"]
    alone = json.loads(puna("trace", model, "the big", "--raw", *DRAWN, *ON_REFERENCE, "--json").out)
    assert [trace["prompt"]["padded"]["row"] for trace in traces] == [0, 1] and traces[1]["token_ids"] == alone["token_ids"]
    (rows, columns), pads = traces[0]["prompt"]["padded"]["shape"], sum(traces[0]["prompt"]["padded"]["num_pads"])
    assert rows == 2 and columns == traces[0]["prompt"]["num_tokens"] + 6
    assert f"Meta's generate: 2 x {columns} places, {2 * columns - pads} tokens and {pads} of padding" in done.out
    text = " ".join(done.out.split())
    assert (
        "[1 of 2]" in text
        and "[2 of 2]" in text
        and "This prompt is row 1, whose mask" in text
        and "then it reads the other" in text
    )


def test_a_full_trace_says_how_many_steps_it_leaves_out(model: str, puna: Puna) -> None:
    done = puna("trace", model, "the big", "--limit", "30", *DRAWN, *ON_REFERENCE)
    assert done.code == 0 and "The trace is full: 5 further tokens left out. A higher --limit" in done.out


def test_a_page_is_written_whole_and_the_terminal_is_told_where(model: str, puna: Puna, tmp_path: Path) -> None:
    page = tmp_path / "trace.html"
    page.write_text("an older page")
    done = puna("trace", model, "the big", "--html", str(page), *DRAWN, *ON_REFERENCE)
    assert done.code == 0 and done.out == "" and f"wrote {page}, " in done.err
    text = page.read_text("utf-8")
    assert text.startswith("<!doctype html>") and text.endswith("</html>\n") and '"given":"the big"' in text
    both = puna("trace", model, "the big", "--html", str(page), "--json", *DRAWN, *ON_REFERENCE)
    assert json.loads(both.out)["prompt"]["given"] == "the big"
    nowhere = puna("trace", model, "the big", "--html", str(tmp_path / "no" / "x.html"), *DRAWN, *ON_REFERENCE)
    assert nowhere.code == 2 and "there is no folder" in nowhere.err


def test_every_line_fits_and_no_text_of_a_model_controls_the_terminal(model: str) -> None:
    with LLM(model, device="reference", report=SILENT) as llm:
        trace = llm.trace("the \x1b[2J big " * 9, max_tokens=4, temperature=1.0, top_p=0.9, seed=1, ignore_eos=True)
    evil = replace(trace, num_left_out=3, why="\x1b[2J" + trace.why, text="\x1b]0;x\x07 日本 " * 30)
    for width in (40, 80):
        lines = list(trace_lines(evil, width))
        assert max(map(display_width, lines)) <= width and all(line.isprintable() for line in lines)
    assert any("3 further tokens" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("hi", "--raw", "--system", "x"), "--raw uses no chat template"),
        (("hi", "--top", "0"), "--top"),
        (("hi", "--limit", "0"), "--limit"),
        (("hi", "--beside", "ho", "--html", "x.html"), "--html shows one prompt"),
        ((), "PROMPT is missing"),
    ],
)
def test_what_cannot_be_traced_is_refused(model: str, puna: Puna, words: tuple[str, ...], problem: str) -> None:
    done = puna("trace", *((model, *words, *ON_REFERENCE) if words else ()))
    assert done.code == 2 and problem in done.err
