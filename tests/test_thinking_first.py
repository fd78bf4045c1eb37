"""A constraint begins after the thoughts: these are free, the answer is not, and no answer comes without its form."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest

from puna.config import EngineConfig
from puna.constraints import Constraint, Constraints, wanted_by
from puna.engine import Engine
from puna.llm import LLM
from puna.request import FinishReason, SamplingParams
from puna.sampling import History, Row
from puna.thinking import TAGS
from puna.thinking_first import ThinkingFirst, thoughts_of
from puna.tokenizers.base import Tokenizer
from tests.fakes import BOS, EOS, VOCAB_SIZE, ByteTokenizer, FakeBackend, make_plan, random_checkpoint, run, tiny_config
from tests.test_constraints import Chance, Guesses, constrained, result
from tests.test_thinking import APART, QWEN3, R1, TAG, WithControlTags, ask, parts

YES_NO: dict[str, Any] = {"choice": ["yes", "no"]}
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 9}}, "required": ["city"]}


def test_the_model_thinks_freely_and_then_its_answer_has_the_form() -> None:
    request, outputs = ask("<think>\nHm, {é}.\n</think>\n\nno, I think", **YES_NO)
    assert parts(outputs) == ("Hm, {é}.", "no") and request.finish_reason is FinishReason.STOP
    assert bytes(request.output_ids).decode() == "<think>\nHm, {é}.\n</think>no"  # the form begins behind the tag


def test_a_prompt_may_have_opened_the_span_or_closed_it() -> None:
    assert parts(ask("Hm.</think>no", prompt="Q<think>\n", **YES_NO)[1]) == ("Hm.", "no")
    request, outputs = ask("no <think>", prompt="Q<think>\n\n</think>\n\n", thinking_budget=5, **YES_NO)
    assert parts(outputs) == ("", "no") and request.reasoning is None


def test_a_model_that_does_not_think_is_held_to_the_form_from_the_first_token_on() -> None:
    for said in ("no", "Well, no.", "\n\nno", " <think>"):
        request, outputs = ask(said, **YES_NO)
        text = parts(outputs)[1]
        assert text in ("yes", "no") and request.finish_reason is FinishReason.STOP, said


def test_an_answer_may_begin_as_the_tag_does() -> None:
    form: dict[str, Any] = {"regex": "<th[a-z]{1,3}>|<"}
    assert parts(ask("<thai>", **form)[1]) == ("", "<thai>")
    assert parts(ask("<think>a</think><thai>", **form)[1]) == ("a", "<thai>")
    assert parts(ask("<", **form)[1]) == ("", "<")


def test_spaces_of_the_form_stay_in_the_answer() -> None:
    form: dict[str, Any] = {"choice": [" yes", "\n\nno"]}
    assert parts(ask("<think> a </think>\n\nno", **form)[1]) == ("a", "\n\nno")
    assert parts(ask("<think>a</think> yes", stop="</think> n", **form)[1]) == ("a", " yes")


def test_the_model_may_not_end_within_its_thoughts() -> None:
    request, outputs = ask("<think>ab", max_tokens=20, **YES_NO)
    assert request.finish_reason is FinishReason.LENGTH and EOS not in request.output_ids and parts(outputs)[1] == ""


@pytest.mark.parametrize("budget", [0, 1, 5])
def test_a_budget_ends_the_thoughts_and_the_form_begins(budget: int) -> None:
    request, outputs = ask("<think>abcdefghijkl", thinking_budget=budget, json_schema=CITY, logprobs=0)
    reasoning, text = parts(outputs)
    assert reasoning == "abcdefghijkl"[:budget] and request.reasoning is not None and request.reasoning.is_cut
    assert re.fullmatch(r'\{"city": ".{0,9}"\}', text, re.DOTALL), text
    assert [entry.token_id for entry in request.logprobs] == request.output_ids


def test_who_wants_the_whole_text_has_it_in_the_form() -> None:
    request, outputs = ask("<think>a</think>no", separate_reasoning=False, **YES_NO)
    assert parts(outputs)[1] in ("yes", "no") and request.reasoning is None


def test_tags_that_are_control_tokens() -> None:
    ids = [1, *b"Hm.", 2, *b"no"]
    magistral = next(tags for tags in TAGS if tags.open == "[THINK]")
    plan = make_plan()
    backend = FakeBackend(plan, lambda seen: (ids + [EOS] * 20)[len(seen) - 1])
    engine = Engine(backend, WithControlTags(), plan, EngineConfig(), tiny_config(vocab_size=VOCAB_SIZE))
    engine.admission.think_tags = magistral
    request = engine.add([9], SamplingParams(**APART, **YES_NO))
    assert parts(run(engine)[request.id]) == ("Hm.", "no") and request.output_ids == ids


def test_a_samplers_choice_is_bound_as_the_models() -> None:
    class Stubborn:
        def sample(self, logits: Row, history: History) -> int:
            return EOS

    plan = make_plan()
    engine = Engine(FakeBackend(plan), ByteTokenizer(), plan, EngineConfig(), tiny_config(vocab_size=VOCAB_SIZE))
    engine.admission.think_tags = TAG
    request = engine.add([*b"<think>"], SamplingParams(**APART, **YES_NO), Stubborn())
    run(engine)
    assert request.error.startswith("choice: the sampler chose token 257, which may not follow")


# ---- masks -----------------------------------------------------------------------------------------------------------------


class LongTokens(ByteTokenizer):
    """With a few tokens that hold parts of the tags and more."""

    LONG = (b"</think>{", b"k>\n", b"</think>", b"<think>", b"<think>a", b"<think></think>y", b"<thi", b"a</think>")
    vocab_size = VOCAB_SIZE + len(LONG)

    def token_bytes(self, token_id: int) -> bytes:
        return self.LONG[token_id - VOCAB_SIZE] if token_id >= VOCAB_SIZE else super().token_bytes(token_id)


def matcher(is_open: bool = False, tokenizer: Tokenizer | None = None, **form: Any) -> ThinkingFirst:
    tokenizer = tokenizer or LongTokens()
    constraints = Constraints(tokenizer)
    return ThinkingFirst(constraints._copy(*next(iter(form.items()))), [EOS], TAG, is_open, tokenizer)


def allowed(one: ThinkingFirst) -> set[bytes]:
    bits = np.unpackbits(np.frombuffer(one.compute_bitmask(), np.uint8), bitorder="little")
    return {LongTokens().token_bytes(i) for i in range(LongTokens.vocab_size) if bits[i]}


def test_no_token_holds_the_border_of_thoughts_and_answer() -> None:
    one = matcher(choice=("yes", "no"))
    assert allowed(one) == {b"y", b"n", b"<", b"<think>", b"<think>a", b"<thi"}
    one.consume_token(VOCAB_SIZE + 6)
    assert allowed(one) == {b"n"} and not one.is_accepting() and one.compute_ff_tokens() == []
    for letter in b"nk>":
        one.consume_token(letter)
    singles = {bytes([i]) for i in range(256)}
    assert allowed(one) == singles | {b"", *LongTokens.LONG} - {b"</think>{", b"<think></think>y"}
    for letter in b"a</thin":
        one.consume_token(letter)
    assert b"k" in allowed(one) and b"k>\n" not in allowed(one)
    for letter in b"k>":
        one.consume_token(letter)
    assert allowed(one) == {b"y", b"n"}
    assert thoughts_of(LongTokens(), b"</think>").sum() == VOCAB_SIZE + 6


# ---- the same text, however it is computed -----------------------------------------------------------------------------------


class Thinks(Chance):
    """Random logits of a model that now and then opens and closes a span."""

    def _logits(self, ids: list[int]) -> Row:
        logits, said = super()._logits(ids), bytes(i for i in ids[1:] if i < 256)
        tag = b"</think>" if b"<think>" in said else b"<think>"
        begun = next(n for n in range(len(tag) - 1, -1, -1) if said.endswith(tag[:n]))
        if tag not in said and (begun or (sum(ids) * 31 + len(ids)) % 5 == 0):
            logits[tag[begun]] += 20
        return logits


def thinker(**more: Any) -> Engine:
    plan = make_plan(max_context=640, num_pages=200)
    engine = Engine(Thinks(plan), ByteTokenizer(), plan, EngineConfig(), tiny_config(vocab_size=VOCAB_SIZE), **more)
    engine.admission.think_tags = TAG
    return engine


def jobs(count: int, seed: int) -> list[tuple[list[int], SamplingParams]]:
    rng = random.Random(seed)
    begins = [bytes([n]) for n in range(9)] + [b"<think>\n", b"<think>so", b"<think>it"]
    more: list[dict[str, Any]] = [{}, {"thinking_budget": 4}, {"min_p": 0.05}, {"logprobs": 1}, {"repetition_penalty": 1.2}]
    return [([BOS, *rng.choice(begins)], constrained(rng, n, **APART, **rng.choice(more))) for n in range(count)]


def outcome(engine: Engine, given: list[tuple[list[int], SamplingParams]]) -> list[tuple[object, ...]]:
    requests = [engine.add(prompt, params) for prompt, params in given]
    outputs = run(engine)
    assert engine.num_free_pages == engine._plan.num_pages
    return [(*result(request), *parts(outputs[request.id])) for request in requests]


def test_batches_guesses_and_jumps_change_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    given, guesses = jobs(60, seed=15), Guesses()
    together = outcome(thinker(), given)
    held = [one for one, (_, params) in zip(together, given, strict=True) if wanted_by(params)]
    assert sum(1 for one in held if one[-2] and one[-1]) > 9, "thoughts, then an answer in a form"
    assert [outcome(thinker(), [job])[0] for job in given] == together
    assert outcome(thinker(drafter=guesses), given) == together and guesses.num_guessed > 99
    monkeypatch.setattr(Constraint, "forced", lambda self: ())
    assert outcome(thinker(), given) == together


def test_the_answer_has_its_form_wherever_it_ends() -> None:
    for seed in range(30):
        engine = thinker()
        request = engine.add([BOS, seed], SamplingParams(temperature=1.0, seed=seed, regex="[ab]{2,4}!", max_tokens=200, **APART))
        text = parts(run(engine)[request.id])[1]
        assert request.finish_reason is FinishReason.STOP and re.fullmatch("[ab]{2,4}!", text), (seed, text)


def test_a_chat_with_a_schema_gives_reasoning_and_a_parsed_answer() -> None:
    plan = make_plan(max_context=640, num_pages=200)
    checkpoint, tokenizer = random_checkpoint(tiny_config(vocab_size=VOCAB_SIZE)), ByteTokenizer()
    with LLM.from_parts(checkpoint, tokenizer, Thinks(plan), plan, EngineConfig()) as llm:
        for template, is_open in ((R1, True), (QWEN3, False)):
            llm.chat_template = template
            done = llm.chat("Hi", schema=CITY, temperature=1.0, seed=3, max_tokens=300)
            assert done.parsed.keys() == {"city"} and (done.reasoning is not None or not is_open)
            budgeted = llm.chat("Hi", schema=CITY, thinking_budget=2, max_tokens=300)
            assert budgeted.parsed.keys() == {"city"}
