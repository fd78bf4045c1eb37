"""Every way of writing calls: chosen by the template, allowed by its grammar, read back, and the same in later turns."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from typing import Any

import pytest

from puna.chat import render
from puna.constraints import Constraints
from puna.server.refusals import Refusal
from puna.server.tools import NATIVE, format_of
from puna.server.tools.base import Tool, ToolFormat, ToolUse
from puna.server.tools.gemma import FUNCTION_GEMMA, GEMMA4
from puna.server.tools.hermes import DESCRIBED, HERMES
from puna.server.tools.layout_calls import LayoutCalls
from puna.server.tools.llama import LLAMA
from puna.server.tools.mistral import MISTRAL_LIST, MISTRAL_NAMED
from puna.server.tools.qwen_coder import QWEN_CODER
from puna.server.tools.smollm2 import SMOLLM2
from tests.fakes import VOCAB_SIZE, ByteTokenizer
from tests.server.tools.test_reader import partitions, read

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}
TOOLS = (Tool("get_weather", "Weather of a city", CITY), Tool("now"), Tool("get_weather_2", parameters=CITY))
CALLS: list[tuple[str, dict[str, Any]]] = [("get_weather", {"city": 'L"i}ma\n', "days": 2}), ("now", {})]


@dataclass(frozen=True)
class Family:
    """A format, a chat template like those of its models, and how these write CALLS."""

    format: LayoutCalls
    template: str
    says: str


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def listed(key: str) -> list[str]:
    return [dumped({"name": name, key: arguments}) for name, arguments in CALLS]


def bare(mark: str) -> list[str]:
    """CALLS in Gemma's notation."""
    city = CALLS[0][1]["city"]
    return [f"get_weather{{city:{mark}{city}{mark},days:2}}", "now{}"]


def tagged(arguments: dict[str, Any]) -> str:
    return "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())


def turns(of_calls: str = "") -> str:
    """A template of a conversation, where `of_calls` writes a message's calls."""
    calls = "{% if m.tool_calls %}" + of_calls + "{% endif %}" if of_calls else ""
    return "{% for m in messages %}<{{ m.role }}>{{ m.content }}" + calls + "\n{% endfor %}"


EACH, END = "{% for c in m.tool_calls %}", "{% endfor %}"
ONE_ONLY = "{% if m.tool_calls | length > 1 %}{{ raise_exception('one at a time') }}{% endif %}"
NINE_LETTERS = "{% if c.id | length != 9 %}{{ raise_exception('ids') }}{% endif %}"
HERMES_CALLS = "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in listed("arguments"))
FAMILIES: dict[str, Family] = {
    "hermes": Family(
        HERMES,
        "{{ tools }}"
        + turns(
            EACH + '{{ "\\n" if not loop.first }}<tool_call>\n{{ c.function | tojson }}{{ "\\n" }}</tool_call>' + END,
        ),
        HERMES_CALLS,
    ),
    "smollm3": Family(HERMES, "{% if xml_tools %}<tool_call>{{ xml_tools }}{% endif %}" + turns(), HERMES_CALLS),
    "llama": Family(
        LLAMA,
        '{{ tools }}Respond with {"name": function name, "parameters": its arguments}'
        + turns(
            ONE_ONLY + '{% set f = m.tool_calls[0].function %}{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}',
        ),
        "; ".join(listed("parameters")),
    ),
    "mistral": Family(
        MISTRAL_LIST,
        "{{ tools }}"
        + turns(
            f"[TOOL_CALLS][{EACH}{NINE_LETTERS}"
            '{{ (c.function | tojson)[:-1] }}, "id": "{{ c.id }}"}{{ ", " if not loop.last }}' + END + "]",
        ),
        f"[TOOL_CALLS][{', '.join(listed('arguments'))}]",
    ),
    "mistral, named": Family(
        MISTRAL_NAMED,
        "{{ tools }}" + turns(EACH + "[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}" + END),
        "".join(f"[TOOL_CALLS]{name}[ARGS]{dumped(arguments)}" for name, arguments in CALLS),
    ),
    "functiongemma": Family(
        FUNCTION_GEMMA,
        "{{ tools }}" + turns(EACH + "<start_function_call>call:{{ c.function.name }}{{ c.function.arguments }}" + END),
        "".join(f"<start_function_call>call:{text}<end_function_call>" for text in bare("<escape>")),
    ),
    "gemma4": Family(
        GEMMA4,
        "{{ tools }}" + turns(EACH + "<|tool_call>call:{{ c.function.name }}{{ c.function.arguments }}" + END),
        "".join(f"<|tool_call>call:{text}<tool_call|>" for text in bare('<|"|>')),
    ),
    "qwen coder": Family(
        QWEN_CODER,
        "{{ tools }}"
        + turns(
            EACH + '{{ "\\n" if not loop.first }}<tool_call>\n<function={{ c.function.name }}>{{ "\\n" }}'
            "{% for key, value in c.function.arguments | items %}"
            "<parameter={{ key }}>\n{{ value }}\n</parameter>{{ '\\n' }}{% endfor %}"
            "</function>\n</tool_call>" + END,
        ),
        "\n".join(f"<tool_call>\n<function={name}>\n{tagged(arguments)}</function>\n</tool_call>" for name, arguments in CALLS),
    ),
    "smollm2": Family(
        SMOLLM2,
        "{% if messages[0].role != 'system' %}You are named SmolLM{% endif %}" + turns(),
        f"<tool_call>[{', '.join(listed('arguments'))}]</tool_call>",
    ),
    "described": Family(DESCRIBED, turns(), HERMES_CALLS),
}
each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


