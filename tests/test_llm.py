"""`LLM`: one prompt gives one output, a list gives a list; streams; errors come before anything runs."""

from __future__ import annotations

import copy
import dataclasses
import gc
import io
import pickle
import random
import re
import reprlib
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna import formats, hub, loading, rerank
from puna import llm as front_door
from puna.backends import backend_spec, create_backend
from puna.backends.reference import ReferenceBackend
from puna.chat import Message
from puna.completion import Completion
from puna.config import EngineConfig
from puna.convert import convert
from puna.errors import ContextLengthError, InsufficientMemoryError, PunaError, QueueFullError, UsageError
from puna.formats.base import Checkpoint
from puna.llm import LLM
from puna.messages import checked_messages
from puna.model.rope import RopeConfig
from puna.perplexity import perplexity
from puna.plan import make_plan as plan_of_model
from puna.progress import SILENT, KeepingReporter
from puna.request import TEMPERATURE_FIRST, FinishReason, SamplingParams, StepOutput
from puna.sampling import History, Row
from puna.tokenizers import build_tokenizer
from puna.tokenizers.base import Tokenizer
from tests.fakes import BOS, VOCAB_SIZE, ByteTokenizer, FakeBackend, SamplingBackend, make_plan, random_checkpoint, tiny_config
from tests.models import random_tensors, write_gguf
from tests.tokenizers.vocabularies import small_bpe

TEN = SamplingParams(max_tokens=10)


def make_llm(tokenizer: Tokenizer | None = None, vocab_size: int = VOCAB_SIZE) -> LLM:
    """A random model on the reference backend."""
    checkpoint, sizes = random_checkpoint(tiny_config(vocab_size=vocab_size), seed=1), make_plan()
    backend = ReferenceBackend(EngineConfig(device="reference"))
    backend.load(checkpoint, sizes)
    return LLM.from_parts(checkpoint, tokenizer, backend, sizes, EngineConfig(device="reference"))


@pytest.fixture
def llm() -> Iterator[LLM]:
    with make_llm(ByteTokenizer()) as it:
        yield it


def same(one: Completion, other: Completion) -> bool:
    """All but the time it took and what the cache held."""
    return dataclasses.replace(one, timing=other.timing, num_cached=other.num_cached) == other


def test_one_in_one_out(llm: LLM) -> None:
    found = llm.generate("hello", TEN)
    assert isinstance(found, Completion)
    assert len(found.token_ids) == 10 and found.finish_reason is FinishReason.LENGTH
    assert found.prompt_ids == (BOS, *b"hello")
    assert found.text == ByteTokenizer().decode(found.token_ids)
    assert same(llm.generate([BOS, *b"hello"], TEN), found)


def test_a_list_in_a_list_out(llm: LLM) -> None:
    both = llm.generate(["hello", "world"], TEN)
    assert [c.prompt_ids[1:] for c in both] == [tuple(b"hello"), tuple(b"world")]
    assert len(llm.generate(["hello"], TEN)) == 1
    assert llm.generate([[1, 2], [3]], TEN)[1].prompt_ids == (3,)
    nothing: list[str] = []
    assert llm.generate(nothing, TEN) == []


def test_parameters_are_one_for_all_or_one_each(llm: LLM) -> None:
    each = [SamplingParams(max_tokens=n) for n in (1, 2)]
    assert [len(c.token_ids) for c in llm.generate(["a", "b"], each)] == [1, 2]
    assert [len(c.token_ids) for c in llm.generate(["a", "b"], each, max_tokens=3)] == [3, 3]
    assert len(llm.generate("a", max_tokens=4).token_ids) == 4
    with pytest.raises(UsageError, match="2 sets of sampling parameters for 3 prompts"):
        llm.generate(["a", "b", "c"], each)


def test_an_unknown_setting_is_named_with_those_that_exist(llm: LLM) -> None:
    with pytest.raises(UsageError, match="'temprature'") as caught:
        llm.generate("a", temprature=1.0)  # type: ignore[call-overload]
    assert "temperature" in caught.value.hint


def test_a_prompt_that_is_neither_text_nor_ids_is_refused(llm: LLM) -> None:
    assert same(llm.generate(list(np.array([1, 2])), TEN), llm.generate([1, 2], TEN))
    with pytest.raises(UsageError, match="whole numbers"):
        llm.generate([1.5, 2.0], TEN)  # type: ignore[arg-type]


NO_PROMPTS = (None, 5, (x for x in "ab"), {1, 2}, {1: 2}, b"hello", bytearray(b"a"), np.array(3))


@pytest.mark.parametrize("bad", NO_PROMPTS, ids=lambda bad: type(bad).__name__)
def test_what_is_no_prompt_is_refused_alone_and_in_a_list(llm: LLM, bad: Any) -> None:
    with pytest.raises(UsageError, match="a text, or a row of token ids, or a list of such prompts, is needed"):
        llm.generate(bad, TEN)
    with pytest.raises(UsageError, match="a text, or a row of token ids, is needed"):
        llm.generate(["fine", bad], TEN)


