"""puna models: cached models, the best ones for this machine, and the names of all that can be fetched."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from puna.backends.base import Roofline
from puna.hub.catalogue import CATALOGUE, DEFAULT_MODEL
from puna.hub.published import PUBLISHED
from puna.machine.rooflines import machine_file, remember
from puna.paths import models_dir
from tests.cli.conftest import Puna


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PUNA_DEVICE", "cpu")
    remember("cpu", Roofline(40e9, 500e9, 150e9))


def put(*names: str) -> None:
    path = models_dir().joinpath(*names)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 2_000_000)


def test_what_is_here_stands_with_its_size_and_short_name(puna: Puna) -> None:
    assert "nothing yet" in puna("models").out
    put("mine.gguf")
    put("hub", "Qwen", "Qwen3-4B-GGUF", "Qwen3-4B-Q4_K_M.gguf")
    done = puna("models")
    assert done.code == 0 and "2 MB  mine" in done.out and "2 MB  qwen3-4b" in done.out
    here = json.loads(puna("models", "--json").out)["here"]
    assert [one["name"] for one in here] == ["mine", "hf:Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf"]


def test_the_best_have_size_licence_speed_and_the_command_that_fetches_them(puna: Puna) -> None:
    best = json.loads(puna("models", "--json").out)["best"]
    assert 1 <= len(best) <= 3
    for one in best:
        assert one["bytes"] > 0 and one["licence"] and one["expected"]["decode_per_s"] >= 8
        assert one["command"] == f"puna pull {one['name']}" and one["command"] in puna("models").out


def test_a_slow_cpu_gets_smaller_models(puna: Puna) -> None:
    first = json.loads(puna("models", "--json").out)["best"][0]
    machine_file().unlink()
    remember("cpu", Roofline(4e9, 50e9, 15e9))
    assert json.loads(puna("models", "--json").out)["best"][0]["bytes"] < first["bytes"]


def test_all_names_can_be_listed(puna: Puna) -> None:
    done = puna("models", "--all")
    assert all(f"  {name} " in done.out for name in PUBLISHED)
    assert re.fullmatch(r"  name +size +licence", done.out.splitlines()[0])
    assert {one["name"] for one in json.loads(puna("models", "--all", "--json").out)["models"]} == set(PUBLISHED)


def test_the_next_commands_are_a_chat_a_better_model_and_help(puna: Puna) -> None:
    lines = puna("models", "--next").out.splitlines()
    typed = [line.strip().partition("   ")[0] for line in lines]
    assert typed[0] == "puna chat" and typed[-1] == "puna --help" and len(lines) == 3
    assert typed[1].removeprefix("puna chat ") in PUBLISHED


def test_every_command_names_the_same_best_model_and_again_after_a_slower_measurement(puna: Puna) -> None:
    (best, *_) = json.loads(puna("models", "--json").out)["best"]
    for rates in (Roofline(40e9, 500e9, 150e9), Roofline(4e9, 50e9, 15e9)):
        remember("cpu", rates)
        assert f"puna chat {best['name']} " in puna("models", "--next").out
        assert json.loads(puna("models", "--json").out)["best"][0] == best


def test_the_default_model_has_one_size_under_both_its_names(puna: Puna, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.search(r"^  smollm2-135m +98 MB ", puna("models", "--all").out, re.MULTILINE)
    sources = {one["name"]: one for one in json.loads(puna("models", "--all", "--json").out)["models"]}
    assert sources["smollm2-135m"]["bytes"] == CATALOGUE[DEFAULT_MODEL].file_bytes
    put(f"{DEFAULT_MODEL}.gguf")
    assert f"smollm2-135m  ({DEFAULT_MODEL})" in puna("models").out
    for name in (f"{DEFAULT_MODEL}:q8_0", "smollm2-135m:q8_0"):
        assert "puna: smollm2-135m:q8_0 is not in the cache: about 143 MB" in puna("inspect", name).err
    monkeypatch.setattr("puna.cli.pull.is_terminal", lambda: True)
    assert "smollm2-135m:q8_0: about 143 MB;" in puna("pull", f"{DEFAULT_MODEL}:q8_0", stdin="n\n").err


def test_a_narrow_terminal_breaks_no_word(puna: Puna, monkeypatch: pytest.MonkeyPatch) -> None:
    put("hub", "Qwen", "Qwen3-4B-GGUF", "Qwen3-4B-Q4_K_M.gguf")
    words = {arguments: puna("models", *arguments).out.split() for arguments in ((), ("--all",))}
    monkeypatch.setattr("puna.cli.width.terminal_width", lambda stream: 50)
    for arguments, expected in words.items():
        done = puna("models", *arguments)
        assert [line for line in done.out.splitlines() if len(line) > 50 and " " in line.strip()] == []
        assert done.out.split() == expected


@pytest.mark.parametrize("arguments", [(), ("--all",), ("--next",)], ids=str)
def test_lines_have_at_most_80_characters(puna: Puna, arguments: tuple[str, ...]) -> None:
    put("mine.gguf")
    assert [line for line in puna("models", *arguments).out.splitlines() if len(line) > 80] == []
