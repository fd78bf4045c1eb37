"""Reasoning is told apart from the answer however the tags are cut into tokens, and a budget ends it as the model would."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from puna import thinking as thinking_room
from puna.backends.reference import ReferenceBackend
from puna.chat import encode_chat
from puna.config import EngineConfig
from puna.engine import Engine
from puna.errors import UsageError
from puna.llm import LLM
from puna.progress import SILENT
from puna.request import FinishReason, Request, SamplingParams, StepOutput
from puna.thinking import TAGS, Thinking, ThinkTags, place_in, switch, tags_of
from puna.tokenizers import build_tokenizer
from tests.fakes import (
    EOS,
    VOCAB_SIZE,
    ByteTokenizer,
    FakeBackend,
    SamplingBackend,
    make_plan,
    random_checkpoint,
    run,
    tiny_config,
)
from tests.tokenizers.vocabularies import small_bpe

TAG = ThinkTags("<think>", "</think>")
APART: dict[str, Any] = {"separate_reasoning": True}
# As Qwen3's, DeepSeek-R1's and SmolLM3's: the tags in the history, a switch, and a prompt that may open or close the span.
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
R1 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def split_whole(text: str, is_open: bool) -> tuple[str, str, bool]:
    """(reasoning, answer, whether there is a span) by definition."""
    start = text.lstrip()
    if not is_open and not start.startswith(TAG.open):
        return "", text, False
    body = text if is_open else start.removeprefix(TAG.open)
    thought, _, answer = body.partition(TAG.close)
    return thought.strip(), answer.lstrip(), True


PIECES = ("<think>", "</think>", "<thi", "nk>", "</", "think>", "<", "a", "é🦙", " ", "\n", "\n\n", "so ", "</thinks>")


@pytest.mark.parametrize("count", [3_000, pytest.param(100_000, marks=pytest.mark.full)])
def test_any_text_in_any_pieces_is_split_as_the_whole(count: int) -> None:
    rng = random.Random(15)
    for number in range(count):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 9)))
        text, is_open = rng.choice(["", "", "<think>", "\n<think>\n"]) + text, rng.random() < 0.3
        places = sorted({0, len(text), *(rng.randint(0, len(text)) for _ in range(rng.choice([0, 3, 30])))})
        parts = [text[a:b] for a, b in pairwise(places)]
        own = Thinking(TAG, is_open)
        told = [own.split(part) for part in parts] + [own.split("", 0, is_last=True)]
        thought, answer, is_present = split_whole(text, is_open)
        assert ("".join(one for one, _ in told), "".join(one for _, one in told)) == (thought, answer), (number, parts)
        assert (own.found.is_present, "".join(own.found.raw)) == (is_present, text)


def test_no_more_is_held_back_than_may_be_a_tag_or_spaces() -> None:
    own = Thinking(TAG)
    assert [own.split(letter)[0] for letter in "<think>\nab <c"] == [*[""] * 8, "a", "b", "", "", " <c"]
    assert own.split("</thin")[0] == "" and own.split("g")[0] == "</thing"
    plain = Thinking(TAG)
    assert [plain.split(piece)[1] for piece in (" ", "<", "b>", " <think>")] == ["", "", " <b>", " <think>"]


# ---- in the engine ---------------------------------------------------------------------------------------------------------


def speaker(text: str, kind: type[FakeBackend] = FakeBackend) -> FakeBackend:
    """A backend that answers a prompt ending in 0 with `text`, then EOS; after </think>, whoever wrote it, with "Yes."."""
    data, after = text.encode(), b"\n\nYes."

    def answer(ids: list[int]) -> int:
        if 0 not in ids:
            return 0
        said = bytes(i for i in ids[len(ids) - ids[::-1].index(0) :] if i < 256)
        head, found, tail = said.partition(b"</think>")
        whole, at = (after, len(tail)) if found and not data.startswith(head + found) else (data, len(said))
        return whole[at] if at < len(whole) else EOS

    return kind(make_plan(), answer)


def make_engine(backend: FakeBackend, tags: ThinkTags | None = TAG) -> Engine:
    engine = Engine(backend, ByteTokenizer(), make_plan(), EngineConfig(), tiny_config(vocab_size=VOCAB_SIZE))
    engine.admission.think_tags = tags
    return engine


def ask(text: str, prompt: str = "", kind: type[FakeBackend] = FakeBackend, **settings: Any) -> tuple[Request, list[StepOutput]]:
    engine = make_engine(speaker(text, kind))
    request = engine.add([*prompt.encode(), 0], SamplingParams(**({"max_tokens": 100} | APART | settings)))
    return request, run(engine)[request.id]


def parts(outputs: list[StepOutput]) -> tuple[str, str]:
    return "".join(output.reasoning for output in outputs), "".join(output.text for output in outputs)


@pytest.mark.parametrize("kind", [FakeBackend, SamplingBackend])
def test_reasoning_and_answer_are_told_apart_piece_by_piece(kind: type[FakeBackend]) -> None:
    request, outputs = ask("<think>\nHm, é.\n</think>\n\nNo.", kind=kind)
    assert parts(outputs) == ("Hm, é.", "No.") and request.finish_reason is FinishReason.STOP
    assert request.reasoning is not None and "".join(request.reasoning.raw) == "<think>\nHm, é.\n</think>\n\nNo."
    assert request.reasoning.num_tokens == len("\nHm, é.\n</think>".encode()) + 1  # the last letter of the opening tag
    assert sum(len(output.token_ids) for output in outputs) == len(request.output_ids)


def test_a_span_that_is_not_closed_is_reasoning_to_the_end() -> None:
    request, outputs = ask("<think>so it goes on and on", max_tokens=20)
    assert parts(outputs) == ("so it goes on", "") and request.finish_reason is FinishReason.LENGTH
    assert parts(ask("<think>a </thi")[1]) == ("a </thi", "")


def test_an_answer_without_a_span_is_as_it_was() -> None:
    request, outputs = ask("\n <b> <think> no")
    assert parts(outputs) == ("", "\n <b> <think> no")
    assert request.reasoning is not None and not request.reasoning.is_present


def test_a_prompt_that_opens_the_span() -> None:
    assert parts(ask("Hm.\n</think>\n\nNo.", prompt="Q<think>\n")[1]) == ("Hm.", "No.")
    assert parts(ask("Hm.</think>No.", prompt="Q<think>\n\n</think>\n")[1]) == ("", "Hm.</think>No.")


def test_a_stop_text_ends_both_parts_and_none_is_leaked() -> None:
    request, outputs = ask("<think>one STOP two</think>three", stop="STOP")
    assert parts(outputs) == ("one", "") and request.stop_reason == "STOP"
    assert parts(ask("<think>one</think>two STOP three", stop="STOP")[1]) == ("one", "two ")


class WithControlTags(ByteTokenizer):
    """Ids 1 and 2 are the tags, as control tokens without a text."""

    special_tokens = {**ByteTokenizer.special_tokens, "[THINK]": 1, "[/THINK]": 2}  # noqa: RUF012

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if token_id in (1, 2) else super().token_bytes(token_id)


def test_tags_that_are_control_tokens() -> None:
    ids = [1, *b"Hm.", 2, *b"No.", EOS]
    plan, magistral = make_plan(), next(tags for tags in TAGS if tags.open == "[THINK]")
    backend = FakeBackend(plan, lambda seen: ids[len(seen) - 1])
    engine = Engine(backend, WithControlTags(), plan, EngineConfig(), tiny_config(vocab_size=VOCAB_SIZE))
    engine.admission.think_tags = magistral
    apart, plain = engine.add([9], SamplingParams(**APART)), engine.add([9], SamplingParams())
    outputs = run(engine)
    assert parts(outputs[apart.id]) == ("Hm.", "No.") and parts(outputs[plain.id]) == ("", "Hm.No.")


# ---- a budget --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FakeBackend, SamplingBackend])
@pytest.mark.parametrize("budget", [0, 1, 5, 12])
def test_a_budget_ends_the_reasoning_and_the_answer_follows(kind: type[FakeBackend], budget: int) -> None:
    request, outputs = ask("<think>abcdefghijklmnopqrstuvwxyz", kind=kind, thinking_budget=budget, logprobs=0)
    assert parts(outputs) == ("abcdefghijklmnopqrstuvwxyz"[:budget], "Yes.")
    assert request.reasoning is not None and request.reasoning.is_cut
    assert "".join(request.reasoning.raw) == f"<think>{'abcdefghijklmnopqrstuvwxyz'[:budget]}\n</think>\n\nYes."
    assert [entry.token_id for entry in request.logprobs] == request.output_ids


def test_a_budget_that_is_not_reached_changes_nothing() -> None:
    plain, _ = ask("<think>\nab\n</think>\n\nNo.")
    request, outputs = ask("<think>\nab\n</think>\n\nNo.", thinking_budget=50)
    assert parts(outputs) == ("ab", "No.") and request.output_ids == plain.output_ids
    assert request.reasoning is not None and not request.reasoning.is_cut
    assert parts(ask("No <think>", thinking_budget=0)[1]) == ("", "No <think>")


def test_a_closing_tag_that_has_begun_is_the_models_own() -> None:
    for budget in range(3, 11):
        request, outputs = ask("<think>ab</think>No.", thinking_budget=budget)
        assert parts(outputs) == ("ab", "No."), budget
        assert request.reasoning is not None and not request.reasoning.is_cut


def test_a_budget_counts_from_the_prompt_that_opens_the_span() -> None:
    request, outputs = ask("abcdef", prompt="<think>\n", thinking_budget=2)
    assert parts(outputs) == ("ab", "Yes.") and request.reasoning is not None and request.reasoning.is_cut


def test_requests_with_and_without_a_budget_run_together_as_alone() -> None:
    rng = random.Random(4)
    text = "<think>abcdefghijklmnopqrstuvwxyz"
    wanted = [
        SamplingParams(max_tokens=60, thinking_budget=rng.choice([None, 0, 3, 9]), separate_reasoning=rng.choice([None, True]))
        for _ in range(12)
    ]

    def outcome(each: list[SamplingParams]) -> list[tuple[str, str, list[int]]]:
        engine = make_engine(speaker(text))
        requests = [engine.add([0], params) for params in each]
        outputs = run(engine)
        return [(*parts(outputs[request.id]), request.output_ids) for request in requests]

    assert outcome(wanted) == [outcome([params])[0] for params in wanted]


# ---- ended while it runs ---------------------------------------------------------------------------------------------------

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def ended_after(num_tokens: int, text: str, times: int = 1, kind: type[FakeBackend] = FakeBackend, **settings: Any) -> Request:
    """A request whose thinking somebody ends, so many times, once it has that many tokens or more."""
    engine = make_engine(speaker(text, kind))
    request = engine.add([0], SamplingParams(**({"max_tokens": 100} | APART | settings)))
    while engine.has_work:
        if len(request.output_ids) >= num_tokens and times:
            engine.end_thinking(request.id)
            times -= 1
        engine.step()
    return request


def raw(request: Request) -> str:
    assert request.reasoning is not None
    return "".join(request.reasoning.raw)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("budget", [None, 5, 20])
@pytest.mark.parametrize("kind", [FakeBackend, SamplingBackend])
def test_thinking_that_is_ended_closes_once_and_the_answer_follows(
    kind: type[FakeBackend], budget: int | None, times: int
) -> None:
    request = ended_after(14, f"<think>{LETTERS}", times, kind, thinking_budget=budget)
    thoughts, _, answer = raw(request).removeprefix("<think>").partition("\n</think>\n\n")
    assert LETTERS.startswith(thoughts) and answer == "Yes."
    assert len(thoughts) == 5 if budget == 5 else 7 <= len(thoughts) <= 9  # steps that were launched before are used
    assert request.reasoning is not None and request.reasoning.is_cut and request.finish_reason is FinishReason.STOP


def test_ending_the_thinking_before_it_begins_leaves_it_empty() -> None:
    assert raw(ended_after(0, f"<think>{LETTERS}")) == "<think>\n</think>\n\nYes."


@pytest.mark.parametrize("text", ["<think>ab</think>No.", "No."])
def test_ending_the_thinking_of_an_answer_changes_nothing(text: str) -> None:
    for num_tokens in (len(text) - 1, len(text)):
        request = ended_after(num_tokens, text)
        assert raw(request) == text and request.reasoning is not None and not request.reasoning.is_cut


def test_ending_the_thinking_of_what_does_not_think_changes_nothing() -> None:
    engine = make_engine(speaker("No."), tags=None)
    request = engine.add([0], SamplingParams(max_tokens=9))
    engine.end_thinking(request.id)
    engine.end_thinking(request.id + 1)
    assert parts(run(engine)[request.id]) == ("", "No.")


# ---- where it is known from --------------------------------------------------------------------------------------------------


def test_the_template_tells_whether_a_model_thinks_and_how_to_turn_it_off() -> None:
    assert tags_of(QWEN3) == tags_of(R1) == TAG and tags_of("{{ messages }}") is tags_of(None) is None
    assert switch(QWEN3, False) == {"enable_thinking": False} and switch("{{ thinking }}", True) == {"thinking": True}
    with pytest.raises(UsageError, match="no switch") as refused:
        switch(R1, False)
    assert "--thinking-budget 0" in refused.value.typed.hint and "thinking_budget=0" in refused.value.hint


@pytest.mark.parametrize(
    ("template", "messages", "args", "expected"),
    [
        (QWEN3, [("user", "Hi")], {}, "before"),
        (QWEN3, [("user", "Hi")], {"enable_thinking": False}, "after"),
        (QWEN3, [("user", "What does <think> mean?")], {}, "before"),
        (R1, [("user", "Hi")], {}, "inside"),
        (R1, [("user", "What does </think> mean?")], {}, "inside"),
        (R1, [("user", "Hi"), ("assistant", "<think>so")], {}, "inside"),
        (R1, [("user", "Hi"), ("assistant", "<think>so</think>No")], {}, "after"),
    ],
)
def test_what_the_prompt_opens(template: str, messages: list[tuple[str, str]], args: dict[str, Any], expected: str) -> None:
    tokenizer = build_tokenizer(small_bpe())
    ids = encode_chat([{"role": role, "content": text} for role, text in messages], tokenizer, template, template_args=args)
    assert place_in(ids, TAG, tokenizer) == expected


@pytest.mark.parametrize(
    ("tags", "settings", "told"),
    [
        (None, {"thinking_budget": 5}, "this model does not think"),
        (TAG, {"thinking_budget": 5, "separate_reasoning": False}, "needs separate_reasoning"),
    ],
)
def test_what_cannot_be_is_refused(tags: ThinkTags | None, settings: dict[str, Any], told: str) -> None:
    engine = make_engine(speaker("a"), tags)
    with pytest.raises(UsageError, match=told):
        engine.add([0], SamplingParams(**settings))
    assert not engine.has_work


# ---- in LLM ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def llm() -> Iterator[LLM]:
    checkpoint, sizes, config = (
        random_checkpoint(tiny_config(vocab_size=512), seed=1),
        make_plan(),
        EngineConfig(device="reference"),
    )
    backend = ReferenceBackend(config)
    backend.load(checkpoint, sizes)
    with LLM.from_parts(checkpoint, build_tokenizer(small_bpe()), backend, sizes, config) as it:
        it.chat_template = R1
        yield it


def test_a_chat_tells_reasoning_apart_and_a_continued_text_does_not(llm: LLM) -> None:
    done = llm.chat("Hi", max_tokens=30, thinking_budget=4)
    assert done.reasoning is not None and done.is_reasoning_cut and done.num_reasoning_tokens >= 4
    assert done.raw_text.replace("\n</think>", "", 1).startswith(done.reasoning[:1])
    assert "</think>" in done.raw_text and "</think>" not in done.text
    whole = llm.generate(done.prompt_ids, max_tokens=30)
    assert whole.reasoning is None and whole.raw_text == whole.text and not whole.is_reasoning_cut
    unsplit = llm.chat("Hi", max_tokens=30, separate_reasoning=False)
    assert (unsplit.text, unsplit.reasoning) == (whole.text, None)
    apart = llm.chat("Hi", max_tokens=30)
    assert apart.token_ids == whole.token_ids and (apart.reasoning, apart.text) == split_whole(whole.text, is_open=True)[:2]


def test_a_constrained_answer_follows_its_thoughts_which_a_budget_ends(llm: LLM) -> None:
    done = llm.chat("Hi", max_tokens=30, choice=["yes", "no"], thinking_budget=3)
    assert done.text in ("yes", "no") and done.reasoning is not None and done.is_reasoning_cut
    whole = llm.chat("Hi", max_tokens=30, choice=["yes", "no"], separate_reasoning=False)
    assert whole.text in ("yes", "no") and whole.reasoning is None


def test_a_stream_says_which_part_each_piece_belongs_to(llm: LLM) -> None:
    stream = llm.chat_stream("Hi", max_tokens=30, thinking_budget=4)
    pieces = list(stream)
    done = stream.completion
    assert ("".join(piece.reasoning for piece in pieces), "".join(piece.text for piece in pieces)) == (done.reasoning, done.text)


def test_a_model_that_does_not_think_never_comes_here(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a request without thinking was split")

    llm.chat_template = "chatml"
    monkeypatch.setattr(thinking_room.Thinking, "__init__", fail)
    monkeypatch.setattr(thinking_room.Thinking, "split", fail)
    done = llm.chat("Hi", max_tokens=5)
    assert done.reasoning is None and done.raw_text == done.text


def test_a_real_model_in_the_forms_of_two_that_think(default_model: Path) -> None:
    """SmolLM2 does not think; after R1's prompt, which opens a span, whatever it writes is reasoning until the budget ends it."""
    with LLM(default_model, device="cpu", threads=1, max_context=512, report=SILENT) as llm:
        assert llm.chat("What is 2 + 3?", max_tokens=4).reasoning is None
        for template, budget in ((R1, None), (R1, 0), (R1, 16), (QWEN3, 16)):
            llm.chat_template = template
            stream = llm.chat_stream("What is 2 + 3? Think first.", max_tokens=40, thinking_budget=budget, ignore_eos=True)
            pieces, done = list(stream), stream.completion
            told = "".join(piece.reasoning for piece in pieces), "".join(piece.text for piece in pieces)
            assert told == (done.reasoning or "", done.text)
            if template is QWEN3:  # it opens none itself
                assert done.reasoning is None and done.text
            elif budget is None:
                assert done.reasoning and not done.is_reasoning_cut
            else:
                assert done.is_reasoning_cut and budget < done.num_reasoning_tokens <= budget + 5
