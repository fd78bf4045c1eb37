"""Every tour, to its end: in each language on a tiny model, and on the default model with its numbers worked out anew."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from puna.beam_search import logits_after
from puna.cli.tour_view import part_lines
from puna.cli.width import display_width
from puna.errors import UsageError
from puna.explain.live import LiveModel
from puna.explain.parts import Bars, CodeLines, HeatMap, NumberLine, Prose, TextTable, TourPart
from puna.explain.topics import TOPICS
from puna.explain.tours import MODULES, parts_of
from puna.explain.words import LANGUAGES
from puna.formats.blocks import BLOCK_TYPES
from puna.llm import LLM
from puna.request import SamplingParams
from scripts import tours
from tests.explain.live_models import live_model, tiny_file
from tests.models import llama2c_bytes, random_tensors, spm_tokenizer, tiny_config

SHORT = "the big tiger"
B = TypeVar("B")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveModel]:
    live = live_model(tiny_file(tmp_path_factory.mktemp("tours")), device="reference")
    yield live
    live.close()


@pytest.fixture(scope="module")
def default(default_model: Path) -> Iterator[LiveModel]:
    live = live_model(default_model)
    yield live
    live.close()


@functools.cache
def english(live: LiveModel, topic: str) -> list[TourPart]:
    """A tour, run once for all tests."""
    return list(parts_of(topic, live, "en"))


def blocks(parts: list[TourPart], number: int, kind: type[B]) -> list[B]:
    """The blocks of one kind of a part, which counts from 1."""
    return [block for block in parts[number - 1].blocks if isinstance(block, kind)]


def drawn(parts: list[TourPart], width: int) -> list[str]:
    return [line for number, part in enumerate(parts, start=1) for line in part_lines(part, str(number), width)]


def numbers(cell: str) -> float:
    return float(cell.rstrip("%")) / (100 if cell.endswith("%") else 1)


# ---- any model --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_tour_runs_to_its_end_and_fits(tiny: LiveModel, topic: str, language: str) -> None:
    parts = list(parts_of(topic, tiny, language, SHORT if topic in ("attention", "rope") else None))
    assert len(parts) >= 4 and any(blocks(parts, number, CodeLines) for number in range(1, len(parts) + 1))
    for width in (40, 80):
        lines = drawn(parts, width)
        assert not [line for line in lines if display_width(line) > width and not line.startswith("puna ")]  # to be copied
        assert all(line.isprintable() and "\\xa0" not in line for line in lines)
    assert max(map(display_width, drawn(parts, 80))) <= 80


def test_every_topic_has_its_file() -> None:
    assert MODULES.keys() == set(TOPICS)


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_tour_runs_on_other_models(tmp_path: Path, topic: str, kind: str) -> None:
    """Without a template, of SentencePiece, in plain numbers."""
    live = live_model(tiny_file(tmp_path, kind=kind, template=None, tokenizer=spm_tokenizer()), device="reference")
    assert len(list(parts_of(topic, live, "en", SHORT))) >= 4
    live.close()


def test_a_hostile_text_controls_no_terminal(tiny: LiveModel) -> None:
    evil = "the \x1b[2J\x1b]0;x\x07 \u202e big \ud7ff"
    for topic in ("tokenizer", "sampling", "generate", "kv-cache", "batching", "rope"):
        lines = drawn(list(parts_of(topic, tiny, "en", evil)), 80)
        assert all(line.isprintable() for line in lines), [line for line in lines if not line.isprintable()]


def test_what_no_tour_can_show_is_refused(tiny: LiveModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the tour of attention takes 4 to 32"):
        list(parts_of("attention", tiny, "en", "the big tiger " * 20))
    config, path = tiny_config(), tmp_path / "bare.bin"
    path.write_bytes(llama2c_bytes(config, random_tensors(config, 1)))
    bare = live_model(path, device="reference")
    for topic in set(TOPICS) - {"quantisation"}:
        with pytest.raises(UsageError, match="has no tokenizer"):
            list(parts_of(topic, bare, "en"))
    assert len(list(parts_of("quantisation", bare, "en"))) == 5


# ---- numbers of the default model --------------------------------------------------------------------------------------------


def logits_of(llm: LLM, text: str) -> np.ndarray:
    return logits_after(llm.runner, llm.encode(text))([()])[0].astype(np.float64)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


def test_sampling(default: LiveModel) -> None:
    text = "My cat likes to"
    parts, logits = english(default, "sampling"), logits_of(default.llm, text)
    shares = softmax(logits)
    order = np.argsort(-shares, kind="stable")
    bars = blocks(parts, 1, Bars)[0].bars
    assert [bar.label for bar in bars] == [default.quoted(int(one)) for one in order[:8]]
    assert [numbers(bar.shown.split()[1]) for bar in bars] == pytest.approx(shares[order[:8]], abs=6e-4)
    for column, temperature in enumerate((0.5, 1.0, 1.5), start=1):
        row = blocks(parts, 2, TextTable)[0].rows[0]
        assert numbers(row[column]) == pytest.approx(softmax(logits / temperature)[order[0]], abs=6e-4)
    count = int(np.cumsum(shares[order]).searchsorted(0.5)) + 1  # the token that crosses the line stays
    assert f"The nucleus has {count} tokens." in blocks(parts, 3, Prose)[1].text
    line = blocks(parts, 6, NumberLine)[0]
    assert len(line.segments) == count and sum(one.share for one in line.segments) == pytest.approx(1)
    assert line.mark == np.random.Generator(np.random.Philox(key=42)).random()
    params = SamplingParams(max_tokens=1, temperature=0.7, top_p=0.5, seed=42)
    token = default.llm.generate(text, params).token_ids[0]
    assert [one.label for one in line.segments if one.is_marked] == [default.quoted(token)]
    assert sum(int(bar.shown.split()[0]) for bar in blocks(parts, 5, Bars)[0].bars) <= 1000


def test_attention(default: LiveModel) -> None:
    parts = english(default, "attention")
    table, heat = blocks(parts, 2, TextTable)[0], blocks(parts, 3, HeatMap)[0]
    products, divided, weights = (np.array([numbers(row[column]) for row in table.rows]) for column in (1, 2, 3))
    assert divided == pytest.approx(products / math.sqrt(64), abs=0.01)
    assert weights == pytest.approx(softmax(products / 8), abs=2e-3) and weights.sum() == pytest.approx(1, abs=5e-3)
    for number, row in enumerate(heat.shares):
        assert [share is None for share in row] == [column > number for column in range(len(row))]
        assert sum(share for share in row if share is not None) == pytest.approx(1, abs=1e-5)
    assert weights == pytest.approx([share or 0.0 for share in heat.shares[-1]], abs=6e-4)
    assert sum(int(bar.shown) for bar in blocks(parts, 5, Bars)[0].bars) == 30 * 9


def test_attention_mixes_the_values(default: LiveModel) -> None:
    """The last row of the table is the sum of all values, each times its weight, worked out here."""
    view, parts = default.inner_view(default.ids("The cat sat on the mat because it")), english(default, "attention")
    *heaviest, total = blocks(parts, 4, TextTable)[0].rows
    weights = [share or 0.0 for share in blocks(parts, 3, HeatMap)[0].shares[-1]]
    assert [float(row[0]) for row in heaviest] == pytest.approx(sorted(weights, reverse=True)[:3], abs=6e-4)
    layer, head = (int(one) - 1 for one in re.findall(r"\d+", parts[2].title)[::-1])
    values = view.values(layer, len(view.ids) - 1)[head // 3].astype(np.float64)
    assert [float(one) for one in total[2].split()] == pytest.approx((np.array(weights) @ values)[:4], abs=6e-4)


def test_rope(default: LiveModel) -> None:
    parts = english(default, "rope")
    for row in blocks(parts, 1, TextTable)[0].rows:
        radians = 100000 ** (-2 * (int(row[0]) - 1) / 64)
        assert float(row[1]) == pytest.approx(radians, abs=6e-7) and float(row[2]) == pytest.approx(
            2 * math.pi / radians, abs=0.06
        )
    lengths = {row[4] for row in blocks(parts, 2, TextTable)[0].rows}
    assert len(lengths) == 1
    rows = blocks(parts, 3, TextTable)[0].rows
    by_distance = {
        row[2]: {row[3] for row in rows if row[2] == wanted} for wanted in ("3", "6") for row in rows if row[2] == wanted
    }
    assert all(len(scores) == 1 for scores in by_distance.values()) and by_distance["3"] != by_distance["6"]


def test_kv_cache(default: LiveModel) -> None:
    parts = english(default, "kv-cache")
    rows = blocks(parts, 1, TextTable)[0].rows
    assert math.prod(int(row[1]) for row in rows[:-1]) == int(rows[-1][1].split()[0])
    prompt = len(default.chat_ids("Why do llamas live in the high mountains?"))
    kept, again = (int(row[1]) for row in blocks(parts, 2, TextTable)[0].rows)
    count = kept - prompt + 1  # 24 tokens, unless this machine is very slow
    assert 2 <= count <= 24 and again == sum(range(prompt, prompt + count))
    assert "the same, token for token" in blocks(parts, 2, Prose)[1].text
    after, anew = blocks(parts, 3, TextTable)[0].rows
    assert int(after[1]) % default.llm.plan.page_size == 0 and int(after[1]) + int(after[2]) == int(anew[2]) and anew[1] == "0"


def test_batching(default: LiveModel) -> None:
    parts = english(default, "batching")
    rows = blocks(parts, 1, TextTable)[0].rows
    assert [row[3] for row in rows] == ["equal"] * 4 and all(row[1] == row[2] for row in rows)
    answer = default.llm.generate(default.chat_ids("Name a colour."), max_tokens=16, ignore_eos=True, temperature=0.0, logprobs=0)
    assert float.fromhex(rows[1][1]) == answer.logprobs[-1].logprob
    alone, together = blocks(parts, 2, TextTable)[0].rows
    assert (alone[1], together[1]) == ("64", "16")


def test_quantisation(default: LiveModel) -> None:
    parts = english(default, "quantisation")
    tensor = default.checkpoint.tensors["layers.0.q_proj"]
    block = tensor.blocks(0, 1)[0][:20]
    assert [row[2] for row in blocks(parts, 1, TextTable)[0].rows] == [
        block[:2].tobytes().hex(" ").upper(), block[2:4].tobytes().hex(" ").upper(), block[4:].tobytes().hex(" ").upper(),
    ]  # fmt: skip
    scale, least = (float(one) for one in block[:4].view("<f2"))
    for place, row in enumerate(blocks(parts, 2, TextTable)[0].rows):
        four_bits = int(block[4 + place]) & 15
        assert int(row[1]) == four_bits and float(row[2]) == pytest.approx(scale * four_bits + least, abs=1e-6)
    shown = {bar.label: numbers(bar.shown) for bar in blocks(parts, 4, Bars)[0].bars}
    assert shown["4 bits"] == pytest.approx(shown["Q4_0, 4.50"], abs=2e-3) and shown["7 bits"] < shown["2 bits"] / 10
    sizes = {row[0]: float(row[2].split()[0]) for row in blocks(parts, 5, TextTable)[0].rows}
    assert sum(sizes.values()) * 1e6 == pytest.approx(sum(one.num_bytes for one in default.checkpoint.tensors.values()), abs=2e5)
    assert BLOCK_TYPES["Q4_1"].block_bytes == 20


def test_tokenizer(default: LiveModel) -> None:
    text = "How many r's are in strawberry? 🦙"
    parts = english(default, "tokenizer")
    rows = blocks(parts, 1, TextTable)[0].rows
    assert [int(row[0]) for row in rows] == default.tokenizer.encode(text)
    assert bytes.fromhex("".join(row[3] for row in rows)) == text.encode()
    assert [sum(map(int, row[3].split("+"))) for row in blocks(parts, 2, TextTable)[0].rows[:4]] == [3] * 4
    assert [row[2] for row in blocks(parts, 4, TextTable)[0].rows] == ['""', '""', '"🦙"']


def test_generate(default: LiveModel) -> None:
    parts = english(default, "generate")
    answer = default.llm.chat("What is the capital of Peru?", max_tokens=12, temperature=0.0)
    rows = blocks(parts, 5, TextTable)[0].rows
    assert tuple(int(row[2]) for row in rows) == answer.token_ids and rows[0][0] == "0..36"
    top = blocks(parts, 4, Bars)[0].bars[0]
    assert top.label == default.quoted(answer.token_ids[0])
    assert "The model has learnt to write it where an answer ends" in blocks(parts, 6, Prose)[0].text
    steps = blocks(parts, 2, TextTable)[0].rows
    assert steps[0][3] == str(37 + int(steps[0][2].partition("..")[2]) + 1) and steps[1][1:] == ("37", "50", "2")


# ---- the pages in docs/ ------------------------------------------------------------------------------------------------------


def outline(page: str) -> list[str]:
    """What must not go stale: titles, functions, and prose, whose numbers and tokens differ; of pictures, that there is one."""
    kept, fence = list[str](), ""
    for line in page.splitlines():
        is_fence = line.startswith("```")
        if is_fence or not fence:
            kept.append(re.sub(r"[-+]?\d[\d.,e-]*", "#", line))
        if is_fence:
            fence = "" if fence else line
    return re.sub(r'"[^"]*"', '"#"', " ".join(" ".join(kept).split())).split()


@pytest.mark.parametrize("topic", TOPICS)
def test_the_page_is_that_of_the_tour(default: LiveModel, topic: str) -> None:
    """If not: python -m scripts.tours"""
    written = (tours.FOLDER / f"{topic}.md").read_text("utf-8")
    assert outline(written) == outline(tours.page(topic, english(default, topic)))


def test_the_list_of_pages_is_that_of_the_topics() -> None:
    assert (tours.FOLDER / "README.md").read_text("utf-8").splitlines() == list(tours.listed())
    assert {path.stem for path in tours.FOLDER.iterdir()} == {"README", *TOPICS}


def test_the_pages_are_linked() -> None:
    for document, link in (("README.md", "docs/tours/README.md"), ("docs/how-generate-works.md", "tours/README.md")):
        assert f"({link})" in (tours.FOLDER.parents[1] / document).read_text("utf-8")
