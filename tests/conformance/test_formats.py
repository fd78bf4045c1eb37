"""One tiny model in every format, from every writer: equal tensors and equal greedy ids.

Written by puna's own writers, by `transformers` (safetensors, PyTorch's files, sharded), by `torch.save`, and by the `gguf`
package. What is compared is bits: a format changes no number.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from puna import LLM
from puna.convert import convert
from puna.errors import UnsupportedModelError
from puna.formats import open_checkpoint
from puna.formats.base import Checkpoint
from puna.formats.families import ARCHITECTURES
from puna.formats.families import FAMILIES as FAMILIES_BY_NAME
from puna.formats.names import GGUF_NAMES, META_NAMES, foreign_name
from puna.formats.notices import Doubt
from puna.formats.tokenizer_files import means_the_same
from puna.model.rope import RopeConfig
from puna.model.rotary import RotaryTables
from puna.model.spec import ModelConfig, is_near
from puna.writers.safetensors import FAMILY_KEYS
from tests.families import FAMILIES, Family
from tests.models import bpe_tokenizer, random_tensors, spm_tokenizer, tiny_config, write_gguf, write_llama2c

CONFIG = tiny_config(name="")
WEIGHTS = random_tensors(CONFIG, seed=11)
PROMPT = "Lily was in the big day"


def numbers(checkpoint: Checkpoint) -> dict[str, np.ndarray[Any, Any]]:
    return {name: tensor.dequantize() for name, tensor in checkpoint.tensors.items()}


def sizes(config: ModelConfig) -> ModelConfig:
    """Formats differ in the name of an architecture, and in the precision in which they hold epsilon."""
    return replace(config, name="", architecture="", norm_eps=float(np.float32(config.norm_eps)))


def without_ropes(config: ModelConfig) -> ModelConfig:
    """GGUF has one name for the architectures of Llama and Mistral, and tables where others name a scaling."""
    architecture = ARCHITECTURES[FAMILIES_BY_NAME[config.architecture].gguf][0]
    return replace(config, name="", architecture=architecture, ropes=tuple(RopeConfig() for _ in config.ropes))


def require_equal(found: Checkpoint, expected: Checkpoint) -> None:
    assert sizes(found.config) == sizes(expected.config)
    require_same_weights(found, expected)


def require_same_weights(found: Checkpoint, expected: Checkpoint) -> None:
    assert found.tensors.keys() == expected.tensors.keys()
    ours = numbers(expected)
    for name, values in numbers(found).items():
        assert np.array_equal(values, ours[name]), name


def greedy(path: Path) -> tuple[int, ...]:
    with LLM.load(path, device="reference", max_context=64) as llm:
        return llm.generate(PROMPT, max_tokens=24).token_ids


# ---- our writers ----------------------------------------------------------------------------------------------------

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "gguf": ("gguf", {}),
    "gguf, 3 shards": ("gguf", {"shards": 3}),
    "safetensors": ("safetensors", {}),
    "safetensors, 4 shards": ("safetensors", {"shards": 4}),
    "meta": ("meta", {}),
    "meta, 2 shards": ("meta", {"shards": 2}),
    "meta, 4 shards": ("meta", {"shards": 4}),
    "llama2c": ("llama2c", {}),
}
TOKENIZERS = {"bpe": bpe_tokenizer, "spm": spm_tokenizer}


@pytest.fixture(scope="module", params=TOKENIZERS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "tiny.gguf"
    return write_gguf(path, CONFIG, WEIGHTS, "F32", TOKENIZERS[request.param](CONFIG.vocab_size), chat_template="{{ messages }}")


@pytest.mark.parametrize("way", WAYS)
def test_our_writers_change_no_number_and_no_text(way: str, source: Path, tmp_path: Path) -> None:
    to, how = WAYS[way]
    made = convert(source, tmp_path / "made", to=to, **how)
    assert made.exact
    expected, found = open_checkpoint(source), open_checkpoint(made.path)
    require_equal(found, expected)
    assert found.chat_template == expected.chat_template
    one, other = found.tokenizer, expected.tokenizer
    assert one is not None and other is not None and means_the_same(one, other)
    assert (one.bos_id, one.eos_id, one.add_bos) == (other.bos_id, other.eos_id, other.add_bos)
    assert greedy(made.path) == greedy(source)


@pytest.mark.parametrize("first", ["gguf", "safetensors", "meta", "llama2c"])
def test_a_model_survives_the_way_round_all_formats(first: str, source: Path, tmp_path: Path) -> None:
    order = ["gguf", "safetensors", "meta", "llama2c"]
    order = order[order.index(first) :] + order[: order.index(first)]
    path = source
    for step, to in enumerate([*order, first]):
        path = convert(path, tmp_path / str(step), to=to).path
    require_equal(open_checkpoint(path), open_checkpoint(source))
    assert greedy(path) == greedy(source)


@pytest.mark.parametrize("quantize", ["f16", "bf16", "f32"])
@pytest.mark.parametrize("to", ["gguf", "safetensors", "meta"])
def test_a_float_type_is_the_same_in_every_format(to: str, quantize: str, source: Path, tmp_path: Path) -> None:
    """Norms stay as they are in GGUF, and have the matrices' type elsewhere."""
    half = convert(source, tmp_path / "half.gguf", to="gguf", quantize=quantize).path
    made = convert(source, tmp_path / "made", to=to, quantize=quantize).path
    found, expected = numbers(open_checkpoint(made)), numbers(open_checkpoint(half))
    for name in (name for name, values in expected.items() if values.ndim == 2):
        assert np.array_equal(found[name], expected[name]), name


