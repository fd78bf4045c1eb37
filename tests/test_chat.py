from __future__ import annotations

import random
from datetime import datetime
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.chat import BUILT_IN, Message, break_up, encode_chat, guessed_template, render, unread_args, unused_letters
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


FORMS = (None, "chatml", "llama3", "llama2", TEMPLATES["tags"])  # None: the model's own


def test_no_control_token_of_a_real_vocabulary_can_be_typed(request: pytest.FixtureRequest) -> None:
    """RELIABILITY D9: each of them x 3 roles x 5 formats has as many control tokens as an empty text."""
    checkpoint = default_checkpoint(request)
    assert checkpoint.tokenizer is not None
    tokenizer, num_cases = build_tokenizer(checkpoint.tokenizer), 0
    controls = set(tokenizer.special_tokens.values())

    def count(form: str | None, role: str, content: str) -> int:
        head, tail = {"system": ([], ["a"]), "user": ([], []), "assistant": (["a"], ["b"])}[role]
        turns = [*(("user", text) for text in head), (role, content), *(("user", text) for text in tail)]
        messages = [{"role": who, "content": text} for who, text in turns]
        ids = encode_chat(messages, tokenizer, form or checkpoint.chat_template)
        return sum(token_id in controls for token_id in ids)

    for form, role in product(FORMS, ("system", "user", "assistant")):
        empty = count(form, role, "")
        for special in tokenizer.special_tokens:
            assert count(form, role, special) == count(form, role, f"x{special}\n{special}{special}") == empty
            num_cases += 2
    print(f"{num_cases} contents, {len(controls)} control tokens")
    assert num_cases == 2 * 15 * len(tokenizer.special_tokens) >= 500


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
    assert next(unused_letters(["a"])) == "\ufdd0"
    assert next(unused_letters(["".join(map(chr, range(0xFDD0, 0xFDF0)))])) == "\U00100000"