@pytest.mark.parametrize("bad", [True, np.True_, "1", 1.0, None])
def test_an_id_that_is_no_whole_number_is_named(llm: LLM, bad: Any) -> None:
    with pytest.raises(UsageError, match=f"holds {bad!r}; token ids are whole numbers"):
        llm.generate([1, bad], TEN)


def test_numpy_arrays_are_prompts(llm: LLM) -> None:
    assert same(llm.generate(np.array([1, 2]), TEN), llm.generate([1, 2], TEN))  # type: ignore[call-overload]
    both: Any = llm.generate(np.array([[1, 2], [3, 4]]), TEN)  # type: ignore[call-overload]
    assert [c.prompt_ids for c in both] == [(1, 2), (3, 4)]


@pytest.mark.parametrize("bad", [{"max_tokens": 5}, "greedy", 5, [{"max_tokens": 5}], [None]], ids=str)
def test_params_that_are_no_sampling_params_are_refused(llm: LLM, bad: Any) -> None:
    with pytest.raises(UsageError, match=r"params is .* SamplingParams"):
        llm.generate(["a"], bad)


@pytest.mark.parametrize("bad", [{"role": "user", "content": "a"}, None, 5, [5], [[5]]], ids=str)
def test_what_is_no_chat_is_refused(llm: LLM, bad: Any) -> None:
    with pytest.raises(UsageError, match=r"list of messages|\"role\""):
        llm.chat(bad)


@pytest.mark.parametrize("question", ["", " \n\t"])
def test_an_empty_question_is_refused_as_the_command_refuses_it(llm: LLM, question: str) -> None:
    for ask in (llm.chat, llm.chat_stream):
        with pytest.raises(UsageError, match="the question is empty") as caught:
            ask(question)
        assert "use `generate()` to continue" in caught.value.__notes__[0]
    assert checked_messages([{"role": "user", "content": question}])[0]["content"] == question  # other programs send such


def test_an_empty_text_is_the_beginning_of_a_text(llm: LLM) -> None:
    assert llm.generate("", TEN).prompt_ids == (BOS,)


def test_a_stream_is_the_completion_in_pieces(llm: LLM) -> None:
    whole = llm.generate("hello", max_tokens=10, logprobs=2)
    stream = llm.stream("hello", max_tokens=10, logprobs=2)
    pieces = list(stream)
    assert "".join(p.text for p in pieces) == whole.text
    assert tuple(i for p in pieces for i in p.token_ids) == whole.token_ids
    assert tuple(i for p in pieces for i in p.logprobs) == whole.logprobs
    assert same(stream.completion, whole)
    assert list(stream) == []


def test_streams_of_one_model_run_together(llm: LLM) -> None:
    prompts = ["hello", "world", "again"]
    streams = llm.stream(prompts, TEN)
    texts = ["", "", ""]
    for pieces in zip(*streams, strict=True):
        texts = [text + piece.text for text, piece in zip(texts, pieces, strict=True)]
    assert texts == [c.text for c in llm.generate(prompts, TEN)]


def test_conversations_are_encoded_by_the_template_of_the_model(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode_chat(messages: Any, tokenizer: Any, template: str | None, limit: int, **_: Any) -> list[int]:
        assert tokenizer is llm.tokenizer and template is llm.chat_template and limit == llm.plan.max_context
        return [BOS, *"".join(m["content"] for m in messages).encode()]

    monkeypatch.setattr(front_door, "encode_chat", encode_chat)
    one, two = ([Message(role="user", content=text)] for text in ("hello", "world"))
    assert same(llm.chat(one, TEN), llm.generate("hello", TEN))
    assert [c.text for c in llm.chat([one, two], TEN)] == [c.text for c in llm.generate(["hello", "world"], TEN)]
    assert "".join(p.text for p in llm.chat_stream(one, TEN)) == llm.generate("hello", TEN).text
    assert len(llm.chat_stream([one, two], TEN)) == 2


def test_a_stream_in_each_of_several_threads_gives_what_it_gives_alone(llm: LLM) -> None:
    prompts = [f"prompt {i}" for i in range(6)]
    expected = [llm.generate(p, TEN).text for p in prompts]
    found: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda i=i, p=p: found.update({i: llm.generate(p, TEN).text})) for i, p in enumerate(prompts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[i] for i in range(6)] == expected


