"""Models are removed whole, with the folders that become empty; nothing outside of the folder of models is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from puna.errors import ModelNotFoundError, UsageError
from puna.hub.removal import model_to_remove, remove
from puna.paths import models_dir


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))


def put(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def left() -> set[str]:
    return {path.relative_to(models_dir()).as_posix() for path in models_dir().rglob("*")}


def test_a_split_file_goes_with_all_its_parts_and_its_neighbour_stays() -> None:
    for name in ("big-00001-of-00002.gguf", "big-00002-of-00002.gguf", "other.gguf"):
        put(models_dir() / "hub" / "o" / "r" / name)
    remove(model_to_remove("hf:o/r/big-00001-of-00002.gguf"))
    assert left() == {"hub", "hub/o", "hub/o/r", "hub/o/r/other.gguf"}
    remove(model_to_remove("o/r:other.gguf"))
    assert left() == set()


def test_a_folder_goes_whole() -> None:
    folder = models_dir() / "hub" / "o" / "r"
    for name in ("config.json", "model.safetensors"):
        put(folder / name)
    put(models_dir() / "mine" / "config.json")
    remove(model_to_remove("hf:o/r"))
    assert left() == {"mine", "mine/config.json"}
    remove(model_to_remove("mine"))
    assert left() == set()


def test_a_path_in_the_folder_of_models_is_a_name_too(monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(models_dir() / "mine.gguf")
    monkeypatch.chdir(path.parent)
    assert model_to_remove("mine.gguf").name == model_to_remove(str(path)).name == "mine"


@pytest.mark.parametrize("text", [".", "..", "hub", "hub/..", "hub/o", "hub/o/..", "hub/o/../../..", "../outside.gguf", "/", "~"])
def test_what_is_no_model_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    put(models_dir() / "hub" / "o" / "r" / "m.gguf")
    outside = put(tmp_path / "cache" / "outside.gguf")
    monkeypatch.chdir(models_dir())
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match="is no model in"):
        model_to_remove(text)
    assert outside.exists() and len(left()) == 4


def test_of_a_link_only_the_link_goes(tmp_path: Path) -> None:
    outside, folder = put(tmp_path / "real.gguf"), put(tmp_path / "real" / "config.json").parent
    models_dir().mkdir(parents=True)
    (models_dir() / "file.gguf").symlink_to(outside)
    (models_dir() / "folder").symlink_to(folder)
    for name in ("file", "folder"):
        remove(model_to_remove(name))
    assert left() == set() and outside.exists() and (folder / "config.json").exists()


def test_a_link_on_the_way_does_not_lead_out(tmp_path: Path) -> None:
    outside = put(tmp_path / "elsewhere" / "r" / "m.gguf")
    (models_dir() / "hub").mkdir(parents=True)
    (models_dir() / "hub" / "o").symlink_to(outside.parents[1])
    with pytest.raises(UsageError, match="leads out of"):
        remove(model_to_remove("hf:o/r/m.gguf"))
    assert outside.exists()


def test_what_is_not_here_is_not_fetched_to_be_removed() -> None:
    for text in ("smollm2-135m", "qwen3-4b", "hf:o/r", "no-such.gguf", "", "x" * 5000):
        with pytest.raises(ModelNotFoundError, match="nothing to remove"):
            model_to_remove(text)
