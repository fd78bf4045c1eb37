"""Names of architectures that puna does not run: each is recognised, also mistyped, and gets no similar Llama."""

from __future__ import annotations

import re
from random import Random

import pytest

from puna.hub.other_families import near_names, other_family, refusal
from puna.hub.published import find_published, source_of

NAMES = {
    "mixture of experts": """qwen2-57b-a14b Qwen/Qwen2-57B-A14B-Instruct qwen1.5-moe-a2.7b gpt-oss-20b
        gpt-oss:120b openai/gpt-oss-20b Qwen/Qwen1.5-MoE-A2.7B-Chat openai/gpt-oss-120b moonlight-16b-a3b
        llama-4-scout llama4:16x17b meta-llama/Llama-4-Maverick-17B-128E deepseek-v3 deepseek-r1 deepseek-r1:671b
        deepseek-v2-lite deepseek-coder-v2:16b deepseek-ai/DeepSeek-V3.1 olmoe-1b-7b dbrx grok-1 kimi-k2 minimax-m2
        hunyuan-a13b""",
    "images": """llama-3.2-11b-vision llama3.2-vision qwen2.5-vl-7b qwen2-vl-2b qwen3-vl:8b llava-7b pixtral-12b smolvlm-2b
        idefics-9b stable-diffusion-xl flux.1-dev""",
    "state-space": """qwen3-next-80b-a3b qwen3.5-27b qwen3.6-35b-a3b Qwen/Qwen3-Next-80B-A3B-Instruct falcon-h1-7b
        tiiuae/Falcon-H1-34B-Instruct mamba-2.8b jamba-v0.1 rwkv-6 lfm2-1.2b""",
    "of its own": """gemma-2b gemma:7b google/gemma-7b google/gemma-7b-it codegemma-7b gemma-3n-e4b gemma3n:e2b gemma4
        gemma-4-26b-a4b phi-2 microsoft/phi-1_5 phi-3-small-8k phi-3.5-moe phi-3-vision phi-4-multimodal phi-4-mini-flash
        glm-4-9b chatglm3-6b THUDM/glm-4-9b-chat falcon-7b falcon-40b falcon-mamba-7b
        granite-3.1-1b-a400m granite4:tiny-h ibm-granite/granite-4.0-h-tiny olmo-7b allenai/OLMo-1B command-r command-r-plus
        aya-23-8b starcoder2-7b stablelm-2-1.6b internlm2-7b baichuan2-13b minicpm-2b exaone-3.5-7.8b nemotron-4-15b
        minitron-8b ernie-4.5-0.3b seed-oss-36b apertus-8b bitnet-b1.58-2b qwen-7b qwen-14b-chat""",
    "older decoder": "gpt2 gpt-j-6b gpt-neox-20b pythia-1.4b bloom-7b1 opt-6.7b mpt-7b",
    "encoder": "t5-small flan-t5-xl bert-base-uncased nomic-embed-text whisper-large bge-m3",
}
ALL = [(name, what) for what, names in NAMES.items() for name in names.split()]


def test_the_table_is_long() -> None:
    assert len(ALL) >= 100


@pytest.mark.parametrize(("name", "what"), ALL)
def test_another_architecture_is_told_for_what_it_is_and_gets_no_near_llama(name: str, what: str) -> None:
    told = refusal(name)
    assert told is not None and told.startswith("puna does not run this architecture: it is a") and what in told
    assert near_names(name) == [] and source_of(name) is None and find_published(name) is None


def test_a_mistyped_name_of_another_architecture_gets_no_near_llama() -> None:
    """One letter of its first word is lost, doubled, changed or swapped with the next."""
    seed = 20261130
    random = Random(seed)
    for name, _ in ALL:
        plain = name.rsplit("/", 1)[-1].lower()
        word = re.match(r"[a-z]+", plain)
        if (
            word is None
            or len(word[0]) < 4
            or word[0] in ("llama", "qwen", "mistral", "deepseek", "falcon", "gemma", "granite", "olmo", "exaone")
        ):
            continue  # the family is one that puna runs, in other versions
        at = random.randrange(1, len(word[0]) - 1)
        letter = random.choice("abcdefghijklmnopqrstuvwxyz")
        for wrong in (
            plain[:at] + plain[at + 1 :],
            plain[:at] + plain[at] + plain[at:],
            plain[:at] + letter + plain[at + 1 :],
            plain[:at] + plain[at + 1] + plain[at] + plain[at + 2 :],
        ):
            if not wrong.startswith("smollm"):  # one letter from smolvlm, and a family itself
                assert near_names(wrong) == [], f"seed {seed}: {name} as {wrong}"


@pytest.mark.parametrize(
    "name",
    ["lama-4-scout", "llma-4-maverick", "qwn2-57b-a14b", "mistrall-small-4", "deepsek-v3", "gema-4-31b", "granit-4.0-h-small"],
)
def test_a_mistyped_family_of_both_kinds_is_judged_by_the_whole_name(name: str) -> None:
    assert other_family(name) is not None and near_names(name) == []


@pytest.mark.parametrize(
    "name",
    [
        "llama-5-8b",
        "qwen1.5-7b",
        "wizardlm-13b",
        "orca-2-7b",
        "optimus-7b",
        "commander-7b",
        "linguist-7b",
        "foo",
        "",
        "x" * 300,
        "7b",
        "é",
    ],
)
def test_a_name_that_tells_nothing_gets_neither_an_architecture_nor_a_near_model(name: str) -> None:
    assert other_family(name) is None and near_names(name) == []


@pytest.mark.parametrize(
    ("name", "near"),
    [("lama-2-7b", "llama-2-7b"), ("llama-2-8b", "llama-2-7b"), ("mistrl-7b", "mistral-7b"), ("qwen25-7b", "qwen2.5-7b"),
     ("qwen3-9b", "qwen3-8b"), ("tinylama-1.1b", "tinyllama-1.1b"), ("smolm2-360m", "smollm2-360m"), ("yi-6b", "yi-1.5-6b"),
     ("falcon3-8b", "falcon3-7b"), ("deepseek-r1-distil-qwen-7b", "deepseek-r1-distill-qwen-7b"),
     ("codelama-34b", "codellama-34b")],
)  # fmt: skip
def test_a_typing_error_gets_the_model_that_was_meant(name: str, near: str) -> None:
    assert near in near_names(name)
