"""The plan against published facts, and what it does where memory is short."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.backends import BACKENDS
from puna.config import EngineConfig
from puna.errors import InsufficientMemoryError, UsageError
from puna.formats.base import Adapter, LowRank
from puna.model.spec import ModelConfig, plain_model
from puna.model.weights import tensor_shapes
from puna.plan import Layout, Plan, adapter_bytes, kv_bytes, make_plan, resident_bytes
from puna.progress import KeepingReporter
from puna.units import GIB, exact_gib, gib
from tests.fakes import tiny_config

MIB = 1 << 20
AS_IS = Layout({name: name for name in ("F32", "F16", "Q4_0", "Q4_1", "Q8_0")}, other="Q8_0", kv_types=("f16", "f32"))

LLAMA_2_7B = plain_model(32, 32, 32, 128, 4096, 11008, 32000, 4096)
LLAMA_3_8B = plain_model(32, 32, 8, 128, 4096, 14336, 128256, 131072)
SMOLLM2_135M = plain_model(30, 9, 3, 64, 576, 1536, 49152, 8192, tie_embeddings=True)


@dataclass(frozen=True)
class Kind:
    name: str


@dataclass(frozen=True)
class TensorHeader:
    shape: tuple[int, ...]
    type: Kind


def headers(config: ModelConfig, kind: str) -> dict[str, TensorHeader]:
    return {name: TensorHeader(shape, Kind("F32" if len(shape) == 1 else kind)) for name, shape in tensor_shapes(config).items()}


def plan(config: ModelConfig, kind: str = "F16", free: int = 1 << 50, layout: Layout = AS_IS, **settings: Any) -> Plan:
    return make_plan(config, headers(config, kind), EngineConfig(**settings), {"as-is": layout}, free)


# (model, type, weights): parameters times bytes per parameter, as the model cards and GGUF file sizes have them
WEIGHTS = [
    (LLAMA_2_7B, "F16", 12.55 * GIB),  # 6.738e9 parameters
    (LLAMA_2_7B, "Q4_0", 6.738e9 * 18 / 32),
    (LLAMA_3_8B, "F16", 8.03e9 * 2),
    (LLAMA_3_8B, "Q8_0", 8.03e9 * 34 / 32),
    (SMOLLM2_135M, "F32", 134.5e6 * 4),
    (SMOLLM2_135M, "Q4_1", 134.5e6 * 20 / 32),
]


@pytest.mark.parametrize(("config", "kind", "expected"), WEIGHTS)
def test_weights_are_what_is_published(config: ModelConfig, kind: str, expected: float) -> None:
    assert plan(config, kind).weights_bytes == pytest.approx(expected, rel=2e-3)


def test_llama_2_7b_in_half_precision_is_12_55_gib() -> None:
    assert exact_gib(plan(LLAMA_2_7B).weights_bytes).startswith("12.55 GiB (13477")


# The two reports of PEERS.md: 4 x 128 tokens were not the trouble, 32 x 1024 were.
KV = [(LLAMA_2_7B, 4 * 128, "f16", 256 * MIB), (LLAMA_2_7B, 32 * 1024, "f16", 16 * GIB), (LLAMA_2_7B, 4096, "f32", 4 * GIB)]


@pytest.mark.parametrize(("config", "num_tokens", "kind", "expected"), KV)
def test_kv_is_what_is_published(config: ModelConfig, num_tokens: int, kind: str, expected: int) -> None:
    assert kv_bytes(config, num_tokens, kind) == expected


def test_a_head_is_padded_in_the_pages() -> None:
    one_head = tiny_config(head_dim=20, num_kv_heads=1, num_layers=1)
    assert kv_bytes(one_head, 1, "f32") == (20 + 20) * 4
    assert kv_bytes(one_head, 1, "f32", value_multiple=16) == (20 + 32) * 4


PACKED = Layout({"Q4_1": "Q4_1"}, other="Q8_0", kv_types=("f16",), row_multiple=8, vector_multiple=32)


@pytest.mark.parametrize(
    ("shape", "kind", "expected"),
    [
        ((8, 64), "Q4_1", 8 * 2 * 20),
        ((9, 65), "Q4_1", 16 * 3 * 20),
        ((9, 65), "Q8_0", 16 * 3 * 34),
        ((3, 5), "F16", 8 * 5 * 2),
        ((100,), "F32", 4 * 128),
    ],
)
def test_rows_and_columns_are_padded_as_the_layout_says(shape: tuple[int, ...], kind: str, expected: int) -> None:
    assert resident_bytes(shape, kind, PACKED) == expected


def test_a_type_that_the_backend_has_not_counts_as_what_it_becomes() -> None:
    assert plan(tiny_config(), "Q6_K").weights_bytes == plan(tiny_config(), "Q8_0").weights_bytes


@pytest.mark.parametrize(("device", "weights"), [(device, name) for device, spec in BACKENDS.items() for name in spec.layouts])
def test_every_line_of_the_table_of_backends_can_be_planned(device: str, weights: str) -> None:
    assert plan(SMOLLM2_135M, "Q5_K", layout=BACKENDS[device].layouts[weights]).num_pages > 0


def test_pages_hold_four_full_sequences_but_never_more_than_half_of_what_is_left() -> None:
    assert plan(SMOLLM2_135M).num_pages == 4 * 8192 // 32
    assert plan(SMOLLM2_135M, max_batch=1).num_pages == 8192 // 32
    full = kv_bytes(SMOLLM2_135M, 8192, "f16")
    tight = plan(SMOLLM2_135M, free=plan(SMOLLM2_135M).total_bytes - plan(SMOLLM2_135M).kv_bytes + 4 * full)
    assert tight.num_pages == 2 * 8192 // 32
    assert tight.max_context == 8192


def test_the_models_own_context_is_lowered_with_a_notice() -> None:
    report = KeepingReporter()
    free = 8 * GIB
    lowered = make_plan(LLAMA_3_8B, headers(LLAMA_3_8B, "Q4_0"), EngineConfig(), {"as-is": AS_IS}, free, report)
    assert 256 <= lowered.max_context < 131072
    assert lowered.max_context % 32 == 0
    assert lowered.num_pages * 32 == lowered.max_context
    assert lowered.total_bytes < free
    assert len(report.texts) == 1 and "131072" in report.texts[0] and str(lowered.max_context) in report.texts[0]


def test_a_context_that_was_asked_for_is_kept_or_refused_with_both_numbers() -> None:
    asked = plan(LLAMA_2_7B, "Q4_0", free=8 * GIB, max_context=4096)
    assert asked.max_context == 4096 and asked.num_pages >= 4096 // 32
    with pytest.raises(InsufficientMemoryError) as caught:
        plan(LLAMA_2_7B, "Q4_0", free=5 * GIB, max_context=4096)
    needed = asked.weights_bytes + 2 * GIB + asked.scratch_bytes + asked.logits_bytes
    assert f"({needed} bytes)" in caught.value.message and f"({5 * GIB} bytes)" in caught.value.message
    assert "--max-context" in caught.value.typed.hint and "`max_context`" in caught.value.hint


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InsufficientMemoryError, match=r"weights 12\.55 GiB") as caught:
        plan(LLAMA_2_7B, free=12 * GIB)
    assert "smaller model" in caught.value.hint


def test_a_context_beyond_the_models_is_refused() -> None:
    with pytest.raises(UsageError, match=r"8193.*8192"):
        plan(SMOLLM2_135M, max_context=8193)


def test_a_kv_type_that_the_backend_has_not_is_refused() -> None:
    assert plan(SMOLLM2_135M).kv_type == "f16"
    assert plan(SMOLLM2_135M, kv_type="f32").kv_type == "f32"
    with pytest.raises(UsageError, match="f16"):
        plan(SMOLLM2_135M, kv_type="f16", layout=BACKENDS["reference"].layouts["as-is"])


def test_no_more_sequences_than_rows_of_a_step() -> None:
    assert plan(SMOLLM2_135M, max_batch=64, chunk_tokens=16).max_sequences == 16


def test_adapters_beside_the_weights_take_memory_from_k_and_v() -> None:
    part = LowRank(np.zeros((4, 63), np.float32), np.zeros((100, 4), np.float32))
    adapter = Adapter(Path("a"), {"layers.0.q_proj": part, "layers.0.v_proj": part}, "sql")
    cpu = BACKENDS["cpu"].layouts
    assert adapter_bytes(adapter, TORCH["as-is"]) == adapter.num_bytes == 2 * 4 * 4 * (63 + 100)
    assert adapter_bytes(adapter, cpu["as-is"]) == 2 * 4 * 4 * (64 + 104)
    sizes = headers(SMOLLM2_135M, "Q4_1")

    def planned(count: int, free: int) -> Plan:
        return make_plan(SMOLLM2_135M, sizes, EngineConfig(), cpu, free, adapters=[adapter] * count)

    bare, several = planned(0, 300 << 20), planned(10_000, 300 << 20)
    assert several.adapters_bytes == 10_000 * adapter_bytes(adapter, cpu["as-is"]) and bare.adapters_bytes == 0
    assert several.num_pages < bare.num_pages and several.total_bytes <= 300 << 20
    assert several.total_bytes - several.kv_bytes == bare.total_bytes - bare.kv_bytes + several.adapters_bytes
    with pytest.raises(InsufficientMemoryError, match=r"adapters 51\.3 MiB"):
        planned(10_000, 150 << 20)


@pytest.mark.parametrize("context", [1, 31, 32, 33, 127])
def test_a_context_that_is_no_multiple_of_the_page_has_a_page_for_its_end(context: int) -> None:
    small = plan(tiny_config(), "F32", max_context=context, max_batch=1)
    assert small.max_context == context
    assert small.num_pages == -(-context // 32)


# ---- a card that is too small -------------------------------------------------------------------------------------------

CARD = 12 * GIB
TORCH = BACKENDS["torch"].layouts


def on_a_card(config: ModelConfig, kind: str = "BF16", free: int = CARD, **settings: Any) -> tuple[Plan, list[str]]:
    report = KeepingReporter()
    return make_plan(config, headers(config, kind), EngineConfig(**settings), TORCH, free, report), report.texts


def test_llama_2_7b_becomes_int8_on_a_card_of_12_gib() -> None:
    made, notices = on_a_card(LLAMA_2_7B)
    assert made.weights == "int8" and made.num_offloaded == 0 and made.total_bytes < CARD
    assert made.weights_bytes == pytest.approx(6.738e9 * 34 / 32, rel=2e-3)
    needed = gib(plan(LLAMA_2_7B).weights_bytes)
    assert notices == [
        f"weights as int8, {gib(made.weights_bytes)}: as they are in the file they need {needed}, and {gib(CARD)} are free"
    ]


@pytest.mark.parametrize(
    ("gib", "weights", "is_offloaded"), [(24, "as-is", False), (12, "int8", False), (6, "int4", False), (4, "int4", True)]
)
def test_each_card_gets_the_weights_that_lose_least(gib: int, weights: str, is_offloaded: bool) -> None:
    made, _ = on_a_card(LLAMA_2_7B, free=gib * GIB, max_context=2048)
    assert (made.weights, made.num_offloaded > 0) == (weights, is_offloaded)
    assert made.total_bytes <= gib * GIB


def test_weights_that_are_asked_for_are_kept_and_offloaded() -> None:
    made, notices = on_a_card(LLAMA_2_7B, weights="as-is", max_context=1024)
    assert made.weights == "as-is" and 3 <= made.num_offloaded < 32 and made.total_bytes <= CARD
    assert notices[0].startswith(
        f"{made.num_offloaded} of 32 layers stay in main memory and are copied to the device in every step"
    )
    fewer = on_a_card(LLAMA_2_7B, weights="as-is", max_context=1024, free=8 * GIB)[0]
    assert fewer.num_offloaded > made.num_offloaded


def test_a_model_that_cannot_even_be_offloaded_is_refused() -> None:
    with pytest.raises(InsufficientMemoryError, match="the model needs"):
        on_a_card(LLAMA_3_8B, free=1 * GIB)


def test_weights_that_a_device_does_not_have_are_refused() -> None:
    with pytest.raises(UsageError, match='this device cannot use weights="int4"; it has as-is'):
        plan(LLAMA_2_7B, weights="int4")


def test_four_bits_leave_eight_to_the_vocabulary() -> None:
    layout = TORCH["int4"]
    assert [layout.resident_type(kind, "embed") for kind in ("BF16", "Q6_K", "Q8_0", "Q4_K")] == ["Q8_0"] * 4
    kinds = ("BF16", "Q6_K", "Q8_0", "Q4_K", "Q4_0")
    assert [layout.resident_type(kind, "layers.0.q_proj") for kind in kinds] == ["Q4_1", "Q4_1", "Q4_1", "Q4_K", "Q4_0"]


def test_a_budget_bounds_what_is_free_on_any_device() -> None:
    assert plan(LLAMA_2_7B, vram=16 * GIB).total_bytes <= 16 * GIB
    with pytest.raises(InsufficientMemoryError, match=r"and 4\.00 GiB"):
        plan(LLAMA_2_7B, vram=4 * GIB)
