"""What the views compute, without a browser: characters, numbers, rows, parts of the draw."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from puna.glassbox import report
from tests.glassbox.report.traces import DRAWN, sampled
from tests.node import evaluated, needs_node

FOLDER = Path(report.__file__).parent
pytestmark = needs_node()


def value(module: str, names: str, expression: str, given: Any = None) -> Any:
    return evaluated(FOLDER / module, names, expression, given)


def test_what_cannot_be_seen_is_a_mark_and_the_rest_stays() -> None:
    texts = ["a\nb", "\x1b[2J", "\u202eevil", "👩‍🚀", "字 ü", "\u00ad\ufeff"]
    found = value(
        "characters.js", "visible", "given.map((text) => visible(text).map((one) => [one.text, one.mark, one.breaks]))", texts
    )
    assert found == [
        [["a", False, False], ["↵", True, True], ["b", False, False]],
        [["U+001B", True, False], ["[2J", False, False]],
        [["U+202E", True, False], ["evil", False, False]],
        [["👩‍🚀", False, False]],
        [["字 ü", False, False]],
        [["U+00AD", True, False], ["U+FEFF", True, False]],
    ]


def test_spaces_at_the_ends_of_a_label_are_seen() -> None:
    assert value("characters.js", "quoted", "given.map(quoted)", [" of", "a b", "  ", " " * 30, "\n", "", "\u00a0", "سلام"]) == [
        "“␣of”", "“a b”", "“␣␣”", "“␣␣␣␣×30”", "“↵”", "“”", "“U+00A0”", "“\u2068سلام\u2069”",
    ]  # fmt: skip


def test_a_token_without_a_text_is_called_by_its_number() -> None:
    tokens = [
        {"id": 5, "text": ""},
        {"id": 5, "text": "a"},
        {"id": 6, "text": "\ufffd"},
        {"id": 5, "text": "", "piece": "<s>", "is_control": True},
    ]
    assert value("characters.js", "textOf", "given.map(textOf)", tokens) == ["#5", "a", "\ufffd#6", "<s>"]


def test_a_character_of_several_tokens_comes_with_its_last() -> None:
    llama = "🦙".encode()
    rows = [
        (llama[:1], "\ufffd"),
        (llama[1:3], "\ufffd"),
        (llama[3:] + b" ok", " ok"),
        (b"", ""),
        (b"\xff", "\ufffd"),
        (b"a", "a"),
    ]
    tokens = [{"id": 1, "piece": "<x>", "text": text, "bytes": data.hex(), "is_control": not data} for data, text in rows]
    found = value("characters.js", "spelledOut", "spelledOut(given).map((one) => [one.text, one.control, one.part])", tokens)
    assert found == [
        ["", False, "f0"], ["", False, "9f a6"], ["🦙 ok", False, ""], ["<x>", True, ""], ["\ufffd", False, ""], ["a", False, ""],
    ]  # fmt: skip


NUMBERS = [
    ("percent", [0.673, 1, 0, 0.00001, 0.0052, 0.99999], ["67.3%", "100%", "0%", "<0.01%", "0.52%", ">99.9%"]),
    ("shortPercent", [0.673, 1, 0.001, 0.999], ["67%", "100%", "<1%", ">99%"]),
    ("seconds", [1.5, 0.0042, 0.000312], ["1.50 s", "4.2 ms", "312 µs"]),
    ("bytes", [512, 1056, 23_592_960], ["512 bytes", "1.03 KiB", "22.5 MiB"]),
    ("ordinal", [1, 2, 3, 4, 11, 21, 1012], ["1st", "2nd", "3rd", "4th", "11th", "21st", "1,012th"]),
]


@pytest.mark.parametrize(("name", "given", "expected"), NUMBERS)
def test_numbers_for_people(name: str, given: list[float], expected: list[str]) -> None:
    assert value("numbers.js", name, f"given.map({name})", given) == expected


def test_surprise_has_a_class_for_each_kind_of_probability() -> None:
    given = [math.log(share) for share in (1, 0.5, 0.4, 0.1, 0.02, 0.01)]
    assert value("surprise.js", "surpriseClass", "given.map(surpriseClass)", [*given, None]) == [0, 0, 1, 2, 3, 4, None]
    assert value("surprise.js", "surpriseBits", "given.map(surpriseBits)", given[:2]) == pytest.approx([0, 1])


def candidate(token_id: int, probability: float, logit: float) -> dict[str, Any]:
    return {"id": token_id, "text": chr(token_id), "probability": probability, "logprob": math.log(probability), "logit": logit}


def test_rows_hold_what_is_surely_removed() -> None:
    before: dict[str, Any] = {
        "top": [candidate(97 + place, 0.4 / (place + 1), -place) for place in range(5)],
        "num_candidates": 90,
    }
    cut = {"first_removed": candidate(120, 0.01, -7)}
    expression = "rowsOf(given[0], given[1]).removed.map((one) => one.text)"
    everything = {"top": before["top"][:2], "num_candidates": 2, "cut": cut}
    assert value("stages.js", "rowsOf", expression, [everything, before]) == ["c", "d", "e"]
    some = {
        "top": [before["top"][0], before["top"][3]],
        "num_candidates": 50,
        "cut": cut,
    }  # b and c are likelier than d, and not there
    assert value("stages.js", "rowsOf", expression, [some, before]) == ["b", "c"]
    unknown = {"top": before["top"][:2], "num_candidates": 50, "cut": cut}  # c may have stayed, below the listed ones
    assert value("stages.js", "rowsOf", expression, [unknown, before]) == ["x"]


def test_temperature_0_gives_the_likeliest_all_and_the_others_nothing() -> None:
    for step in sampled(3, {}).as_json()["steps"]:
        model, greedy = value("stages.js", "stagesOf", "stagesOf(given)", step)
        assert [(one["id"], one["probability"]) for one in greedy["top"]] == [(step["token"]["id"], 1)]
        assert greedy["cut"]["num_removed"] == model["num_candidates"] - 1
        assert greedy["cut"]["probability"] == pytest.approx(1 - model["chosen"]["probability"])
        assert value("stages.js", "stagesOf, scaleOf", "scaleOf(stagesOf(given))", step) == 1
    for step in sampled(3, DRAWN).as_json()["steps"]:
        names = value("stages.js", "stagesOf", "stagesOf(given).map((one) => one.name)", step)
        assert names == [stage["name"] for stage in step["stages"]]


@pytest.mark.parametrize("settings", [DRAWN, {**DRAWN, "top_k": 4}, {"temperature": 2.0, "seed": 3}])
def test_the_parts_of_the_draw_fill_the_line_and_the_number_lies_in_the_chosen_one(settings: dict[str, Any]) -> None:
    for step in sampled(3, settings).as_json()["steps"]:
        parts = value("draw_line.js", "partsOf", "partsOf(given.stages.at(-1), given.draw)", step)
        assert parts[0]["low"] == 0 and abs(parts[-1]["high"] - 1) < 3e-5
        assert all(abs(one["high"] - other["low"]) < 3e-5 for one, other in pairwise(parts))
        (hit,) = [part for part in parts if part["low"] <= step["draw"]["uniform"] < part["high"]]
        assert hit["id"] == step["token"]["id"]
        listed = [part["id"] for part in parts if part["id"] is not None]
        assert listed == sorted(listed)


def test_a_narrow_part_is_magnified_within_the_line() -> None:
    draws = [{"low": low, "high": high} for low, high in ((0.2, 0.5), (0.0, 0.001), (0.999, 1.0), (0.5, 0.51))]
    found = value("draw_line.js", "windowOf", "given.map(windowOf)", draws)
    assert found[0] is None
    for (start, end), draw in zip(found[1:], draws[1:], strict=True):
        assert 0 <= start <= draw["low"] and draw["high"] <= end <= 1 + 1e-12


def test_a_step_is_told_in_sentences() -> None:
    step = sampled(1, {**DRAWN, "top_k": 1}).as_json()["steps"][0]
    name = f"“{step['token']['text'].replace(' ', '␣')}”"
    number = f"{step['draw']['uniform']:.4f}"
    told = value("step_view.js", "storyOf", "storyOf(given)", step)
    assert told.startswith(f"The model gave {name} ") and "The filters left 1 candidate. " in told
    assert told.endswith(f"the number {number} fell on {name}.")
    unlikely = {**step, "rank": 3, "draw": None}
    assert "its 3rd choice of 4,096" in value("step_view.js", "storyOf", "storyOf(given)", unlikely)
    forced = {**step, "logprob": None, "rank": None, "stages": [], "draw": None}
    assert "Nothing was sampled" in value("step_view.js", "storyOf", "storyOf(given)", forced)
    given = {**step, "is_given": True, "draw": None}
    assert "it was given" in value("step_view.js", "storyOf", "storyOf(given)", given)


def test_attention_is_averaged_shaded_and_sorted() -> None:
    expression = "[meanOf(given), given[0].map(shadeOf), largest(given[0], 2)]"
    mean, shades, most = value("layers.js", "meanOf, shadeOf, largest", expression, [[1.0, 0.0, 0.25], [0.0, 1.0, 0.25]])
    assert (mean, shades, most) == ([0.5, 0.5, 0.25], [8, 0, 4], [[1.0, 0], [0.25, 2]])


def test_a_timeline_sums_up_the_steps() -> None:
    steps = sampled(4, DRAWN).as_json()["steps"]
    found = value("timeline.js", "summaryOf", "summaryOf(given)", steps)
    bits = [-step["logprob"] / math.log(2) for step in steps]
    assert found["surprise"] == pytest.approx(bits) and found["worst"] == bits.index(max(bits))
    assert found["mean"] == pytest.approx(sum(bits) / 4)
    assert value("timeline.js", "summaryOf", "summaryOf([])")["surprise"] == []


def test_the_whole_answer_is_summed_up_by_filter() -> None:
    trace = sampled(5, {**DRAWN, "top_k": 12}).as_json()
    found = value("overview.js", "overviewOf", "overviewOf(given)", trace["steps"])
    assert (found["sampled"], found["first"]) == (5, sum(step["rank"] == 1 for step in trace["steps"]))
    top_k, top_p, temperature = found["filters"]
    assert [one["name"] for one in found["filters"]] == [one["name"] for one in trace["filters"]]
    removed = [step["stages"][1]["cut"]["probability"] for step in trace["steps"]]
    assert top_k["removed"] == pytest.approx(sum(removed) / 5) and (top_k["left"], top_k["cuts"]) == (12, True)
    assert top_p["left"] == sorted(step["stages"][2]["num_candidates"] for step in trace["steps"])[2]
    assert not temperature["cuts"] and temperature["after"] >= temperature["before"]
    assert value("overview.js", "overviewOf", "overviewOf([])") == {"sampled": 0, "first": 0, "filters": []}


def test_what_the_cache_saved_is_counted() -> None:
    spans = [(0, 10, 0), (10, 11, 0), (11, 12, 0)]
    steps = [{"computed": [{"first": first, "last": last, "num_drafts": drafts}]} for first, last, drafts in spans]
    found = value("kept.js", "savingOf", "savingOf(given)", [*steps, {"computed": []}])
    assert (found["computed"], found["without"]) == (12, 10 + 11 + 12)
