from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.chat import BUILT_IN, Message, break_up, choose_guard, encode_chat, guessed_template, render
from puna.errors import TemplateError, UsageError
from puna.tokenizers import build_tokenizer
from puna.tokenizers.base import Tokenizer
from tests.tokenizers.test_sentencepiece import read
from tests.tokenizers.vocabularies import default_checkpoint, small_bpe, small_spm

LLAMA3_CONTROLS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")

# Each of them does what a well-known template does, in our own words.
TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "trimmed": "{{ bos_token }}{% for m in messages %}{% set c = m['content'] | trim %}"
    "<|im_start|>{{ m['role'] }}\n{{ c }}<|im_end|>{% endfor %}",
    "tags": "{% for m in messages %}{{ '[' + m['role']|upper + '] ' + m['content'] + eos_token }}{% endfor %}",
}


def chat(*contents: str, system: str | None = None) -> list[Message]:
    roles = ["user", "assistant"] * len(contents)
    head: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return head + [{"role": role, "content": content} for role, content in zip(roles, contents)]


@pytest.mark.parametrize(
    ("tokens", "name"),
    [(("<|im_start|>",), "chatml"), (("<|start_header_id|>",), "llama3"), (("<s>", "</s>"), None), ((), None)],
)
def test_a_built_in_is_guessed_by_the_control_tokens_alone(tokens: tuple[str, ...], name: str | None) -> None:
    assert guessed_template(tokens) == name


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return build_tokenizer(small_bpe())


@pytest.fixture(scope="module")
def llama3() -> Tokenizer:
    spec = small_bpe()
    return build_tokenizer(
        small_bpe(tokens=[t.encode() for t in LLAMA3_CONTROLS[:3]] + list(spec.tokens[3:]), bos_id=0, add_bos=True)
    )


def shown(tokenizer: Tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special=False)


# Golden prompts.


def test_the_default_models_template_adds_its_system_message(request: pytest.FixtureRequest) -> None:
    checkpoint = default_checkpoint(request)
    assert checkpoint.tokenizer is not None
    tokenizer = build_tokenizer(checkpoint.tokenizer)
    head = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    expected = head + "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
    ids = encode_chat(chat("What is 2+2?"), tokenizer, checkpoint.chat_template)
    assert shown(tokenizer, ids) == expected
    assert ids == tokenizer.encode(expected, special=True)
    given = shown(tokenizer, encode_chat(chat("hi", system="Be brief."), tokenizer, checkpoint.chat_template))
    assert given == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_chatml_as_text(bpe: Tokenizer) -> None:
    expected = (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    )
    for template in (None, "chatml", TEMPLATES["chatml"]):
        assert shown(bpe, encode_chat(chat("a", "b", "c", system="s"), bpe, template)) == expected


def test_llama_3_as_text(llama3: Tokenizer) -> None:
    ids = encode_chat(chat(" hi ", system="Be brief."), llama3)
    assert shown(llama3, ids) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert ids[:2] == [0, 1]


# Ids that Meta's own program gives (its tokenizer, its way of encoding each exchange by itself).
@pytest.mark.parametrize(
    ("messages", "ids"),
    [
        (
            chat("what is the recipe of mayonnaise?"),
            "1 518 25580 29962 825 338 278 9522 412 310 1122 11586 895 29973 518 29914 25580 29962",
        ),
        (
            chat("hi", "hello", "bye"),
            "1 518 25580 29962 7251 518 29914 25580 29962 22172 29871 2 1 518 25580 29962 491 29872 518 29914 25580 29962",
        ),
    ],
)
def test_llama_2_as_meta_encodes_it(messages: list[Message], ids: str) -> None:
    tokenizer = build_tokenizer(read("llama2/tokenizer.bin", 32000))
    assert encode_chat(messages, tokenizer, "llama2") == [int(i) for i in ids.split()]


def test_llama_2_puts_the_system_message_into_the_first_turn() -> None:
    tokenizer = build_tokenizer(small_spm())
    ids = encode_chat(chat("the", "lama", "the", system="all"), tokenizer, "llama2")
    first = "[INST] <<SYS>>\nall\n<</SYS>>\n\nthe [/INST] lama "
    assert ids == tokenizer.encode(first, bos=True, eos=True) + tokenizer.encode("[INST] the [/INST]", bos=True)


def test_the_time_is_the_one_given() -> None:
    prompt = render(chat("x"), "{{ strftime_now('%Y') }}", bos_token="", eos_token="", now=datetime(2031, 1, 1))
    assert prompt.text == "2031"


# BOS is there once.


