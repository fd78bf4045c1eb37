"""puna convert, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from puna.cli import main
from puna.formats import open_checkpoint
from tests.models import random_tensors, tiny_config, write_gguf

CONFIG = tiny_config()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", CONFIG, random_tensors(CONFIG, seed=1))


def run(*words: object) -> Result:
    return CliRunner().invoke(main.app, ["convert", *map(str, words)])


def test_the_path_goes_to_stdout_and_the_rest_to_stderr(model: Path, tmp_path: Path) -> None:
    result = run(model, tmp_path / "made", "--to", "safetensors", "--shards", "2")
    assert result.exit_code == 0 and result.stdout == f"{tmp_path / 'made'}\n"
    assert "exactly the source's numbers, read again and compared" in result.stderr
    assert len(list((tmp_path / "made").glob("*.safetensors"))) == 2


def test_json_tells_types_and_exactness(model: Path, tmp_path: Path) -> None:
    result = run(model, tmp_path / "q.gguf", "--to", "gguf", "--quantize", "q8_0", "--json")
    assert json.loads(result.stdout) == {
        "path": str(tmp_path / "q.gguf"),
        "bytes": (tmp_path / "q.gguf").stat().st_size,
        "types": {"Q8_0": 16, "F32": 5},
        "exact": False,
        "losses": [],
    }
    assert open_checkpoint(tmp_path / "q.gguf").tensors["lm_head"].type.name == "Q8_0"


def test_a_home_folder_is_found_in_the_target_too(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = run("~/tiny.gguf", "~/made.gguf", "--to", "gguf", "--quantize", "Q8_0")
    assert result.exit_code == 0 and result.stdout == f"{tmp_path / 'made.gguf'}\n"
    assert (tmp_path / "made.gguf").is_file()


def test_a_slash_at_the_end_of_a_folders_name_is_right(model: Path, tmp_path: Path) -> None:
    assert run(model, f"{tmp_path}/made/", "--to", "SafeTensors").exit_code == 0
    assert run(model, f"{tmp_path}/shards/", "--to", "gguf", "--shards", "2").exit_code == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["{model}", "{made}"], 2, "--to is missing"),
        (["{model}", "{made}", "--to", "onnx"], 2, "the format is 'onnx'"),
        (["{model}"], 2, "DST is missing"),
        (["{model}", "{made}", "--to", "meta", "--shards", "3"], 2, "cannot be split in 3 parts"),
        (["{model}", "{model}", "--to", "gguf", "--force"], 2, "is the source of the conversion"),
        (["none.gguf", "{made}", "--to", "gguf"], 2, "no such file"),
        (["{model}", "{made}/", "--to", "gguf"], 2, "made/ is a folder's name, but --to gguf makes one file"),
        (["{model}", "{made}.gguf", "--to", "safetensors"], 2, "a .gguf file, but --to safetensors makes a folder"),
        (["{model}", "-", "--to", "gguf"], 2, "cannot write a model to -"),
        (["{model}", "~nobody-at-all/m.gguf", "--to", "gguf"], 2, "DST is '~nobody-at-all/m.gguf', but no home folder is known"),
        (["{model}", "{made}", "--to", "gguf", "--quantize", "Q5_K_M"], 2, "The nearest to Q5_K_M is q6_k."),
    ],
)
def test_wrong_usage_is_told_in_two_lines(
    words: list[str], code: int, said: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [word.format(model=model, made=tmp_path / "made") for word in words]
    assert main.run(["convert", *filled]) == code
    out, err = capsys.readouterr()
    assert out == "" and said in err
    assert len(err.splitlines()) <= 2 and "Traceback" not in err