def started(count: int, work: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_several_threads_share_the_pieces_of_one_stream_and_all_end_with_it(llm: LLM) -> None:
    whole = llm.generate("hello", max_tokens=40)
    stream = llm.stream("hello", max_tokens=40)
    pieces: list[StepOutput] = []
    for thread in started(4, lambda: pieces.extend(stream)):
        thread.join(20)
        assert not thread.is_alive(), "a reader goes on for ever"
    assert len(pieces) == 40
    assert same(stream.completion, whole)


def test_a_stream_that_another_thread_closes_ends_for_its_readers(llm: LLM) -> None:
    stream = llm.stream("hello", max_tokens=None)
    readers = started(2, lambda: deque(stream, maxlen=0).clear())
    stream.close()
    for thread in readers:
        thread.join(20)
        assert not thread.is_alive(), "a reader goes on for ever"
    assert stream.completion.finish_reason in (FinishReason.ABORT, FinishReason.LENGTH)
    assert llm.runner.is_idle and not llm.runner._handles


def test_a_stream_whose_last_words_were_lost_ends_all_the_same(llm: LLM) -> None:
    stream = llm.stream("hello", TEN)
    llm.engine.abort_all()
    llm.engine.outputs()
    assert list(stream) == []
    assert stream.completion.finish_reason is FinishReason.ABORT


def test_a_stream_that_is_closed_or_dropped_ends_its_request(llm: LLM) -> None:
    with llm.stream("hello", max_tokens=None) as stream:
        next(stream)
    assert stream.completion.finish_reason is FinishReason.ABORT
    assert len(stream.completion.token_ids) >= 1
    dropped = llm.stream("world", max_tokens=None)
    next(dropped)
    del dropped
    gc.collect()
    llm.generate("other", max_tokens=1)
    assert llm.runner.is_idle and not llm.runner._handles
    assert llm.engine.num_free_pages == llm.plan.num_pages


def test_a_completion_before_the_end_is_refused(llm: LLM) -> None:
    stream = llm.stream("hello", TEN)
    next(stream)
    with pytest.raises(UsageError, match="not finished"):
        _ = stream.completion
    stream.close()


def test_one_bad_prompt_refuses_the_call_and_nothing_is_left(llm: LLM) -> None:
    for bad in ([[1], []], [[1], [1 << 30]]):
        with pytest.raises(UsageError):
            llm.generate(bad, TEN)
    with pytest.raises(ContextLengthError, match=r"201 tokens.* 128"):
        llm.generate(["fine", "x" * 200], TEN)
    with pytest.raises(ContextLengthError, match=r"1000000000000 tokens.* 128"):  # counted, not copied
        llm.generate(range(10**12), TEN)
    assert llm.runner.is_idle and not llm.runner._handles
    assert llm.generate("fine", TEN).finish_reason is FinishReason.LENGTH


def test_a_text_that_cannot_fit_is_refused_before_the_tokenizer_works(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = build_tokenizer(small_bpe())
    monkeypatch.setattr(tokenizer, "_encode_plain", lambda *_, **__: pytest.fail("the whole text was cut"))
    with make_llm(tokenizer) as llm:
        with pytest.raises(ContextLengthError, match=r"at least [0-9]+ tokens.* 128") as caught:
            llm.generate("x" * 20_000_000, TEN)
        assert "`max_context`" in caught.value.hint
        with pytest.raises(ContextLengthError, match="at least"):
            llm.chat([{"role": "user", "content": "x" * 1_000_000}], TEN)


def test_without_a_tokenizer_ids_work_and_text_is_told_what_is_missing() -> None:
    with make_llm() as llm:
        assert llm.generate([1, 2, 3], TEN).text == ""
        assert len(llm.generate([1, 2, 3], TEN).token_ids) == 10
        with pytest.raises(UsageError, match="no tokenizer") as caught:
            llm.generate("hello")
        assert "`tokenizer`" in caught.value.hint
        with pytest.raises(UsageError, match="no tokenizer"):
            llm.chat([{"role": "user", "content": "hello"}])


def test_a_folder_of_gpt_2s_tokenizer_files_is_told_by_its_path_and_what_to_do(tmp_path: Path) -> None:
    config = tiny_config(vocab_size=300)
    source = write_gguf(tmp_path / "tiny.gguf", config, random_tensors(config, seed=1))
    folder = convert(source, tmp_path / "model", to="safetensors").path
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("a b")
    with LLM.load(folder, device="reference", max_context=64) as llm:
        with pytest.raises(UsageError, match=f"^{re.escape(str(folder))} has no tokenizer") as caught:
            llm.generate("hello")
        assert caught.value.hint.startswith("vocab.json and merges.txt do not say how to split a text")
        assert "save_pretrained" in caught.value.hint


def test_the_second_request_finds_the_beginning_in_the_cache(llm: LLM) -> None:
    first = llm.generate("x" * 50, TEN)
    second = llm.generate("x" * 50, TEN)
    assert (first.num_cached, second.num_cached) == (0, 48)
    assert same(first, second)


def test_the_seed_that_was_drawn_is_told(llm: LLM) -> None:
    drawn = llm.generate("hello", max_tokens=10, temperature=2.0)
    assert drawn.seed is not None
    assert same(llm.generate("hello", max_tokens=10, temperature=2.0, seed=drawn.seed), drawn)
    assert llm.generate("hello", TEN).seed is None


def test_times_are_told(llm: LLM) -> None:
    timing = llm.generate("hello", TEN).timing
    assert 0 < timing.first_token_s < timing.total_s
    assert timing.prefill_per_s == pytest.approx(6 / timing.first_token_s)
    assert timing.decode_per_s == pytest.approx(9 / (timing.total_s - timing.first_token_s))
    nothing = llm.generate("hello", max_tokens=0).timing
    assert (nothing.prefill_per_s, nothing.decode_per_s) == (0, 0)


def test_an_interrupted_step_ends_what_runs_and_the_model_can_be_used_again() -> None:
    plan = make_plan()
    backend = FakeBackend(plan)
    llm = LLM.from_parts(random_checkpoint(tiny_config()), ByteTokenizer(), backend, plan, EngineConfig())
    expected = llm.generate("hello", TEN)

    def interrupt(call: int) -> None:
        if call == 15:
            raise KeyboardInterrupt

    backend.fail = interrupt
    other = llm.stream("other", TEN)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["a", "b"], TEN)
    assert [p.finish_reason for p in other][-1] is FinishReason.ABORT
    assert same(llm.generate("hello", TEN), expected)
    assert llm.runner.is_idle and not llm.runner._handles


@pytest.mark.parametrize("was_on", [True, False])
def test_a_tokenizer_that_cannot_be_built_leaves_nothing_loaded(
    was_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is built while the weights are loaded. The garbage collector, which waits for both, is as it was."""
    config = tiny_config(vocab_size=300)
    path = write_gguf(tmp_path / "tiny.gguf", config, random_tensors(config, seed=1))
    on_during_load, closed = [], []

    def refuse(spec: object) -> Tokenizer:
        on_during_load.append(gc.isenabled())
        raise UsageError("no tokenizer")

    monkeypatch.setattr(loading, "build_tokenizer", refuse)
    monkeypatch.setattr(ReferenceBackend, "close", lambda self: closed.append(self))
    (gc.enable if was_on else gc.disable)()
    try:
        with pytest.raises(UsageError, match="no tokenizer"):
            LLM(path, device="reference", report=SILENT)
        assert gc.isenabled() is was_on
    finally:
        gc.enable()
    assert on_during_load == [False] and len(closed) == 1


def test_a_closed_model_says_so(llm: LLM) -> None:
    stream = llm.stream("hello", TEN)
    llm.close()
    llm.close()
    assert list(stream)[-1].finish_reason is FinishReason.ABORT
    with pytest.raises(UsageError, match="closed"):
        llm.generate("hello")


# ---- loading --------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """`LLM.load` finds a random model without a tokenizer behind every name; the list says what was asked for."""
    asked: list[Any] = []

    def open_checkpoint(path: Path, tokenizer: Path | None = None) -> Checkpoint:
        asked.append((path, tokenizer))
        return random_checkpoint(tiny_config())

    monkeypatch.setattr(hub, "resolve", lambda name, report: Path("resolved") / str(name))
    monkeypatch.setattr(formats, "open_checkpoint", open_checkpoint)
    return asked


def test_load_resolves_a_name_and_takes_settings(opened: list[Any]) -> None:
    with LLM.load("name", tokenizer=Path("tok.bin"), device="reference", max_context=64) as llm:
        assert opened == [(Path("resolved/name"), Path("tok.bin"))]
        assert llm.plan.max_context == 64
        assert len(llm.generate([1, 2], TEN).token_ids) == 10


def test_load_takes_a_tokenizer_by_its_name(opened: list[Any]) -> None:
    LLM.load("name", tokenizer="tok.bin", device="reference").close()
    assert opened == [(Path("resolved/name"), Path("tok.bin"))]


@pytest.mark.parametrize("bad", [{"tokenizer": 5}, {"config": {}}, {"config": {"threads": 1}}, {"config": "cpu"}], ids=str)
def test_load_refuses_what_is_no_file_or_no_config(opened: list[Any], bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(bad))} is .* needed"):
        LLM.load("name", **bad)


def test_load_takes_a_config_and_settings_over_it(opened: list[Any]) -> None:
    config = EngineConfig(device="reference", max_context=64, max_batch=2)
    with LLM.load("name", config, max_context=32) as llm:
        assert (llm.config.max_context, llm.config.max_batch) == (32, 2)


def test_load_takes_the_environment_where_nothing_is_given(opened: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_MAX_CONTEXT", "48")
    with LLM.load(device="reference") as llm:
        assert llm.plan.max_context == 48


def test_load_refuses_an_unknown_setting(opened: list[Any]) -> None:
    with pytest.raises(UsageError, match="max_contxt"):
        LLM.load("name", max_contxt=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(("name", "bad", "needed"), [("threads", True, "int"), ("prefix_cache", "no", "bool")])
def test_load_refuses_a_bool_for_a_number_and_anything_else_for_a_bool(
    opened: list[Any], name: str, bad: Any, needed: str
) -> None:
    with pytest.raises(UsageError, match=f"{name} is {bad!r}, of type .*; {needed} is needed"):
        LLM.load("name", device="reference", **{name: bad})


def test_a_model_that_does_not_fit_is_refused_before_anything_is_allocated(
    opened: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Tiny(ReferenceBackend):
        def __init__(self) -> None:
            super().__init__(EngineConfig(device="reference"))
            self.info = dataclasses.replace(self.info, free_bytes=1000)

        def load(self, *anything: Any) -> None:
            events.append("load")

        def close(self) -> None:
            events.append("close")

    monkeypatch.setattr(loading, "create_backend", lambda config, report: Tiny())
    with pytest.raises(InsufficientMemoryError, match=r"1000 bytes"):
        LLM.load("name", device="reference")
    assert events == ["close"]


@pytest.mark.parametrize("bad", [5, ["name"], b"name", random_checkpoint(tiny_config())], ids=lambda bad: type(bad).__name__)
def test_what_is_neither_a_path_nor_a_name_is_refused(opened: list[Any], bad: Any) -> None:
    with pytest.raises(UsageError, match="a path, or the name of a model, is needed"):
        LLM(bad)
    assert opened == []


def test_the_constructor_loads(opened: list[Any]) -> None:
    with LLM("name", device="reference", max_context=64) as llm:
        assert opened == [(Path("resolved/name"), None)]
        assert len(llm.generate([1, 2], TEN).token_ids) == 10
        assert repr(llm) == "<LLM random: llama, 2 layers, context 64, on reference>"
    assert repr(llm).endswith("closed>")


def test_a_stream_says_in_one_line_how_far_it_is(llm: LLM) -> None:
    stream = llm.stream([BOS] * 30, TEN)
    assert repr(stream) == "<Stream prompt 30 tokens, answer 0 tokens, running, ''>"
    text = "".join(piece.text for piece in stream)
    assert repr(stream) == f"<Stream prompt 30 tokens, answer 10 tokens, ended: length, {reprlib.repr(text)}>"
    assert len(repr(stream).splitlines()) == 1


@pytest.fixture
def noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = dataclasses.replace(random_checkpoint(tiny_config()), notices=("one thing", "another"))
    monkeypatch.setattr(hub, "resolve", lambda name, report: Path("m"))
    monkeypatch.setattr(formats, "open_checkpoint", lambda path, tokenizer=None: noted)


def test_what_a_reader_notices_is_told_on_stderr_and_kept(noticed: None, capsys: pytest.CaptureFixture[str]) -> None:
    with LLM(device="reference") as llm:
        assert llm.notices == ("one thing", "another")
    assert capsys.readouterr() == ("", "puna: one thing\npuna: another\n")
    LLM(device="reference", report=SILENT).close()
    assert capsys.readouterr() == ("", "")
    told = KeepingReporter()
    LLM(device="reference", report=told).close()
    assert told.texts == ["one thing", "another"]


# llama2.c's own golden test (test_all.py): 200 tokens, temperature 0.
STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, "
    "red ball. She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, let's go to the park.\" Lily was sad "
    "and didn't know what to do. She said, \"I want to play with your ball, but I can't find it.\"\nLily was sad and didn't "
    "know what to do. She said, \"I'm sorry, Lily. I didn't know what to do.\"\nLily didn't want to help her mom, so she"
)


@pytest.mark.parametrize("file", ["stories260K.bin", "stories260K_v1.bin"])
def test_the_story_is_the_known_one(shared_data: Path, file: str) -> None:
    folder = shared_data / "stories260K"
    with LLM.load(folder / file, tokenizer=folder / "tok512.bin", device="reference") as llm:
        story = llm.generate("", max_tokens=200)
    assert story.text == STORY
    assert story.token_ids[:10] == (403, 407, 261, 378, 432, 383, 286, 261, 376, 298)


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_prompts_whose_rotary_base_depends_on_their_length_share_no_pages_that_differ(device: Any) -> None:
    """Beyond the original context "dynamic" scaling turns the same beginning otherwise in a longer prompt."""
    rope = RopeConfig(scaling="dynamic", factor=4.0, original_context=24)
    checkpoint = random_checkpoint(tiny_config(rope=rope), seed=2)
    rng = random.Random(1)
    long = [rng.randrange(256) for _ in range(90)]
    prompts = [long[:length] for length in (16, 24, 25, 48, 60, 61, 90)]

    def loaded() -> LLM:
        config = EngineConfig(device=device, page_size=16)
        backend = create_backend(config)
        layouts, free = backend_spec(device).layouts, backend.info.free_bytes
        plan = plan_of_model(checkpoint.config, checkpoint.tensors, config, layouts, free)
        backend.load(checkpoint, plan)
        return LLM.from_parts(checkpoint, ByteTokenizer(), backend, plan, config)

    def ids(llm: LLM, prompt: list[int]) -> tuple[Any, ...]:
        done = llm.generate(prompt, max_tokens=8, logprobs=0)
        return done.token_ids, done.logprobs

    with loaded() as llm:
        together = [(done.token_ids, done.logprobs) for done in llm.generate(prompts, max_tokens=8, logprobs=0)]
        again = [ids(llm, prompt) for prompt in prompts]
    for prompt, first, second in zip(prompts, together, again, strict=True):
        with loaded() as llm:
            assert ids(llm, prompt) == first == second, len(prompt)


# ---- a full queue ----------------------------------------------------------------------------------------------------------


def queued(max_queue: int) -> LLM:
    """A model of two sequences at once, of which so many more may wait."""
    checkpoint, sizes = random_checkpoint(tiny_config(), seed=1), make_plan(max_sequences=2)
    config = EngineConfig(device="reference", max_queue=max_queue)
    backend = ReferenceBackend(config)
    backend.load(checkpoint, sizes)
    return LLM.from_parts(checkpoint, ByteTokenizer(), backend, sizes, config)


CALLS: dict[str, Callable[[LLM], object]] = {
    "generate": lambda llm: [one.text for one in llm.generate([f"prompt {n}" for n in range(20)], max_tokens=3)],
    "stream": lambda llm: [one.text for stream in llm.stream(["a", "b", "c", "d"], max_tokens=2) for one in stream],
    "n": lambda llm: [one.text for one in llm.generate("hello", max_tokens=3, n=8, temperature=1.0, seed=1).choices],
    "best_of": lambda llm: llm.generate("hello", max_tokens=3, best_of=8, temperature=1.0, seed=1).text,
    "score": lambda llm: [[one.logprob for one in row] for row in llm.score(["a", "b", "c", "d"], [" x", " y", " z"])],
    "embed": lambda llm: llm.embed([f"text {n}" for n in range(20)]).tolist(),
    "rerank": lambda llm: rerank.answer_scores(llm.runner, [[1], [2], [3], [4], [5]], 7, 8),
    "beam_search": lambda llm: [one.token_ids for one in llm.beam_search("hello", width=6, max_tokens=4)],
    "perplexity": lambda llm: perplexity(llm, [*range(1, 200)], context=16).sum_nll,
}


@pytest.mark.parametrize("name", CALLS)
def test_one_call_may_queue_more_than_may_wait(name: str) -> None:
    with queued(2) as llm, queued(0) as free:
        assert CALLS[name](llm) == CALLS[name](free)


def test_while_the_queue_is_full_a_further_call_is_refused_whole() -> None:
    with queued(2) as llm:
        running = llm.stream(["a", "b", "c", "d"], max_tokens=4)
        with pytest.raises(QueueFullError, match="4 requests wait, and no more may"):
            llm.generate(["e", "f"])
        with pytest.raises(QueueFullError):
            llm.embed("e")
        assert all(len([*stream]) > 0 for stream in running)
        assert len(llm.generate(["e", "f"], max_tokens=1)) == 2


# ---- conversations, ids and text ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def talker() -> Iterator[LLM]:
    tokenizer = build_tokenizer(small_bpe())
    with make_llm(tokenizer, vocab_size=tokenizer.vocab_size) as it:
        yield it


def test_a_text_is_one_message_of_the_user(talker: LLM) -> None:
    message = {"role": "user", "content": "hello"}
    assert same(talker.chat("hello", TEN), talker.chat([message], TEN))
    assert [c.text for c in talker.chat(["hello", "b"], TEN)] == [talker.chat(text, TEN).text for text in ("hello", "b")]
    assert "".join(piece.text for piece in talker.chat_stream("hello", TEN)) == talker.chat("hello", TEN).text
    assert talker.encode_chat("hello") == talker.encode_chat([message])


def test_ids_become_text_again(talker: LLM) -> None:
    ids = talker.encode("the llama")
    assert talker.decode(ids) == "the llama"
    assert talker.decode(np.array(ids)) == "the llama"  # type: ignore[arg-type]
    assert talker.decode([1, *ids]) == "the llama" and talker.decode([1, *ids], skip_special=False) == "<|im_start|>the llama"
    bad: Any
    for bad in ("the", [1.5], [True], 5):
        with pytest.raises(UsageError):
            talker.decode(bad)
    with pytest.raises(UsageError, match="outside the vocabulary"):
        talker.decode([1 << 20])
    with make_llm() as silent, pytest.raises(UsageError, match="no tokenizer"):
        silent.decode([1])


def test_variables_of_the_template_are_taken_under_both_names_and_one_that_is_not_read_is_told_once() -> None:
    told = KeepingReporter()
    checkpoint = dataclasses.replace(
        random_checkpoint(tiny_config(vocab_size=512)), chat_template="{{ messages[0].content }}{{ mood }}"
    )
    plan, backend = make_plan(), FakeBackend(make_plan())
    llm = LLM.from_parts(checkpoint, build_tokenizer(small_bpe()), backend, plan, EngineConfig(), report=told)
    expected = llm.encode("hi glad")
    assert llm.encode_chat("hi", template_args={"mood": " glad"}) == expected
    assert llm.encode_chat("hi", chat_template_kwargs={"mood": " glad"}) == expected
    assert llm.chat("hi", TEN, template_args={"mood": " glad"}).prompt_ids == tuple(expected)
    assert next(llm.chat_stream(["hi"], TEN, chat_template_kwargs={"mood": " glad"})[0]).token_ids
    assert told.texts == []
    for _ in range(2):
        assert llm.encode_chat("hi", template_args={"mod": 1}) == llm.encode("hi")
    assert told.texts == list(llm.notices) == ["the chat template of this model does not read mod: it has no effect"]
    llm.template_args = {"mood": " sad"}
    assert llm.encode_chat("hi") == llm.encode("hi sad") and llm.encode_chat("hi", template_args={"mood": " glad"}) == expected
    with pytest.raises(UsageError, match="two names of one argument"):
        llm.encode_chat("hi", template_args={}, chat_template_kwargs={})
    with pytest.raises(UsageError, match="a dict"):
        llm.encode_chat("hi", template_args=5)  # type: ignore[arg-type]


def test_the_beginning_of_an_answer_is_continued(talker: LLM) -> None:
    begun = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "The capital is"}]
    assert talker.decode(talker.encode_chat(begun), skip_special=False).endswith("<|im_start|>assistant\nThe capital is")
    assert talker.chat(begun, TEN).prompt_ids == tuple(talker.encode_chat(begun))
    with pytest.raises(UsageError, match="there is nothing to answer"):
        talker.chat(begun, TEN, continue_final_message=False)
    closed = talker.encode_chat(begun, add_generation_prompt=False)
    assert talker.decode(closed, skip_special=False).endswith("The capital is<|im_end|>\n")


def test_what_ended_an_answer_is_told(llm: LLM) -> None:
    whole = llm.generate("hello", TEN)
    third = whole.token_ids[2]
    ended = llm.generate("hello", TEN, stop_ids=[third])
    assert ended.finish_reason is FinishReason.STOP and ended.stop_reason == third
    assert whole.stop_reason is None


# ---- a sampler of the caller's ------------------------------------------------------------------------------------------


class Ranked:
    """Takes the token of a rank, and keeps what it was given."""

    def __init__(self, rank: int) -> None:
        self.rank, self.asked = rank, list[tuple[tuple[int, ...], tuple[int, ...]]]()

    def sample(self, logits: Row, history: History) -> int:
        self.asked.append((tuple(history.prompt_ids), tuple(history.output_ids)))
        return np.argsort(-logits, kind="stable")[self.rank]  # type: ignore[no-any-return]


def test_a_sampler_takes_the_tokens_instead_of_the_parameters(llm: LLM) -> None:
    greedy, second = llm.generate("hello", TEN, logprobs=2), Ranked(1)
    stream = llm.stream("hello", TEN, logprobs=2, sampler=second)
    for _ in stream:
        pass
    done = stream.completion
    assert done.token_ids[0] == greedy.logprobs[0].top[1][0] and {type(i) for i in done.token_ids} == {int}
    assert [entry.top[1][0] for entry in done.logprobs] == list(done.token_ids)
    assert second.asked == [(done.prompt_ids, done.token_ids[:n]) for n in range(10)]
    assert llm.generate("hello", TEN, temperature=9.0, sampler=Ranked(0)).token_ids == greedy.token_ids
    ended = llm.generate("hello", TEN, stop_ids=[done.token_ids[3]], sampler=Ranked(1))
    assert ended.token_ids == done.token_ids[:4] and ended.finish_reason is FinishReason.STOP


def test_logits_processors_change_what_the_filters_see(llm: LLM) -> None:
    asked: list[list[int]] = []

    def only_even(ids: list[int], logits: Row) -> Row:
        asked.append(ids)
        logits[1::2] = -np.inf
        return logits

    done = llm.generate("hello", TEN, temperature=2.0, seed=1, logits_processors=only_even)
    assert all(i % 2 == 0 for i in done.token_ids) and asked == [[*done.prompt_ids, *done.token_ids[:n]] for n in range(10)]
    again = llm.generate(["hello", "b"], TEN, temperature=2.0, seed=1, logits_processors=[only_even, only_even])
    assert again[0].token_ids == done.token_ids != llm.generate("hello", TEN, temperature=2.0, seed=1).token_ids
    with pytest.raises(UsageError, match=r"each of logits_processors is 3; a function \(ids, logits\) -> logits is needed"):
        llm.generate("hello", TEN, logits_processors=[3])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="takes the place of all logits_processors"):
        llm.generate("hello", TEN, logits_processors=only_even, sampler=Ranked(0))


def test_a_text_holds_no_banned_string(llm: LLM) -> None:
    plain = llm.generate("hello", max_tokens=60, temperature=3.0, seed=2, ignore_eos=True)
    banned = [plain.text[i : i + 2] for i in range(0, 8, 2) if "\ufffd" not in plain.text[i : i + 2]]
    done = llm.generate("hello", max_tokens=60, temperature=3.0, seed=2, ignore_eos=True, banned_strings=banned)
    assert banned and not any(text in done.text for text in banned)


def test_what_a_device_lacks_is_told_once() -> None:
    told: list[str] = []

    class Notices:
        def progress(self, *_: object) -> None: ...

        def notice(self, text: str) -> None:
            told.append(text)

    backend, plan = SamplingBackend(make_plan()), make_plan()
    checkpoint = random_checkpoint(tiny_config(vocab_size=VOCAB_SIZE), seed=1)
    with LLM.from_parts(checkpoint, ByteTokenizer(), backend, plan, EngineConfig(), report=Notices()) as device:
        hot = SamplingParams(max_tokens=4, temperature=1.0, seed=1)
        device.generate(["a", "b"], hot, top_k=3, samplers=TEMPERATURE_FIRST)
        assert told == []
        for _ in range(2):
            device.generate(["a", "b"], hot, xtc_probability=0.5)
            device.generate("a", hot, top_k=3, top_p=0.9, samplers=["top_p", "top_k"])
    assert told == [
        "fake does not have xtc: the CPU samples, and fake waits for it",
        "fake does not have the order top_p, top_k: the CPU samples, and fake waits for it",
    ]


def test_samplers_are_one_for_all_or_one_each_beside_prompts_without_one(llm: LLM) -> None:
    prompts, plain = ["hello", "world"], llm.stream("other", TEN)
    each = llm.generate(prompts, TEN, sampler=[Ranked(0), Ranked(1)])
    shared = Ranked(1)
    both = llm.generate(prompts, TEN, sampler=shared)
    assert len(shared.asked) == 20 and same(both[1], each[1]) and same(each[0], llm.generate("hello", TEN))
    assert "".join(piece.text for piece in plain) == llm.generate("other", TEN).text
    with pytest.raises(UsageError, match="1 sampler for 2 prompts"):
        llm.generate(prompts, TEN, sampler=[shared])


@pytest.mark.parametrize("bad", [5, "greedy", [None], lambda logits, history: 0], ids=lambda bad: type(bad).__name__)
def test_what_is_no_sampler_is_refused(llm: LLM, bad: Any) -> None:
    with pytest.raises(UsageError, match=r"sampler is .*an object with the method sample\(logits, history\) is needed"):
        llm.stream("hello", TEN, sampler=bad)


@pytest.mark.parametrize("token_id", [-1, VOCAB_SIZE, 1.0, None])
def test_an_id_that_no_model_knows_never_reaches_it(llm: LLM, token_id: Any) -> None:
    class Wrong:
        def sample(self, logits: Row, history: History) -> int:
            return token_id  # type: ignore[no-any-return]

    with pytest.raises(UsageError, match=r"the sampler's token id is .* a whole number in 0..257 is needed"):
        llm.generate("hello", TEN, sampler=Wrong())
    assert llm.runner.is_idle and llm.generate("hello", TEN).finish_reason is FinishReason.LENGTH


# ---- one process --------------------------------------------------------------------------------------------------------


def test_what_belongs_to_this_process_says_so_when_it_is_pickled_or_copied(llm: LLM, talker: LLM) -> None:
    stream = llm.stream("hello", TEN)
    for thing, words in ((llm, "an LLM"), (talker.tokenizer, "a tokenizer"), (stream, "a Stream")):
        for way in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(UsageError, match=f"{words} cannot be pickled or copied") as caught:
                way(thing)
            assert caught.value.hint
    stream.close()
    done = llm.generate("hello", TEN)
    assert pickle.loads(pickle.dumps(done)) == copy.deepcopy(done) == done


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_progress_of_a_batch_is_shown_on_a_terminal_or_where_it_is_asked_for(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    llm.generate(["a", "b"], TEN)
    assert capsys.readouterr().err == ""
    llm.generate(["a", "b"], TEN, progress=True)
    assert re.fullmatch(r"2 of 2 answers, 20 tokens, [0-9.]+ s, [0-9.]+ tok/s\n", capsys.readouterr().err)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    llm.generate("a", TEN)
    llm.generate(["a", "b"], TEN, progress=False)
    assert terminal.getvalue() == ""
    monkeypatch.setattr("puna.progress.EVERY_S", 0.0)
    llm.generate(["a", "b"], TEN)
    assert "generating [" in terminal.getvalue() and "2 of 2 answers" in terminal.getvalue()
    with pytest.raises(UsageError, match="progress is 'yes'"):
        llm.generate(["a", "b"], TEN, progress="yes")  # type: ignore[call-overload]


TYPED = """
from puna import LLM
llm = LLM("model", max_context=3, kv_type="f16")
llm.generate("a", temperature=1.0, stop="x"); llm.chat("a", template_args={}, top_k=1); llm.stream([[1]], seed=1)
from puna import AsyncLLM
stream = AsyncLLM("model", max_context=3).chat_stream("a", template_args={}, seed=1)
"""
TYPOS = """
from puna import LLM
llm = LLM("model", max_contxt=3)
LLM.load("model", kv_type="f17")
llm.generate("a", temprature=1.0)
llm.chat("a", top_kk=1)
llm.stream("a", seed="x")
llm.chat_stream("a", template_arg={})
llm.stream("a", sampler=5)
from puna import AsyncLLM
AsyncLLM("model").stream("a", temprature=1.0)
"""


def test_a_type_checker_finds_a_setting_that_is_misspelt(tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(TYPED)
    (tmp_path / "typos.py").write_text(TYPOS)
    flags = [
        f"--cache-dir={tmp_path}",
        "--config-file=",
        "--follow-imports=silent",
        "--ignore-missing-imports",
        "--no-site-packages",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *flags, str(tmp_path / "typed.py"), str(tmp_path / "typos.py")],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert not [line for line in errors if "typed.py" in line]
    assert {int(line.split(":")[1]) for line in errors if "typos.py" in line} == {*range(3, 10), 11}, done.stdout


@pytest.mark.parametrize(("name", "value"), [("device", 3), ("report", 5), ("check", 5), ("kv_type", [])])
def test_an_argument_of_another_kind_is_refused_in_words(name: str, value: object) -> None:
    with pytest.raises(PunaError, match=f"{name} is "):
        LLM(**{name: value})  # type: ignore[arg-type]
