"""A file with only its header ranges opens like the whole file, or is refused with the same error."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puna.errors import PunaError
from puna.formats import header_ranges, open_checkpoint
from puna.formats.safetensors import read_safetensors
from puna.formats.torch_file import read_torch_file
from tests.formats.hostile import gguf_mutant
from tests.formats.hostile_torch import FILES
from tests.formats.test_safetensors import mutant as safetensors_mutant
from tests.models import bpe_tokenizer, draft_gguf, random_tensors, tiny_config, tokenizer_values

MAX_ROUNDS = 40
Opened = Callable[[Path], Any]


@pytest.fixture(autouse=True)
def in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_BYTES", "TAIL_BYTES", "MAX_STEP_BYTES"):
        monkeypatch.setattr(header_ranges, name, 256)


def twin(data: bytes, path: Path) -> int:
    """Write zeros, and the ranges of `data` that are asked for; returns how many bytes that were."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(len(data)))
    brought: set[int] = set()
    for number, ranges in enumerate(header_ranges.header_ranges(path)):
        assert number < MAX_ROUNDS
        with path.open("r+b") as file:
            for begin, end in ranges:
                file.seek(begin)
                file.write(data[begin:end])
                brought |= set(range(begin, min(end, len(data))))
    return len(brought)


def outcome(opened: Opened, path: Path) -> object:
    try:
        return opened(path)
    except PunaError as error:
        return type(error), error.message.replace(str(path), "FILE"), error.hint


def of_gguf(path: Path) -> object:
    found = open_checkpoint(path)
    tensors = {name: (tensor.shape, tensor.type.name) for name, tensor in found.tensors.items()}
    tokens = None if found.tokenizer is None else found.tokenizer.tokens
    return repr(found.config), tensors, tokens, found.chat_template, repr(found.metadata), found.unused_keys


def of_arrays(read: Opened) -> Opened:
    return lambda path: {name: (array.shape, array.dtype, array.offset) for name, array in read(path).items()}


def require_same(opened: Opened, data: bytes, folder: Path) -> None:
    whole, part = folder / "whole" / "m.gguf", folder / "part" / "m.gguf"
    whole.parent.mkdir(exist_ok=True)
    whole.write_bytes(data)
    twin(data, part)
    assert outcome(opened, part) == outcome(opened, whole)


@pytest.mark.parametrize("seed", range(4))
def test_gguf_files_whole_and_broken_ones(seed: int, tmp_path: Path) -> None:
    rng = random.Random(f"ranges {seed}")
    for _ in range(75):
        (data,) = gguf_mutant(rng).values()
        require_same(of_gguf, data, tmp_path)


@pytest.mark.parametrize("seed", range(2))
def test_safetensors_files_whole_and_broken_ones(seed: int, tmp_path: Path) -> None:
    rng = random.Random(f"ranges {seed}")
    for _ in range(100):
        require_same(of_arrays(read_safetensors), safetensors_mutant(rng), tmp_path)


@pytest.mark.parametrize("name", [name for name in FILES if "million" not in name and "again and again" not in name])
def test_torch_files_that_are_hostile(name: str, tmp_path: Path) -> None:
    require_same(of_arrays(read_torch_file), FILES[name](), tmp_path)


def test_a_vocabulary_is_brought_and_weights_are_not(tmp_path: Path) -> None:
    config = tiny_config(vocab_size=3000)
    data = draft_gguf(config, random_tensors(config, seed=1), "F32", bpe_tokenizer(3000)).to_bytes()
    vocabulary = sum(len(value.to_bytes()) for value in tokenizer_values(bpe_tokenizer(3000)))
    assert vocabulary < twin(data, tmp_path / "m.gguf") < vocabulary + 4000 < len(data)
    require_same(of_gguf, data, tmp_path)
