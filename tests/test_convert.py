"""Conversion is all or nothing: allowed options, allowed targets, and what a failure leaves (B4, B5, B6)."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from puna import convert as module
from puna.convert import ConvertError, convert
from puna.errors import PunaError, UnsupportedModelError, UsageError
from puna.files import TEMPORARY
from puna.formats import open_checkpoint
from puna.formats.base import Checkpoint, Tensor
from puna.formats.blocks import BLOCK_TYPES
from puna.model.rope import RopeConfig, yarn_attention_factor
from puna.model.spec import ModelConfig
from puna.progress import KeepingReporter
from puna.writers import WRITERS
from puna.writers.base import WriteJob
from puna.writers.text_files import require_frame
from tests.models import (
    CONFIGS,
    WIDE_CONFIG,
    DraftValue,
    TinyTokenizer,
    random_tensors,
    spm_tokenizer,
    tiny_config,
    write_gguf,
    write_llama2c,
)  # fmt: skip

ROOT = Path(__file__).parents[1]
CONFIG = tiny_config()
SUFFIX = {"gguf": ".gguf"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "tiny.gguf"
    return write_gguf(path, CONFIG, random_tensors(CONFIG, seed=1), "F32", spm_tokenizer(CONFIG.vocab_size), "{{ messages }}")


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(TEMPORARY))


class Told:
    """What a reporter heard."""

    def __init__(self) -> None:
        self.ends: dict[str, bool] = {}
        self.notices: list[str] = []

    def progress(self, stage: str, done: int, total: int, unit: str = "") -> None:
        assert done <= total
        self.ends[stage] = done == total

    def notice(self, text: str) -> None:
        self.notices.append(text)


def in_a_child(source: Path, target: Path, how: str) -> subprocess.Popen[bytes]:
    call = f"convert(Path(sys.argv[1]), Path(sys.argv[2]), {how})"
    code = f"import sys; from pathlib import Path; from puna.convert import convert; {call}"
    return subprocess.Popen([sys.executable, "-c", code, str(source), str(target)], cwd=ROOT)


@pytest.mark.parametrize("to", ["meta", "llama2c"])
def test_a_tokenizer_that_a_format_cannot_say_is_announced(to: str, tmp_path: Path) -> None:
    extra = [DraftValue(b"puna.tokenizer.prefix_first_only", "bool", True)]
    source = write_gguf(
        tmp_path / "tiny.gguf", CONFIG, random_tensors(CONFIG, seed=1), "F32", spm_tokenizer(CONFIG.vocab_size), extra=extra
    )
    notices: list[str] = []
    report = SimpleNamespace(progress=lambda *_: None, notice=notices.append)
    made = convert(source, tmp_path / "made", to=to, report=report)
    assert [notice for notice in notices if "so tokenizer.json holds it" in notice]
    spec = open_checkpoint(made.path).tokenizer
    assert spec is not None and spec.prefix_first_only


# ---- types ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantize", module.QUANTIZATIONS)
def test_every_quantisation_is_written_and_near(quantize: str, tmp_path: Path) -> None:
    tensors = random_tensors(WIDE_CONFIG, seed=3)
    wide = write_gguf(tmp_path / "wide.gguf", WIDE_CONFIG, tensors)
    made = convert(wide, tmp_path / "made.gguf", to="gguf", quantize=quantize)
    found = open_checkpoint(made.path)
    assert found.tensors["layers.0.q_proj"].type.name == quantize.upper()
    assert made.exact == (quantize == "f32")
    most = {"q4": 0.12, "q6": 0.03, "q8": 0.01, "f1": 0.001, "bf": 0.005, "f3": 0.0}[quantize[:2]]
    for name, values in tensors.items():
        error = np.sqrt(np.mean((found.tensors[name].dequantize() - values) ** 2) / np.mean(values**2))
        assert error <= most, (name, error)


def test_a_mix_keeps_the_output_and_some_layers_better(tmp_path: Path) -> None:
    config = tiny_config(head_dim=64, hidden_size=256, ffn_size=512, num_layers=8)
    wide = write_gguf(tmp_path / "wide.gguf", config, random_tensors(config, seed=3))
    types = {
        name: t.type.name
        for name, t in open_checkpoint(convert(wide, tmp_path / "m.gguf", to="gguf", quantize="q4_k").path).tensors.items()
    }
    assert types["lm_head"] == "Q6_K" and types["embed"] == "Q4_K" and types["final_norm"] == "F32"
    assert Counter(types[f"layers.{layer}.down_proj"] for layer in range(8)) == {"Q4_K": 4, "Q6_K": 4}
    assert {types[f"layers.{layer}.q_proj"] for layer in range(8)} == {"Q4_K"}


def test_rows_that_are_no_whole_blocks_get_another_type(tmp_path: Path) -> None:
    config = tiny_config(hidden_size=96, ffn_size=72)
    odd, told = write_gguf(tmp_path / "odd.gguf", config, random_tensors(config, seed=3)), Told()
    found = open_checkpoint(convert(odd, tmp_path / "m.gguf", to="gguf", quantize="q4_k", report=told).path).tensors
    names = ("layers.0.q_proj", "layers.0.down_proj", "lm_head", "embed")
    assert [found[name].type.name for name in names] == ["Q4_1", "F16", "Q8_0", "Q4_1"]
    assert told.notices == [
        "9 F32 matrices become Q4_1, which rounds them: rows of 96 are not a multiple of 256, so Q4_1 instead of Q4_K",
        "3 F32 matrices become Q8_0, which rounds them: rows of 96 are not a multiple of 256, so Q8_0 instead of Q6_K",
        "2 F32 matrices become Q4_1, which rounds them: rows of 64 are not a multiple of 256, so Q4_1 instead of Q4_K",
        "2 F32 matrices become F16, which rounds them: rows of 72 are not a multiple of 256, so F16 instead of Q6_K",
    ]


NARROW = tiny_config(hidden_size=96, ffn_size=64)


@pytest.mark.parametrize(
    ("config", "old", "quantize", "expected"),
    [
        (NARROW, "Q4_1", "q4_k", {"Q4_1": 16}),  # it has what takes the place of Q4_K already, the better ones too
        (NARROW, "Q8_0", "q6_k", {"Q8_0": 16}),
        (NARROW, "Q4_0", "q4_0", {"Q4_0": 16}),  # what was rounded to four bits is no better in six
        (WIDE_CONFIG, "Q4_1", "q4_k", {"Q4_K": 11, "Q4_1": 5}),
        (WIDE_CONFIG, "Q5_K", "q4_k", {"Q4_K": 11, "Q5_K": 5}),
        (WIDE_CONFIG, "Q8_0", "q4_k", {"Q4_K": 11, "Q6_K": 5}),
        (WIDE_CONFIG, "F16", "q4_k", {"Q4_K": 11, "Q6_K": 5}),
    ],
)
def test_blocks_of_few_bits_do_not_grow_for_nothing(
    config: ModelConfig, old: str, quantize: str, expected: dict[str, int], tmp_path: Path
) -> None:
    source = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=3), old)
    made = convert(source, tmp_path / "made.gguf", to="gguf", quantize=quantize)
    assert {kind: count for kind, count in made.types.items() if kind != "F32"} == expected
    assert made.num_bytes <= source.stat().st_size * 1.01
    for name, tensor in open_checkpoint(source).tensors.items():
        found = open_checkpoint(made.path).tensors[name]
        assert found.type is not tensor.type or np.array_equal(found.data[:], tensor.data[:]), name


def test_what_stays_although_another_type_was_asked_for_is_told(tmp_path: Path) -> None:
    for config, expected in (
        (NARROW, {"12 Q4_1 matrices are not requantised: rows of 96 are not a multiple of 256, so Q4_1 instead of Q4_K"}),
        (WIDE_CONFIG, {"5 Q4_1 matrices are not requantised: Q6_K would take more bytes and gain nothing"}),
    ):
        told = Told()
        source = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=3), "Q4_1")
        convert(source, tmp_path / "made.gguf", to="gguf", quantize="q4_k", overwrite=True, report=told)
        assert expected <= set(told.notices)


@pytest.mark.full
def test_the_default_model_does_not_grow_with_four_bits(default_model: Path, tmp_path: Path) -> None:
    made = convert(default_model, tmp_path / "m.gguf", to="gguf", quantize="q4_k")
    assert made.num_bytes < default_model.stat().st_size


@pytest.mark.parametrize(
    ("given", "expected"), [("Q8_0", "Q8_0"), ("q4_K", "Q4_K"), ("Q4_K_M", "Q4_K"), ("q4_k_m", "Q4_K"), ("BF16", "BF16")]
)
def test_a_type_is_taken_in_capitals_and_by_llama_cpps_name(given: str, expected: str, tmp_path: Path) -> None:
    wide = write_gguf(tmp_path / "wide.gguf", WIDE_CONFIG, random_tensors(WIDE_CONFIG, seed=3))
    found = open_checkpoint(convert(wide, tmp_path / "m.gguf", to="gguf", quantize=given).path)
    assert found.tensors["layers.0.q_proj"].type.name == expected


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("q4_k_s", "The nearest to q4_k_s is q4_k."),
        ("Q5_K_M", "The nearest to Q5_K_M is q6_k."),
        ("q3_k_l", "The nearest to q3_k_l is q4_k."),
        ("q9", ""),
    ],
)
def test_a_type_that_is_not_written_is_refused_with_the_nearest_one(given: str, hint: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"quantize is '{given}'; allowed: q8_0, q4_0, q4_1, q4_k, q6_k") as caught:
        convert(source, tmp_path / "m.gguf", to="gguf", quantize=given)
    assert caught.value.hint == hint


@pytest.mark.parametrize("quant", CONFIGS)
def test_a_file_of_any_type_keeps_its_blocks_or_becomes_exact_floats(quant: str, tmp_path: Path) -> None:
    config = CONFIGS[quant]
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=2), quant)
    expected = open_checkpoint(path).tensors
    same = open_checkpoint(convert(path, tmp_path / "same.gguf", to="gguf").path).tensors
    floats = open_checkpoint(convert(path, tmp_path / "floats", to="safetensors").path).tensors
    for name, tensor in expected.items():
        assert np.array_equal(same[name].data[:], tensor.data[:]) and same[name].type is tensor.type
        assert np.array_equal(floats[name].dequantize(), tensor.dequantize()), name


@pytest.mark.parametrize(
    ("dim", "ffn", "group"), [(64, 96, 32), (64, 128, 64), (288, 768, 32), (70, 100, 2), (75, 45, 15), (33, 99, 33)]
)
def test_a_group_of_llama2c_divides_both_sizes(dim: int, ffn: int, group: int, tmp_path: Path) -> None:
    heads = next(n for n in (4, 2, 1, 3) if dim % n == 0 and dim // n % 2 == 0) if dim % 2 == 0 else 0
    if not heads:
        from puna.writers.llama2c import group_size

        assert group_size(tiny_config(hidden_size=dim, ffn_size=ffn)) == group
        return
    config = tiny_config(hidden_size=dim, ffn_size=ffn, num_heads=heads, num_kv_heads=heads, head_dim=dim // heads)
    tensors = random_tensors(config, seed=5)
    path = write_gguf(tmp_path / "m.gguf", config, tensors, "F32", spm_tokenizer(config.vocab_size))
    found = open_checkpoint(convert(path, tmp_path / "made", to="llama2c", quantize="q8_0").path)
    assert found.metadata["group_size"] == group and found.metadata["version"] == 2
    again = open_checkpoint(convert(tmp_path / "made", tmp_path / "again", to="llama2c", quantize="q8_0").path)
    for name, values in tensors.items():
        assert np.abs(found.tensors[name].dequantize() - values).max() <= np.abs(values).max() / 250
        assert np.array_equal(again.tensors[name].dequantize(), found.tensors[name].dequantize())


def test_groups_of_llama2c_become_exact_floats_in_gguf(tmp_path: Path) -> None:
    path = write_llama2c(tmp_path / "m.bin", CONFIG, random_tensors(CONFIG, seed=6), version=2)
    made = convert(path, tmp_path / "m.gguf", to="gguf")
    assert made.exact
    for name, tensor in open_checkpoint(path).tensors.items():
        assert np.array_equal(open_checkpoint(made.path).tensors[name].dequantize(), tensor.dequantize())


# ---- what may be asked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"to": "onnx"}, "the format is 'onnx'; puna writes: gguf, safetensors, meta, llama2c"),
        ({"to": "gguf", "quantize": "q3_x"}, "quantize is 'q3_x'; allowed: q8_0"),
        ({"to": "safetensors", "quantize": "q8_0"}, "safetensors cannot hold q8_0; with it, `quantize` may be: f16, bf16, f32"),
        ({"to": "llama2c", "quantize": "f16"}, "may be: q8_0, f32"),
        ({"to": "gguf", "shards": 0}, "shards is 0"),
        ({"to": "gguf", "shards": 100}, "shards is 100"),
        ({"to": "gguf", "shards": 50}, "shards is 50, but the model has 21 tensors"),
        ({"to": "meta", "shards": 3}, "cannot be split in 3 parts"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_written(
    how: dict[str, Any], words: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        convert(source, tmp_path / "made", **how)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "to", "words"),
    [
        ({"qkv_bias": True, "architecture": "qwen2"}, "meta", "no form for a model with qkv_bias"),
        ({"qkv_bias": True, "architecture": "qwen2"}, "llama2c", "no form for a model with qkv_bias"),
        ({"sliding_window": 32}, "llama2c", "no form for a model with sliding_window"),
        ({"head_dim": 24}, "llama2c", "heads that are not an equal share"),
        ({"norm_eps": 1e-6}, "llama2c", "another epsilon than 1e-5"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_by_name(changes: dict[str, Any], to: str, words: str, tmp_path: Path) -> None:
    config = tiny_config(**changes)
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=1))
    with pytest.raises(UnsupportedModelError, match=words):
        convert(path, tmp_path / "made", to=to)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("to", ["safetensors", "meta", "llama2c"])
def test_a_tokenizer_that_adds_a_token_it_has_not_is_read_without_it_and_that_is_told(to: str, tmp_path: Path) -> None:
    config = tiny_config(vocab_size=1)
    tokenizer = TinyTokenizer("llama", [b"<unk>"], [2], [0.0])
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=1), "F32", tokenizer)
    told = KeepingReporter()
    convert(path, tmp_path / "made", to=to, report=told)
    assert any("names no BOS token; puna adds none" in text for text in told.texts)
    spec = open_checkpoint(path).tokenizer
    assert spec is not None and not spec.add_bos
    with pytest.raises(UnsupportedModelError, match="adds BOS to a text, but has no such token"):
        require_frame(replace(spec, add_bos=True))


@pytest.mark.parametrize(
    ("rope", "context", "is_held"),
    [
        ({"scaling": "linear", "factor": 2.0}, 128, True),
        ({"scaling": "linear", "factor": 3.7}, 37, True),
        ({"scaling": "linear", "factor": 3.7}, 128, False),
        ({"scaling": "linear", "factor": 2.0}, 1, False),
        ({"scaling": "linear", "factor": 0.3}, 128, True),
        ({"scaling": "yarn", "factor": 4.0, "original_context": 32}, 128, True),
        ({"scaling": "yarn", "factor": 4.0, "original_context": 32}, 200, True),
        ({"scaling": "yarn", "factor": 4.0, "original_context": 32}, 100, False),
    ],
)
def test_a_context_that_config_json_cannot_say_is_refused_by_name(
    rope: dict[str, Any], context: int, is_held: bool, tmp_path: Path
) -> None:
    config = tiny_config(max_context=context, rope=RopeConfig(**rope))
    path = write_gguf(tmp_path / "m.gguf", tiny_config(), random_tensors(config, seed=1))
    checkpoint = dataclasses.replace(open_checkpoint(path), config=config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "open_checkpoint", lambda path, *_: checkpoint if path.suffix else open_checkpoint(path))
        if not is_held:
            with pytest.raises(
                UnsupportedModelError, match=f"no form for a context of {context} tokens beside {rope['scaling']}"
            ):
                convert(path, tmp_path / "made", to="safetensors")
            return
        convert(path, tmp_path / "made", to="safetensors")
    assert open_checkpoint(tmp_path / "made").config.max_context == context


# ---- where it may go ------------------------------------------------------------------------------------------------


def test_a_model_is_never_written_onto_itself(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    shutil.copy(source, path)
    before = sha(path)
    (tmp_path / "link.gguf").symlink_to(path)
    os.link(path, tmp_path / "hard.gguf")
    folder = convert(path, tmp_path / "folder", to="safetensors").path
    for target, to in (
        (path, "gguf"),
        (tmp_path / "link.gguf", "gguf"),
        (tmp_path / "hard.gguf", "gguf"),
        (tmp_path / "x/../m.gguf", "gguf"),
    ):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match="is the source of the conversion"):
            convert(path, target, to=to, overwrite=True)
    for target in (folder, folder / "model.safetensors", folder / "new.gguf", folder / "deeper"):
        with pytest.raises(UsageError, match="source"):
            convert(folder, target, to="gguf", overwrite=True)
    assert sha(path) == before and left_over(tmp_path) == []


def test_a_target_that_exists_is_kept_unless_it_may_be_replaced(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "old.gguf"
    target.write_text("old")
    with pytest.raises(UsageError, match="exists"):
        convert(source, target, to="gguf")
    assert target.read_text() == "old"
    convert(source, target, to="gguf", overwrite=True)
    assert open_checkpoint(target).config.num_layers == 2
    (tmp_path / "folder").mkdir()
    convert(source, tmp_path / "folder", to="safetensors")
    for to in ("safetensors", "gguf"):
        with pytest.raises(UsageError, match=r"exists|is a folder that is not empty"):
            convert(source, tmp_path / "folder", to=to, overwrite=True)
    with pytest.raises(UsageError, match="there is no folder"):
        convert(source, tmp_path / "none/x.gguf", to="gguf")
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("y.gguf", {"to": "safetensors"}, r"y.gguf is named like a .gguf file, but --to safetensors makes a folder"),
        ("y.GGUF", {"to": "meta"}, "is named like a .GGUF file, but --to meta makes a folder"),
        ("y.safetensors", {"to": "meta"}, "is named like a .safetensors file, but --to meta makes a folder"),
        ("y.gguf", {"to": "gguf", "shards": 2}, "is named like a .gguf file, but --to gguf --shards 2 makes a folder"),
        ("y.bin", {"to": "llama2c"}, "is named like a .bin file, but --to llama2c makes a folder"),
        ("y.safetensors", {"to": "safetensors"}, "is named like a .safetensors file, but --to safetensors makes a folder"),
        ("y.safetensors.", {"to": "safetensors"}, "is named like a .safetensors file, but --to safetensors makes a folder"),
        ("y.pth", {"to": "meta"}, "is named like a .pth file, but --to meta makes a folder"),
        ("y.safetensors", {"to": "gguf"}, "is named like a .safetensors file, but --to gguf makes a .gguf file"),
        ("folder", {"to": "gguf"}, "folder exists and is a folder, but --to gguf makes one file"),
    ],
)
def test_a_name_that_says_another_thing_than_is_made_is_refused(
    name: str, how: dict[str, Any], words: str, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError) as caught:
        convert(source, tmp_path / name, **how)
    assert (
        re.search(words, caught.value.typed.message)
        and str(tmp_path) in caught.value.hint
        and [path.name for path in tmp_path.iterdir()] == ["folder"]
    )


def test_the_name_of_stdout_is_refused(source: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write a model to - \(stdout\)"):
        convert(source, Path("-"), to="gguf")


def test_a_name_with_dots_is_a_folders_too(source: Path, tmp_path: Path) -> None:
    assert convert(source, tmp_path / "Llama-3.2-1B", to="safetensors").path.is_dir()


def test_a_link_is_followed_to_its_target(source: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.gguf").symlink_to(tmp_path / "real/m.gguf")
    convert(source, tmp_path / "link.gguf", to="gguf")
    assert (tmp_path / "real/m.gguf").is_file() and (tmp_path / "link.gguf").is_symlink()


def test_two_conversions_to_one_target_leave_a_whole_one(source: Path, tmp_path: Path) -> None:
    runs = [in_a_child(source, tmp_path / "m.gguf", "to='gguf', overwrite=True") for _ in range(4)]
    assert [run.wait() for run in runs] == [0] * 4
    assert open_checkpoint(tmp_path / "m.gguf").config.num_layers == 2 and left_over(tmp_path) == []


@pytest.mark.parametrize(("to", "overwrite"), [("gguf", False), ("safetensors", False), ("safetensors", True)])
def test_what_appears_at_the_target_meanwhile_is_kept(
    to: str, overwrite: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, verify = tmp_path / "made", module._verify
    precious = target if to == "gguf" else target / "file"

    def verify_while_another_writes(*arguments: Any) -> None:
        precious.parent.mkdir(exist_ok=True)
        precious.write_text("precious")
        verify(*arguments)

    monkeypatch.setattr(module, "_verify", verify_while_another_writes)
    with pytest.raises(ConvertError, match=r"another program created .*made meanwhile"):
        convert(source, target, to=to, overwrite=overwrite)
    assert precious.read_text() == "precious" and left_over(tmp_path) == []


@pytest.mark.parametrize("name", ["鎮" * 85, "a" * 255])
@pytest.mark.parametrize("to", ["gguf", "safetensors"])
def test_the_longest_name_that_a_file_may_have_is_written(name: str, to: str, source: Path, tmp_path: Path) -> None:
    assert open_checkpoint(convert(source, tmp_path / name, to=to).path).config.num_layers == 2
    assert left_over(tmp_path) == []


# ---- when it fails --------------------------------------------------------------------------------------------------


class Failing:
    """The k-th of the calls that change the disk fails; how many there were is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, number: int = errno.ENOSPC) -> None:
        self.count, self.at, self.number = 0, at, number
        calls = {os: ("fsync", "link"), Path: ("replace", "rename", "mkdir", "write_text", "write_bytes")}
        for owner, name in ((owner, name) for owner, names in calls.items() for name in names):
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name)))
        for place in ("gguf", "safetensors", "torch_file", "llama2c"):
            target = sys.modules[f"puna.writers.{place}"]
            monkeypatch.setattr(target, "write_rows", self._wrapped(target.write_rows))

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                raise OSError(self.number, os.strerror(self.number))
            return call(*arguments, **named)

        return wrapper


