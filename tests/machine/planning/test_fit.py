"""The itemised plan against published facts, and the settings that are proposed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from puna.config import EngineConfig
from puna.errors import UsageError
from puna.machine.planning.cards import CARDS, require_card
from puna.machine.planning.devices import CONTEXT_BYTES, PlannedDevice, device_for
from puna.machine.planning.fit import Fit, Setting, fit, nearest, ways_to_fit
from puna.machine.planning.known_models import KNOWN_MODELS, checkpoint_of, find_model, known_checkpoint
from puna.machine.planning.speed import PlannedRoofline
from puna.model.spec import ModelConfig, plain_model
from puna.plan import GPU_RESERVED_BYTES, kv_bytes
from puna.units import GIB
from tests.machine.fake_host import FakeHost

NO_GPU = FakeHost(Path("/an/absent/folder"))
RATES = PlannedRoofline(20e9, 200e9, 80e9, 20e9, "a test")


def cpu(gib: float) -> PlannedDevice:
    size = int(gib * GIB)
    return PlannedDevice("cpu", "a CPU", size, size, size, RATES)


def card(name: str, **settings: object) -> PlannedDevice:
    return device_for(EngineConfig(device="cuda", **settings), NO_GPU, None, name, None)  # type: ignore[arg-type]


def planned(model: str, device: PlannedDevice, parts: int = 1, **settings: object) -> Fit:
    checkpoint = known_checkpoint(model)
    assert checkpoint is not None
    return fit(checkpoint, EngineConfig(**settings), device, parts)  # type: ignore[arg-type]


def proposed(model: str, device: PlannedDevice, **settings: object) -> list[Setting]:
    checkpoint = known_checkpoint(model)
    assert checkpoint is not None
    return nearest(checkpoint, EngineConfig(**settings), device)  # type: ignore[arg-type]


# Published facts: parameters of the model cards; bytes of weights at two bytes a weight.
PARAMETERS = [
    ("llama-2-7b", 6.738e9, 12.55),
    ("llama-2-13b", 13.016e9, 24.24),
    ("llama-2-70b", 68.977e9, 128.48),
    ("llama-3-8b", 8.030e9, 14.96),
    ("llama-3-70b", 70.554e9, 131.42),
    ("llama-3.1-405b", 405.85e9, 755.96),
    ("llama-3.2-1b", 1.236e9, 2.30),
    ("llama-3.2-3b", 3.213e9, 5.98),
    ("mistral-7b", 7.242e9, 13.49),
    ("codellama-34b", 33.744e9, 62.85),
    ("tinyllama-1.1b", 1.100e9, 2.05),
    ("open_llama_3b", 3.427e9, 6.38),
    ("smollm2-135m", 134.5e6, 0.2505),
    ("smollm2-1.7b", 1.711e9, 3.187),
]


@pytest.mark.parametrize(("model", "parameters", "gib"), PARAMETERS)
def test_weights_of_well_known_models_are_what_is_published(model: str, parameters: float, gib: float) -> None:
    made = planned(model, cpu(2000), max_context=128, max_batch=1)
    assert made.plan.weights_bytes / 2 == pytest.approx(parameters, rel=2e-3)
    assert made.plan.weights_bytes / GIB == pytest.approx(gib, rel=2e-3)


# (model, sequences, tokens, GiB of K and V in 16 bits)
KV = [
    ("llama-2-7b", 4, 128, 0.25),
    ("llama-2-7b", 32, 1024, 16.0),
    ("llama-2-13b", 1, 4096, 3.125),
    ("llama-2-70b", 1, 4096, 1.25),
    ("llama-3-8b", 1, 8192, 1.0),
    ("llama-3-8b", 32, 1024, 4.0),
    ("llama-3.1-70b", 1, 131072, 40.0),
]


@pytest.mark.parametrize(("model", "sequences", "tokens", "gib"), KV)
def test_k_and_v_of_well_known_models_are_what_is_published(model: str, sequences: int, tokens: int, gib: float) -> None:
    assert kv_bytes(KNOWN_MODELS[model], sequences * tokens, "f16") == gib * GIB


@pytest.mark.parametrize("model", KNOWN_MODELS)
@pytest.mark.parametrize("device", [cpu(16), card("RTX 4070")], ids=["cpu", "card"])
def test_items_add_up_to_the_plan(model: str, device: PlannedDevice) -> None:
    made = planned(model, device)
    sizes = {part: sum(item.bytes for item in made.items if item.part == part) for part in ("weights", "KV", "scratch")}
    assert sizes["weights"] == made.plan.weights_bytes
    assert sizes["KV"] == made.plan.kv_bytes
    assert sizes["scratch"] == made.plan.scratch_bytes + made.plan.logits_bytes
    assert made.fits == (made.needed_bytes <= device.free_bytes and not made.problem)
    if made.plan.num_offloaded:
        moved = next(item.bytes for item in made.main_items if item.name == "offloaded layers")
        resident = sizes["weights"] - next(i.bytes for i in made.items if i.name == "offload buffers")
        whole = planned(model, PlannedDevice("cuda", "", 1 << 50, 1 << 50, 1 << 50), weights=made.plan.weights)
        assert moved + resident == whole.plan.weights_bytes


def test_the_storys_card_and_model() -> None:
    """12 GB, 13 GB of weights: int8 fits, and so do layers that are offloaded, and two cards."""
    device = card("NVIDIA GeForce RTX 4070")
    assert device.total_bytes / GIB == pytest.approx(11.69, abs=0.01)
    assert device.free_bytes == device.total_bytes - CONTEXT_BYTES - GPU_RESERVED_BYTES
    made = planned("meta-llama/Llama-2-7b-chat-hf", device)
    assert made.fits and made.plan.weights == "int8" and "12.55 GiB" in made.notices[0]
    assert [one.flags[0] for one in proposed("llama-2-7b", device)] == [
        "--weights int8",
        "torchrun --nproc_per_node 2 -m puna chat MODEL",
        "--weights int4",
    ]
    assert all(one.fit.fits and one.fit.speed is not None for one in proposed("llama-2-7b", device))


def test_what_fits_proposes_settings_that_fit_and_none_that_only_add_to_another() -> None:
    for gib in (3, 5, 8, 12, 20):
        for model in ("llama-3.1-8b", "llama-2-13b", "mistral-7b"):
            device = PlannedDevice("cuda", "", gib * GIB, gib * GIB, 64 * GIB, RATES)
            found = proposed(model, device, max_context=4096)
            flags = [set(one.flags) for one in found]
            assert all(one.fit.fits and one.fit.needed_bytes <= device.free_bytes for one in found)
            assert not any(a < b for a in flags for b in flags)
            assert len(found) == 3


def test_layers_that_are_offloaded_come_last_for_they_are_slow() -> None:
    device = replace(card("RTX 4070"), main_bytes=64 * GIB)
    found = nearest(checkpoint_of(KNOWN_MODELS["llama-2-7b"], "F16"), EngineConfig(device="cuda"), device, count=9)
    (offloaded,) = (one for one in found if one.flags == ("--weights as-is",))
    assert offloaded.fit.plan.num_offloaded > 0 and offloaded.fit.speed is not None and offloaded.fit.speed.decode_per_s < 10
    assert found.index(offloaded) >= 3


def test_a_context_that_was_asked_for_is_halved_where_that_is_enough() -> None:
    found = proposed("llama-3.1-8b:q4_k", PlannedDevice("cuda", "", 19 * GIB // 2, 19 * GIB // 2, 64 * GIB), max_context=65536)
    assert ("--kv-type int8",) in [one.flags for one in found] or ("--max-context 32768",) in [one.flags for one in found]


def test_on_the_cpu_a_smaller_type_of_file_is_proposed() -> None:
    device = cpu(12)
    made = planned("llama-3.1-8b", device)
    assert not made.fits and "14.96 GiB" in made.problem and "12.00 GiB" in made.problem
    assert [one.flags for one in proposed("llama-3.1-8b", device)] == [
        ("puna convert MODEL smaller.gguf --to gguf --quantize q8_0",),
        ("puna convert MODEL smaller.gguf --to gguf --quantize q4_1",),
        ("puna convert MODEL smaller.gguf --to gguf --quantize q4_0",),
    ]


def test_nothing_is_proposed_where_nothing_fits() -> None:
    assert proposed("llama-3.1-405b", cpu(4)) == []


def test_offloaded_layers_need_main_memory() -> None:
    device = PlannedDevice("cuda", "", 12 * GIB, 12 * GIB, GIB)
    made = planned("llama-2-13b", device, weights="as-is")
    assert not made.fits and "1.00 GiB of it are free" in made.problem


def test_devices_that_share_a_model_take_a_part_each() -> None:
    alone, shared = planned("llama-2-7b", card("A100 80GB")), planned("llama-2-7b", card("2 x A100 80GB"), parts=2)
    assert shared.plan.weights_bytes == pytest.approx(alone.plan.weights_bytes / 2, rel=1e-3)
    with pytest.raises(UsageError, match="3 parts"):
        planned("llama-2-7b", card("RTX 4070"), parts=3)


def test_a_budget_of_memory_is_that_of_puna_run() -> None:
    device = card("A100 80GB", vram=12 * GIB)
    assert device.free_bytes == 12 * GIB - GPU_RESERVED_BYTES


def test_ways_to_fit_are_lines_for_people() -> None:
    lines = ways_to_fit(KNOWN_MODELS["llama-2-7b"], "F16", int(11.69 * GIB))
    assert lines[0] == "--weights int8: 6.67 GiB of weights, perplexity +0.02 %"
    assert len(lines) == 3


@pytest.mark.parametrize("kind", ["Q5_0", "Q5_1", "Q2_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"])
def test_quantised_weights_take_what_they_take_in_the_file_on_a_cpu(kind: str) -> None:
    made = fit(checkpoint_of(KNOWN_MODELS["llama-2-7b"], kind), EngineConfig(), cpu(64))
    in_file = sum(tensor.num_bytes for tensor in checkpoint_of(KNOWN_MODELS["llama-2-7b"], kind).tensors.values())
    assert in_file <= made.plan.weights_bytes < 1.03 * in_file
    assert not any("keeps" in notice for notice in made.notices)


def test_a_type_that_becomes_larger_is_told_with_those_that_do_not() -> None:
    (notice,) = (text for text in planned("llama-2-7b:q3_k_m", card("A100 80GB")).notices if "keeps" in text)
    assert notice.startswith("this device keeps Q3_K as Q8_0: ")
    assert notice.endswith("; Q8_0, Q4_0, Q4_1, Q4_K, Q6_K stay as they are")
    reference = PlannedDevice("reference", "a CPU", 64 * GIB, 64 * GIB, 64 * GIB)
    (notice,) = (text for text in planned("llama-2-7b:q4_k_m", reference).notices if "keeps" in text)
    assert notice.endswith(" in the file")


def test_sizes_without_numbers_never_give_numbers() -> None:
    checkpoint = checkpoint_of(KNOWN_MODELS["stories15m"], "Q8_0")
    with pytest.raises(AssertionError):
        checkpoint.tensors["embed"].dequantize(0, 1)


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("meta-llama/Llama-2-7b-hf", "llama-2-7b"),
        ("Llama-2-13b-chat", "llama-2-13b"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b"),
        ("meta-llama/Llama-3.2-1B", "llama-3.2-1b"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistral-7b"),
        ("openlm-research/open_llama_3b_v2", "open_llama_3b"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "tinyllama-1.1b"),
        ("codellama/CodeLlama-34b-Python-hf", "codellama-34b"),
        ("lmsys/vicuna-7b-v1.5", "vicuna-7b"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m"),
    ],
)
def test_models_are_known_by_the_names_people_write(written: str, known: str) -> None:
    found = find_model(written)
    assert found is not None and found[0] == known


def test_a_type_that_is_none_is_refused_and_a_model_that_is_unknown_is_none() -> None:
    with pytest.raises(UsageError, match="llama-2-7b:q9"):
        known_checkpoint("llama-2-7b:q9")
    assert known_checkpoint("gpt2") is None


@pytest.mark.parametrize("one", CARDS, ids=lambda one: one.name)
def test_every_card_is_found_by_its_own_name_and_nvidias(one: object) -> None:
    name = one.name  # type: ignore[attr-defined]
    assert require_card(name) == one
    assert require_card(f"NVIDIA GeForce {name}") == one


def test_an_unknown_card_is_refused_with_those_near_it() -> None:
    with pytest.raises(UsageError, match="RTX 4070"):
        require_card("RTX 4077")


# ---- any model, any device ------------------------------------------------------------------------------------------------

SEED = 20261125


def random_case(random: Random) -> tuple[ModelConfig, str, PlannedDevice, EngineConfig, int]:
    """A model, its type, a device, settings and a number of parts."""
    heads = random.choice([1, 2, 3, 8, 9, 32, 64])
    kv_heads = random.choice([n for n in (1, 2, 3, 8, 9, 32, 64) if heads % n == 0])
    head_dim, hidden, ffn = (
        random.choice([2, 32, 64, 100, 128]),
        random.choice([32, 96, 288, 4096]),
        random.choice([32, 96, 1376]),
    )
    layers, vocab = random.choice([1, 2, 3, 7, 32, 80]), random.choice([3, 257, 32000, 1 << 20])
    limit = random.choice([1, 16, 255, 256, 300, 2048, 131072])
    config = plain_model(layers, heads, kv_heads, head_dim, hidden, ffn, vocab, limit, tie_embeddings=random.random() < 0.5)
    kind = random.choice(["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0"])
    size = sum(tensor.num_bytes for tensor in checkpoint_of(config, kind).tensors.values())
    free = int(size * random.choice([0, 0.1, 0.3, 0.5, 0.9, 1, 1.05, 1.3, 2, 5])) + random.choice([0, 1, 1 << 20, 1 << 28])
    name, main = random.choice(["cpu", "cuda", "torch", "reference"]), size * random.choice([0, 1, 10])
    device = PlannedDevice(name, "", free + (1 << 28), free, main, None, count=random.choice([1, 2, 4]))
    engine = EngineConfig(
        device=name,
        kv_type=random.choice(["auto", "auto", "f16", "f32", "int8"]),
        weights=random.choice(["auto", "auto", "as-is", "int8", "int4"]),
        max_context=random.choice([0, 0, 1, 32, 256, 2048]),
        max_batch=random.choice([1, 4, 64]),
        vram=random.choice([0, 0, free // 2 + 1]),
    )
    return config, kind, device, engine, random.choice([1, 1, 2, 4])


@pytest.mark.parametrize("count", [200, pytest.param(600, marks=pytest.mark.full)])
def test_any_plan_adds_up_and_what_is_proposed_fits_when_it_is_asked_for(count: int) -> None:
    random = Random(SEED)
    planned_cases = proposals = 0
    for _ in range(count):
        case = random_case(random)
        config, kind, device, engine, parts = case
        checkpoint = checkpoint_of(config, kind)
        try:
            made = fit(checkpoint, engine, device, parts)
        except UsageError:  # a context, a type or a number of parts that cannot be
            continue
        planned_cases += 1
        free = min(device.free_bytes // (1 if device.is_gpu else parts), engine.vram or device.free_bytes)
        assert sum(item.bytes for item in made.items if item.part != "overhead") == made.needed_bytes, case
        assert all(item.bytes >= 0 for item in (*made.items, *made.main_items)), case
        assert not made.fits or made.needed_bytes <= free, case
        assert made.fits or made.problem, case
        for setting in nearest(checkpoint, engine, device, parts):
            proposals += 1
            requantised = next((flag.split()[-1].upper() for flag in setting.flags if "--quantize" in flag), kind)
            asked = replace(engine, weights="as-is") if engine.weights == "auto" else engine
            words = dict(flag.removeprefix("--").split() for flag in setting.flags if flag.startswith("--"))
            changes = {name.replace("-", "_"): int(value) if value.isdecimal() else value for name, value in words.items()}
            number = next((int(flag.split()[2]) for flag in setting.flags if flag.startswith("torchrun")), parts)
            again = fit(checkpoint_of(config, requantised), replace(asked, **changes), device, number)  # type: ignore[arg-type]
            assert again.fits and again.needed_bytes == setting.fit.needed_bytes, (case, setting.flags)
    assert planned_cases > count // 3 and proposals > count // 6, (planned_cases, proposals, SEED)
