"""LoRA adapters: PEFT's formula on transformers' models, merged and per request; rows that do not touch each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.batch import Logits
from puna.convert import convert
from puna.errors import ConfigError, ModelNotFoundError, UnsupportedModelError, UsageError
from puna.formats import open_checkpoint
from puna.formats.lora_files import read_adapter
from puna.llm import LLM
from puna.lora import adapter_number, split_name, split_scale
from puna.progress import SILENT
from puna.request import SamplingParams
from puna.sampling import History, Row
from tests.conformance.test_backends import BACKENDS_UNDER_TEST
from tests.families import FAMILIES, VOCAB_SIZE
from tests.models import LoraHalves, random_tensors, tiny_config, write_gguf, write_peft

TOLERANCE = 1e-4  # of the row's largest logit
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ONE_TOKEN = SamplingParams(max_tokens=1, ignore_eos=True)
devices = pytest.mark.parametrize("device", BACKENDS_UNDER_TEST)


class Keep:
    """A sampler that keeps the logits."""

    def sample(self, logits: Row, history: History) -> int:
        self.logits = np.array(logits)
        return 0


def logits_of(llm: LLM, prompt: list[int], **settings: Any) -> Logits:
    keep = Keep()
    llm.generate(prompt, ONE_TOKEN, sampler=keep, **settings)
    return keep.logits


def random_adapter(model: Any, seed: int, names: tuple[str, ...], rank: int) -> LoraHalves:
    """A and B for the linear layers of these names."""
    import torch

    rng = np.random.default_rng(seed)
    linear = {name: one for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and name.endswith(names)}
    found: dict[str, Any] = {
        name: tuple(
            (rng.standard_normal(shape) * 0.3).astype(np.float32) for shape in ((rank, one.in_features), (one.out_features, rank))
        )
        for name, one in linear.items()
    }
    return found


def expected(model: Any, adapter: LoraHalves, scale: float, prompt: list[int]) -> Logits:
    """The last token's logits with y = W x + scale B (A x) in each adapted layer, which is PEFT's definition."""
    import torch

    def hook(a: Any, b: Any) -> Any:
        return lambda layer, given, y: y + scale * (given[0] @ torch.from_numpy(a).T) @ torch.from_numpy(b).T

    modules = dict(model.named_modules())
    hooks = [modules[name].register_forward_hook(hook(*pair)) for name, pair in adapter.items()]
    try:
        with torch.no_grad():
            return np.asarray(model(torch.tensor([prompt])).logits[0, -1].numpy())
    finally:
        for one in hooks:
            one.remove()


def require_near(found: Logits, wanted: Logits, what: str) -> None:
    error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    print(f"{what}: largest relative error {error:.2e}")
    assert error < TOLERANCE


class Case:
    """A family's random model in a folder, with two adapters beside it."""

    def __init__(self, family: str, folder: Path, names: tuple[str, ...] = ALL) -> None:
        self.model = FAMILIES[family].transformers_model(seed=11)
        self.model.save_pretrained(folder / "model")
        self.path = folder / "model"
        self.one, self.two = (
            random_adapter(self.model, seed, part, rank) for seed, part, rank in ((1, names, 4), (2, names[:1], 7))
        )
        self.paths = write_peft(folder / "one", self.one), write_peft(folder / "two", self.two, use_rslora=True)
        self.scales = 2.0, 14 / 7**0.5
        self.modules = tuple(f"{name}={path}" for name, path in zip(("one", "two"), self.paths, strict=True))
        rng = np.random.default_rng(12)
        self.prompts = [rng.integers(3, VOCAB_SIZE, length).tolist() for length in (1, 33)]