@pytest.mark.parametrize("to", WRITERS)
def test_whichever_call_fails_the_target_is_as_it_was(to: str, source: Path, tmp_path: Path) -> None:
    target, before = tmp_path / f"made{SUFFIX.get(to, '')}", sha(source)
    at, total = 1, 10**6
    while at <= total:
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, at)
            try:
                convert(source, target, to=to)
                total = failing.count  # none failed: all were tried
            except ConvertError as error:
                assert "needed" in str(error) and "free" in str(error), at
            else:
                break
        assert not target.exists() and left_over(tmp_path) == [], at
        at += 1
    assert at > 8 and open_checkpoint(target).config.num_layers == 2 and sha(source) == before


def test_what_stood_there_survives_a_failure(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "m.gguf"
    target.write_text("old")
    Failing(monkeypatch, 5, errno.EIO)
    with pytest.raises(ConvertError, match="cannot write"):
        convert(source, target, to="gguf", overwrite=True)
    assert target.read_text() == "old" and left_over(tmp_path) == []


def test_too_little_room_is_told_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    with pytest.raises(ConvertError, match=r"not enough space in .*: 17 MB needed, 5 MB free"):
        convert(source, tmp_path / "m.gguf", to="gguf")
    assert list(tmp_path.iterdir()) == []


# The system refuses the byte at each of some limits: the error, and what is left in the folder.
LIMITED = """
import json, resource, signal, sys
from pathlib import Path
from puna.convert import convert
from puna.errors import PunaError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
source, target, to, *limits = sys.argv[1:]
for limit in map(int, limits):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    try:
        said = str(convert(Path(source), Path(target), to=to))
    except PunaError as error:
        said = str(error)
    print(json.dumps([said, [path.name for path in Path(target).parent.iterdir()]]))
"""


@pytest.mark.parametrize("to", ["gguf", "meta"])
def test_a_file_size_limit_at_any_place_leaves_nothing(to: str, source: Path, tmp_path: Path) -> None:
    """RLIMIT_FSIZE in a child."""
    limits = [source.stat().st_size * percent // 100 for percent in range(5, 100, 5)]
    arguments = [str(source), str(tmp_path / f"made{SUFFIX.get(to, '')}"), to, *map(str, limits)]
    run = subprocess.run([sys.executable, "-c", LIMITED, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    for limit, line in zip(limits, run.stdout.splitlines(), strict=True):
        said, left = json.loads(line)
        assert "exceeds the limit on file sizes" in said and left == [], (limit, said, left)


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_behind(name: signal.Signals, default_model: Path, tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "puna", "convert", str(default_model), str(tmp_path / "m"), "--to", "meta"],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while not left_over(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(name)
    assert run.wait(timeout=30) != 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.full) for seed in range(6, 30))])
def test_a_killed_one_leaves_the_target_absent_and_the_next_one_sweeps(seed: int, source: Path, tmp_path: Path) -> None:
    run = in_a_child(source, tmp_path / "m", "to='meta'")
    deadline = time.monotonic() + 30
    while not left_over(tmp_path) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0005)
    time.sleep(0.004 * seed)
    run.kill()
    run.wait()
    if (tmp_path / "m").exists():  # it was done already
        assert open_checkpoint(tmp_path / "m").config.num_layers == 2
        return
    assert open_checkpoint(convert(source, tmp_path / "m", to="meta").path).config.num_layers == 2
    assert left_over(tmp_path) == []


