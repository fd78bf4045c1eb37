"""A program to compare with that needs no installation, and a tiny model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf


@pytest.fixture
def fake_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module llama_cpp, which every child of this process finds."""
    folder = tmp_path / "fake"
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("fake_llama_cpp.py"), folder / "llama_cpp.py")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
    return folder


@pytest.fixture
def tiny_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))
    config = tiny_config()
    return write_gguf(tmp_path / "tiny.gguf", config, random_tensors(config, 1), "F32", bpe_tokenizer())
