"""Which tensor an allocation was: published shapes, and sizes as PyTorch prints them."""

from __future__ import annotations

import pytest

from puna.causes.memory import Allocation, kind_of
from puna.machine.planning.allocations import Hints, identify, weights_bytes
from puna.machine.planning.known_models import KNOWN_MODELS
from puna.plan import kv_bytes
from puna.units import GIB, foreign_bytes

RTX_4070 = int(11.69 * GIB)
META = "torchrun example.py --ckpt_dir llama-7b --max_seq_len {} --max_batch_size {}"


@pytest.mark.parametrize(
    ("wanted", "capacity", "model", "shape"),
    [
        ("86.00 MiB", 11.69, "llama-2-7b", "4096 x 11008"),
        ("448.00 MiB", 15.77, "llama-2-70b", "8192 x 28672"),
        ("136.00 MiB", 11.69, "llama-2-13b", "5120 x 13824"),
        ("112.00 MiB", 11.69, "llama-3-8b", "4096 x 14336"),
    ],
)
def test_a_matrix_is_known_again_by_its_size(wanted: str, capacity: float, model: str, shape: str) -> None:
    tensor = identify(wanted, int(capacity * GIB))
    assert tensor is not None and tensor.kind == "weights" and tensor.model == model
    assert shape in tensor.words and "cannot help" in tensor.words


def test_the_story_of_the_rtx_4070_names_the_weights() -> None:
    tensor = identify("86.00 MiB", RTX_4070)
    assert tensor is not None and "weights alone are 12.55 GiB and the GPU has 11.69 GiB" in tensor.words


def test_a_matrix_of_weights_that_would_fit_points_at_what_stands_beside_them() -> None:
    tensor = identify("86.00 MiB", 24 * GIB, META.format(1024, 32))
    assert tensor is not None and tensor.kind == "kv-cache"
    assert "32 x 1024 tokens: 16.00 GiB" in tensor.words


def test_one_layers_keys_are_known_where_the_text_says_batch_and_length() -> None:
    tensor = identify("256.00 MiB", 24 * GIB, META.format(1024, 32))
    assert tensor is not None and tensor.kind == "kv-cache" and "together are 16.00 GiB" in tensor.words


def test_a_matrix_of_the_vocabulary_is_told_only_of_a_model_that_the_text_names() -> None:
    tensor = identify("1002.00 MiB", RTX_4070, "--ckpt_dir Meta-Llama-3-8B-Instruct/")
    assert tensor is not None and tensor.kind == "weights" and "128256 x 4096" in tensor.words


@pytest.mark.parametrize(("wanted", "kind"), [("1.96 GiB", "logits"), ("1002.00 MiB", "logits"), ("8.00 GiB", "scores")])
def test_large_activations_are_told_by_what_they_grow_with(wanted: str, kind: str) -> None:
    tensor = identify(wanted, 80 * GIB)
    assert tensor is not None and tensor.kind == kind


@pytest.mark.parametrize("wanted", ["20.00 MiB", "2.00 MiB", "1.37 GiB", "0 bytes", "much", ""])
def test_a_size_that_tells_nothing_is_not_guessed(wanted: str) -> None:
    assert identify(wanted, RTX_4070) is None


@pytest.mark.parametrize(
    ("model", "weights_gib"),
    [("llama-2-7b", 12.55), ("llama-2-13b", 24.24), ("llama-2-70b", 128.48), ("llama-3-8b", 14.96)],
)
def test_published_weights(model: str, weights_gib: float) -> None:
    assert weights_bytes(KNOWN_MODELS[model]) / GIB == pytest.approx(weights_gib, abs=0.01)


def test_published_sizes_of_keys_and_values() -> None:
    config = KNOWN_MODELS["llama-2-7b"]
    assert kv_bytes(config, 4 * 128, "f16") == 256 << 20 and kv_bytes(config, 32 * 1024, "f16") == 16 * GIB


def test_hints_of_a_hostile_text_end_soon() -> None:
    assert Hints.of("llama" * 100_000).models == ()
    assert Hints.of("max_seq_len " * 100_000).max_seq_len is None


OLD = {"wanted": "20.00 MiB", "capacity": "1.96 GiB", "allocated": "1.24 GiB", "free": "2.88 MiB", "reserved": "1.25 GiB"}


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        (OLD, "other-process"),
        (OLD | {"reserved": "1.90 GiB"}, "fragmentation"),
        (OLD | {"wanted": "2.00 GiB"}, "larger-than-card"),
        (OLD | {"free": "40.00 MiB"}, "free-but-refused"),
        ({"wanted": "20.00 MiB"}, ""),
        ({}, ""),
        (
            {"wanted": "20.00 MiB", "capacity": "23.65 GiB", "free": "11.06 MiB", "other": "14.60 GiB", "in_use": "9.00 GiB"},
            "other-process",
        ),
    ],
)
def test_the_numbers_tell_the_kinds_apart(numbers: dict[str, str], kind: str) -> None:
    assert kind_of(Allocation.of(numbers)) == kind


@pytest.mark.parametrize(("text", "size"), [("86.00 MiB", 90177536), ("1 GB", 1 << 30), ("12", 12), ("1e9", None), ("-", None)])
def test_sizes_are_read_as_programs_print_them(text: str, size: int | None) -> None:
    assert foreign_bytes(text) == size