def test_what_is_read_back_wrong_is_not_kept(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from puna.writers import gguf

    def wrong(file: Any, rows: Any, wrote: Any) -> None:
        file.write(bytes(rows.nbytes))

    monkeypatch.setattr(gguf, "write_rows", wrong)
    with pytest.raises(ConvertError, match="read back with other numbers"):
        convert(source, tmp_path / "m.gguf", to="gguf")
    assert list(tmp_path.iterdir()) == []


def test_progress_ends_and_changes_of_type_are_told(source: Path, tmp_path: Path) -> None:
    told = Told()
    convert(source, tmp_path / "m.gguf", to="gguf", quantize="q8_0", report=told)
    assert told.ends == {"writing": True, "checking": True}
    assert told.notices == ["16 F32 matrices become Q8_0, which rounds them"]


YARN = RopeConfig(scaling="yarn", factor=4.0, original_context=64, attention_factor=yarn_attention_factor(4.0))
WINDOW = "llama.cpp ignores the sliding window of this architecture: texts longer than 32 tokens differ there; puna keeps it"
BETAS = "llama.cpp ignores yarn's beta_fast 16 and beta_slow 2 and uses 32 and 1: texts differ there; puna keeps them"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"sliding_window": 32}, [WINDOW]),
        ({"sliding_window": 32, "architecture": "qwen2", "qkv_bias": True}, [WINDOW]),
        ({"rope": YARN}, []),
        ({"rope": replace(YARN, beta_fast=16.0, beta_slow=2.0)}, [BETAS]),
        ({"rope": replace(YARN, beta_fast=16.0, beta_slow=2.0), "sliding_window": 32}, [WINDOW, BETAS]),
    ],
    ids=str,
)
def test_where_llama_cpp_computes_something_else_is_told(changes: dict[str, Any], expected: list[str], tmp_path: Path) -> None:
    source, told = checkpoint_of(tiny_config(**changes)), Told()
    (tmp_path / "source").mkdir()
    WRITERS["safetensors"].write(WriteJob(source, dict.fromkeys(source.tensors, "F32")), tmp_path / "source")
    made = convert(tmp_path / "source", tmp_path / "made.gguf", to="gguf", report=told).path
    assert [line for line in told.notices if "llama.cpp" in line] == expected
    found = open_checkpoint(made).config
    assert (found.sliding_window, found.rope) == (source.config.sliding_window, source.config.rope)
    told = Told()
    convert(made, tmp_path / "again", to="safetensors", report=told)
    assert not [line for line in told.notices if "llama.cpp" in line]


