"""puna trace --against: what OTHER may be, what is shown, and one model in memory at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from puna.cli.against import OtherSide
from puna.errors import PunaError
from puna.glassbox.schema import diff_schema
from puna.llm import LLM
from tests.cli.conftest import Puna
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf

ON_REFERENCE = ("--device", "reference")
ASKED = ("the big", "--raw", "-n", "8", "--ignore-eos", *ON_REFERENCE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config, path = tiny_config(num_layers=3), tmp_path_factory.mktemp("against")
    tensors = random_tensors(config, 1)
    changed = {**tensors, "layers.1.up_proj": 1.5 * tensors["layers.1.up_proj"]}
    for name, own, kind in (
        ("plain", tensors, "F32"),
        ("copy", tensors, "F32"),
        ("q8", tensors, "Q8_0"),
        ("changed", changed, "F32"),
    ):
        write_gguf(path / f"{name}.gguf", config, own, kind, bpe_tokenizer(config.vocab_size))
    write_gguf(
        path / "foreign.gguf",
        tiny_config(vocab_size=290),
        random_tensors(tiny_config(vocab_size=290), 1),
        "F32",
        bpe_tokenizer(290),
    )
    return path


READ: list[tuple[str, str | None, dict[str, Any], dict[str, Any]]] = [
    ("m.gguf", "m.gguf", {}, {}),
    ("qwen3-4b", "qwen3-4b", {}, {}),
    ("backend=reference", None, {"device": "reference"}, {}),
    ("reference", None, {"device": "reference"}, {}),
    ("cuda:1", None, {"device": "cuda:1"}, {}),
    ("kv-type=int8", None, {"kv_type": "int8"}, {}),
    ("--kv-type=int8", None, {"kv_type": "int8"}, {}),
    ("temperature=0.7,seed=3", None, {}, {"temperature": 0.7, "seed": 3}),
    ("m.gguf,weights=int4,top-k=5", "m.gguf", {"weights": "int4"}, {"top_k": 5}),
    ("lora=some/path=0.5", None, {"lora": ("some/path=0.5",)}, {}),
    ("lora=sql", None, {}, {"lora_name": "sql"}),
    ("lora-name=sql", None, {}, {"lora_name": "sql"}),
    ('stop=["a"],ignore-eos=true', None, {}, {"stop": ["a"], "ignore_eos": True}),
    ("a,b.gguf", "a,b.gguf", {}, {}),
]


@pytest.mark.parametrize(("text", "model", "engine", "sampling"), READ, ids=[row[0] for row in READ])
def test_other_is_a_model_or_settings(text: str, model: str | None, engine: dict[str, Any], sampling: dict[str, Any]) -> None:
    found = OtherSide.read(text, ["sql"])
    assert (found.model, found.engine, found.sampling) == (model, engine, sampling)
    assert found.needs_loading == (model is not None or bool(engine))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("temprature=1", "there is no setting temprature"),
        ("threads=many", "threads"),
        ("", "it names one model, and settings"),
    ],
)
def test_what_other_cannot_be_is_refused(text: str, problem: str) -> None:
    with pytest.raises(PunaError, match=problem):
        OtherSide.read(text)


def test_a_file_whose_name_looks_like_a_setting_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "size=big.gguf").touch()
    assert OtherSide.read("size=big.gguf").model == "size=big.gguf"


def test_several_others_are_compared_in_the_order_given(folder: Path, puna: Puna, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, load = list[LLM](), LLM.load

    def counting(*args: Any, **settings: Any) -> LLM:
        assert all(one.runner.is_closed for one in loaded), "one model is in memory at a time"
        loaded.append(load(*args, **settings))
        return loaded[-1]

    monkeypatch.setattr(LLM, "load", counting)
    others = [str(folder / "copy.gguf"), "temperature=1.5,seed=2", str(folder / "changed.gguf"), "max-context=64"]
    words = [word for other in others for word in ("--against", other)]
    done = puna("trace", str(folder / "plain.gguf"), *ASKED, "--json", *words)
    found = json.loads(done.out)
    jsonschema.validate(found, diff_schema())
    copy, warm, changed, small = found["others"]
    assert [one["run"]["name"] for one in found["others"]] == others and len(loaded) == 4
    assert copy["parting"] is None and copy["divergence"]["max"] == 0 and copy["layers"]["first"] is None
    assert warm["parting"]["draw"] is not None and warm["divergence"]["max"] == 0 and warm["layers"] is None
    assert changed["layers"]["first"] == 2 and changed["divergence"]["mean"] > 0
    assert small["parting"] is None and small["layers"] is None


def test_a_person_sees_where_they_part_and_by_how_much(folder: Path, puna: Puna) -> None:
    words = (
        "--against",
        str(folder / "changed.gguf"),
        "--against",
        str(folder / "copy.gguf"),
        "--against",
        "temperature=1.5,seed=2",
    )
    done = puna("trace", str(folder / "plain.gguf"), *ASKED, *words)
    assert done.code == 0 and max(map(len, done.out.splitlines())) <= 80
    for part in (
        "The first run: ", "Against temperature=1.5,seed=2", "They part at token ", "the first run takes it", "this run takes it",
        "Hidden states differ from layer 2 on", "The answers are the same, all 8 tokens.", "The models agree on each token",
        "This run drew 0.", "no layer differs",
    ):  # fmt: skip
        assert part in " ".join(done.out.split()), part


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--against", "reference", "--layers"), "--against shows a comparison, and no trace"),
        (("--against", "reference", "--html", "x.html"), "--against shows a comparison, and no trace"),
        (("--against", "temperature=hot"), "temperature is 'hot'"),
        (("--against", "kv-type=int9"), "int9"),
        (("--against", "lora=nowhere"), "nowhere is no LoRA adapter"),
        (("--against", "nothing.gguf"), "nothing.gguf"),
    ],
)
def test_what_cannot_be_compared_is_refused(folder: Path, puna: Puna, words: tuple[str, ...], problem: str) -> None:
    done = puna("trace", str(folder / "plain.gguf"), *ASKED, *words)
    assert done.code in (1, 2) and problem in done.err and "bug" not in done.err


def test_another_vocabulary_is_refused(folder: Path, puna: Puna) -> None:
    done = puna("trace", str(folder / "plain.gguf"), *ASKED, "--against", str(folder / "foreign.gguf"))
    assert (
        done.code == 2
        and "different vocabularies" in done.err
        and "290 tokens, and the first model 300" in " ".join(done.err.split())
    )
