"""The content of a path decides its format; an error says so if it is not a model."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from puna.errors import ModelFormatError, ModelNotFoundError, PunaError, UnsupportedModelError
from puna.formats import open_checkpoint
from tests.models import random_tensors, tiny_config, write_gguf, write_llama2c

CONFIG = tiny_config()
WEIGHTS = random_tensors(CONFIG, seed=1)


@pytest.mark.parametrize("name", ["model.bin", "model", "model.safetensors", "model-00001-of-00002.gguf", "ünï 🦙.gguf"])
def test_the_name_of_a_file_does_not_matter(name: str, tmp_path: Path) -> None:
    assert open_checkpoint(write_gguf(tmp_path / name, CONFIG, WEIGHTS)).format == "gguf"


def test_a_checkpoint_says_in_one_line_what_it_is(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", CONFIG, WEIGHTS)
    assert repr(open_checkpoint(path)) == f"<Checkpoint {str(path)!r} (gguf): llama, 2 layers, 21 tensors>"


def test_a_llama2c_file_may_be_called_gguf(tmp_path: Path) -> None:
    assert open_checkpoint(write_llama2c(tmp_path / "m.gguf", CONFIG, WEIGHTS)).format == "llama2c"


def test_a_folder_with_one_model_opens_it(tmp_path: Path) -> None:
    path = write_llama2c(tmp_path / "m.bin", CONFIG, WEIGHTS)
    (tmp_path / "README.md").write_text("a model")
    (tmp_path / "empty").touch()
    (tmp_path / "more").mkdir()
    assert open_checkpoint(tmp_path).path == path


def test_a_folder_with_two_models_lists_them(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", CONFIG, WEIGHTS)
    write_gguf(tmp_path / "b.gguf", CONFIG, WEIGHTS)
    with pytest.raises(ModelNotFoundError, match=r"holds 2 models: a\.gguf, b\.gguf"):
        open_checkpoint(tmp_path)


def test_names_that_would_drive_the_terminal_are_escaped(tmp_path: Path) -> None:
    for name in ("a\x1b[2J.bin", "b.bin"):
        write_llama2c(tmp_path / name, CONFIG, WEIGHTS)
    with pytest.raises(ModelNotFoundError, match=r"holds 2 models: 'a\\x1b\[2J.bin', b.bin"):
        open_checkpoint(tmp_path)


def test_a_folder_without_a_model_lists_what_is_there(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text("text")
    with pytest.raises(ModelNotFoundError, match=r"holds no model; files there: 0\.txt, .* and 2 more"):
        open_checkpoint(tmp_path)


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="files there: none"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("model.safetensors", ModelNotFoundError, r"holds weights, but no config\.json"),
        ("consolidated.00.pth", ModelNotFoundError, r"\(\.pth\), but no params\.json"),
        ("config.json", UnsupportedModelError, "no model type is named"),
        ("adapter_config.json", UnsupportedModelError, "a LoRA adapter, not a model"),
    ],
)
def test_a_folder_of_which_a_part_is_missing_says_which(name: str, error: type[PunaError], words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(error, match=words):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"PK\x03\x04" + bytes(100), b"\x80\x02" + bytes(100), struct.pack("<Q", 40) + b'{"__metadata__":{}}' + bytes(100)],
    ids=["PyTorch", "an old pickle", "safetensors"],
)
def test_weights_alone_are_no_model(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(ModelFormatError, match="no file beside it has the model's sizes"):
        open_checkpoint(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"tjgg" + bytes(100), "before GGUF"),
        (b"FUGG" + bytes(100), "big-endian"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "web page"),
    ],
)
def test_what_people_take_for_a_model_is_named(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(UnsupportedModelError, match=words) as caught:
        open_checkpoint(tmp_path / "m.gguf")
    assert caught.value.hint


@pytest.mark.parametrize("data", [b"\0" * 1000, b"hello", b"\xff" * 64, b"G", bytes(range(256))])
def test_anything_else_is_no_model(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(ModelFormatError, match=r"is neither GGUF nor llama2\.c"):
        open_checkpoint(tmp_path / "m")


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    with pytest.raises(ModelFormatError, match="is empty"):
        open_checkpoint(tmp_path / "m.gguf")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no such file: .*m\.gguf") as caught:
        open_checkpoint(tmp_path / "m.gguf")
    assert caught.value.exit_code == 2


def test_a_broken_link_names_its_target(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").symlink_to(tmp_path / "gone")
    with pytest.raises(ModelNotFoundError, match=r"is a link to .*gone, which does not exist"):
        open_checkpoint(tmp_path / "m.gguf")


def test_a_link_to_a_model_opens(tmp_path: Path) -> None:
    write_gguf(tmp_path / "blob", CONFIG, WEIGHTS)
    (tmp_path / "m.gguf").symlink_to("blob")
    assert open_checkpoint(tmp_path / "m.gguf").config == CONFIG


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused_at_once(path: str) -> None:
    if not Path(path).exists():
        pytest.skip("no such device here")
    with pytest.raises(ModelNotFoundError, match="not a regular file"):
        open_checkpoint(Path(path))


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(ModelNotFoundError, match="not a regular file"):
        open_checkpoint(tmp_path / "m.gguf")
    with pytest.raises(ModelNotFoundError, match="holds no model"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "loop"])
def test_a_path_that_cannot_be_opened_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ModelNotFoundError):
        open_checkpoint(tmp_path / name)


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "m.gguf", CONFIG, WEIGHTS)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, who may read everything
    with pytest.raises(ModelNotFoundError, match="cannot be read: Permission denied"):
        open_checkpoint(path)


def damaged(folder: Path) -> list[Path]:
    """A model cut short, one whose tokenizer is cut short, a folder without one, files that are none."""
    whole = write_gguf(folder / "whole.gguf", CONFIG, WEIGHTS).read_bytes()
    (folder / "cut.gguf").write_bytes(whole[:-100])
    model = write_llama2c(folder / "m.bin", CONFIG, WEIGHTS)
    tokenizer = folder / "tokenizer.bin"
    tokenizer.write_bytes(tokenizer.read_bytes()[:-3])
    (folder / "empty").mkdir()
    (folder / "text").write_text("hello")
    devices = [path for path in map(Path, ("/dev/full", "/proc/self/mem")) if path.exists()]
    return [folder / "cut.gguf", model, folder / "empty", folder / "text", folder / "nothing", *devices]


def test_every_fault_comes_with_what_to_do(tmp_path: Path) -> None:
    for path in damaged(tmp_path):
        with pytest.raises((ModelFormatError, ModelNotFoundError)) as caught:
            open_checkpoint(path)
        assert caught.value.hint, path
    with pytest.raises(ModelFormatError) as caught:
        open_checkpoint(tmp_path / "cut.gguf")
    assert "fetch it again, and compare its size and sha256" in caught.value.hint


def test_a_tokenizer_in_the_place_of_a_model_is_told(shared_data: Path, tmp_path: Path) -> None:
    for path in (shared_data / "llama2/tokenizer.model", tmp_path / "tokenizer.json"):
        if not path.exists():
            path.write_text('{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}', "utf-8")
        with pytest.raises(ModelFormatError, match="is a tokenizer, not a model"):
            open_checkpoint(path)