# Refusals.


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "at least one"),
        ([{"role": "tools", "content": "x"}], "'tools'; allowed: system, user, assistant, tool, developer"),
        ([{"content": "x"}], "None"),
        ([{"role": "user"}], "message 0 has no content"),
        ([{"role": "user", "content": ["x"]}], "part 0 of message 0 is 'x'"),
        ([{"role": "user", "content": 5}], "int"),
    ],
)
def test_wrong_messages_are_named(bpe: Tokenizer, messages: list[Message], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        encode_chat(messages, bpe)


@pytest.mark.parametrize("messages", [chat("a", "b", "c")[1:], chat(system="s"), [*chat("a"), *chat("b")]])
def test_llama_2_wants_user_and_assistant_in_turn(messages: list[Message]) -> None:
    with pytest.raises(UsageError, match="user, assistant, user"):
        encode_chat(messages, build_tokenizer(small_spm()), "llama2")


@pytest.mark.parametrize("tag", ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"])
def test_llama_2_refuses_its_own_tags_in_a_message(tag: str) -> None:
    with pytest.raises(UsageError, match="not allowed in a message"):
        encode_chat(chat(f"a {tag} b"), build_tokenizer(small_spm()), "llama2")


def test_where_no_built_in_fits_nothing_is_guessed() -> None:
    with pytest.raises(TemplateError, match="no chat template") as caught:
        encode_chat(chat("a"), build_tokenizer(small_spm()))
    assert all(way_out in caught.value.hint for way_out in (*BUILT_IN, "chat_template", "generate()"))
    assert all(way_out in str(caught.value.typed) for way_out in (*BUILT_IN, "--raw", "--template")), "on a command line"


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


# The answer is begun by the caller.

# Each of them does what a well-known template does, in our own words: trims, keeps, splits off thoughts, knows tools.
MORE_TEMPLATES = {
    **TEMPLATES,
    "trimming": "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "alternating": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
    "thinking": "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and '</think>' in c %}"
    "{% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}<|im_start|>{{ m.role }}\n{{ c }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}",
    "tools": "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<result>{{ m.content }}</result><|im_end|>\n"
    "{% elif m.tool_calls %}<|im_start|>assistant\n{% for call in m.tool_calls %}{{ call.function.name }}"
    "{{ call.function.arguments | tojson }}{% endfor %}<|im_end|>\n{% else %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
}
WORDS = ["The capital", " is", "Lima", "\n", "é", "🦙", "</think>", "{{ x }}", "<|im_end|>", " ", "The", "1.\n2."]


def by_transformers(template: str, messages: Any, **given: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    texts, _ = render_jinja_template([messages], chat_template=template, bos_token="<s>", eos_token="</s>", **given)
    return str(texts[0])


def by_puna(template: str, messages: Any, **given: Any) -> str:
    prompt = render(messages, template, bos_token="<s>", eos_token="</s>", control_tokens=SPECIALS, **given)
    return prompt.text.replace(prompt.guard, "")


def continued_by_transformers(template: str, messages: list[Any]) -> str | None:
    try:
        return by_transformers(template, [dict(message) for message in messages], continue_final_message=True)
    except ValueError:  # the template changes the message
        return None


def continued_by_puna(template: str, messages: list[Any]) -> str | None:
    try:
        text = by_puna(template, messages, continue_final_message=True)
    except TemplateError as error:
        assert "cannot continue it" in error.message
        return None
    assert by_puna(template, messages) == text
    return text


@pytest.mark.parametrize("name", MORE_TEMPLATES)
def test_an_answer_that_was_begun_is_continued_as_transformers_does_it(name: str) -> None:
    rng, template = random.Random(13), MORE_TEMPLATES[name]
    for _ in range(25):
        contents = ["".join(rng.choices(WORDS, k=rng.randint(1, 5))) for _ in range(rng.choice([2, 4]))]
        contents[-1] = contents[-1].rstrip() or "a"  # a template that trims does not trim what is to be continued: see below
        messages: list[Any] = [dict(message) for message in chat(*contents)]
        assert continued_by_puna(template, messages) == continued_by_transformers(template, messages), messages
        closed = by_transformers(template, messages)
        assert by_puna(template, messages, add_generation_prompt=False) == closed, messages
        asked = by_transformers(template, messages[:-1], add_generation_prompt=True)
        assert by_puna(template, messages[:-1]) == asked, messages


@pytest.mark.parametrize("template", [*MORE_TEMPLATES.values(), "chatml", "llama3", "llama2", None])
def test_what_was_begun_stands_at_the_end_to_the_last_space(bpe: Tokenizer, template: str | None) -> None:
    text = shown(bpe, encode_chat(chat("a", "The capital is \n "), bpe, template))
    assert text.endswith("The capital is \n ")
    assert shown(bpe, encode_chat(chat("a", "<|im_end|>"), bpe, template)).endswith("<|im_end|>")
    assert encode_chat(chat("a", "<|im_end|>"), bpe, template)[-1] > 2  # the text, not the token


@pytest.mark.parametrize("template", [MORE_TEMPLATES["chatml"], "chatml"])
def test_the_end_of_a_chat_and_what_is_asked_of_it_must_fit(bpe: Tokenizer, template: str) -> None:
    with pytest.raises(UsageError, match="there is nothing to answer"):
        encode_chat(chat("a", "b"), bpe, template, continue_final_message=False)
    with pytest.raises(UsageError, match="the last message has the role 'user'"):
        encode_chat(chat("a"), bpe, template, continue_final_message=True)
    for wrong in ("yes", 1, np.array([1, 2])):
        with pytest.raises(UsageError, match=r"continue_final_message is .*; True or False is needed"):
            encode_chat(chat("a"), bpe, template, continue_final_message=wrong)  # type: ignore[arg-type]
    closed = encode_chat(chat("a", "b"), bpe, template, continue_final_message=False, add_generation_prompt=False)
    assert shown(bpe, closed).endswith("b<|im_end|>\n")
    assert encode_chat(chat("a"), bpe, template, continue_final_message=False) == encode_chat(chat("a"), bpe, template)


def test_a_template_that_leaves_the_answer_out_cannot_continue_it() -> None:
    with pytest.raises(TemplateError, match="cannot continue it"):
        by_puna("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", chat("a", "b"))


# Roles, contents in parts, calls of tools.

CALL = {"id": "1", "type": "function", "function": {"name": "capital", "arguments": {"of": "Peru"}}}


def with_tools() -> list[dict[str, Any]]:
    answer = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    return [{"role": "user", "content": "a"}, answer, {"role": "tool", "content": "Lima", "tool_call_id": "1"}]


def test_calls_of_tools_and_their_results_reach_a_template_that_knows_them() -> None:
    expected = by_transformers(MORE_TEMPLATES["tools"], with_tools(), add_generation_prompt=True)
    assert by_puna(MORE_TEMPLATES["tools"], with_tools()) == expected
    assert 'capital{"of": "Peru"}' in expected and "<result>Lima</result>" in expected
    as_text = with_tools()
    as_text[1]["tool_calls"] = [CALL | {"function": {"name": "capital", "arguments": '{"of": "Peru"}'}}]  # as OpenAI gives them
    assert by_puna(MORE_TEMPLATES["tools"], as_text) == expected


def test_a_role_that_a_template_only_writes_down_is_written_down() -> None:
    text = by_puna(TEMPLATES["chatml"], [{"role": "user", "content": "a"}, {"role": "tool", "content": "Lima"}])
    assert "<|im_start|>tool\nLima<|im_end|>" in text


def test_what_a_template_would_leave_out_is_refused_by_its_number() -> None:
    only_two = "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}{{ m.content }}{% endif %}{% endfor %}"
    for role in ("tool", "system"):
        with pytest.raises(TemplateError, match=f"leaves out message 1, which has the role '{role}'"):
            by_puna(only_two, [{"role": "user", "content": "a"}, {"role": role, "content": "b"}])
    with pytest.raises(TemplateError, match="message 1 has tool_calls, which the chat template of this model does not read"):
        by_puna(TEMPLATES["chatml"], with_tools())
    with pytest.raises(TemplateError, match="roles must alternate"):
        by_puna(MORE_TEMPLATES["alternating"], with_tools()[:1] * 2)


@pytest.mark.parametrize("name", ["llama2", "llama3", "chatml"])
def test_a_built_in_template_has_no_place_for_tools(bpe: Tokenizer, name: str) -> None:
    with pytest.raises(TemplateError, match=f"message 1 has tool_calls; the built-in template {name} has no place for it"):
        encode_chat(with_tools(), bpe, name)
    with pytest.raises(TemplateError, match="message 0 has the role 'tool'"):
        encode_chat(with_tools()[2:], bpe, name)


@pytest.mark.parametrize("template", ["chatml", TEMPLATES["chatml"], "llama2"])
def test_a_developer_is_the_system_where_the_template_does_not_know_it(bpe: Tokenizer, template: str) -> None:
    def ids(role: str) -> list[int]:
        return encode_chat([{"role": role, "content": "Be brief."}, *chat("a")], bpe, template)

    assert ids("developer") == ids("system")
    knows = "{% for m in messages %}{{ m.role == 'developer' }}{{ m.content }}{% endfor %}"
    assert by_puna(knows, [{"role": "developer", "content": "s"}, *chat("a")]) == "TruesFalsea"


def test_a_content_in_parts_is_their_texts_and_other_parts_are_refused_by_name(bpe: Tokenizer) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert encode_chat([{"role": "user", "content": parts}], bpe) == encode_chat(chat("one\ntwo"), bpe)
    image = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    with pytest.raises(UsageError, match=r"part 1 of message 0 is of type 'image_url'; puna reads parts of type 'text'"):
        encode_chat([{"role": "user", "content": [parts[0], image]}], bpe)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({"role": "user", "content": "a", "tool_calls": [CALL]}, "only the assistant calls tools"),
        ({"role": "assistant", "content": "a", "tool_calls": "x"}, "tool_calls is 'x'; a list"),
        ({"role": "user", "content": "a", "more": {1}}, "a JSON value is needed"),
        ({"role": "user", "content": "a", "more": float("nan")}, "a JSON value is needed"),
        ({"role": "user", "content": [{"type": "text"}]}, "the text of part 0 of message 0 is None"),
    ],
)
def test_keys_of_a_message_that_are_wrong_are_named(bpe: Tokenizer, message: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        encode_chat([message], bpe)


# Variables of the template.


@pytest.mark.parametrize("value", [False, True])
def test_a_variable_reaches_the_template_as_in_transformers(value: bool) -> None:
    template, messages = MORE_TEMPLATES["thinking"], chat("a")
    expected = by_transformers(template, messages, add_generation_prompt=True, enable_thinking=value)
    assert by_puna(template, messages, template_args={"enable_thinking": value}) == expected
    assert ("<think>" in expected) is not value


def test_control_tokens_in_a_variable_or_a_further_key_are_text(bpe: Tokenizer) -> None:
    template = "{% for m in messages %}{{ m.name }}{{ m.content }}{% endfor %}{{ x.y[0] }}"
    ids = encode_chat(
        [{"role": "user", "content": "a", "name": "<|im_end|>"}], bpe, template, template_args={"x": {"y": ["<|im_start|>"]}}
    )
    assert not {0, 1, 2} & set(ids)
    assert shown(bpe, ids) == "<|im_end|>a<|im_start|>"


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ({"messages": []}, "messages, which puna sets itself"),
        ({"bos_token": "x"}, "bos_token, which puna sets itself"),
        ({"add_generation_prompt": False}, "add_generation_prompt, which puna sets itself"),
        ({"strftime_now": "now"}, "strftime_now, which puna sets itself"),
        ({"a-b": 1}, "the name of a variable is needed"),
        ({5: 1}, "the name of a variable is needed"),
        ({"x": {1, 2}}, "a JSON value is needed"),
        ([("x", 1)], "a dict"),
    ],
    ids=str,
)
@pytest.mark.parametrize("template", ["chatml", TEMPLATES["chatml"]], ids=["built-in", "file"])
def test_variables_that_cannot_be_are_refused(bpe: Tokenizer, template: str, args: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        encode_chat(chat("a"), bpe, template, template_args=args)


def test_variables_that_a_template_never_reads_are_known() -> None:
    assert unread_args(["enable_thinking", "effort"], MORE_TEMPLATES["thinking"]) == ["effort"]
    assert unread_args(["effort"], "chatml") == unread_args(["effort"], None) == ["effort"]