class WithControls(ByteTokenizer):
    """All markers are control tokens."""

    MARKS: tuple[str, ...] = (
        *("[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<tool_call>", "</tool_call>", "<|tool_call>", "<tool_call|>"),
        *("<start_function_call>", "<end_function_call>", "<start_function_response>", "<|tool_response>", "<escape>", '<|"|>'),
    )
    vocab_size = VOCAB_SIZE + len(MARKS)
    special_tokens = {**ByteTokenizer.special_tokens, **{mark: VOCAB_SIZE + n for n, mark in enumerate(MARKS)}}  # noqa: RUF012

    def piece(self, token_id: int) -> str:
        return self.MARKS[token_id - VOCAB_SIZE] if token_id >= VOCAB_SIZE else super().piece(token_id)

    def spelled(self, text: str) -> list[int]:
        for mark in self.MARKS:
            text = text.replace(mark, chr(0xE000 + self.special_tokens[mark]))
        return [i for c in text for i in ([ord(c) - 0xE000] if ord(c) >= 0xE000 else c.encode())]


PLAIN, CONTROLS = Constraints(ByteTokenizer()), Constraints(WithControls())


def allows(known: ToolFormat, use: ToolUse, text: str) -> bool:
    """Whether an answer may be this; the same whether the markers are text or control tokens."""
    found = []
    for constraints, controls, ids in (
        (PLAIN, {}, list(text.encode())),
        (CONTROLS, WithControls.special_tokens, WithControls().spelled(text)),
    ):
        matcher = constraints._copy("grammar", known.grammar(use, controls))
        found.append(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())
    assert found[0] == found[1], text
    return found[0]


def in_openai_form(number: int) -> dict[str, Any]:
    name, arguments = CALLS[number]
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": dumped(arguments)}}


@each_family
def test_the_template_tells_the_format(family: Family) -> None:
    assert format_of(family.template) is family.format


def test_templates_of_other_formats_get_a_description() -> None:
    for text in (
        "{{ tools }}<tool_call><function=",
        "{{ tools }}<seed:tool_call><function=x><parameter=y>",
        "{{ tools }}<|tool_calls_section_begin|>",
        "",
        None,
        "chatml",
        "llama3",
    ):
        assert format_of(text) is DESCRIBED and DESCRIBED.notice
    assert all(known is None or not known.notice for known in NATIVE.values())


@each_family
def test_calls_are_read_in_any_pieces(family: Family) -> None:
    rng, expected = random.Random(3), [(name, dumped(arguments)) for name, arguments in CALLS]
    for pieces in partitions(family.says, rng, 100):
        assert read(family.format.reader(TOOLS), pieces) == ("", expected), pieces
    before = "" if family.format is LLAMA else "Hm.\n"
    for end in range(len(family.says)):  # cut anywhere: nothing of a layout is told as text
        text, calls = read(family.format.reader(TOOLS), [before + family.says[:end]])
        assert text.strip() in ("Hm.", "") or before + family.says[:end] == text, end
        for (name, arguments), whole in zip(calls, expected, strict=False):
            assert name == whole[0] and whole[1].startswith(arguments)


