"""Quantised folders against packings written out by hand, number for number: the layouts as their programs publish them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from puna.convert import convert
from puna.errors import ModelFormatError, UnsupportedModelError
from puna.formats import open_checkpoint
from puna.formats.names import HUGGINGFACE_NAMES, foreign_name
from puna.formats.rows import interleaved_order
from puna.model.weights import tensor_shapes
from tests.models import random_tensors, tiny_config, write_gguf

CONFIG = tiny_config(name="", hidden_size=128, ffn_size=256, head_dim=32)
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Ints = npt.NDArray[np.int64]
Arrays = dict[str, npt.NDArray[Any]]
Change = Callable[[Arrays, str], object]  # of a module of that name


@dataclass
class Truth:
    """A quantised matrix before any packing."""

    numbers: Ints  # (rows, columns)
    zeros: Ints  # (rows, groups)
    scales: npt.NDArray[np.float32]  # (rows, groups)
    order: Ints  # (columns,) group of each column

    @property
    def values(self) -> npt.NDArray[np.float32]:
        grid = (self.numbers - self.zeros[:, self.order]).astype(np.float32)
        return grid * self.scales[:, self.order]


def truth(shape: tuple[int, int], case: Case, rng: np.random.Generator) -> Truth:
    (rows, columns), group, bits = shape, case.group, case.bits
    groups = 1 if group == -1 else columns // group
    top = 1 << bits
    zeros = np.full((rows, groups), top // 2) if case.symmetric else rng.integers(1, top, (rows, groups))
    order = np.arange(columns) * groups // columns
    scales = rng.uniform(0.001, 0.05, (rows, groups)).astype(np.float16).astype(np.float32)
    return Truth(rng.integers(0, top, shape), zeros, scales, rng.permutation(order) if case.shuffled else order)


def words(numbers: Ints, bits: int, order: tuple[int, ...] | None = None) -> npt.NDArray[np.int32]:
    """Rows of numbers, 32 / bits to a word, the first one lowest; `order` says which number goes to which place."""
    per_word = 32 // bits
    rows, columns = numbers.shape
    padded = np.pad(numbers, ((0, 0), (0, -columns % per_word))).astype(np.uint32).reshape(rows, -1, per_word)
    places = range(per_word) if order is None else [order.index(place) for place in range(per_word)]
    shifted = padded << np.array([bits * place for place in places], np.uint32)
    packed: npt.NDArray[np.uint32] = np.bitwise_or.reduce(shifted, axis=2)
    return packed.view(np.int32)


def gptq(name: str, t: Truth, bits: int, version: int = 1) -> Arrays:
    return {
        f"{name}.qweight": np.ascontiguousarray(words(t.numbers, bits).T),
        f"{name}.qzeros": words(t.zeros.T - (version == 1), bits),
        f"{name}.scales": np.ascontiguousarray(t.scales.T).astype(np.float16),
        f"{name}.g_idx": t.order.astype(np.int32),
    }


def awq(name: str, t: Truth) -> Arrays:
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    return {
        f"{name}.qweight": words(np.ascontiguousarray(t.numbers.T), 4, order),
        f"{name}.qzeros": words(np.ascontiguousarray(t.zeros.T), 4, order),
        f"{name}.scales": np.ascontiguousarray(t.scales.T).astype(np.float16),
    }


def packed(name: str, t: Truth, bits: int, symmetric: bool, shuffled: bool = False) -> Arrays:
    made: Arrays = {
        f"{name}.weight_packed": words(t.numbers, bits),
        f"{name}.weight_scale": t.scales.astype(np.float16),
        f"{name}.weight_shape": np.array(t.numbers.shape, np.int64),
    }
    if not symmetric:
        made[f"{name}.weight_zero_point"] = np.ascontiguousarray(words(np.ascontiguousarray(t.zeros.T), bits).T)
    if shuffled:
        made[f"{name}.weight_g_idx"] = t.order.astype(np.int32)
    return made


def int8(name: str, t: Truth) -> Arrays:
    return {f"{name}.weight": (t.numbers - 128).astype(np.int8), f"{name}.weight_scale": t.scales}


def int8_with_zeros(name: str, t: Truth) -> Arrays:
    return int8(name, t) | {f"{name}.weight_zero_point": (t.zeros - 128).astype(np.int8)}


def scheme(bits: int, group: int, symmetric: bool = True, kind: str = "pack-quantized", **more: Any) -> dict[str, Any]:
    strategy = "channel" if group == -1 else "group"
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "group_size": group}
    group_0 = {"weights": weights | {"group_size": None if group == -1 else group}, "targets": ["Linear"], **more}
    return {"quant_method": "compressed-tensors", "format": kind, "config_groups": {"group_0": group_0}, "ignore": ["lm_head"]}


@dataclass
class Case:
    """A quantised folder, and the type that its matrices become."""

    config: dict[str, Any]
    pack: Callable[[str, Truth], Arrays]
    bits: int
    group: int
    becomes: str
    symmetric: bool = True
    shuffled: bool = False


def gptq_case(bits: int, group: int, becomes: str, symmetric: bool = True, shuffled: bool = False) -> Case:
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": shuffled}
    return Case(config, lambda n, t: gptq(n, t, bits), bits, group, becomes, symmetric, shuffled)


GPTQ_V2 = {"quant_method": "gptq", "bits": 4, "group_size": 64, "checkpoint_format": "gptq_v2"}
CASES: dict[str, Case] = {
    "gptq, 4 bits": gptq_case(4, 32, "Q4_0"),
    "gptq, 4 bits, groups of 128": gptq_case(4, 128, "Q4_0"),
    "gptq, 4 bits, whole rows": gptq_case(4, -1, "Q4_0"),
    "gptq, 4 bits, zeros": gptq_case(4, 64, "Q4_1", symmetric=False),
    "gptq, version 2": Case(GPTQ_V2, lambda n, t: gptq(n, t, 4, 2), 4, 64, "Q4_0"),
    "gptq, 8 bits": gptq_case(8, 32, "Q8_0"),
    "gptq, 8 bits, zeros": gptq_case(8, 32, "F16", symmetric=False),
    "gptq, act-order": gptq_case(4, 32, "F16", shuffled=True),
    "gptq, groups of 16": gptq_case(4, 16, "F16"),
    "awq": Case({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm"}, awq, 4, 64, "Q4_1", False),
    "awq, old names": Case({"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "version": "GEMM"}, awq, 4, 64, "Q4_1", False),
    "awq, old names, no method": Case({"zero_point": True, "w_bit": 4, "q_group_size": 32}, awq, 4, 32, "Q4_1", False),
    "awq, symmetric": Case({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "GEMM"}, awq, 4, 32, "Q4_0"),
    "compressed, 4 bits": Case(scheme(4, 32), lambda n, t: packed(n, t, 4, True), 4, 32, "Q4_0"),
    "compressed, 4 bits, zeros": Case(scheme(4, 64, False), lambda n, t: packed(n, t, 4, False), 4, 64, "Q4_1", False),
    "compressed, 8 bits": Case(scheme(8, 32), lambda n, t: packed(n, t, 8, True), 8, 32, "Q8_0"),
    "compressed, act-order": Case(scheme(4, 32), lambda n, t: packed(n, t, 4, True, True), 4, 32, "F16", True, True),
    "compressed, int8 by rows": Case(scheme(8, -1, kind="int-quantized"), int8, 8, -1, "Q8_0"),
    "compressed, int8 by rows, zeros": Case(scheme(8, -1, False, "int-quantized"), int8_with_zeros, 8, -1, "F16", False),
    "compressed, int8 by groups, zeros": Case(scheme(8, 32, False, "int-quantized"), int8_with_zeros, 8, 32, "F16", False),
    "compressed, int8 and activations": Case(
        scheme(8, -1, kind="int-quantized", input_activations={"num_bits": 8}), int8, 8, -1, "Q8_0"
    ),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    path = write_gguf(folder / "m.gguf", CONFIG, random_tensors(CONFIG, seed=1))
    return convert(path, folder / "plain", to="safetensors").path


def quantise(source: Path, folder: Path, case: Case, seed: int = 1) -> dict[str, Truth]:
    """A folder with every matrix of the layers quantised; returns them by our names, rows in the folder's order."""
    from safetensors.numpy import load_file, save_file

    rng = np.random.default_rng(seed)
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors, truths = load_file(folder / "model.safetensors"), {}
    for name, shape in tensor_shapes(CONFIG).items():
        if name.rpartition(".")[2] in MATRICES:
            foreign = foreign_name(HUGGINGFACE_NAMES, name)
            del tensors[foreign]
            truths[name] = truth((shape[0], shape[1]), case, rng)
            tensors |= case.pack(foreign.removesuffix(".weight"), truths[name])
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": case.config}))
    return truths