def checkpoint_of(config: ModelConfig) -> Checkpoint:
    tensors = random_tensors(config, seed=1)
    rows = {name: values.reshape(-1, values.shape[-1]).view(np.uint8) for name, values in tensors.items()}
    return Checkpoint(
        Path("m"), "gguf", config, {name: Tensor(name, tensors[name].shape, BLOCK_TYPES["F32"], rows[name]) for name in tensors}
    )


def test_a_source_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    """A GGUF file takes none from elsewhere: there the flag would be refused, and is not named."""
    path, told = write_llama2c(tmp_path / "m.bin", CONFIG, random_tensors(CONFIG, seed=6)), Told()
    (tmp_path / "tokenizer.bin").unlink()
    gguf = convert(path, tmp_path / "m.gguf", to="gguf", report=told).path
    assert told.notices == ["the source has no tokenizer, so the result has none: --tokenizer FILE adds one"]
    told = Told()
    convert(gguf, tmp_path / "made", to="safetensors", report=told)
    assert told.notices == ["the source has no tokenizer, so the result has none"]


@pytest.mark.full
def test_the_default_model_goes_round_all_formats(default_model: Path, tmp_path: Path) -> None:
    from puna import LLM

    def text(path: Path) -> str:
        with LLM.load(path, device="reference", max_context=128) as llm:
            return llm.chat([{"role": "user", "content": "Tell me about llamas."}], max_tokens=24).text

    path, expected = default_model, text(default_model)
    for to in ("safetensors", "meta", "llama2c", "gguf"):
        made = convert(path, tmp_path / f"made-{to}", to=to)
        assert made.exact and text(made.path) == expected, to
        path = made.path


def test_an_error_of_the_source_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(PunaError, match="no such file"):
        convert(tmp_path / "none.gguf", tmp_path / "m.gguf", to="gguf")
