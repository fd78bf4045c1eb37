"""puna plan: what it prints, its exit codes, its JSON."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.backends.base import LEAST_CAPABILITY, Roofline
from puna.cli.word_wrap import wrapped
from puna.machine.planning.cards import CARDS
from puna.machine.rooflines import remember
from puna.units import gib
from tests.cli.conftest import Puna
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf, write_peft


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))
    remember("cpu", Roofline(40e9, 500e9, 150e9))


@pytest.fixture
def model(tmp_path: Path) -> str:
    config = tiny_config()
    return str(write_gguf(tmp_path / "tiny.gguf", config, random_tensors(config, 1), "Q4_0", bpe_tokenizer()))


def facts(puna: Puna, *arguments: str) -> dict[str, Any]:
    done: dict[str, Any] = json.loads(puna("plan", *arguments, "--json").out)
    return done


def test_a_file_is_itemised_and_fits(puna: Puna, model: str) -> None:
    done = puna("plan", model)
    assert done.code == 0
    for word in ("feed-forward", "Q4_0", "activations", "logits", "Python and libraries", "It fits:", "measured on this machine"):
        assert word in " ".join(done.out.split())
    found = facts(puna, model)
    assert found["fits"] and found["needed_bytes"] == sum(item["bytes"] for item in found["items"] if item["part"] != "overhead")
    assert found["expected"]["decode_per_s"] > 0


def test_adapters_are_itemised(puna: Puna, model: str, tmp_path: Path) -> None:
    config = tiny_config()
    halves = np.ones((2, config.hidden_size), np.float32), np.ones((config.num_heads * config.head_dim, 2), np.float32)
    path = write_peft(tmp_path / "sql", {"model.layers.0.self_attn.q_proj": halves})
    done = puna("plan", model, "--lora-modules", f"sql={path}", "--lora-modules", f"sql2={path}")
    assert done.code == 0 and re.search(r"LoRA adapters +F32, 2 of them", done.out)
    bare, found = facts(puna, model), facts(puna, model, "--lora-modules", f"sql={path}")
    taken = [item["bytes"] for item in found["items"] if item["name"] == "LoRA adapters"]
    assert len(taken) == 1 and taken[0] >= sum(half.nbytes for half in halves)
    assert found["needed_bytes"] == sum(item["bytes"] for item in found["items"] if item["part"] != "overhead")
    assert all(item["name"] != "LoRA adapters" for item in bare["items"])
    assert puna("plan", model, "--lora-modules", "sql=no-such").code == 2


def test_a_card_that_one_lacks(puna: Puna) -> None:
    done = puna("plan", "llama-2-7b:bf16", "--gpu", "RTX 4070")
    assert done.code == 0 and "weights as int8" in done.out and "--weights int8" in done.out
    assert "published sizes" in done.err
    found = facts(puna, "llama-2-7b:bf16", "--gpu", "RTX 4070")
    assert found["weights"] == "int8" and found["device"]["name"] == "RTX 4070" and len(found["settings"]) == 3


def test_what_does_not_fit_exits_with_1_and_says_what_would(puna: Puna) -> None:
    done = puna("plan", "llama-3.1-8b:bf16", "--ram", "12GiB", "--device", "cpu")
    assert done.code == 1
    assert "the device ends here" in done.out and "It does not fit: the model needs" in done.out
    assert "puna convert llama-3.1-8b:bf16 smaller.gguf --to gguf --quantize q8_0\n" in done.out


def verdict(puna: Puna, *arguments: str) -> str:
    """The paragraph that follows the model and the device, on one line."""
    return " ".join(puna("plan", *arguments).out.split("\n\n")[1].split())


def test_a_card_that_is_too_small_is_one_sentence_with_the_cpu(puna: Puna) -> None:
    told = verdict(puna, "llama-2-70b:bf16", "--gpu", "RTX 4070", "--ram", "24GiB")
    assert told.startswith(
        "It does not fit on the card: even with weights as int4 and 65 of 80 layers in main memory, it needs 33.55 GiB of main "
        "memory too, and 22.50 GiB of it are free; on the CPU it does not fit either: it needs 129.27 GiB, and 22.50 GiB are "
    )
    assert "it runs" not in told and facts(puna, "llama-2-70b:bf16", "--gpu", "RTX 4070", "--ram", "24GiB")["notices"] == []
    small = ("llama-2-7b:q8_0", "--vram", "1GiB", "--ram", "16GiB")
    told = verdict(puna, *small)
    assert told.startswith("It does not fit on the card: it needs ") and "; on the CPU it fits (--device cpu, " in told
    assert "on this card. Take --device cpu, a smaller model" in " ".join(puna("plan", *small).out.split())
    assert verdict(puna, "llama-2-70b:q4_k_m", "--gpu", "RTX 4070", "--ram", "64GiB").count("slow, but it runs") == 1


def test_a_batch_that_was_asked_for_is_counted(puna: Puna) -> None:
    done = puna("plan", "llama-2-7b", "--gpu", "RTX 3090", "--context", "1024", "--batch", "32")
    assert "32 sequences of 1024 tokens take 16.00 GiB" in " ".join(done.out.split())
    done = puna("plan", "llama-2-7b", "--gpu", "RTX 3090", "--context", "1024", "--batch", "1")
    assert "up to 1024. One of 1024 tokens takes 0.50 GiB" in " ".join(done.out.split())


def test_little_memory_is_told_in_mib(puna: Puna) -> None:
    told = " ".join(puna("plan", "llama-2-7b", "--ram", "100MiB").out.split())
    assert "MiB" in told and "0.00 GiB" not in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no-such-model",), "no-such-model"),
        (("llama-2-7b", "--gpu", "RTX 4077"), "RTX 4070"),
        (("llama-2-7b", "--gpu", "RTX 4070", "--device", "cpu"), "--gpu names a card, but the device is cpu"),
        (("llama-2-7b", "--context", "9000"), "4096"),
        (("llama-2-7b", "--weights", "int3"), "int3"),
        (("llama-2-7b", "--vram", "much"), "much"),
        (("llama-2-7b:q99",), "q99"),
        (("llama-2-7b", "--ram", "0"), "--ram is 0 bytes; it must be a size such as 32GiB"),
        (("llama-2-7b", "--ram", "2"), "Did you mean 2GiB?"),
        (("llama-2-7b", "--gpu", "RTX 4070", "--tensor-parallel", "3"), "3 parts"),
    ],
)
def test_wrong_usage_is_told(puna: Puna, arguments: tuple[str, ...], words: str) -> None:
    done = puna("plan", *arguments)
    assert done.code == 2 and words in done.err and "Traceback" not in done.err and len(done.err.splitlines()) <= 3


def test_the_verdict_compares_like_with_like_and_its_numbers_stand_in_the_table(puna: Puna) -> None:
    for arguments, code in (
        (("llama-2-7b", "--gpu", "RTX 4070"), 0),
        (("llama-3.1-405b", "--ram", "32GiB", "--device", "cpu"), 1),
    ):
        done = puna("plan", *arguments)
        told, found = " ".join(done.out.split()), facts(puna, *arguments)
        needed, free = gib(found["needed_bytes"]), gib(found["free_bytes"])
        whole = f"with overhead {gib(found['device_bytes'])} of {gib(found['device']['total_bytes'])}"
        assert done.code == code and f"{free} of it free for a model" in told and f"({whole})" in told
        assert (f"It fits: {needed} of the {free} that are free" if code == 0 else f"the model needs {needed}, ") in told
        assert f"total {gib(found['device_bytes'])} " in told and " bytes)" not in done.out


def test_several_cards_are_told_apart_from_one(puna: Puna) -> None:
    done = puna("plan", "llama-2-7b", "--gpu", "2 x RTX 3090")
    assert "on 2 x RTX 3090: 23.69 GiB each, " in done.out
    rows = [line for line in done.out.splitlines() if line.startswith(("  overhead  CUDA's", "  total     of each"))]
    assert len(rows) == 3 and len(set(map(len, rows))) == 1
    assert "GiB each" not in puna("plan", "llama-2-7b", "--gpu", "RTX 3090").out


def test_what_fits_nowhere_is_not_offered_and_a_full_disk_is_told(puna: Puna, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "To fetch it" not in puna("plan", "llama-3.1-405b", "--ram", "32GiB", "--device", "cpu").out
    monkeypatch.setattr("puna.cli.plan.free_space", lambda: 3_000_000_000)
    done = puna("plan", "llama-2-7b", "--gpu", "RTX 4070")
    assert "To fetch it, about 4.1 GB" in done.out and "The disk of the cache has only 3.0 GB free" in done.out
    monkeypatch.setattr("puna.cli.plan.free_space", lambda: 5_000_000_000)
    assert "The disk" not in puna("plan", "llama-2-7b", "--gpu", "RTX 4070").out


def test_a_card_that_puna_does_not_know_is_planned_by_its_memory_as_the_hint_says(puna: Puna) -> None:
    done = puna("plan", "--gpu", "My card")
    assert done.code == 2 and "similar" not in done.err and done.err.endswith("or give its memory too: --vram 12GiB.\n")
    done = puna("plan", "--gpu", "My card", "--vram", "12GiB")
    assert done.code == 0 and done.out.startswith("Models that fit My card:\n") and "qwen3-14b" in done.out
    assert "on 2 x RTX 4071: 11.69 GiB each" in puna("plan", "qwen3-4b", "--gpu", "2 x RTX 4071", "--vram", "12GiB").out
    assert "NVIDIA cards only" in puna("plan", "--gpu", "Radeon RX 7900", "--vram", "20GiB").err
    assert "on RTX 4070: 11.69 GiB, 5.50 GiB of it" in puna("plan", "qwen3-4b", "--gpu", "RTX 4070", "--vram", "6GiB").out


def test_memory_alone_lists_what_fits(puna: Puna, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.machine.planning.devices.gpus", lambda host: ())
    done = puna("plan", "--vram", "12GiB")
    assert done.code == 0 and done.out.startswith("Models that fit a GPU of 12 GiB (this machine has none):\n")
    assert "--vram limits the memory of a GPU" in puna("plan", "--vram", "12GiB", "--device", "cpu").err


def test_a_long_path_and_a_narrow_terminal_break_no_word(puna: Puna, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = puna("plan", model, "--ram", "8GiB").out.split()
    monkeypatch.setattr("puna.cli.width.terminal_width", lambda stream: 50)
    for arguments in ((model, "--ram", "8GiB"), ("llama-2-70b", "--gpu", "2 x RTX 4070"), ("llama-2-7b", "--gpu", "GTX 1060")):
        lines = puna("plan", *arguments).out.splitlines()
        assert [line for line in lines if len(line) > 50 and "torchrun" not in line and model not in line] == []
        assert not any(line.endswith(" --batch") for line in lines)
    narrow = puna("plan", model, "--ram", "8GiB").out.split()
    assert [word for word in words if word[-1].isalnum() and word not in narrow] == []


PLANS = [
    ("llama-2-7b", "--gpu", "RTX 4070"),
    ("llama-2-7b:bf16", "--gpu", "RTX 4070"),
    ("llama-3.1-70b", "--gpu", "RTX 4070", "--batch", "4"),
    ("llama-3.1-70b:bf16", "--gpu", "RTX 4070", "--batch", "4"),
    ("llama-3.1-405b", "--gpu", "8 x A100 80GB"),
    ("llama-2-7b", "--gpu", "GTX 1080"),
    ("qwen3-32b", "--ram", "16GiB", "--device", "cpu"),
    ("--gpu", "RTX 4070"),
    ("--gpu", "T4"),
    ("--gpu", "2 x RTX 3090"),
    ("--ram", "16GiB"),
    ("--ram", "1GiB"),
    ("--vram", "12GiB"),
]


@pytest.mark.parametrize("arguments", PLANS, ids=" ".join)
def test_lines_have_at_most_80_characters(puna: Puna, arguments: tuple[str, ...]) -> None:
    assert [line for line in puna("plan", *arguments).out.splitlines() if len(line) > 80] == []


def test_a_card_without_a_model_lists_what_fits_it(puna: Puna) -> None:
    done = puna("plan", "--gpu", "RTX 4070")
    assert done.code == 0 and "qwen3-14b" in done.out and "tok/s" in done.out and "llama-2-70b" not in done.out
    models = facts(puna, "--gpu", "RTX 4070")["models"]
    assert len(models) > 50 and all(model["command"] == f"puna pull {model['name']}" for model in models)


@pytest.mark.parametrize("card", [card.name for card in CARDS if card.capability < LEAST_CAPABILITY])
def test_a_card_below_the_kernels_gets_no_speed_but_what_would_run(puna: Puna, card: str) -> None:
    done = puna("plan", "smollm2-360m:q8_0", "--gpu", card)
    assert "tok/s" not in done.out and "plain PyTorch would run, many times slower" in " ".join(done.out.split())


def test_no_model_gets_a_speed_on_a_card_below_the_kernels(puna: Puna) -> None:
    done = puna("plan", "--gpu", "T4")
    assert "tok/s" not in done.out and "plain PyTorch would run, many times slower" in " ".join(done.out.split())


def test_what_a_plan_knows_by_name_can_be_fetched(puna: Puna) -> None:
    told = " ".join(puna("plan", "llama-2-7b", "--gpu", "RTX 4070").out.split())
    assert told.startswith("llama-2-7b:q4_k_m: 6.74 B weights, Q4_K, Q6_K, 3.80 GiB; ")
    assert (
        "To fetch it, about 4.1 GB: puna pull llama-2-7b:q4_k_m. The plan of the original weights: puna plan llama-2-7b:bf16"
        in told
    )
    original = puna("plan", "llama-2-7b:bf16", "--gpu", "RTX 4070").out
    assert "puna pull llama-2-7b:bf16\n" in original and "The plan of the original weights" not in original
    assert "To fetch it, about 7.2 GB: puna pull llama-2-7b:q8_0" in puna("plan", "llama-2-7b:q8_0", "--gpu", "RTX 4070").out


def test_another_architecture_is_told_for_what_it_is(puna: Puna) -> None:
    for name in ("gpt-oss-20b", "gemma-7b", "qwen1.5-moe-a2.7b"):
        done = puna("plan", name)
        assert done.code == 1 and "puna does not run this architecture: it is a" in done.err and "llama" not in done.err


def test_the_history_shows_what_was_loaded(puna: Puna, model: str) -> None:
    assert "no model was loaded here yet" in puna("plan", "--history").err
    assert puna("run", "--raw", "--device", "reference", model, "hi", "-n", "1").code == 0
    assert "tiny.gguf" in puna("plan", "--history").out
    (entry,) = facts(puna, "--history")["loads"]
    assert entry["model"] == "tiny.gguf" and entry["predicted_bytes"] > 0


def test_run_says_in_plain_words_what_the_model_takes_and_holds(puna: Puna, model: str) -> None:
    lines = puna("run", "--raw", "--device", "reference", model, "hi", "-n", "1").err.splitlines()
    (told,) = [line for line in lines if line.startswith("puna: the model takes ")]
    assert re.fullmatch(
        r"puna: the model takes \d+\.\d\d of \d+\.\d\d GiB of free memory; question and .* up to \d+ tokens \(.*\)", told
    )
    assert len(wrapped(told, 80)) <= 2


def test_a_large_file_is_planned_from_its_header(puna: Puna, tmp_path: Path) -> None:
    """A llama2.c file of 27 GB with holes for weights: what is not read takes no time."""
    path = tmp_path / "7b.bin"
    path.write_bytes(struct.pack("<7i", 4096, 11008, 32, 32, 32, -32000, 2048))
    num_weights = 6_738_415_616 + 2048 * 128  # llama2.c keeps a table of cosines and sines
    os.truncate(path, 28 + 4 * num_weights)
    found = facts(puna, str(path), "--gpu", "A100 80GB")
    assert found["fits"] and found["weights_bytes"] == 4 * 6_738_415_616