@each_family
def test_the_grammar_allows_what_models_write(family: Family) -> None:
    first = family.format.written([in_openai_form(0)]).removeprefix("<|python_tag|>")
    for choice in ("auto", "required"):
        assert allows(family.format, ToolUse(TOOLS, choice), family.says)
        assert not allows(family.format, ToolUse(TOOLS, choice, is_parallel=False), family.says)
        assert allows(family.format, ToolUse(TOOLS, choice, is_parallel=False), first)
    assert allows(family.format, ToolUse(TOOLS, "get_weather"), first)
    assert not allows(family.format, ToolUse(TOOLS, "now"), first)
    assert not allows(family.format, ToolUse(TOOLS, "get_weather"), family.says)
    assert not allows(family.format, ToolUse(TOOLS, "none"), first)
    assert allows(family.format, ToolUse(TOOLS, "none"), "Plain words.")
    assert allows(family.format, ToolUse(TOOLS, "auto"), "Plain words.")
    assert not allows(family.format, ToolUse(TOOLS, "required"), "Plain words.")
    no_number = re.sub(r"\b2\b", "two", first)
    for wrong in (first.replace("days", "day"), no_number, first.replace("get_weather", "get"), first[:-1]):
        for choice in ("auto", "required"):
            use = ToolUse(TOOLS, choice)
            is_text = family.format is LLAMA and choice == "auto" and "get_weather" not in wrong
            assert allows(family.format, use, wrong) == is_text, wrong


@each_family
def test_later_turns_have_the_calls_as_the_model_wrote_them(family: Family) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [in_openai_form(0), in_openai_form(1)]},
        {"role": "tool", "tool_call_id": "call_0", "content": "21 degrees"},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
        {"role": "user", "content": "Thanks."},
    ]
    told = family.format.for_template(family.template, messages, TOOLS)
    text = render(told.messages, family.template, bos_token="", eos_token="", template_args=told.args).text
    in_other_words: dict[LayoutCalls, str] = {
        MISTRAL_LIST: dumped(CALLS[0][1]), FUNCTION_GEMMA: "call:get_weather{", GEMMA4: "call:now{"
    }  # fmt: skip
    said = in_other_words.get(family.format, family.says)
    for part in said.split("; ") if family.format is LLAMA else [said]:
        assert part in text, text
    assert "21 degrees" in text and "noon" in text and "Thanks." in text
    assert "Weather of a city" in text, "the model is told of the tools"


def test_what_gemma_writes_behind_its_calls_means_nothing() -> None:
    says = "Hm. <start_function_call>call:now{}<end_function_call><start_function_response>"
    assert allows(FUNCTION_GEMMA, ToolUse(TOOLS), says)
    for pieces in partitions(says, random.Random(5), 50):
        assert read(FUNCTION_GEMMA.reader(TOOLS), pieces) == ("Hm.", [("now", "{}")])


def test_a_template_that_takes_one_call_at_a_time_gets_each_with_its_result() -> None:
    call = {"role": "assistant", "content": "Hm.", "tool_calls": [in_openai_form(0), in_openai_form(1)]}
    results = [{"role": "tool", "tool_call_id": f"call_{number}", "content": str(number)} for number in (1, 0)]
    told = LLAMA.adapt([call, *results, {"role": "user", "content": "And?"}])
    assert [(one["role"], one["content"], len(one.get("tool_calls", ()))) for one in told] == [  # type: ignore[arg-type]
        ("assistant", "Hm.", 1), ("tool", "0", 0), ("assistant", "", 1), ("tool", "1", 0), ("user", "And?", 0)
    ]  # fmt: skip


def test_mistrals_ids_have_nine_letters_and_agree() -> None:
    assert len({MISTRAL_LIST.new_id() for _ in range(99)}) == 99 and all(len(MISTRAL_LIST.new_id()) == 9 for _ in range(9))
    call: Any = in_openai_form(0)
    unnamed: Any = {"function": {"name": "now", "arguments": {}}}
    told: Any = MISTRAL_LIST.adapt([
        {"role": "assistant", "tool_calls": [call, unnamed]},
        {"role": "tool", "tool_call_id": "call_0", "content": "a"},
        {"role": "tool", "content": "b"},
    ])  # fmt: skip
    calls = told[0]["tool_calls"]
    assert [one["id"] for one in calls] == [told[1]["tool_call_id"], told[2]["tool_call_id"]]
    assert all(len(one["id"]) == 9 and one["id"].isalnum() for one in calls)
    assert MISTRAL_NAMED.new_id().isalnum() and HERMES.new_id().startswith("call_")


def test_what_a_client_sends_wrongly_is_refused_and_breaks_nothing() -> None:
    wrong: list[Any] = ["x", [1], [{"function": "x"}], [{}], [{"function": {"name": 3, "arguments": [1]}}]]
    for calls in wrong:
        for family in FAMILIES.values():
            try:
                family.format.for_template(family.template, [{"role": "assistant", "tool_calls": calls}], TOOLS)
            except Exception as error:  # noqa: BLE001 - which kinds are allowed is what is tested
                assert isinstance(error, Refusal) or getattr(error, "http_status", 0) == 400, error