@pytest.mark.parametrize("template", [TEMPLATES["trimmed"], TEMPLATES["tags"]])
@pytest.mark.parametrize("add_bos", [True, False])
def test_bos_is_there_once_where_the_template_or_the_file_asks_for_it(template: str, add_bos: bool) -> None:
    tokenizer = build_tokenizer(small_bpe(bos_id=0, add_bos=add_bos))
    ids = encode_chat(chat("a"), tokenizer, template)
    assert ids.count(0) == (1 if add_bos or "bos_token" in template else 0)


# What a person types stays text.

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.mark.parametrize("template", [*TEMPLATES.values(), "chatml", "llama3"])
@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_control_token_that_was_typed_is_text(bpe: Tokenizer, template: str, special: str, number: int) -> None:
    def controls(content: str) -> list[int]:
        contents = ["a", "b", "c"]
        contents[number] = content
        return [i for i in encode_chat(chat(*contents), bpe, template) if i < 3]

    assert controls(special) == controls(f"x{special}\n{special}{special}y") == controls("x")


def test_typed_control_tokens_are_encoded_as_any_text(bpe: Tokenizer) -> None:
    ids = encode_chat(chat("the <|im_end|> llama"), bpe, TEMPLATES["tags"])
    assert ids == [*bpe.encode("[USER] the <|im_end|> llama"), 2]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    content=st.lists(st.sampled_from(["<|im_", "start|>", "end|>", "<|", "|>", "<", "<|im_end|>", "a", "\ufdd0", "\ufdd1"])).map(
        "".join
    )
)
def test_any_content_is_kept_and_makes_no_control_token(bpe: Tokenizer, content: str) -> None:
    ids = encode_chat(chat(content), bpe, TEMPLATES["chatml"])
    assert [i for i in ids if i < 3] == [1, 2, 1]
    assert shown(bpe, ids) == f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


def test_overlapping_control_tokens_are_all_broken_up() -> None:
    messages = break_up(chat("xabcabx", "aaaa"), ["ab", "bc", "aa"], "|")
    for message in messages:
        assert not any(token in message["content"] for token in ("ab", "bc", "aa"))
        assert message["content"].replace("|", "") in ("xabcabx", "aaaa")


def test_the_guard_occurs_in_no_text() -> None:
    assert choose_guard(["a"]) == "\ufdd0"
    assert choose_guard(["".join(map(chr, range(0xFDD0, 0xFDF0)))]) == "\U00100000"


# Refusals.


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "at least one"),
        ([{"role": "tool", "content": "x"}], "'tool'; allowed: system, user, assistant"),
        ([{"content": "x"}], "None"),
        ([{"role": "user"}], "NoneType"),
        ([{"role": "user", "content": ["x"]}], "list"),
    ],
)
def test_wrong_messages_are_named(bpe: Tokenizer, messages: list[Message], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        encode_chat(messages, bpe)


@pytest.mark.parametrize("messages", [chat("a", "b"), chat("a", "b", "c")[1:], chat(system="s"), [*chat("a"), *chat("b")]])
def test_llama_2_wants_user_and_assistant_in_turn(messages: list[Message]) -> None:
    with pytest.raises(UsageError, match="ends with user"):
        encode_chat(messages, build_tokenizer(small_spm()), "llama2")


@pytest.mark.parametrize("tag", ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"])
def test_llama_2_refuses_its_own_tags_in_a_message(tag: str) -> None:
    with pytest.raises(UsageError, match="not allowed in a message"):
        encode_chat(chat(f"a {tag} b"), build_tokenizer(small_spm()), "llama2")


def test_where_no_built_in_fits_nothing_is_guessed() -> None:
    with pytest.raises(TemplateError, match="no chat template") as caught:
        encode_chat(chat("a"), build_tokenizer(small_spm()))
    for way_out in (*BUILT_IN, "--raw", "--template"):
        assert way_out in caught.value.hint


def test_a_template_may_refuse(bpe: Tokenizer) -> None:
    with pytest.raises(TemplateError, match="no system message, please"):
        encode_chat(chat("a"), bpe, "{{ raise_exception('no system message, please') }}")


@pytest.mark.parametrize("template", [None, TEMPLATES["chatml"]], ids=["built-in", "file"])
def test_a_lone_surrogate_is_told_with_the_message_that_holds_it(bpe: Tokenizer, template: str | None) -> None:
    with pytest.raises(UsageError, match=r"message 1 holds the lone surrogate U\+D83E at character 2"):
        encode_chat(chat("fine", "a \ud83e"), bpe, template)


@pytest.mark.parametrize("bad", ["hello", {"role": "user", "content": "hello"}, ["hello"], None, 5, [None]], ids=str)
def test_what_is_no_list_of_messages_is_refused(bpe: Tokenizer, bad: Any) -> None:
    with pytest.raises(UsageError, match="needed"):
        encode_chat(bad, bpe)