@pytest.fixture(scope="module", params=["llama-3.1", "qwen2", "qwen3"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("lora"))


@devices
def test_the_logits_of_a_request_with_an_adapter_are_pefts(case: Case, device: str) -> None:
    with LLM(case.path, device=device, kv_type="f32", lora_modules=case.modules, report=SILENT) as llm:
        for prompt in case.prompts:
            require_near(logits_of(llm, prompt), expected(case.model, {}, 0, prompt), f"none on {device}")
            for name, adapter, scale in zip(("one", "two"), (case.one, case.two), case.scales, strict=True):
                found = logits_of(llm, prompt, lora_name=name)
                require_near(found, expected(case.model, adapter, scale, prompt), f"{name} on {device}")


@devices
def test_a_merged_adapter_gives_pefts_logits(case: Case, device: str) -> None:
    with LLM(case.path, device=device, kv_type="f32", lora=(f"{case.paths[0]}=0.5",), report=SILENT) as llm:
        for prompt in case.prompts:
            require_near(logits_of(llm, prompt), expected(case.model, case.one, 0.5 * case.scales[0], prompt), device)


def test_an_embedding_may_have_an_adapter(case: Case) -> None:
    prompts = case.prompts
    with LLM(case.path, device="reference", lora_modules=case.modules, report=SILENT) as llm:
        with_it, without = (llm.embed(prompts, lora_name=name) for name in ("one", None))
        assert np.abs(with_it - without).max() > 0.01
        assert llm.embed(prompts[1], lora_name="one").tobytes() == with_it[1].tobytes()
    with LLM(case.path, device="reference", lora=(str(case.paths[0]),), report=SILENT) as llm:
        assert np.abs(llm.embed(prompts) - with_it).max() < TOLERANCE


def test_fused_matrices_share_an_adapters_first_half(tmp_path: Path) -> None:
    case = Case("phi3", tmp_path, ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"))
    with LLM(case.path, device="reference", lora_modules=case.modules, report=SILENT) as llm:
        for prompt in case.prompts:
            found = logits_of(llm, prompt, lora_name="one")
            require_near(found, expected(case.model, case.one, case.scales[0], prompt), "phi3")


# ---- rows beside each other -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case("llama-2", tmp_path_factory.mktemp("small"))


def texts(llm: LLM, prompts: list[list[int]], names: list[str | None]) -> list[tuple[Any, ...]]:
    params = [
        SamplingParams(max_tokens=8, ignore_eos=True, temperature=i % 2, seed=i, logprobs=3, prompt_logprobs=0, lora_name=name)
        for i, name in enumerate(names)
    ]
    return [(one.token_ids, one.logprobs, one.prompt_logprobs) for one in llm.generate(prompts, params)]


@devices
@pytest.mark.parametrize("quant", ["f32", "q8_0"])
def test_in_one_batch_each_request_has_the_bits_that_it_has_alone(small: Case, device: str, quant: str, tmp_path: Path) -> None:
    """Prompts are equal but for their adapters, so a page of the wrong one in the prefix cache would show."""
    path = small.path if quant == "f32" else convert(small.path, tmp_path / "m.gguf", to="gguf", quantize=quant).path
    rng = np.random.default_rng(13)
    prompt = rng.integers(3, VOCAB_SIZE, 70).tolist()
    prompts = [prompt, prompt, prompt, prompt[:40], prompt, prompt]
    names: list[str | None] = ["one", None, "two", "one", "one", None]
    with LLM(path, device=device, max_batch=1, prefix_cache=False, lora_modules=small.modules, report=SILENT) as llm:
        alone = texts(llm, prompts, names)
    with LLM(path, device=device, chunk_tokens=32, page_size=16, lora_modules=small.modules, report=SILENT) as llm:
        assert texts(llm, prompts, names) == alone
        assert texts(llm, prompts, names) == alone, "with the prefix cache"
    with LLM(path, device=device, report=SILENT) as llm:
        bare = texts(llm, prompts, [None] * 6)
    assert [bare[i] for i in (1, 5)] == [alone[i] for i in (1, 5)], "an adapter beside a request changes nothing"
    assert len({str(one) for one in (alone[0][0], alone[1][0], alone[2][0])}) == 3


@devices
def test_quantised_weights_take_an_adapter_exactly(small: Case, device: str, tmp_path: Path) -> None:
    """Per request, and merged into F16: near the reference with the adapter in float32."""
    path = convert(small.path, tmp_path / "m.gguf", to="gguf", quantize="q8_0").path
    prompt = small.prompts[1]
    with LLM(path, device="reference", lora_modules=small.modules, report=SILENT) as llm:
        wanted = logits_of(llm, prompt, lora_name="one")
    with LLM(path, device=device, lora_modules=small.modules, report=SILENT) as llm:
        error = np.abs(logits_of(llm, prompt, lora_name="one") - wanted).max() / np.abs(wanted).max()
    with LLM(path, device=device, lora=(str(small.paths[0]),), report=SILENT) as llm:
        merged = np.abs(logits_of(llm, prompt) - wanted).max() / np.abs(wanted).max()
        assert any("quantised matrices that the adapter changes are kept as F16" in notice for notice in llm.notices)
    print(f"{device}: per request {error:.2e}, merged {merged:.2e}")
    assert error < 0.05 and merged < 0.05


# ---- GGUF adapters --------------------------------------------------------------------------------------------------


def write_gguf_adapter(path: Path, base: Path, source: Path, architecture: str = "llama", **more: Any) -> Path:
    """An adapter as llama.cpp's converter writes it, from our reading of a PEFT folder: rows in the order of GGUF's matrices."""
    import gguf

    from puna.formats.names import GGUF_NAMES, foreign_name

    adapter = read_adapter(source, open_checkpoint(base).config)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(more.get("alpha", 0.0)))
    for name, part in adapter.parts.items():
        writer.add_tensor(f"{foreign_name(GGUF_NAMES, name)}.lora_a", part.a)
        writer.add_tensor(f"{foreign_name(GGUF_NAMES, name)}.lora_b", part.b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_adapter_is_the_same_as_pefts(small: Case, tmp_path: Path) -> None:
    model = open_checkpoint(small.path).config
    mine = read_adapter(small.paths[0], model)
    theirs = read_adapter(write_gguf_adapter(tmp_path / "a.gguf", small.path, small.paths[0]), model)
    assert mine.parts.keys() == theirs.parts.keys()
    for name, part in mine.parts.items():
        assert np.array_equal(part.a, theirs.parts[name].a) and np.array_equal(part.b, theirs.parts[name].b)
    twice = read_adapter(write_gguf_adapter(tmp_path / "b.gguf", small.path, small.paths[0], alpha=8.0), model)
    for name, part in mine.parts.items():
        assert np.allclose(part.b * 2, twice.parts[name].b), "alpha / rank"
    with pytest.raises(UnsupportedModelError, match=r"general\.architecture is 'qwen2'; an adapter of this model has 'llama'"):
        read_adapter(write_gguf_adapter(tmp_path / "c.gguf", small.path, small.paths[0], "qwen2"), model)


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_settings_are_read_and_refused() -> None:
    assert split_scale("a/b=2") == ("a/b", 2.0) and split_name("x=a=b=1") == ("x", "a=b=1")
    assert adapter_number("two", ["one", "two"]) == 1 and adapter_number(None, []) == -1
    for text in ("a", "=a", "a="):
        with pytest.raises(UsageError, match="NAME=PATH is needed"):
            split_name(text)
    with pytest.raises(UsageError, match="a finite number is needed"):
        split_scale("a=inf")
    with pytest.raises(UsageError, match="lora_name is 'onne'; loaded are: one, two"):
        adapter_number("onne", ["one", "two"])
    with pytest.raises(UsageError, match="loaded without lora_modules"):
        adapter_number("one", [])


def test_what_cannot_be_loaded_or_named_is_an_error_before_anything_runs(small: Case) -> None:
    with pytest.raises(ConfigError, match="lora is 'path'; a list of at most 64 texts is needed"):
        LLM(small.path, device="reference", lora="path", report=SILENT)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="lora_modules names 'one' twice"):
        LLM(small.path, device="reference", lora_modules=(small.modules[0],) * 2, report=SILENT)
    for path in ("a\ud800", "x" * 100_000, "none"):
        with pytest.raises(ModelNotFoundError) as caught:
            LLM(small.path, device="reference", lora=[path], report=SILENT)  # type: ignore[arg-type]
        assert len(str(caught.value).encode()) < 400
    with LLM(small.path, device="reference", lora_modules=small.modules, report=SILENT) as llm:
        with pytest.raises(UsageError, match="lora_name is 'three'; loaded are: one, two"):
            llm.generate([5], lora_name="three")
        with pytest.raises(UsageError, match="lora_name is 3"):
            llm.generate([5], lora_name=3)  # type: ignore[call-overload]


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Any]:
    config = tiny_config()
    yield open_checkpoint(write_gguf(tmp_path / "m.gguf", config, random_tensors(config, 1))).config