# ---- other hands ----------------------------------------------------------------------------------------------------


def by_transformers(family: Family, folder: Path, kind: str) -> None:
    save(family.transformers_model(seed=3), folder, kind)


def save(model: Any, folder: Path, kind: str) -> None:
    import torch

    if kind == "bin":
        model.config.save_pretrained(folder)
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    elif kind == "bin, sharded":
        state = list(model.state_dict().items())
        model.config.save_pretrained(folder)
        halves = {1: dict(state[: len(state) // 2]), 2: dict(state[len(state) // 2 :])}
        for number, half in halves.items():
            torch.save(half, folder / f"pytorch_model-0000{number}-of-00002.bin")
        places = {name: f"pytorch_model-0000{number}-of-00002.bin" for number, half in halves.items() for name in half}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    else:
        model.save_pretrained(folder, max_shard_size="40KB" if kind == "sharded" else "1GB")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["whole", "sharded", "bin", "bin, sharded"])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_transformers_writes_is_read_as_it_is(name: str, kind: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    by_transformers(family, tmp_path, kind)
    found = open_checkpoint(tmp_path)
    assert found.unused_keys == () and found.notices == ()
    require_equal(found, family.checkpoint(family.transformers_model(seed=3)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_gguf_holds_a_family_or_says_what_it_has_no_form_for(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    by_transformers(family, tmp_path / "theirs", "whole")
    if family.not_gguf:
        with pytest.raises(UnsupportedModelError, match=family.not_gguf):
            convert(tmp_path / "theirs", tmp_path / "ours.gguf", to="gguf")
        return
    assert convert(tmp_path / "theirs", tmp_path / "ours.gguf", to="gguf").exact
    found, expected = open_checkpoint(tmp_path / "ours.gguf"), open_checkpoint(tmp_path / "theirs")
    assert found.unused_keys == () and not [notice for notice in found.notices if isinstance(notice, Doubt)]
    require_same_weights(found, expected)
    assert is_near(without_ropes(found.config), without_ropes(expected.config))
    positions = np.array([0, 1, 70, 130])
    one, other = (RotaryTables(checkpoint.config).cos_sin(positions, positions + 1) for checkpoint in (found, expected))
    assert np.allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["phi3", "mixtral"])
def test_fused_and_stacked_matrices_are_split_over_shards(name: str, tmp_path: Path) -> None:
    by_transformers(FAMILIES[name], tmp_path / "theirs", "sharded")
    made = convert(tmp_path / "theirs", tmp_path / "ours", to="gguf", shards=3)
    assert len(list(made.path.glob("*.gguf"))) == 3
    require_same_weights(open_checkpoint(made.path), open_checkpoint(tmp_path / "theirs"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.config.architecture in FAMILY_KEYS])
def test_what_we_write_is_read_by_transformers(name: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    by_transformers(FAMILIES[name], tmp_path / "theirs", "whole")
    convert(tmp_path / "theirs", tmp_path / "ours", to="safetensors", shards=2)
    require_equal(open_checkpoint(tmp_path / "ours"), open_checkpoint(tmp_path / "theirs"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = [
            AutoModelForCausalLM.from_pretrained(tmp_path / which, attn_implementation="eager") for which in ("theirs", "ours")
        ]
    ids = torch.arange(90)[None] % FAMILIES[name].config.vocab_size
    with torch.no_grad():
        theirs, ours = (model.float().eval()(ids).logits for model in models)
    assert torch.equal(theirs, ours)


VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def with_images(kind: str, text: str) -> Any:
    """A tiny model that also reads images, around the language model of a family."""
    import torch
    import transformers

    family = FAMILIES[text]
    inner = family.transformers_model(seed=3)
    config = getattr(transformers, f"{kind}Config")(text_config=inner.config.to_dict(), vision_config=VISION)
    config.tie_word_embeddings = family.config.tie_embeddings
    torch.manual_seed(4)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config).float().eval()
    model.model.language_model.load_state_dict(inner.model.state_dict())
    model.lm_head.load_state_dict(inner.lm_head.state_dict())
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["whole", "bin"])
@pytest.mark.parametrize(
    ("outer", "text"), [("Gemma3", "gemma3"), ("Mistral3", "ministral3"), ("Mistral3", "mistral, no window")]
)
def test_the_language_model_of_one_that_also_reads_images_is_read(outer: str, text: str, kind: str, tmp_path: Path) -> None:
    save(with_images(outer, text), tmp_path, kind)
    found, family = open_checkpoint(tmp_path), FAMILIES[text]
    assert "puna runs its language model" in found.notices[0] and len(found.notices) == 1 and found.unused_keys == ()
    require_equal(found, family.checkpoint(family.transformers_model(seed=3)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("key", "value"),
    [("layer_types", ["full_attention", "linear_attention"]), ("position_embedding_type", None), ("num_local_experts", 8)],
)
def test_granite_4_with_other_layers_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    by_transformers(FAMILIES["granite 4, dense"], tmp_path, "whole")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(UnsupportedModelError, match=f"{key} is .*; puna runs models of this type where it is"):
        open_checkpoint(tmp_path)


def test_a_folder_of_another_family_is_not_written(tmp_path: Path) -> None:
    by_transformers(FAMILIES["smollm3"], tmp_path / "theirs", "whole")
    with pytest.raises(UnsupportedModelError, match="does not write folders of the architecture 'smollm3'"):
        convert(tmp_path / "theirs", tmp_path / "ours", to="safetensors")


def stored_by_name(config: ModelConfig, names: dict[str, str]) -> dict[str, np.ndarray[Any, Any]]:
    return {foreign_name(names, name): values for name, values in WEIGHTS.items()}


def by_gguf_package(folder: Path) -> Path:
    path = folder / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    keys: list[tuple[Callable[[Any], None], Any]] = [
        (writer.add_block_count, CONFIG.num_layers),
        (writer.add_context_length, CONFIG.max_context),
        (writer.add_embedding_length, CONFIG.hidden_size),
        (writer.add_feed_forward_length, CONFIG.ffn_size),
        (writer.add_head_count, CONFIG.num_heads),
        (writer.add_head_count_kv, CONFIG.num_kv_heads),
        (writer.add_layer_norm_rms_eps, CONFIG.norm_eps),
        (writer.add_rope_freq_base, CONFIG.rope.theta),
    ]
    for add, value in keys:
        add(value)
    for name, values in stored_by_name(CONFIG, GGUF_NAMES).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def by_torch_save(folder: Path) -> Path:
    import torch

    (folder / "params.json").write_text(json.dumps({
        "dim": CONFIG.hidden_size, "n_layers": CONFIG.num_layers, "n_heads": CONFIG.num_heads, "n_kv_heads": CONFIG.num_kv_heads,
        "norm_eps": CONFIG.norm_eps, "vocab_size": -1, "multiple_of": 32, "max_seq_len": CONFIG.max_context,
    }))  # fmt: skip
    state = {name: torch.from_numpy(values) for name, values in stored_by_name(CONFIG, META_NAMES).items()}
    torch.save(state | {"rope.freqs": torch.ones(8)}, folder / "consolidated.00.pth")
    return folder


def by_llama2c_v1(folder: Path) -> Path:
    return write_llama2c(folder / "v1.bin", CONFIG, WEIGHTS, version=1)


HANDS: dict[str, Callable[[Path], Path]] = {
    "the gguf package": by_gguf_package,
    "torch.save": by_torch_save,
    "llama2.c v1": by_llama2c_v1,
}


@pytest.mark.parametrize("hand", HANDS)
def test_other_writers_give_the_same_model(hand: str, source: Path, tmp_path: Path) -> None:
    require_equal(open_checkpoint(HANDS[hand](tmp_path)), open_checkpoint(source))


@pytest.mark.parametrize("quantize", ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"])
def test_the_gguf_package_reads_what_we_write(quantize: str, source: Path, tmp_path: Path) -> None:
    made = open_checkpoint(convert(source, tmp_path / "made.gguf", to="gguf", quantize=quantize).path)
    reader = gguf.GGUFReader(made.path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for name, ours in made.tensors.items():
        theirs = tensors[foreign_name(GGUF_NAMES, name)]
        assert theirs.tensor_type.name == ours.type.name
        values = gguf.quants.dequantize(theirs.data, theirs.tensor_type)
        assert np.array_equal(np.asarray(values, np.float32).reshape(ours.shape), ours.dequantize()), name
    assert reader.fields["tokenizer.ggml.tokens"].contents()[3:6] == [t.decode() for t in made.tokenizer.tokens[3:6]]  # type: ignore


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_torch_reads_what_we_write(shards: int, source: Path, tmp_path: Path) -> None:
    import torch

    made = convert(source, tmp_path / "made", to="meta", shards=shards).path
    states = [torch.load(file, weights_only=True) for file in sorted(made.glob("*.pth"))]
    assert len(states) == shards
    queries = torch.cat([state["layers.1.attention.wq.weight"] for state in states])
    outputs = torch.cat([state["layers.0.attention.wo.weight"] for state in states], dim=1)
    assert np.array_equal(queries.numpy(), WEIGHTS["layers.1.q_proj"])
    assert np.array_equal(outputs.numpy(), WEIGHTS["layers.0.o_proj"])
