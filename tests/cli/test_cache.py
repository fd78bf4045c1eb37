"""puna cache: what the folder of --cache-dir holds, and how to empty it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from puna.cli.width import display_width
from puna.page_store import PAGES, PageStore, first_name, ids_as_bytes, key_of, next_name, open_folder
from tests.cli.conftest import Puna


def put(folder: Path, model: str, count: int, age_s: float = 0.0) -> None:
    open_folder(folder)
    about = {"model": model, "path": f"/models/{model}.gguf", "device": "cpu", "kv_type": "f16", "page_size": 32}
    store = PageStore(folder, key_of({"model": model}), 1000, 1 << 30, about)
    for number in range(count):
        ids = ids_as_bytes([number])
        name = next_name(first_name(0), ids, 0)
        store.write(name, ids, np.zeros(1000, np.uint8))
        used_at = time.time() - age_s
        os.utime(store._path(name), (used_at, used_at))


def test_models_stand_with_pages_bytes_and_last_use(puna: Puna, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_CACHE_DIR", str(tmp_path))
    assert "nothing yet" in puna("cache").out
    put(tmp_path, "old", 3, age_s=3 * 86400 + 5)
    put(tmp_path, "A very long name of a model " * 5, 1)
    done = puna("cache")
    assert done.code == 0 and max(map(display_width, done.out.splitlines()[1:])) <= 80
    assert done.out.index("very long") < done.out.index("3 pages  3 days ago"), "the latest used first"
    assert "old (cpu, f16)" in done.out and "1 page  now" in done.out
    told = json.loads(puna("cache", "--json").out)
    assert [one["pages"] for one in told["models"]] == [1, 3] and told["bytes"] == sum(one["bytes"] for one in told["models"])
    assert told["models"][1]["path"] == "/models/old.gguf" and told["path"] == str(tmp_path)


def test_it_is_emptied_as_a_whole_or_of_what_is_old(puna: Puna, tmp_path: Path) -> None:
    put(tmp_path, "old", 3, age_s=3 * 86400)
    put(tmp_path, "new", 2)
    where = ("--cache-dir", str(tmp_path))
    assert puna("cache", *where, "--clear", "--older-than", "4d").out == "removed 0 pages, 0 MB\n"
    assert puna("cache", *where, "--clear", "--older-than", "71h").out.startswith("removed 3 pages")
    assert json.loads(puna("cache", *where, "--clear", "--json").out)["removed"]["pages"] == 2
    assert not list((tmp_path / PAGES).iterdir())


def test_wrong_usage_is_told_with_what_to_type(puna: Puna, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUNA_CACHE_DIR", raising=False)
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "puna"))
    done = puna("cache")
    assert done.code == 2 and "--cache-dir" in done.err
    (tmp_path / "puna" / "prefixes").mkdir(parents=True)  # puna serve's folder
    assert puna("cache").code == 0
    assert puna("cache", "--cache-dir", str(tmp_path), "--older-than", "3d").code == 2
    done = puna("cache", "--cache-dir", str(tmp_path), "--clear", "--older-than", "soon")
    assert done.code == 2 and "30d" in done.err


def test_a_folder_that_is_not_there_is_no_empty_one(puna: Puna, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name, reason in (("none", "does not exist"), ("file", "is not a folder")):
        for more in ((), ("--clear",), ("--json",)):
            done = puna("cache", "--cache-dir", str(tmp_path / name), *more)
            assert done.code == 2 and reason in done.err and not done.out


def test_a_size_without_a_folder_is_refused(puna: Puna, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUNA_CACHE_DIR", raising=False)
    done = puna("run", "--cache-size", "8GiB", "hello")
    assert done.code == 2 and "--cache-size" in done.err and "--cache-dir" in done.err


def test_damaged_facts_about_a_model_are_not_believed(puna: Puna, tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    about = next(tmp_path.rglob("about.json"))
    for text in ("[", "[]", '{"model": {"a": 1}, "device": "\\u001b[31m"}', ""):
        about.write_text(text)
        done = puna("cache", "--cache-dir", str(tmp_path))
        assert done.code == 0 and "\x1b" not in done.out
        assert puna("cache", "--cache-dir", str(tmp_path), "--json").code == 0
