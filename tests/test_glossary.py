"""docs/glossary.md holds the words that puna prints, each told in one or two sentences."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from puna.cli.plan import MARKS
from puna.config import KVType, WeightsType
from puna.formats.blocks import BLOCK_TYPES
from puna.model.weights import ROLES
from puna.request import FinishReason, SamplingParams
from tests.cli.conftest import Puna
from tests.test_commands import puna as puna  # fixtures
from tests.test_commands import workplace as workplace

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "glossary.md").read_text("utf-8")
ENTRIES = re.findall(r"^- (.*?)(?=^- |^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
OTHER_NAMES = re.compile(r"\*\*([^*]+)\*\*(?: \(([^)]*)\))?")
TERMS = {
    name.strip().lower()
    for entry in ENTRIES
    for term, others in OTHER_NAMES.findall(entry)
    for name in (term, *re.split(r", | and |\.", others))
}

# Words of the field that readers meet in puna's outputs and documents.
EXPECTED = (
    *("token", "vocabulary", "tokenizer", "context", "prompt", "chat template", "control token", "BOS", "EOS", "base model"),
    *("weights", "layer", "embedding", "attention", "KV", "KV cache", "feed-forward", "RoPE", "logits", "activations"),
    *("prefill", "decode", "tok/s", "first token", "batch", "prefix cache", "scratch", "overhead", "kernel", "plan"),
    *(
        "sampling",
        "greedy",
        "temperature",
        "top-k",
        "top-p",
        "min-p",
        "seed",
        "logprob",
        "perplexity",
        "logit bias",
        "repetition penalty",
    ),
    *("GGUF", "safetensors", "Hub", "sha256", "quantisation", "bits per weight", "Q4_0", "Q4_K_M", "GPTQ", "AWQ", "int8", "int4"),
    *("CUDA", "Triton", "VRAM", "offload", "rank", "NCCL", "compute capability", "GiB", "mixture of experts", "infill"),
)
# Fields of SamplingParams whose names explain themselves, or that the entry of another term explains.
PLAIN_FIELDS = {"max_tokens", "min_tokens", "suppress_ids", "begin_suppress_ids", "ignore_eos", "prompt_logprobs"}
PLAIN_FIELDS |= {"num_keep", "separate_reasoning", "include_stop_str_in_output", "processed_logprobs", "prompt_logprobs_start"}
PLAIN_FIELDS |= {"penalty_last_n", "xtc_threshold", "dynatemp_exponent", "mirostat_tau", "mirostat_eta", "adaptive_decay"}
PLAIN_FIELDS |= {"dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"}
OTHERWISE_SPELLED = {
    "logprobs": "logprob",
    "stop": "stop text",
    "stop_ids": "stop id",
    "dynatemp_range": "dynamic temperature",
    "xtc_probability": "XTC",
    "dry_multiplier": "DRY",
    "adaptive_target": "adaptive-p",
    "top_n_sigma": "top-n-sigma",
    "banned_strings": "banned string",
    "bad_words_ids": "bad words",
}


def spelled(name: str) -> str:
    """
    >>> spelled("top_k"), spelled("logit_bias"), spelled("stop_ids")
    ('top-k', 'logit bias', 'stop id')
    """
    words = name.replace("_", "-" if name in ("top_k", "top_p", "min_p", "typical_p") else " ")
    return OTHERWISE_SPELLED.get(name, words)


WORDS_OF_TABLES = {
    "the parts of a plan": set(MARKS),
    "the classes of weights": {role.class_ for role in ROLES.values()},
    "the types of weights": set(BLOCK_TYPES),
    "the types of --kv-type and --weights": {*KVType.__args__, *WeightsType.__args__} - {"auto", "as-is"},  # type: ignore[attr-defined]
    "the reasons why an answer ends": {reason.value for reason in FinishReason},
    "the sampling parameters": {
        spelled(field.name) for field in dataclasses.fields(SamplingParams) if field.name not in PLAIN_FIELDS
    },
}


def missing(words: set[str]) -> set[str]:
    return {word for word in words if word.lower() not in TERMS}


def test_the_words_of_the_field_are_there() -> None:
    assert missing(set(EXPECTED)) == set()


@pytest.mark.parametrize("table", WORDS_OF_TABLES)
def test_the_words_of_the_tables_of_the_code_are_there(table: str) -> None:
    assert WORDS_OF_TABLES[table] and missing(WORDS_OF_TABLES[table]) == set()


def test_every_line_of_a_plan_begins_with_a_word_of_the_glossary(workplace: Path, puna: Puna) -> None:
    rows = [line for line in puna("plan", "qwen3-4b").out.splitlines() if re.match(r"  .*  \d+\.\d+ [GM]iB$", line)]
    labels = {cell for row in rows for cell in re.split(r" {2,}", row)[1:3] if not re.search(r"\d", cell)}
    assert {"weights", "KV", "scratch", "logits", "attention"} <= labels
    assert missing(labels - {"total", "Python and libraries"}) == set()


def test_what_run_says_of_a_model_is_told(workplace: Path, puna: Puna) -> None:
    said = puna("run", "Hi", "--max-context", "64", "-n", "2").err
    for word in ("GiB", "token", "first token", "prompt", "tok/s"):
        assert word in said and not missing({word}), word


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.partition(":")[0])
def test_an_entry_is_a_term_and_one_or_two_sentences(entry: str) -> None:
    assert re.match(r"\*\*[^*]+\*\*", entry) and ": " in entry
    sentences = re.findall(r"\.(?=\s|$)", re.sub(r"\d\.\d", "", entry))
    assert 1 <= len(sentences) <= 2 and entry.rstrip().endswith(".") and "!" not in entry


def test_no_term_is_told_twice() -> None:
    heads = [term.lower() for entry in ENTRIES for term, _ in OTHER_NAMES.findall(entry.partition(": ")[0])]
    assert len(heads) == len(set(heads)) and len(heads) > 70


def test_the_readme_and_the_page_on_generate_link_it() -> None:
    assert "(docs/glossary.md)" in (ROOT / "README.md").read_text("utf-8")
    assert "(glossary.md)" in (ROOT / "docs" / "how-generate-works.md").read_text("utf-8")
