from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from puna import hub
from puna.errors import ModelNotFoundError, UnsupportedModelError, UsageError
from puna.hub import DEFAULT_MODEL
from puna.paths import models_dir
from tests.hub.conftest import CONTENT, NAME, Index


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_an_existing_path_is_itself(tmp_path: Path) -> None:
    assert hub.resolve(put(tmp_path / "m.gguf")) == tmp_path / "m.gguf"
    assert hub.resolve(str(tmp_path)) == tmp_path


def test_no_name_is_the_default_model_fetched_at_first_use(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(hub.CATALOGUE, DEFAULT_MODEL, index.model)
    assert hub.resolve().read_bytes() == CONTENT


@pytest.mark.parametrize(
    "text", ["no/such.gguf", "./x", "../x", "/etc/none", "x.gguf", "~/none.bin", "a\\b", "a\0/b", "x/" + "y" * 5000]
)
def test_an_absent_path_is_said_to_be_absent(text: str) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file or folder") as caught:
        hub.resolve(text)
    assert "\0" not in caught.value.message and len(caught.value.message) < 400


@pytest.mark.parametrize("text", ["", "zzz", "x" * 300, "\ud800", "a b"], ids=ascii)
def test_an_unknown_name_lists_the_known_ones(text: str) -> None:
    put(models_dir() / "mine.gguf")
    with pytest.raises(ModelNotFoundError, match="no model is named") as caught:
        hub.resolve(text)
    assert DEFAULT_MODEL in caught.value.message and "mine" in caught.value.message
    caught.value.message.encode("utf-8")


def test_a_name_that_is_nearly_known_gets_the_known_ones() -> None:
    with pytest.raises(ModelNotFoundError, match="no model is named 'lama-2-7b'") as caught:
        hub.resolve("lama-2-7b")
    assert caught.value.hint.startswith("Did you mean llama-2-7b or ")


def test_a_published_model_is_found_once_it_is_here() -> None:
    with pytest.raises(ModelNotFoundError, match=r"llama-2-7b is not in the cache: about 4\.1 GB, licence Llama 2") as caught:
        hub.resolve("Llama-2-7b-chat")
    assert caught.value.hint == "Fetch it: puna pull llama-2-7b"
    path = put(models_dir() / "hub" / "TheBloke" / "Llama-2-7B-Chat-GGUF" / "llama-2-7b-chat.Q4_K_M.gguf")
    assert hub.resolve("llama-2-7b") == hub.resolve("llama-2-7b:q4_k_m") == path
    assert hub.absent_source("llama-2-7b") is None
    with pytest.raises(ModelNotFoundError, match="llama-2-7b:q8_0 is not in the cache"):
        hub.resolve("llama-2-7b:q8_0")


def test_a_model_placed_by_hand_wins_over_a_published_one_of_its_name() -> None:
    path = put(models_dir() / "llama-2-7b.gguf")
    assert hub.resolve("llama-2-7b") == path and hub.absent_source("llama-2-7b") is None


def test_the_published_name_of_the_default_model_means_the_default_model() -> None:
    assert hub.wheel_model("smollm2-135m") is hub.CATALOGUE[DEFAULT_MODEL] and hub.absent_source("smollm2-135m") is None


@pytest.mark.parametrize("call", [hub.resolve, hub.pull])
def test_the_name_of_another_architecture_is_refused_with_what_it_is(call: Callable[[str], object]) -> None:
    with pytest.raises(UnsupportedModelError, match="puna does not run this architecture: it is a mixture of experts"):
        call("gpt-oss-20b")


def test_a_repository_without_its_hf_is_told_how_it_is_fetched() -> None:
    with pytest.raises(ModelNotFoundError, match="no such file or folder: meta-llama/Llama-2-7b-hf") as caught:
        hub.resolve("meta-llama/Llama-2-7b-hf")
    assert caught.value.hint.endswith("puna pull hf:meta-llama/Llama-2-7b-hf")
    with pytest.raises(UnsupportedModelError, match="Gemma"):
        hub.resolve("google/gemma-7b")


def test_models_of_the_cache_have_sizes_and_split_files_count_whole() -> None:
    folder = models_dir() / "hub" / "o" / "r"
    for number in (1, 2):
        put(folder / f"m-0000{number}-of-00002.gguf").write_bytes(b"1234")
    put(models_dir() / "mine.gguf").write_bytes(b"12")
    for name in ("config.json", "model.safetensors"):
        put(models_dir() / "hub" / "o" / "folder" / name).write_bytes(b"123")
    sizes = {model.name: model.num_bytes for model in hub.cached_models()}
    assert sizes == {"mine": 2, "hf:o/r/m-00001-of-00002.gguf": 8, "hf:o/folder": 6}


def test_a_model_placed_by_hand_has_a_name() -> None:
    path = put(models_dir() / "mine.gguf")
    assert hub.resolve("mine") == path
    assert hub.cached_names() == ["mine"]


def test_a_hub_model_of_the_cache_is_found() -> None:
    path = put(models_dir() / "hub" / "o" / "r" / "m.gguf")
    assert hub.resolve("hf:o/r") == hub.resolve("o/r:m.gguf") == path
    assert hub.cached_names() == ["hf:o/r/m.gguf"]


def test_a_hub_model_that_is_not_there_says_how_to_pull_it() -> None:
    with pytest.raises(ModelNotFoundError, match="not in the cache") as caught:
        hub.resolve("hf:o/r/m.gguf")
    assert caught.value.hint == "Fetch it: puna pull hf:o/r/m.gguf"


def test_several_files_of_one_repository_must_be_told_apart() -> None:
    for name in ("a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"):
        put(models_dir() / "hub" / "o" / "r" / name)
    with pytest.raises(ModelNotFoundError, match="several") as caught:
        hub.resolve("hf:o/r")
    assert caught.value.hint == "Choose one: a.gguf, b-00001-of-00002.gguf"


def test_names_that_would_leave_the_cache_open_nothing() -> None:
    for text in ("hf:../../x", "hf:a/b/../../etc", "a/b:..\\c"):
        with pytest.raises(UsageError):
            hub.resolve(text)
        with pytest.raises(UsageError):
            hub.pull(text)


def test_an_unknown_name_cannot_be_pulled() -> None:
    with pytest.raises(ModelNotFoundError):
        hub.pull(NAME + "-unknown")


def test_a_home_folder_that_nobody_knows_is_told() -> None:
    with pytest.raises(UsageError, match="no home folder is known for ~nobody-of-this-name"):
        hub.resolve("~nobody-of-this-name/m.gguf")


@pytest.mark.parametrize("to", ["nowhere.gguf", "loop"])
def test_a_link_that_leads_to_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to(to)
    with pytest.raises(ModelNotFoundError, match=f"loop is a link to {to}, which does not exist"):
        hub.resolve("loop")


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("https://huggingface.co/a/b/resolve/main/c.gguf", "hf:a/b/c.gguf"),
        ("https://huggingface.co/a/b/blob/main/c.gguf?download=true", "hf:a/b/c.gguf"),
        ("https://huggingface.co/a/b", "hf:a/b"),
        ("http://hf.co/a/b/tree/main", "hf:a/b"),
    ],
)
def test_a_page_of_the_hub_is_told_its_name(page: str, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="is a web page") as caught:
        hub.resolve(page)
    assert caught.value.hint == f"Fetch it: puna pull {name}"
