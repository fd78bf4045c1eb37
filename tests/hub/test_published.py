"""The table of published models: names, sizes, sources."""

from __future__ import annotations

import re
from math import prod
from random import Random

import pytest

from puna.errors import UsageError
from puna.formats.blocks import BLOCK_TYPES
from puna.hub.names import HubName
from puna.hub.other_families import near_names, other_family
from puna.hub.published import MIXES, PUBLISHED, RECOMMENDED, find_published, matrix_types, require_types, source_of
from puna.model.weights import tensor_shapes

# Published facts: weights of the model cards, in billions; bytes of the Q4_K_M file on the Hub, in GB.
WEIGHTS = {
    "mistral-nemo-12b": 12.2, "mistral-small-24b": 23.6, "ministral-8b": 8.02, "codestral-22b": 22.2, "mistral-large-2407": 122.6,
    "solar-10.7b": 10.7, "yi-1.5-6b": 6.06, "yi-1.5-9b": 8.83, "yi-1.5-34b": 34.4, "falcon3-1b": 1.67, "falcon3-3b": 3.23,
    "falcon3-7b": 7.46, "falcon3-10b": 10.3, "deepseek-coder-6.7b": 6.74, "deepseek-r1-distill-qwen-1.5b": 1.78,
    "qwen2.5-7b": 7.62, "qwen2.5-14b": 14.8, "qwen2.5-32b": 32.8, "qwen2.5-72b": 72.7, "qwen3-0.6b": 0.596, "qwen3-4b": 4.02,
    "qwen3-8b": 8.19, "qwen3-14b": 14.8, "qwen3-32b": 32.8, "mistral-7b-v0.3": 7.25, "smollm3-3b": 3.08, "granite-3.3-2b": 2.53,
    "granite-3.3-8b": 8.17, "olmo-2-7b": 7.30, "olmo-2-13b": 13.7, "olmo-3-7b": 7.30, "phi-3.5-mini": 3.82, "phi-4": 14.7,
    "phi-4-mini": 3.84, "ministral-3-3b": 3.43, "ministral-3-8b": 8.49, "gemma-2-2b": 2.61, "gemma-2-9b": 9.24,
    "gemma-2-27b": 27.2, "gemma-3-1b": 1.00, "qwen3-30b-a3b": 30.5, "mixtral-8x7b": 46.7, "mixtral-8x22b": 141,
    "exaone-4.0-1.2b": 1.28, "exaone-4.0-32b": 32.0,
}  # fmt: skip
Q4_K_M = {
    "llama-2-7b": 4.08, "llama-2-13b": 7.87, "llama-3.1-8b": 4.92, "llama-3.2-1b": 0.81, "llama-3.2-3b": 2.02, "qwen3-4b": 2.50,
    "qwen3-8b": 5.03, "qwen2.5-7b": 4.68, "mistral-7b": 4.37, "llama-3.3-70b": 42.5, "qwen3-32b": 19.8, "mistral-nemo-12b": 7.48,
    "qwen2.5-72b": 47.4, "smollm3-3b": 1.92, "phi-4": 9.05, "qwen3-30b-a3b": 18.56, "olmo-2-7b": 4.47,
}  # fmt: skip


@pytest.mark.parametrize(("name", "billions"), WEIGHTS.items())
def test_weights_are_as_many_as_is_published(name: str, billions: float) -> None:
    assert sum(map(prod, tensor_shapes(PUBLISHED[name].config).values())) / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize(("name", "gigabytes"), Q4_K_M.items())
def test_the_size_that_is_told_is_that_of_the_file(name: str, gigabytes: float) -> None:
    source = source_of(name)
    assert source is not None and source.kind == "q4_k_m" and source.num_bytes / 1e9 == pytest.approx(gigabytes, rel=0.02)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_name_is_found_and_has_a_source_that_can_be_fetched(name: str) -> None:
    model, source = PUBLISHED[name], source_of(name)
    assert source is not None and source.model is model and source.num_bytes > 0 and model.licence
    assert len(model.repository.split("/")) == 2 and len(name) <= 29 and len(model.licence) <= 16
    assert HubName(*str(source.name).removeprefix("hf:").split("/")) == source.name
    for also in (name, *model.also):
        assert find_published(also) is model and other_family(also) is None
    if name.startswith("stories"):
        return
    assert other_family(model.repository) is None
    assert find_published(model.repository) is model


@pytest.mark.parametrize("kind", [*MIXES, "q8_0", "q4_0"])
def test_no_matrix_has_rows_that_its_type_cannot_hold(kind: str) -> None:
    for name, model in PUBLISHED.items():
        types = matrix_types(model.config, *require_types(kind, name))
        assert all(shape[-1] % BLOCK_TYPES[own].block_size == 0 for _, shape, own in types), name


def test_another_type_is_another_file_in_the_same_spelling() -> None:
    names = {text: str(source.name) for text in ("qwen3-4b:q8_0", "qwen2-7b:q5_k_m") if (source := source_of(text))}
    assert names["qwen3-4b:q8_0"].endswith("/Qwen3-4B-Q8_0.gguf")
    assert names["qwen2-7b:q5_k_m"].endswith("/qwen2-7b-instruct-q5_k_m.gguf")
    with pytest.raises(UsageError, match="qwen3-4b:q99"):
        source_of("qwen3-4b:q99")


def test_a_base_model_is_not_taken_for_the_chat_model() -> None:
    for name in ("llama-2-7b-base", "codellama-7b-python", "meta-llama/Llama-2-7b-hf", "x/y", "a\\b", "", "gpt2"):
        assert source_of(name) is None


def test_recommended_models_are_published() -> None:
    assert set(RECOMMENDED) <= set(PUBLISHED) and all(PUBLISHED[name].gguf for name in RECOMMENDED)


def test_mistyped_names_get_the_name_that_was_meant() -> None:
    """One letter of the family is lost, doubled, or swapped with the next."""
    seed = 20261130
    random, meant, total = Random(seed), 0, 0
    for name in PUBLISHED:
        family = re.match(r"[a-z]+", name)
        if family is None or len(family[0]) < 5:
            continue
        at = random.randrange(1, len(family[0]) - 1)
        for wrong in (
            name[:at] + name[at + 1 :],
            name[:at] + name[at] + name[at:],
            name[:at] + name[at + 1] + name[at] + name[at + 2 :],
        ):
            total += 1
            meant += name == wrong or name in near_names(wrong) or find_published(wrong) is PUBLISHED[name]
    assert meant / total > 0.95, f"seed {seed}: {meant} of {total}"