NAME = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("settings", "shape", "problem"),
    [
        ({"use_dora": True}, (4, 64), "use_dora is True; puna adds adapters where it is False or None or absent"),
        ({"bias": "all"}, (4, 64), "bias is 'all'"),
        ({"peft_type": "IA3"}, (4, 64), "peft_type is 'IA3'"),
        ({"modules_to_save": ["lm_head"]}, (4, 64), "modules_to_save is"),
        ({"alpha_pattern": {"q": 3}}, (4, 64), "alpha_pattern is"),
        ({"init_lora_weights": "pissa_niter_4"}, (4, 64), "changes the model's own weights too"),
        ({"lora_alpha": None}, (4, 64), "lora_alpha.*is missing"),
        ({}, (4, 63), "the model's matrix is"),
        ({}, (5, 64), "has the ranks 5 and 4"),
    ],
)
def test_an_adapter_that_would_give_other_numbers_is_refused(
    model: Any, tmp_path: Path, settings: dict[str, Any], shape: tuple[int, int], problem: str
) -> None:
    from puna.errors import PunaError

    path = write_peft(tmp_path / "a", {NAME: (np.zeros(shape, np.float32), np.zeros((model.q_size, 4), np.float32))}, **settings)
    with pytest.raises(PunaError, match=problem):
        read_adapter(path, model)


def test_unknown_modules_and_numbers_that_are_not_finite_are_refused(model: Any, tmp_path: Path) -> None:
    from puna.errors import PunaError

    good = np.zeros((4, model.hidden_size), np.float32), np.zeros((model.q_size, 4), np.float32)
    with pytest.raises(
        PunaError, match=r"changes 'model\.layers\.9\.self_attn\.q_proj\.weight', which is no matrix of this model"
    ):
        read_adapter(write_peft(tmp_path / "a", {NAME.replace("0", "9"): good}), model)
    with pytest.raises(PunaError, match="holds a number that is not finite"):
        read_adapter(write_peft(tmp_path / "b", {NAME: (good[0] + np.float32(np.nan), good[1])}), model)
    with pytest.raises(PunaError, match="is no LoRA adapter"):
        read_adapter(tmp_path, model)
