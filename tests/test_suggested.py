"""Sampling settings that a model's makers suggest: applied like transformers' `generate`, or reported."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from puna import LLM, SamplingParams
from puna.formats import open_checkpoint
from puna.progress import SILENT, KeepingReporter
from puna.suggested import suggested
from tests.families import FAMILIES, VOCAB_SIZE
from tests.models import DraftValue, random_tensors, tiny_config, write_gguf

NAME = "generation_config.json"
DRAWN = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}


def found(values: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    made = suggested(values, NAME, VOCAB_SIZE, 512)
    return dict(made.settings), made.ignored


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        ({}, {}),
        ({"bos_token_id": 1, "eos_token_id": [2, 3], "transformers_version": "5.0", "use_cache": True}, {}),
        (DRAWN, {"temperature": 0.6, "top_k": 20, "top_p": 0.95}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"do_sample": True, "temperature": 1, "top_k": -1, "min_p": 0.1}, {"temperature": 1.0, "top_k": 0, "min_p": 0.1}),
        ({"do_sample": False}, {"temperature": 0.0}),
        ({"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0}, {"temperature": 0.0}),
        ({"do_sample": False, "_from_model_config": True, "max_length": 20, "num_beams": 1}, {}),
        ({"max_new_tokens": 7, "min_new_tokens": 2}, {"max_tokens": 7, "min_tokens": 2}),
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"suppress_tokens": [3, 4], "begin_suppress_tokens": [5]}, {"suppress_ids": (3, 4), "begin_suppress_ids": (5,)}),
        ({"suppress_tokens": [3], "bad_words_ids": [[4], [3], [2]], "eos_token_id": 2}, {"suppress_ids": (3, 4)}),
        ({"bad_words_ids": [[4]], "suppress_tokens": [3]}, {"suppress_ids": (3, 4)}),
        ({"bad_words_ids": [[4], [5, 6]]}, {"suppress_ids": (4,), "bad_words_ids": ((5, 6),)}),
        ({"do_sample": True, "typical_p": 0.9}, {"temperature": 1.0, "typical_p": 0.9}),
        ({"penalty_last_n": 64, "repetition_penalty": 1.2}, {"penalty_last_n": 64, "repetition_penalty": 1.2}),
        ({"do_sample": True, "mirostat": 2, "mirostat_tau": 4.0}, {"temperature": 1.0, "mirostat": 2, "mirostat_tau": 4.0}),
        ({"stop_strings": "END", "max_length": 512}, {"stop": ("END",)}),
        ({"no_repeat_ngram_size": 0, "typical_p": 1.0, "guidance_scale": None, "forced_eos_token_id": None}, {}),
    ],
    ids=str,
)  # fmt: skip
def test_what_can_be_applied_is_applied_and_nothing_is_told(values: dict[str, Any], settings: dict[str, Any]) -> None:
    assert found(values) == (settings, ())


@pytest.mark.parametrize(
    ("values", "settings", "ignored"),
    [
        ({"temperature": 0.6}, {"temperature": 0.0}, "temperature 0.6 (there is no do_sample)"),
        ({"temperature": 0.6, "do_sample": False}, {"temperature": 0.0}, "temperature 0.6 (do_sample is false)"),
        ({"num_beams": 4}, {}, "num_beams 4"),
        ({"no_repeat_ngram_size": 3}, {}, "no_repeat_ngram_size 3"),
        ({"max_length": 100}, {}, "max_length 100"),
        ({"min_length": 10}, {}, "min_length 10"),
        ({"typical_p": 0.9}, {"temperature": 0.0}, "typical_p 0.9 (there is no do_sample)"),
        ({"bad_words_ids": "x"}, {}, "bad_words_ids (1 entries)"),
        ({"bad_words_ids": [[4, 5], [1, 1000]]}, {"bad_words_ids": ((4, 5),)}, "bad_words_ids outside the vocabulary"),
        ({"do_sample": True, "mirostat": 1}, {"temperature": 1.0}, "mirostat 1"),
        ({"suppress_tokens": [3, -1, 1000]}, {"suppress_ids": (3,)}, "suppress_ids outside the vocabulary"),
        ({"do_sample": True, "temperature": "hot"}, {"temperature": 1.0}, "temperature 'hot'"),
        ({"do_sample": True, "top_p": 1.5}, {"temperature": 1.0}, "top_p 1.5"),
        ({"repetition_penalty": [1]}, {}, "repetition_penalty (1 entries)"),
        ({"max_new_tokens": True}, {}, "max_new_tokens true"),
        ({"sequence_bias": [[[1], -1.0]]}, {}, "sequence_bias (1 entries)"),
        ({"quite_new": {"x": 1}}, {}, "quite_new (1 entries)"),
    ],
    ids=str,
)
def test_what_cannot_be_applied_is_told_with_its_value(values: dict[str, Any], settings: dict[str, Any], ignored: str) -> None:
    assert found(values) == (settings, (ignored,))


def test_the_lines_name_what_the_caller_left_to_the_model() -> None:
    made = suggested(DRAWN | {"num_beams": 4}, NAME, VOCAB_SIZE, 512)
    first, second = made.lines()
    assert first.startswith("sampling as generation_config.json suggests: temperature 0.6, top_k 20, top_p 0.95;")
    assert second == "not applied of generation_config.json: num_beams 4"
    assert "top_k 20, top_p 0.95;" in next(made.lines({"temperature"})) and "temperature" not in next(made.lines({"temperature"}))
    assert list(made.lines({"temperature", "top_k", "top_p"})) == [second]


# ---- the same folder for transformers and puna ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suggested") / "model"
    FAMILIES["llama-2"].transformers_model(seed=5).save_pretrained(path)
    return path


@pytest.fixture
def model(folder: Path) -> Path:
    (folder / NAME).unlink(missing_ok=True)
    return folder


def by_transformers(folder: Path, prompt: list[int], loaded: Any = None) -> list[int]:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = loaded or AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    if loaded is not None:
        model.generation_config = GenerationConfig.from_pretrained(folder)
    ids = torch.tensor([prompt])
    made = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0)[0].tolist()
    return list(made[len(prompt) :])


def by_puna(folder: Path, prompt: list[int], **settings: Any) -> list[int]:
    with LLM(folder, device="reference", max_context=128, report=KeepingReporter(), **settings) as llm:
        return list(llm.generate(prompt).token_ids)


def random_settings(rng: random.Random, usual: list[int]) -> dict[str, Any]:
    """Settings that change the greedy answer: the ids that it holds are penalised, suppressed, or end it."""
    every = {
        "repetition_penalty": rng.choice([1.3, 2.0]),
        "suppress_tokens": [*rng.sample(usual, 2), rng.randrange(VOCAB_SIZE)],
        "begin_suppress_tokens": [usual[0], rng.randrange(VOCAB_SIZE)],
        "bad_words_ids": [[rng.choice(usual)], [rng.randrange(VOCAB_SIZE)], usual[:2], usual[1:4]],
        "min_new_tokens": rng.randint(1, 12),
        "eos_token_id": rng.sample(usual, 2),
    }
    chosen = {name: every[name] for name in rng.sample(list(every), rng.randint(1, 4))}
    noise: dict[str, Any] = rng.choice([{}, {"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"do_sample": False}])
    return {"max_new_tokens": rng.randint(10, 20), "eos_token_id": 2, **chosen, **noise}


@pytest.mark.filterwarnings("ignore")
def test_greedy_answers_are_those_of_transformers_with_the_same_folder(model: Path) -> None:
    rng = random.Random(2026)
    theirs = FAMILIES["llama-2"].transformers_model(seed=5)
    changed = 0
    plain = LLM(model, device="reference", max_context=128, sampling_defaults="puna", report=SILENT)
    for number in range(12):
        prompt = [rng.randrange(3, VOCAB_SIZE) for _ in range(rng.randint(1, 12))]
        usual = list(plain.generate(prompt, max_tokens=10).token_ids)
        values = random_settings(rng, list(dict.fromkeys(usual)) * 2)
        (model / NAME).write_text(json.dumps(values))
        made = by_puna(model, prompt)
        assert made == by_transformers(model, prompt, theirs), (number, prompt, values)
        changed += made[:5] != usual[:5]
        (model / NAME).unlink()
    plain.close()
    assert changed >= 6


@pytest.mark.filterwarnings("ignore")
def test_settings_in_config_json_are_used_where_there_is_no_generation_config(model: Path, tmp_path: Path) -> None:
    import shutil

    copied = Path(shutil.copytree(model, tmp_path / "copied"))
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"repetition_penalty": 2.0, "max_length": 20}))
    prompt = [5, 6, 7, 8]
    made = by_puna(copied, prompt)[:16]
    assert made == by_transformers(copied, prompt) != by_puna(model, prompt)[:16]


def test_what_the_caller_says_wins_and_parameters_of_its_own_are_taken_as_they_are(model: Path) -> None:
    (model / NAME).write_text(json.dumps(DRAWN | {"max_new_tokens": 5, "num_beams": 2}))
    told = KeepingReporter()
    with LLM(model, device="reference", max_context=64, report=told) as llm:
        assert llm.default_params == SamplingParams(temperature=0.6, top_k=20, top_p=0.95, max_tokens=5, stop_ids=[2])
        assert len(llm.notices) == 2 and told.texts == []
        drawn = llm.generate([5, 6], seed=1)
        assert drawn.seed == 1 and len(drawn.token_ids) == 5
        assert told.texts == list(llm.notices)  # once, at the first use
        explicit = SamplingParams(temperature=0.6, top_k=20, top_p=0.95, max_tokens=5, stop_ids=[2], seed=1)
        assert llm.generate([5, 6], explicit).token_ids == drawn.token_ids
        greedy = llm.generate([5, 6], SamplingParams(max_tokens=9))
        assert greedy.seed is None and len(greedy.token_ids) == 9
        assert llm.generate([5, 6], temperature=0, max_tokens=9).token_ids == greedy.token_ids
        assert told.texts == list(llm.notices)
    with LLM(model, device="reference", max_context=64, sampling_defaults="puna", report=told) as llm:
        assert llm.default_params == SamplingParams() and llm.notices == ()
        assert llm.generate([5, 6], max_tokens=9).token_ids == greedy.token_ids


def test_the_sampling_keys_of_a_gguf_file_are_applied(tmp_path: Path) -> None:
    config = tiny_config()
    keys = {"temp": 0.6, "top_p": 0.95, "penalty_repeat": 1.1, "top_k": 20, "penalty_last_n": 64, "mirostat": 0}
    values = [DraftValue(f"general.sampling.{key}".encode(), *_typed(value)) for key, value in keys.items()]
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=1), extra=values)
    checkpoint = open_checkpoint(path)
    made = suggested(checkpoint.generation, "the file", config.vocab_size, 64)
    expected = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.1, "penalty_last_n": 64}
    assert made.settings == expected and made.ignored == ()
    plain = write_gguf(tmp_path / "plain.gguf", config, random_tensors(config, seed=1))
    assert open_checkpoint(plain).generation == {}


def test_a_folders_suggestions_stay_what_they_are_in_a_gguf_file_or_are_told(model: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    from puna.convert import convert

    every = DRAWN | {"repetition_penalty": 1.1, "suppress_tokens": [3], "max_new_tokens": 9}
    (model / NAME).write_text(json.dumps(every))
    told = KeepingReporter()
    path = convert(model, tmp_path / "m.gguf", to="gguf", report=told).path
    assert any(line.endswith("sampling defaults of the source: suppress_ids, max_tokens") for line in told.texts), told.texts
    fields = {name: field.contents() for name, field in GGUFReader(path).fields.items() if name.startswith("general.sampling")}
    names = ("temp", "top_k", "top_p", "penalty_repeat", "penalty_last_n")
    assert fields.keys() == {f"general.sampling.{name}" for name in names}
    assert fields["general.sampling.penalty_last_n"] == -1 and fields["general.sampling.top_k"] == 20
    again = suggested(open_checkpoint(path).generation, "", VOCAB_SIZE, 512)
    expected = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.1}
    assert again.settings == expected and again.ignored == ()
    (model / NAME).write_text(json.dumps({"do_sample": False, "top_p": 0.9}))
    greedy = open_checkpoint(convert(model, tmp_path / "g.gguf", to="gguf").path)
    assert suggested(greedy.generation, "", VOCAB_SIZE, 512).settings == {"temperature": 0.0}


def _typed(value: float) -> tuple[Any, ...]:
    return ("float32", value) if isinstance(value, float) else ("int32", value)