def in_our_order(name: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not name.endswith(("q_proj", "k_proj")):
        return values
    heads = values.reshape(-1, CONFIG.head_dim, values.shape[1])
    return np.asarray(heads[:, interleaved_order(CONFIG.head_dim)].reshape(values.shape))


@pytest.mark.parametrize("name", CASES)
def test_every_number_is_what_the_layout_says(name: str, source: Path, tmp_path: Path) -> None:
    case = CASES[name]
    truths = quantise(source, tmp_path / "m", case)
    checkpoint = open_checkpoint(tmp_path / "m")
    assert checkpoint.notices and case.becomes in checkpoint.notices[0]
    assert ("activations" in checkpoint.notices[-1]) == ("activations" in name)
    for ours, found in truths.items():
        tensor, expected = checkpoint.tensors[ours], in_our_order(ours, found.values)
        assert tensor.type.name == case.becomes and tensor.shape == expected.shape
        if case.becomes in ("Q4_0", "Q8_0"):
            assert np.array_equal(tensor.dequantize(), expected), ours
        else:
            most = {"Q4_1": 0.01, "F16": 2**-11 * 255}[case.becomes] * float(found.scales.max())
            assert np.abs(tensor.dequantize() - expected).max() <= most, ours
        assert np.array_equal(tensor.dequantize(3, 17), tensor.dequantize()[3:17])


@pytest.mark.parametrize("name", ["gptq, 4 bits", "awq", "compressed, 8 bits", "gptq, act-order"])
def test_a_quantised_folder_runs_and_converts(name: str, source: Path, tmp_path: Path) -> None:
    from puna import LLM

    quantise(source, tmp_path / "m", CASES[name])
    made = convert(tmp_path / "m", tmp_path / "m.gguf", to="gguf")
    assert made.exact == ("Q4_1" not in made.types)  # zero points of theirs are rounded, which is told
    texts = []
    for path in (tmp_path / "m", made.path):
        with LLM.load(path, device="cpu", max_context=64) as llm:
            texts.append(llm.generate("the day", max_tokens=12).token_ids)
    assert texts[0] == texts[1]


def test_scales_too_small_for_half_precision_keep_single_precision(source: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    truths = quantise(source, tmp_path / "m", CASES["compressed, int8 by rows"])
    path = tmp_path / "m/model.safetensors"
    tensors = load_file(path)
    for key in [key for key in tensors if key.endswith("weight_scale")]:
        tensors[key] = tensors[key] / np.float32(3e4)
    save_file(tensors, path)
    checkpoint = open_checkpoint(tmp_path / "m")
    tensor, found = checkpoint.tensors["layers.0.up_proj"], truths["layers.0.up_proj"]
    assert tensor.type.name == "F32"
    found.scales = found.scales / np.float32(3e4)
    assert np.array_equal(tensor.dequantize(), found.values)


UP = "model.layers.0.mlp.up_proj"


def changed(folder: Path, change: Callable[[Arrays], object]) -> Path:
    """A folder with its tensors changed."""
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, path)
    return folder


def with_settings(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A folder with its quantization_config changed."""
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("scale", [4094.0, 60000.0])
@pytest.mark.parametrize(
    ("name", "becomes", "most"),
    [
        ("gptq, 4 bits", "Q4_0", 65504),
        ("gptq, 8 bits", "Q8_0", 65504),
        ("gptq, 4 bits, zeros", "Q4_1", 4094),
        ("gptq, 8 bits, zeros", "F16", 255),
        ("gptq, groups of 16", "F16", 4094),
        ("awq", "Q4_1", 4094),
        ("compressed, 4 bits", "Q4_0", 65504),
        ("compressed, 4 bits, zeros", "Q4_1", 4094),
        ("compressed, act-order", "F16", 4094),
        ("compressed, int8 by rows", "Q8_0", 65504),
    ],
)
def test_weights_beyond_half_precision_keep_single_precision(
    name: str, becomes: str, most: float, scale: float, source: Path, tmp_path: Path
) -> None:
    found = quantise(source, tmp_path / "m", CASES[name])["layers.0.up_proj"]
    part = "weight_scale" if name.startswith("compressed") else "scales"
    change = put(part, lambda a: np.full_like(a, scale))
    tensor = open_checkpoint(changed(tmp_path / "m", lambda t: change(t, UP))).tensors["layers.0.up_proj"]
    found.scales = np.full_like(found.scales, scale)
    assert tensor.type.name == (becomes if scale <= most else "F32")
    error = np.abs(tensor.dequantize() - found.values).max()
    assert error <= (0 if tensor.type.name in ("F32", "Q4_0", "Q8_0") else scale * 0.02)


def weights_of(settings: dict[str, Any]) -> dict[str, Any]:
    weights: dict[str, Any] = settings["config_groups"]["group_0"]["weights"]
    return weights


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("gptq, 4 bits", {"is_marlin_format": True}, "quantization_config.is_marlin_format is True, which changes results"),
        ("gptq, 4 bits", {"pack_dtype": "int8"}, "pack_dtype is 'int8'"),
        ("gptq, 4 bits", {"format": "marlin"}, "format is 'marlin'"),
        ("gptq, version 2", {"format": "gptq"}, "checkpoint_format is 'gptq_v2', but format is 'gptq'"),
        ("gptq, 4 bits", {"dynamic": {"+:.*up_proj": {"bits": 8}}}, "dynamic has other settings for"),
        ("gptq, 4 bits", {"dynamic": {"x": {}}}, "dynamic has other settings for 'x'"),
        ("gptq, 4 bits", {"adapter": {"name": "lora"}}, "adapter is"),
        ("compressed, 4 bits", {"transform_config": {"config_groups": {"u": {}}}}, "transform_config is .*changes results"),
        ("compressed, 4 bits", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config.format is 'sparse-24-bitm"),
        ("compressed, 4 bits", {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme is"),
        ("compressed, 4 bits", {"weights": {"strategy": "block"}}, "config_groups.group_0.weights.strategy is 'block'"),
        ("compressed, 4 bits", {"weights": {"actorder": "other"}}, "weights.actorder is 'other'"),
        ("compressed, 4 bits", {"weights": {"dynamic": True}}, "weights.dynamic is True"),
        ("compressed, 4 bits", {"weights": {"block_structure": [128, 128]}}, "block_structure is"),
    ],
)
def test_settings_that_change_results_are_refused_by_name(
    name: str, change: dict[str, Any], words: str, source: Path, tmp_path: Path
) -> None:
    quantise(source, tmp_path / "m", CASES[name])
    inner = change.get("weights")
    with_settings(tmp_path / "m", lambda s: s.update(change) if inner is None else weights_of(s).update(inner))
    with pytest.raises(UnsupportedModelError, match=words):
        open_checkpoint(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gptq, 4 bits", {"dynamic": {"-:.*lm_head": {}}, "format": "gptq", "pack_dtype": "int32", "meta": {"quantizer": ["x"]}}),
        ("gptq, version 2", {"format": "gptq_v2", "is_marlin_format": False, "damp_percent": 0.01, "sym": True}),
        ("awq", {"zero_point": True, "modules_to_not_convert": ["lm_head"], "backend": "autoawq", "do_fuse": False}),
        ("compressed, 4 bits", {"sparsity_config": {"format": "dense"}, "transform_config": {}, "kv_cache_scheme": None}),
        ("compressed, 8 bits", {"sparsity_config": {}, "version": "0.9", "quantization_status": "compressed"}),
    ],
)
def test_plain_settings_change_nothing_and_unknown_ones_are_listed(
    name: str, change: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    quantise(source, tmp_path / "m", CASES[name])
    before = open_checkpoint(tmp_path / "m")
    after = open_checkpoint(with_settings(tmp_path / "m", lambda s: s.update(change | {"new_thing": 1})))
    assert (before.unused_keys, after.unused_keys) == ((), ("quantization_config.new_thing",))
    for ours, tensor in before.tensors.items():
        assert np.array_equal(after.tensors[ours].data[:], tensor.data[:])


def test_an_unknown_setting_of_the_scheme_is_listed_with_its_path(source: Path, tmp_path: Path) -> None:
    quantise(source, tmp_path / "m", CASES["compressed, 4 bits"])
    with_settings(tmp_path / "m", lambda s: weights_of(s).update(colour="red"))
    assert open_checkpoint(tmp_path / "m").unused_keys == ("quantization_config.config_groups.group_0.weights.colour",)


def without_order(tensors: Arrays) -> None:
    for key in [key for key in tensors if key.endswith("g_idx")]:
        del tensors[key]


def test_act_order_without_the_groups_of_columns_is_refused(source: Path, tmp_path: Path) -> None:
    for name, part in (("gptq, act-order", "g_idx"), ("compressed, act-order", "weight_g_idx")):
        folder = tmp_path / part
        quantise(source, folder, CASES[name])
        if name.startswith("compressed"):
            with_settings(folder, lambda s: weights_of(s).update(actorder="group"))
        assert open_checkpoint(folder).tensors
        with pytest.raises(ModelFormatError, match=f"has no {part} beside it, though by the settings"):
            open_checkpoint(changed(folder, without_order))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gptq, 4 bits", {"desc_act": True, "static_groups": True}),
        ("gptq, 4 bits, whole rows", {"desc_act": True}),
        ("compressed, 4 bits", {"weights": {"actorder": "weight"}}),
    ],
)
def test_act_order_that_leaves_columns_in_place_needs_no_groups_of_columns(
    name: str, change: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    truths = quantise(source, tmp_path / "m", CASES[name])
    inner = change.get("weights")
    with_settings(tmp_path / "m", lambda s: s.update(change) if inner is None else weights_of(s).update(inner))
    tensor = open_checkpoint(changed(tmp_path / "m", without_order)).tensors["layers.0.up_proj"]
    assert np.array_equal(tensor.dequantize(), truths["layers.0.up_proj"].values)


def added(name: str, array: npt.NDArray[Any]) -> Callable[[Arrays], object]:
    return lambda tensors: tensors.update({name: array})


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("gptq, 4 bits", added(f"{UP}.weight", np.ones((256, 128), np.float32)), f"another tensor are both '{UP}.weight'"),
        ("compressed, 8 bits", added(f"{UP}.weight", np.ones((256, 128), np.int8)), "another tensor are both"),
        ("gptq, 4 bits", added("evil.scales", np.ones(3, np.float32)), "'evil.weight': is missing; only its scales"),
        ("gptq, 4 bits", added("qzeros", np.ones(3, np.float32)), "tensor 'qzeros' is no part of a llama"),
        ("awq", added("lm_head.scales", np.ones(3, np.float16)), "tensor 'lm_head.scales' is no part of a llama"),
        ("compressed, 4 bits", added("lm_head.weight_scale", np.ones(3, np.float16)), "'lm_head.weight_scale' is no part"),
        ("compressed, 4 bits", added(f"{UP}.weight_zero_point", np.ones((32, 4), np.int32)), "symmetric there are no"),
        ("compressed, int8 by rows", added(f"{UP}.weight_zero_point", np.ones((256, 1), np.int8)), "symmetric there are no"),
        (
            "compressed, int8 by rows",
            added(f"{UP}.weight", np.ones((0, 64), np.int8)),
            r"shape \(0, 64\); a matrix of int8 numbers",
        ),
    ],
)
def test_tensors_that_would_be_passed_over_are_named(
    name: str, change: Callable[[Arrays], object], words: str, source: Path, tmp_path: Path
) -> None:
    quantise(source, tmp_path / "m", CASES[name])
    with pytest.raises((ModelFormatError, UnsupportedModelError), match=words):
        open_checkpoint(changed(tmp_path / "m", change))


def test_zero_points_of_zero_beside_symmetric_int8_change_nothing(source: Path, tmp_path: Path) -> None:
    truths = quantise(source, tmp_path / "m", CASES["compressed, int8 by rows"])
    changed(tmp_path / "m", added(f"{UP}.weight_zero_point", np.zeros((256, 1), np.int8)))
    found = open_checkpoint(tmp_path / "m").tensors["layers.0.up_proj"].dequantize()
    assert np.array_equal(found, truths["layers.0.up_proj"].values)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            "by bitsandbytes; puna reads: gptq, awq, compressed-tensors",
        ),
        ({"quant_method": "fp8"}, "quantised by FP8 .quant_method 'fp8'"),
        ({"quant_method": None}, "quantised by ''"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 32}, "bits is 3; puna reads 4 and 8"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'"),
        ({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemv"}, "AWQ version is 'gemv'"),
        ({"w_bit": 3, "q_group_size": 32}, "quantization_config.w_bit is 3; puna reads 4"),
        ({"w_bit": 4, "q_group_size": 32, "version": "GEMV"}, "AWQ version is 'gemv'; puna reads gemm"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "format is 'float-quantized'"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}}, "has 0 config_groups"),
    ],
)
def test_other_methods_are_refused_by_name(config: dict[str, Any], words: str, source: Path, tmp_path: Path) -> None:
    quantise(source, tmp_path / "m", Case(config, lambda n, t: gptq(n, t, 4), 4, 32, ""))
    with pytest.raises(UnsupportedModelError, match=words):
        open_checkpoint(tmp_path / "m")


def drop(part: str) -> Change:
    return lambda tensors, module: tensors.pop(f"{module}.{part}")


def put(part: str, make: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Change:
    return lambda tensors, module: tensors.update({f"{module}.{part}": make(tensors[f"{module}.{part}"])})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("scales"), "has no scales beside it"),
        (drop("qzeros"), "has no qzeros beside it"),
        (drop("qweight"), r"'model.layers.0.mlp.up_proj.weight': is missing"),
        (put("scales", lambda a: a[:-1]), r"is F16 \(3, 256\); F16 \(4, 256\) is needed"),
        (put("scales", lambda a: a.astype(np.float64)), "F64"),
        (put("qzeros", lambda a: a[:, :-1]), r"I32 \(4, 32\) is needed"),
        (put("qweight", lambda a: a[:-1]), "columns"),
        (put("qweight", lambda a: a.astype(np.float32)), "a matrix of I32 is needed"),
        (put("qweight", lambda a: a[0]), "a matrix of I32 is needed"),
        (put("qweight", lambda a: a[:0]), "a matrix of I32 is needed"),
        (put("g_idx", lambda a: a + 1), "holds 1 to 4; there are 4 groups"),
        (put("g_idx", lambda a: a - 1), "holds -1 to 2; there are 4 groups"),
        (put("g_idx", lambda a: a[:-1]), r"I32 \(128,\) is needed"),
    ],
)
def test_parts_that_do_not_fit_are_named(
    change: Callable[[Arrays, str], object], words: str, source: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    quantise(source, tmp_path / "m", CASES["gptq, 4 bits"])
    path = tmp_path / "m/model.safetensors"
    tensors = load_file(path)
    change(tensors, "model.layers.0.mlp.up_proj")
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, path)
    with pytest.raises(ModelFormatError, match=words):
        open_checkpoint(tmp_path / "m")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("weight_zero_point"), "has no weight_zero_point beside it, though its numbers are not symmetric"),
        (put("weight_zero_point", lambda a: a[:-1]), r"is I8 \(255, 1\); I8 \(256, 1\) is needed"),
        (put("weight_zero_point", lambda a: a.astype(np.int32)), r"is I32 \(256, 1\); I8 \(256, 1\) is needed"),
    ],
)
def test_zero_points_that_do_not_fit_are_named(
    change: Callable[[Arrays, str], object], words: str, source: Path, tmp_path: Path
) -> None:
    quantise(source, tmp_path / "m", CASES["compressed, int8 by rows, zeros"])
    rewritten(tmp_path / "m/model.safetensors", lambda tensors: change(tensors, "model.layers.0.mlp.up_proj"))
    with pytest.raises(ModelFormatError, match=words):
        open_checkpoint(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("compressed, int8 by rows", {"weight": np.zeros((64, 0), np.int8)}, r"has shape \(64, 0\)"),
        ("compressed, int8 by rows", {"weight": np.zeros((0, 64), np.int8)}, r"has shape \(0, 64\)"),
        ("compressed, 8 bits", {"weight_shape": np.array([256, 0])}, r"its weight_shape says \[256, 0\]"),
        (
            "compressed, 8 bits",
            {"weight_packed": np.zeros((256, 1), np.int32), "weight_shape": np.array([256, 0])},
            r"its weight_shape says \[256, 0\]",
        ),
        (
            "compressed, 8 bits",
            {"weight_packed": np.zeros((256, 1), np.int32), "weight_shape": np.array([256, -3])},
            r"its weight_shape says \[256, -3\]",
        ),
    ],
)
def test_matrices_without_numbers_are_refused(
    name: str, changes: dict[str, Any], words: str, source: Path, tmp_path: Path
) -> None:
    quantise(source, tmp_path / "m", CASES[name])
    added = {f"model.layers.0.mlp.up_proj.{part}": values for part, values in changes.items()}
    rewritten(tmp_path / "m/model.safetensors", lambda tensors: tensors.update(added))
    with pytest.raises(ModelFormatError, match=words):
        open_checkpoint(tmp_path / "m")


def test_one_zero_point_for_all_rows_is_enough(source: Path, tmp_path: Path) -> None:
    found = quantise(source, tmp_path / "m", CASES["compressed, int8 by rows, zeros"])["layers.0.up_proj"]
    name = "model.layers.0.mlp.up_proj.weight_zero_point"
    rewritten(tmp_path / "m/model.safetensors", lambda tensors: tensors.update({name: np.array([-5], np.int8)}))
    found.zeros = np.full_like(found.zeros, 123)
    tensor = open_checkpoint(tmp_path / "m").tensors["layers.0.up_proj"]
    assert np.array_equal(tensor.dequantize(), found.values.astype(np.float16))


def rewritten(path: Path, change: Callable[[Arrays], object]) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    change(tensors)
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, path)


OLD_AWQ = {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMM"}


def test_awqs_settings_may_lie_in_a_file_of_their_own(source: Path, tmp_path: Path) -> None:
    """As AutoAWQ wrote them once: quant_config.json, and nothing in config.json."""
    quantise(source, tmp_path / "new", CASES["awq"])
    quantise(source, tmp_path / "old", CASES["awq"])
    config = json.loads((tmp_path / "old/config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "old/config.json").write_text(json.dumps(config))
    (tmp_path / "old/quant_config.json").write_text(json.dumps(OLD_AWQ))
    new, old = (open_checkpoint(tmp_path / name) for name in ("new", "old"))
    assert old.notices == new.notices
    for name, tensor in new.tensors.items():
        assert np.array_equal(old.tensors[name].data[:], tensor.data[:]), name
    for bits, error, words in ((3, UnsupportedModelError, r"quant_config\.json: w_bit is 3"), ("4", ModelFormatError, "w_bit")):
        (tmp_path / "old/quant_config.json").write_text(json.dumps(OLD_AWQ | {"w_bit": bits}))
        with pytest.raises(error, match=words):
            open_checkpoint(tmp_path / "old")


def test_a_settings_file_beside_plain_weights_says_nothing(source: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    for file in source.iterdir():
        (tmp_path / "m" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "m/quant_config.json").write_text("{}")
    assert open_checkpoint(tmp_path / "m").notices == ()


def test_two_spellings_of_a_setting_must_agree(source: Path, tmp_path: Path) -> None:
    quantise(source, tmp_path / "m", replace(CASES["awq"], config=OLD_AWQ | {"bits": 4, "group_size": 32}))
    with pytest.raises(ModelFormatError, match="q_group_size: is 64, but group_size is 32"):
        open_checkpoint(tmp_path / "m")


def test_a_bias_of_zeros_is_passed_over_and_another_is_not(source: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    quantise(source, tmp_path / "m", CASES["gptq, 4 bits"])
    path, name = tmp_path / "m/model.safetensors", "model.layers.0.mlp.up_proj.bias"
    tensors = load_file(path)
    save_file(tensors | {name: np.zeros(256, np.float16)}, path)
    assert "ffn_bias" not in open_checkpoint(tmp_path / "m").config.extras
    save_file(tensors | {name: np.ones(256, np.float16)}, path)
    with pytest.raises(UnsupportedModelError, match=name):
        open_checkpoint(tmp_path / "m")
