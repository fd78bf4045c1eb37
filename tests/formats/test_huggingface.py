"""Hugging Face folders: files that are read, keys that count, and errors for incomplete folders (A4, A7, A8)."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.convert import convert
from puna.errors import ModelFormatError, ModelNotFoundError, PunaError, UnsupportedModelError
from puna.formats import open_checkpoint
from puna.formats.template_file import template_in
from puna.model.rope import RopeConfig
from tests.models import random_tensors, tiny_config, write_gguf

ROOT = Path(__file__).parents[2]
CONFIG = tiny_config(name="")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "tiny.gguf"
    return write_gguf(path, CONFIG, random_tensors(CONFIG, seed=1))


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    return convert(source, tmp_path / "model", to="safetensors").path


@pytest.fixture
def sharded(source: Path, tmp_path: Path) -> Path:
    return convert(source, tmp_path / "model", to="safetensors", shards=3).path


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def set_keys(folder: Path, **keys: Any) -> None:
    edit(folder / "config.json", lambda config: config.update(keys))


# ---- config.json ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model_type": "gpt_oss"}, "the model type is 'gpt_oss'; puna runs: llama, mistral, qwen2, qwen3"),
        ({"query_pre_attn_scalar": 256}, "query_pre_attn_scalar is 256"),
        ({"sliding_window_pattern": 6}, "sliding_window_pattern is 6"),
        ({"no_rope_layer_interval": 4}, "no_rope_layer_interval is 4"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "llama_4_scaling_beta": 0.1}},
            "has the key 'llama_4_scaling_beta'",
        ),
        ({"model_type": None}, "no model type is named"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        (
            {"architectures": ["LlamaForTokenClassification"]},
            r"is 'LlamaForTokenClassification'; puna runs models that write text \(LlamaForCausalLM\)",
        ),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', which changes results"),
        ({"num_local_experts": 8}, "num_local_experts is 8"),
        ({"rope_interleaved": True}, "rope_interleaved is True"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"logits_scaling": 8.0}, "logits_scaling is 8.0"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, "is of type 'longrope'"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0, "beta": 1}}, "has the key 'beta'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differs between layers"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
    ],
)
def test_keys_that_change_results_are_refused(keys: dict[str, Any], words: str, folder: Path) -> None:
    set_keys(folder, **keys)
    with pytest.raises(UnsupportedModelError, match=words):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"hidden_size": None}, "hidden_size: is missing"),
        ({"hidden_size": "64"}, "hidden_size: is '64'; a whole number is needed"),
        ({"num_hidden_layers": 5000}, "num_hidden_layers: num_layers is 5000; it must lie in 1..1024"),
        ({"num_attention_heads": 0, "head_dim": None}, "does not divide the hidden size"),
        ({"num_key_value_heads": 3}, "must divide num_heads 4"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps: is 'small'; a number is needed"),
        ({"rms_norm_eps": 1e999}, "is not JSON|a number is needed"),
        ({"rope_theta": -1.0}, "rope_theta is -1.0"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling.factor: is missing"),
        ({"rope_scaling": "linear"}, "an object is needed"),
        ({"max_position_embeddings": 10**400}, "max_position_embeddings: is 1000"),
        ({"max_position_embeddings": 0}, "must lie in 1.."),
        ({"rope_scaling": {"type": "linear", "factor": 1e299}}, "rope factor is 1e"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": -1e9, "mscale_all_dim": 1}}, "must not be negative"),
        ({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 10**400}}, "must lie in 1.."),
        (
            {"model_type": "qwen2", "architectures": [], "use_sliding_window": True, "num_hidden_layers": 10**15},
            "num_layers is 1000",
        ),
        ({"vocab_size": 299}, r"embed_tokens.weight.*\(300, 64\).*\(299, 64\)"),
        ({"intermediate_size": 95}, "gate_proj.weight"),
        ({"num_hidden_layers": 3}, r"'model.layers.2.input_layernorm.weight': is missing; the model has 3 layers"),
        ({"eos_token_id": "</s>"}, "eos_token_id: is '</s>'; a token id or a list of them is needed"),
    ],
)
def test_a_wrong_size_is_named(keys: dict[str, Any], words: str, folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    set_keys(folder, **keys)
    with pytest.raises(ModelFormatError, match=words):
        open_checkpoint(folder)


def test_fewer_layers_than_the_weights_have_are_refused(folder: Path) -> None:
    set_keys(folder, num_hidden_layers=1)
    with pytest.raises(UnsupportedModelError, match=r"'model.layers.1.*' is no part of a llama model of 1 layers"):
        open_checkpoint(folder)


def test_unknown_keys_are_listed_and_harmless_ones_are_not(folder: Path) -> None:
    set_keys(folder, use_cache=True, transformers_version="4.40.0", pretraining_tp=2, something_new=1)
    assert open_checkpoint(folder).unused_keys == ("something_new",)


ROPES: dict[str, tuple[dict[str, Any], RopeConfig, int]] = {
    "none": ({}, RopeConfig(), 128),
    "version 5": ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, RopeConfig(theta=5e5), 128),
    "linear, old key": ({"rope_scaling": {"type": "linear", "factor": 4}}, RopeConfig(scaling="linear", factor=4.0), 512),
    "dynamic": (
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        RopeConfig(scaling="dynamic", factor=2.0, original_context=128),
        256,
    ),
    "llama3": (
        {
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
        RopeConfig(scaling="llama3", factor=8.0, original_context=32),
        128,
    ),
    "yarn lengthens": (
        {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}},
        RopeConfig(scaling="yarn", factor=4.0, original_context=128, attention_factor=1.138629436111989),
        512,
    ),
}


@pytest.mark.parametrize("kind", ROPES)
def test_rotary_scalings_are_read_in_old_words_and_new(kind: str, folder: Path) -> None:
    keys, rope, context = ROPES[kind]
    edit(folder / "config.json", lambda config: config.pop("rope_scaling"))
    set_keys(folder, **keys)
    config = open_checkpoint(folder).config
    assert (config.rope, config.max_context) == (rope, context)


# ---- weights --------------------------------------------------------------------------------------------------------


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"model-00002-of-00003.safetensors of 3 shards are missing"):
        open_checkpoint(sharded)


def test_shards_without_an_index_are_read_if_all_are_there(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    assert len(open_checkpoint(sharded).files) == 3
    (sharded / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="holds 2 of 3 shards; number 3 is missing"):
        open_checkpoint(sharded)


def test_weights_must_lie_where_the_index_says(sharded: Path) -> None:
    index, name = sharded / "model.safetensors.index.json", "model.layers.1.mlp.down_proj.weight"
    edit(index, lambda values: values["weight_map"].update({name: "model-00001-of-00003.safetensors"}))
    with pytest.raises(ModelFormatError, match=rf"'{name}': is missing, though model.safetensors.index.json places it"):
        open_checkpoint(sharded)
    edit(index, lambda values: values["weight_map"].pop(name))
    with pytest.raises(ModelFormatError, match=r"is not named by model.safetensors.index.json"):
        open_checkpoint(sharded)


def test_a_git_lfs_pointer_is_told(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UnsupportedModelError, match="Git LFS pointer"):
        open_checkpoint(folder)


def test_a_folder_without_weights_says_what_is_missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"holds config.json, but no weights"):
        open_checkpoint(folder)


def test_a_file_of_the_folder_stands_for_it(folder: Path) -> None:
    assert open_checkpoint(folder / "model.safetensors").path == folder


def test_a_config_beside_gguf_files_only_describes_them(folder: Path, source: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "tiny.gguf").write_bytes(source.read_bytes())
    assert open_checkpoint(folder).format == "gguf"


def test_a_stored_head_that_should_be_the_embedding_counts_and_is_told_where_it_differs(source: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = convert(source, tmp_path / "model", to="safetensors").path
    set_keys(folder, tie_word_embeddings=True)
    found = open_checkpoint(folder)
    assert "differs from the embedding" in found.notices[0] and "lm_head" in found.tensors
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}, folder / "model.safetensors")
    found = open_checkpoint(folder)
    assert found.notices == () and "lm_head" not in found.tensors
    save_file({name: values for name, values in tensors.items() if name != "lm_head.weight"}, folder / "model.safetensors")
    set_keys(folder, tie_word_embeddings=False)
    with pytest.raises(ModelFormatError, match=r"'lm_head.weight': is missing, and tie_word_embeddings is false"):
        open_checkpoint(folder)


def test_an_old_buffer_of_frequencies_is_passed_over(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}, folder / "model.safetensors")
    assert open_checkpoint(folder).config.num_layers == 2
    save_file(tensors | {"model.layers.0.self_attn.extra": np.ones(8, np.float32)}, folder / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"'model.layers.0.self_attn.extra' is no part"):
        open_checkpoint(folder)


def test_weights_that_do_not_begin_at_a_multiple_of_their_size_give_the_same_text(folder: Path) -> None:
    from puna import LLM

    def text() -> tuple[int, ...]:
        with LLM.load(folder, device="cpu", max_context=64) as llm:
            return llm.generate("the day", max_tokens=16).token_ids

    whole = (folder / "model.safetensors").read_bytes()
    expected = text()
    length = int.from_bytes(whole[:8], "little")
    (folder / "model.safetensors").write_bytes(
        (length + 3).to_bytes(8, "little") + whole[8 : 8 + length] + b"   " + whole[8 + length :]
    )
    assert text() == expected


# ---- text -----------------------------------------------------------------------------------------------------------


def test_ends_of_generation_config_win_over_those_of_config(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7], "temperature": 0.6}))
    found = open_checkpoint(folder)
    assert found.tokenizer is not None and found.tokenizer.stop_ids == (7,)
    assert found.generation["temperature"] == 0.6
    (folder / "generation_config.json").unlink()
    set_keys(folder, eos_token_id=[2, 9])
    found = open_checkpoint(folder)
    assert found.tokenizer is not None and found.tokenizer.stop_ids == (9,)


def test_templates_are_found_where_they_may_lie(folder: Path) -> None:
    settings = folder / "tokenizer_config.json"
    assert open_checkpoint(folder).chat_template is None
    edit(
        settings,
        lambda values: values.update(chat_template=[{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]),
    )
    assert open_checkpoint(folder).chat_template == "d"
    edit(settings, lambda values: values.update(chat_template="one"))
    assert open_checkpoint(folder).chat_template == "one"
    (folder / "chat_template.jinja").write_text("own file")
    assert open_checkpoint(folder).chat_template == "own file"


# ---- hostile --------------------------------------------------------------------------------------------------------

LEAVING: list[Any] = [
    "../model.safetensors", "../../etc/passwd", "/etc/passwd", "/dev/zero", "a/b.safetensors", "./model.safetensors",
    "..", ".", "",
    "..\\model.safetensors", "C:\\model.safetensors", "C:model.safetensors", "\\\\host\\share", "file:///etc/passwd",
    "~/x", "$HOME",
    "%2e%2e/x", "%2e%2e%2fx", "..%2fx", "\u2024\u2024/x", "\uff0e\uff0e\uff0fx", "x\0.safetensors", "x\n", "\u202ex", "a" * 300,
    "-rf", " x", "x ", "con/../x", "....//x", "..;/x", "*", "?", "x|y", "a..b", "http://localhost/x", "\ud800", None, 7,
    ["x"], {},
]  # fmt: skip


@pytest.mark.parametrize("name", LEAVING, ids=lambda name: ascii(name)[:20])
def test_shard_names_that_could_leave_the_folder_are_refused(name: object, sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    edit(index, lambda values: values["weight_map"].update({"model.norm.weight": name}))
    opened: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        from puna.formats import huggingface

        patch.setattr(huggingface, "WEIGHTS", tuple((stem, opened.append) for stem, _ in huggingface.WEIGHTS))
        with pytest.raises(ModelFormatError, match=r"not the name of a file of this folder|is not UTF-8|is not JSON"):
            open_checkpoint(sharded)
    assert opened == []


def test_files_of_fixed_names_may_be_links_to_anywhere(folder: Path, tmp_path: Path) -> None:
    """Weights on another disk."""
    expected = open_checkpoint(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in list(folder.iterdir()):
        path.rename(elsewhere / f"{path.name}.1")
        path.symlink_to(elsewhere / f"{path.name}.1")
    found = open_checkpoint(folder)
    assert (found.config, found.files) == (expected.config, expected.files)
    assert found.tokenizer is not None and expected.tokenizer is not None
    assert found.tokenizer.tokens == expected.tokenizer.tokens


def test_shards_that_no_index_names_may_be_links_to_anywhere(sharded: Path, tmp_path: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    shard = sharded / "model-00002-of-00003.safetensors"
    shard.rename(tmp_path / "outside")
    shard.symlink_to(tmp_path / "outside")
    assert len(open_checkpoint(sharded).files) == 3


def test_a_link_to_what_is_no_regular_file_is_never_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")
    with pytest.raises(ModelNotFoundError, match="is a link to /dev/zero, where no file is"):
        open_checkpoint(folder)


def test_a_shard_of_an_index_that_is_a_link_out_of_the_folder_is_refused(sharded: Path, tmp_path: Path) -> None:
    shard = sharded / "model-00002-of-00003.safetensors"
    shard.rename(tmp_path / "outside")
    shard.symlink_to(tmp_path / "outside")
    with pytest.raises(ModelFormatError, match="is a link that leaves the folder") as error:
        open_checkpoint(sharded)
    assert "Copy the files there, or open the folder where they are" in error.value.hint
    (tmp_path / "outside").rename(sharded / "inside")
    shard.unlink()
    shard.symlink_to("inside")
    assert open_checkpoint(sharded).config.num_layers == 2


def test_the_hubs_own_cache_is_read(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    (folder / "model.safetensors").rename(outside)
    (folder / "model.safetensors").symlink_to(outside)
    snapshot, blobs = tmp_path / "models--a--b/snapshots/0", tmp_path / "models--a--b/blobs"
    snapshot.parent.mkdir(parents=True)
    blobs.mkdir()
    folder.rename(snapshot)
    outside.rename(blobs / "1234")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../blobs/1234")
    assert open_checkpoint(snapshot).config.num_layers == 2
    assert open_checkpoint(tmp_path / "models--a--b").path == snapshot
    (snapshot.parent / "1").mkdir()
    with pytest.raises(ModelNotFoundError, match="holds 2 snapshots: 0, 1"):
        open_checkpoint(tmp_path / "models--a--b")


def test_a_template_that_is_a_link_out_of_the_folder_is_refused_by_every_format(
    folder: Path, source: Path, tmp_path: Path
) -> None:
    """It may be any text, which a conversion would copy. Other files of a fixed name may be links: they must be what they are."""
    secret = tmp_path / "secret"
    secret.write_text("private")
    meta = convert(source, tmp_path / "meta", to="meta").path
    for place in (folder, meta):
        (place / "chat_template.jinja").unlink(missing_ok=True)
        (place / "chat_template.jinja").symlink_to(secret)
        with pytest.raises(ModelFormatError, match=r"chat_template.jinja: file: is a link that leaves the folder"):
            open_checkpoint(place)
        (place / "chat_template.jinja").unlink()
        (place / "own").write_text("text")
        (place / "chat_template.jinja").symlink_to("own")
        assert open_checkpoint(place).chat_template == "text"
    (meta / "params.json").rename(tmp_path / "params.json")
    (meta / "params.json").symlink_to(tmp_path / "params.json")
    assert open_checkpoint(meta).config.num_layers == 2


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
@pytest.mark.parametrize("target", ["gone", "itself"])
def test_a_link_to_no_file_is_an_incomplete_download(name: str, target: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(name if target == "itself" else "gone")
    with pytest.raises(ModelNotFoundError, match=rf"{name} is a link to .*, where no file is") as error:
        open_checkpoint(folder)
    assert "download is not complete" in error.value.hint


def test_a_template_or_a_cache_that_may_not_be_read_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "chat_template.jinja").write_text("text")
    cache = tmp_path / "models--a--b"
    for name in ("snapshots", "blobs"):
        (cache / name).mkdir(parents=True)

    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ModelNotFoundError, match=r"chat_template.jinja cannot be read: Permission denied"):
        open_checkpoint(folder)
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ModelNotFoundError, match=r"snapshots cannot be read: Permission denied"):
        open_checkpoint(cache)
    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(ModelNotFoundError, match=r"chat_template.jinja cannot be opened: Permission denied"):
        template_in(folder)


@pytest.mark.parametrize("depth", [10, 300, 900])
def test_nested_values_are_named_in_short(depth: int, folder: Path) -> None:
    nested = json.loads("[" * depth + "]" * depth)
    for key in ("model_type", "hidden_act", "architectures", "hidden_size"):
        before = (folder / "config.json").read_text()
        set_keys(folder, **{key: nested})
        with pytest.raises((ModelFormatError, UnsupportedModelError)) as error:
            open_checkpoint(folder)
        assert len(error.value.message) < 500
        (folder / "config.json").write_text(before)


def test_names_of_tensors_and_files_in_errors_drive_no_terminal(sharded: Path, tmp_path: Path) -> None:
    name = "x\x1b[2J"
    index = sharded / "model.safetensors.index.json"
    shard = next(sharded.glob("model-00001-*"))
    header = {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    write_header(shard, lambda old: old | header)
    for word in ("is not named by", "is in"):
        with pytest.raises(ModelFormatError, match=word) as error:
            open_checkpoint(sharded)
        assert error.value.message.isprintable()
        write_header(next(sharded.glob("model-00002-*")), lambda old: old | header)
        edit(index, lambda values: values["weight_map"].update({name: shard.name}))


def write_header(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(change(json.loads(data[8 : 8 + length]))).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])


CODE = "import os; os.environ['PUNA_CANARY'] = '1'\nclass Config: pass\nclass Model: pass\nclass Tokenizer: pass\n"
REPOSITORIES: list[tuple[str, dict[str, Any]]] = [
    ("config.json", {"auto_map": {"AutoConfig": "modeling.Config"}}),
    ("config.json", {"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}),
    ("config.json", {"auto_map": {"AutoModelForCausalLM": "other/repo--modeling.Model"}}),
    ("config.json", {"tokenizer_class": "modeling.Tokenizer"}),
    ("config.json", {"custom_pipelines": {"x": {"impl": "modeling.Model"}}}),
    ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["modeling.Tokenizer", None]}}),
    ("tokenizer_config.json", {"tokenizer_class": "modeling.Tokenizer"}),
    ("tokenizer_config.json", {"tokenizer_class": "os.system"}),
    ("generation_config.json", {"custom_generate": "modeling.py"}),
    ("config.json", {"quantization_config": {"quant_method": "modeling.Model"}}),
]


def test_code_of_a_folder_is_never_imported(folder: Path, tmp_path: Path) -> None:
    """Each repository in a child process under an audit hook: no event names its folder but the opening of its data files."""
    script = (
        "import sys, pathlib\n"
        "from puna.formats import open_checkpoint\nfrom puna.errors import PunaError\n"
        "from puna.tokenizers import build_tokenizer\n"
        "bad = []\n"
        "hook = lambda event, args: bad.append(f'{event} {args}') if event in ('import', 'exec', 'compile', 'subprocess.Popen', "
        "'os.system') and 'modeling' in str(args) or event == 'open' and str(args[0]).endswith('.py') and 'model' in str(args[0])"
        " and sys.argv[1] in str(args[0]) else None\n"
        "sys.addaudithook(hook)\n"
        "for number in range(int(sys.argv[2])):\n"
        "    try:\n"
        "        build_tokenizer(open_checkpoint(pathlib.Path(sys.argv[1], str(number))).tokenizer)\n"
        "    except PunaError:\n"
        "        pass\n"
        "print(bad, 'PUNA_CANARY' in __import__('os').environ)\n"
    )
    import shutil

    for number, (file, keys) in enumerate(REPOSITORIES):
        repository = tmp_path / "repositories" / str(number)
        shutil.copytree(folder, repository)
        (repository / "modeling.py").write_text(CODE)
        (repository / "__init__.py").write_text(CODE)
        edit(repository / file, lambda values, keys=keys: values.update(keys))  # type: ignore[misc]
    arguments = [sys.executable, "-c", script, str(tmp_path / "repositories"), str(len(REPOSITORIES))]
    run = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "[] False\n", run.stdout


def test_code_of_a_folder_is_told(folder: Path) -> None:
    set_keys(folder, auto_map={"AutoConfig": "modeling.Config"})
    assert "never runs it" in open_checkpoint(folder).notices[0]


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.full) for seed in range(3, 65))])
def test_mutants_of_config_and_index_are_read_or_refused(seed: int, sharded: Path) -> None:
    rng = random.Random(seed)
    files = ["config.json", "model.safetensors.index.json", "tokenizer_config.json", "generation_config.json"]
    whole = {name: (sharded / name).read_bytes() for name in files}
    values = [None, [], {}, -1, 0, 1, 2**31, 2**63, 1e308, True, "", "x", [None], {"a": None}, "../x", 0.5]
    for _ in range(80):
        name = rng.choice(files)
        settings = json.loads(whole[name])
        inner = settings["weight_map"] if "weight_map" in settings and rng.random() < 0.8 else settings
        for _ in range(rng.randint(1, 2)):
            inner[rng.choice(list(inner) or ["x"])] = rng.choice(values)
        data = bytearray(json.dumps(settings).encode())
        if rng.random() < 0.3:
            data[rng.randrange(len(data))] = rng.randrange(256)
        (sharded / name).write_bytes(data)
        try:
            open_checkpoint(sharded)
        except PunaError as error:
            assert len(str(error)) < 1000
        (sharded / name).write_bytes(whole[name])
