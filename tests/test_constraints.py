"""Constraints: what llguidance believes of a token is what the detokenizer writes; every answer obeys; nothing else changes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import doctest
import enum
import gc
import io
import json
import os
import random
import re
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import pytest

from puna.async_llm import AsyncLLM
from puna.completion import Completion
from puna.config import EngineConfig
from puna.constraints import MAX_COMPILED, Constraint, Constraints, MaskVocabulary
from puna.detokenize import Detokenizer
from puna.engine import Engine
from puna.errors import ConstraintError, UsageError
from puna.formats.base import Checkpoint
from puna.formats.tokenizer_files import read_tokenizer_file
from puna.llm import LLM
from puna.request import FinishReason, Request, SamplingParams
from puna.sampling import History, Row, Sampler
from puna.schemas import FORMATS, NUMBER_FORMATS, SUPPORTED
from puna.tokenizers import build_tokenizer
from puna.tokenizers.base import Tokenizer
from tests.fakes import (
    BOS,
    EOS,
    VOCAB_SIZE,
    ByteTokenizer,
    FakeBackend,
    make_engine,
    make_plan,
    random_checkpoint,
    run,
    tiny_config,
)
from tests.schema_cases import Schema, fault, random_schema
from tests.tokenizers.folders import sentencepiece_bytes, tiktoken_bytes
from tests.tokenizers.libraries import FAMILIES, ours
from tests.tokenizers.vocabularies import small_bpe, small_spm

DOCUMENT = Path(__file__).parents[1] / "docs" / "constraints.md"

# ---- tokens -----------------------------------------------------------------------------------------------------------------


def of_file(content: bytes, path: Path) -> Tokenizer:
    path = path / "tokenizer.model"
    path.write_bytes(content)
    return build_tokenizer(read_tokenizer_file(path, None))


KINDS: dict[str, Callable[[Path], Tokenizer]] = {
    "bytes": lambda path: ByteTokenizer(),
    "bpe": lambda path: build_tokenizer(small_bpe()),
    "spm": lambda path: build_tokenizer(small_spm()),
    "spm, trained": lambda path: of_file(sentencepiece_bytes(), path),
    "tiktoken": lambda path: of_file(tiktoken_bytes(), path),
    **{name: lambda path, made=made: ours(made(), path / "tokenizer.json") for name, made in FAMILIES.items()},  # type: ignore[misc]
}


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    return KINDS[request.param](tmp_path)


def assert_bytes_are_alike(tokenizer: Tokenizer) -> None:
    native, size = MaskVocabulary(tokenizer).native, tokenizer.vocab_size
    for token_id in random.Random(1).sample(range(size), min(size, 8000)):
        data = tokenizer.token_bytes(token_id)
        assert native.is_special_token(token_id) == (not data or data[0] == 0xFF)  # a byte that no text holds
        assert data[:1] == b"\xff" or native.decode_bytes([token_id]) == (data or tokenizer.piece(token_id).encode())


def test_llguidance_believes_the_bytes_that_the_detokenizer_writes(tokenizer: Tokenizer) -> None:
    assert_bytes_are_alike(tokenizer)
    detokenizer, rng = Detokenizer(tokenizer), random.Random(1)
    ids = [i for i in rng.choices(range(tokenizer.vocab_size), k=3000) if tokenizer.token_bytes(i)[:1] not in (b"", b"\xff")]
    written = "".join(map(detokenizer.push, ids)) + detokenizer.flush()
    assert written == MaskVocabulary(tokenizer).native.decode_bytes(ids).decode("utf-8", tokenizer.utf8_errors)


def test_forced_texts_are_spelled_exactly(tokenizer: Tokenizer) -> None:
    spell, rng = MaskVocabulary(tokenizer), random.Random(2)
    for text in ['{"', '": "', " the", "the llama", ", ", "\n", *("".join(rng.choices('{"[:, theabn', k=9)) for _ in range(200))]:
        assert b"".join(map(tokenizer.token_bytes, spell(text))) == text.encode()


def test_forced_texts_are_spelled_as_the_tokenizer_spells_them() -> None:
    tokenizer = build_tokenizer(small_bpe())
    assert MaskVocabulary(tokenizer)("the llama") == tokenizer.encode("the llama", bos=False)
    tokenizer = build_tokenizer(small_spm())
    assert [tokenizer.piece(i) for i in MaskVocabulary(tokenizer)("the llama")] == ["th", "e", "\u2581llama"]


def test_the_default_models_bytes(default_model: Path) -> None:
    from puna.formats import open_checkpoint

    spec = open_checkpoint(default_model).tokenizer
    assert spec is not None
    assert_bytes_are_alike(build_tokenizer(spec))


@pytest.mark.full
def test_llama_3s_bytes(llama3_tokenizer: Path) -> None:
    assert_bytes_are_alike(build_tokenizer(read_tokenizer_file(llama3_tokenizer, None)))


# ---- answers ----------------------------------------------------------------------------------------------------------------


class Speaker:
    """Draws random answers under constraints, with logits that favour the end of a text, and without a model."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size or tokenizer.vocab_size + 7  # with ids of padding
        self.constraints = Constraints(tokenizer)
        texts = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self._bonus = np.zeros(self.vocab_size, np.float32)
        self._bonus[: len(texts)] = [2.0 * any(byte in b'"}]' for byte in text) for text in texts]

    def answer(self, seed: int, at_start: bool = False, most: int = 600, **given: Any) -> tuple[str, bool]:
        """(text, whether it ended)"""
        rng, params = np.random.default_rng(seed), SamplingParams(temperature=1.0, seed=seed, **given)
        sampler = Sampler(params, self.vocab_size, self.tokenizer.stop_ids)
        constraint = self.constraints.of(sampler, None, self.tokenizer.stop_ids, at_start)
        detokenizer, ids = Detokenizer(self.tokenizer, at_start=at_start), list[int]()
        assert constraint is not None
        text, is_over = "", False
        while not is_over and len(ids) < most:
            logits = rng.normal(size=self.vocab_size).astype(np.float32) * 1.5 + self._bonus
            ids.append(constraint.sample(logits, History((), ids)))
            constraint.accept(ids[-1])
            text += detokenizer.push(ids[-1])
            is_over = ids[-1] in self.tokenizer.stop_ids or constraint.is_over
        return text + detokenizer.flush(), is_over


@pytest.mark.parametrize("at_start", [False, True])
def test_every_tokenizer_gives_answers_that_obey(tokenizer: Tokenizer, at_start: bool) -> None:
    speaker, ended = Speaker(tokenizer), 0
    for seed in range(6):
        schema = random_schema(random.Random(seed))
        text, is_over = speaker.answer(seed, at_start, json_schema=schema)
        ended += is_over
        assert not is_over or not fault(schema, text)
        for regex in (" {0,2}the (llama|été)", "[a-z ]{1,9}", "(🦙|日本|é)+x"):
            text, is_over = speaker.answer(seed, at_start, most=200, regex=regex)
            assert not is_over or re.fullmatch(regex, text), (seed, regex, text)
    assert ended >= 5


def assert_schemas_are_obeyed(seeds: range, tokenizer: Tokenizer) -> None:
    speaker, ended, refused = Speaker(tokenizer), 0, 0
    for seed in seeds:
        schema = random_schema(random.Random(seed))
        try:
            answers = [speaker.answer(3 * seed + number, json_schema=schema) for number in range(3)]
        except UsageError as error:
            assert "nsatisfiable" in error.line, (seed, error)
            refused += 1
            continue
        ended += sum(is_over for _, is_over in answers)
        faults = [found for text, is_over in answers if is_over and (found := fault(schema, text))]
        assert not faults, (seed, faults)
    print(f" {len(seeds)} schemas, {refused} of them refused, {ended} answers ended", end="")
    assert ended >= 0.95 * 3 * (len(seeds) - refused) and refused < 0.1 * len(seeds)


def test_random_schemas_are_obeyed() -> None:
    assert_schemas_are_obeyed(range(30), build_tokenizer(small_bpe()))


@pytest.mark.full
@pytest.mark.parametrize("kind", ["bytes", "bpe", "spm, trained"])
def test_three_hundred_random_schemas_are_obeyed(kind: str, tmp_path: Path) -> None:
    assert_schemas_are_obeyed(range(1000, 1300), KINDS[kind](tmp_path))


SUITE = "PUNA_JSON_SCHEMA_SUITE"


@pytest.mark.full
def test_the_json_schema_test_suite_finds_nothing_accepted_that_is_invalid() -> None:
    """A schema is refused, or no invalid value of the suite can be an answer. Only formats beyond the schema's draft differ."""
    if not (folder := os.environ.get(SUITE)):
        pytest.skip(f"{SUITE} names no folder with the tests of JSON-Schema-Test-Suite (the sdist of jsonschema has them)")
    constraints, counts = Constraints(ByteTokenizer()), {"refused": 0, "taken": 0, "values": 0}
    for file in sorted(Path(folder).glob("draft[4-7]/**/*.json")) + sorted(Path(folder).glob("draft20*/**/*.json")):
        for case in json.loads(file.read_text("utf-8")):
            try:
                params = SamplingParams(json_schema=case["schema"])
                constraints.require(params)
            except UsageError:
                counts["refused"] += 1
                continue
            counts["taken"] += 1
            for value in case["tests"]:
                counts["values"] += 1
                text = json.dumps(value["data"], ensure_ascii=False)
                differs = "zero-width whitespace does not match" in value["description"]  # \\S of ECMA, not of Python
                assert value["valid"] or differs or not accepts(constraints, params, text), (file.name, case["schema"], text)
    print(f" {counts}", end="")
    assert counts["taken"] > 800 and counts["values"] > 4000


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int = pydantic.Field(ge=1, le=9)


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    good: bool | None = None


class Tree(pydantic.BaseModel):
    value: Annotated[float, pydantic.Field(gt=0, lt=1)]
    children: list[Tree] = pydantic.Field(max_length=2)


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


TYPES: list[Any] = [
    *(datetime.date, datetime.time, pydantic.AwareDatetime, uuid.UUID, Colour, Tree, bytes, pydantic.SecretStr, pydantic.AnyUrl),
    *(
        int | str | None,
        tuple[int, bool],
        dict[str, Cat],
        list[Cat | Dog],
        Annotated[Cat | Dog, pydantic.Field(discriminator="kind")],
    ),
    *(Annotated[int, pydantic.Field(multiple_of=5, ge=0, le=100)], Annotated[str, pydantic.Field(pattern="^[a-z]{2,5}$")], Any),
]


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_what_pydantic_asks_for_it_also_reads(kind: Any) -> None:
    adapter, speaker = pydantic.TypeAdapter(kind), Speaker(ByteTokenizer())
    answers = [speaker.answer(seed, json_schema=adapter) for seed in range(12)]
    read = [adapter.validate_json(text) for text, is_over in answers if is_over]
    assert len(read) >= 9


def accepts(constraints: Constraints, params: SamplingParams, text: str) -> bool:
    """Whether a text of bytes is an answer."""
    constraint = constraints.of(Sampler(params, VOCAB_SIZE, {EOS}), None, {EOS}, at_start=False)
    assert constraint is not None
    for byte in text.encode():
        if not constraint._allowed(VOCAB_SIZE)[byte]:
            return False
        constraint.accept(byte)
    return bool(constraint._allowed(VOCAB_SIZE)[EOS])


def test_choices_of_any_text_are_the_only_answers() -> None:
    rng, constraints = random.Random(7), Constraints(ByteTokenizer())
    letters = 'ab"\\/\n\t\x01\x7f{}|?*[]()<>é日🦙 \u2028\x85%'
    for _ in range(40):
        choices = ["".join(rng.choices(letters, k=rng.randint(1, 5))) for _ in range(rng.randint(1, 5))]
        others = [text[:-1] for text in choices] + [text + "a" for text in choices] + ["".join(rng.choices(letters, k=3))]
        for text in choices + others:
            assert accepts(constraints, SamplingParams(choice=choices), text) == (text in choices), (choices, text)


REGEXES = [
    "a+b?",
    "^[a-c]{2,3}$",
    "(ab|cd)*e",
    "[^\\n]{1,3}",
    "\\d{2}-\\d{1,2}",
    "a|bc|",
    "(?i)ab",
    "a.c",
    "\\w\\s\\w",
    "x{0,3}y",
]


@pytest.mark.parametrize("regex", REGEXES)
def test_a_regex_matches_the_whole_answer_as_in_python(regex: str) -> None:
    rng, constraints = random.Random(9), Constraints(ByteTokenizer())
    for _ in range(150):
        text = "".join(rng.choices("abcdexyAB 01-\n", k=rng.randint(0, 6)))
        expected = re.fullmatch(regex, text) is not None
        assert accepts(constraints, SamplingParams(regex=regex), text) == expected, text


# A grammar -> the regex that it should be.
GRAMMARS = {
    'start: "a"+ ("b" | "c")': "a+[bc]",
    'start: word (" " word)*\nword: /[a-z]{1,3}/': "[a-z]{1,3}( [a-z]{1,3})*",
    'root ::= "a" [0-9]+ ("x" | "y")?': "a[0-9]+[xy]?",
    'root ::= item{1,3} end\nitem ::= [a-c] "-"\nend ::= [^a-z] # the end': "([a-c]-){1,3}[^a-z]",
    'root ::= one-two ", " one-two\none-two ::= "b" | "start"': "(b|start), (b|start)",
}


@pytest.mark.parametrize("grammar", GRAMMARS)
def test_a_grammar_in_lark_or_gbnf_allows_what_it_says(grammar: str) -> None:
    rng, constraints = random.Random(11), Constraints(ByteTokenizer())
    speaker = Speaker(ByteTokenizer())
    for seed in range(20):
        text, is_over = speaker.answer(seed, grammar=grammar)
        assert not is_over or re.fullmatch(GRAMMARS[grammar], text), text
    for _ in range(150):
        text = "".join(rng.choices("abcxyz019 ,-X", k=rng.randint(0, 6)))
        assert accepts(constraints, SamplingParams(grammar=grammar), text) == bool(re.fullmatch(GRAMMARS[grammar], text)), text


def test_a_recursive_grammar_counts() -> None:
    constraints = Constraints(ByteTokenizer())
    params = SamplingParams(grammar='root ::= "(" root ")" | "x"')
    assert [accepts(constraints, params, text) for text in ("x", "((x))", "((x)", "(x))")] == [True, True, False, False]


def test_json_mode_gives_an_object_and_nothing_else() -> None:
    constraints = Constraints(ByteTokenizer())
    params = SamplingParams(json_object=True)
    assert [accepts(constraints, params, text) for text in ('{"a": [1, null]}', "{}", "[]", "1", '{"a": 1', "{} ")] == [
        1,
        1,
        0,
        0,
        0,
        0,
    ]


def test_a_name_cannot_be_written_in_a_second_way() -> None:
    constraints = Constraints(ByteTokenizer())
    params = SamplingParams(json_schema={"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {}})
    assert [accepts(constraints, params, text) for text in ('{"a": 1}', '{"\\u0061": "x"}', '{"b": "x"}')] == [True, False, True]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"regex": "(a"}, "regex is refused: unclosed group"),
    ({"regex": "(" * 20000 + "a"}, "regex is refused: unclosed group"),
    ({"regex": "a(?=b)"}, "regex is refused: look-around, including look-ahead and look-behind, is not supported"),
    ({"regex": "ab\\"}, "regex is refused: it ends with a backslash, which escapes nothing"),
    ({"regex": r"[^\s\S]"}, "regex is refused: no text can satisfy it"),
    ({"grammar": 'start: "a" x'}, 'grammar is refused: at 1(8): unknown name: "x"'),
    ({"grammar": "root ::= (a"}, "grammar is refused"),
    ({"grammar": "start: start"}, "grammar is refused"),
    ({"grammar": 'root ::= stop\nstart ::= "a"'}, "grammar is refused: Rule 'stop' not found"),
    ({"grammar": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000}, "grammar is refused"),
    (
        {"grammar": 'start: %json {"x-guidance": {"lenient": true}, "uniqueItems": true}'},
        "grammar is refused: Unimplemented keys",
    ),
    ({"json_schema": {"type": "integer", "minimum": 5, "maximum": 3}}, "json_schema is refused: Unsatisfiable schema"),
    ({"json_schema": False}, "json_schema is refused: Unsatisfiable schema"),
    ({"json_schema": {"type": "string", "pattern": "a(?!b)"}}, "json_schema is refused: look-around"),
    ({"json_schema": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}, "json_schema is refused: oneOf constraints"),
    ({"json_schema": {"type": "text"}}, "json_schema is refused: Invalid type: text"),
    ({"json_schema": {"x-guidance": {"lenient": True}, "type": "array"}}, "json_schema has 'x-guidance'"),
    ({"regex": ""}, "regex is empty"),
    ({"choice": ["a", ""]}, "choice 1 is empty"),
    ({"choice": "abc"}, "choice is 'abc'; a list of texts is needed"),
    ({"choice": ["a"] * 1025}, "choice holds 1025 texts; at most 1024 are allowed"),
    ({"choice": ["a" * 1000] * 300}, "choice has 300000 bytes; at most 262144 are allowed"),
    ({"grammar": 3}, "grammar is 3; a str is needed"),
    ({"regex": "a" * 300_000}, "regex has 300000 bytes; at most 262144 are allowed"),
    ({"json_object": 1}, "json_object is 1; True or False is needed"),
    ({"regex": "a", "choice": ["b"]}, "regex and choice are given; an answer follows one of them"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_cannot_be_held_is_refused_before_the_queue(given: dict[str, Any], message: str) -> None:
    engine = make_engine()
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        engine.add([BOS], SamplingParams(**given))
    assert len(error.value.line) < 400
    assert not engine.has_work


DEEP: dict[str, Callable[[], dict[str, Any]]] = {
    "rules": lambda: {"grammar": "start: a0\n" + "\n".join(f"a{i}: a{i + 1}" for i in range(18000)) + '\na18000: "x"'},
    "references": lambda: {"json_schema": chain(5000)},
    "groups": lambda: {"regex": "(" * 100_000 + "a" + ")" * 100_000},
    "brackets": lambda: {"grammar": "start: " + "(" * 100_000 + '"a"' + ")" * 100_000},
}


def chain(length: int) -> Schema:
    names: Schema = {f"a{i}": {"type": "array", "items": {"$ref": f"#/$defs/a{i + 1}"}} for i in range(length)}
    return {"$ref": "#/$defs/a0", "$defs": names | {f"a{length}": {"type": "null"}}}


@pytest.mark.parametrize("kind", DEEP)
def test_depth_ends_no_process_not_even_in_a_thread_with_a_small_stack(kind: str) -> None:
    def work() -> None:
        is_restored.wait()
        with contextlib.suppress(UsageError):
            Constraints(ByteTokenizer()).require(SamplingParams(**DEEP[kind]()))
        done.append(True)

    done, is_restored = list[bool](), threading.Event()
    before = threading.stack_size(256 << 10)
    thread = threading.Thread(target=work)
    try:
        thread.start()
    finally:
        threading.stack_size(before)
    is_restored.set()
    thread.join()
    assert done and threading.stack_size() == before


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UsageError, match=r"^constraints need the package llguidance\n.*pip install llguidance$"):
        Constraints(ByteTokenizer()).require(SamplingParams(regex="a"))


def test_a_model_without_a_tokenizer_has_no_constraints() -> None:
    plan = make_plan()
    engine = Engine(FakeBackend(plan), None, plan, EngineConfig(), tiny_config(vocab_size=VOCAB_SIZE))
    with pytest.raises(UsageError, match="regex needs a tokenizer, and the model has none"):
        engine.add([BOS], SamplingParams(regex="a"))


# ---- the engine -------------------------------------------------------------------------------------------------------------


class Chance(FakeBackend):
    """Random logits that depend on all ids, and favour the end of a text."""

    def _logits(self, ids: list[int]) -> Row:
        assert min(ids) >= 0, "a position was read before it was written"
        logits = np.random.default_rng(sum(ids) * 1009 + len(ids)).normal(size=VOCAB_SIZE).astype(np.float32)
        logits[[34, 125, 93]] += 1.5
        return logits


def chance_engine(**changes: int) -> Engine:
    plan = make_plan(**({"max_context": 640, "num_pages": 200} | changes))
    return make_engine(Chance(plan), plan=plan)


def result(request: Request) -> tuple[object, ...]:
    return request.output_ids, request.finish_reason, request.stop_reason, request.error


def alone(prompt: list[int], params: SamplingParams) -> tuple[object, ...]:
    engine = chance_engine()
    request = engine.add(prompt, params)
    run(engine)
    return result(request)


def test_ctrl_c_while_the_tokenizer_is_asked_stays_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """llguidance makes a text of what its callback raises; as such it would end one request, and the program would go on."""
    engine = chance_engine()
    request = engine.add([1], SamplingParams(json_schema={"type": "array", "items": {"enum": ["aa", "bb"]}, "minItems": 2}))

    def interrupted(*_: object) -> list[int]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MaskVocabulary, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(engine)
    assert request.finish_reason is FinishReason.ABORT and engine.num_free_pages == engine._plan.num_pages


def constrained(rng: random.Random, seed: int, **more: Any) -> SamplingParams:
    kinds: list[dict[str, Any]] = [
        {"json_schema": random_schema(rng)},
        {"json_object": True},
        {"regex": "(the|a) (llama|alpaca)s? of [a-z]{1,9}"},
        {"choice": ["Lima", "La Paz", "Cusco, Peru"]},
        {"grammar": 'root ::= "yes, " root | "no"'},
        {},
    ]
    return SamplingParams(
        max_tokens=rng.choice([5, 60]), temperature=rng.choice([0.0, 1.0]), seed=seed, **rng.choice(kinds), **more
    )


OTHERS: list[dict[str, Any]] = [
    *(
        {},
        {"min_p": 0.05},
        {"stop": ["a"]},
        {"top_k": 5},
        {"repetition_penalty": 1.3},
        {"dry_multiplier": 0.8},
        {"typical_p": 0.6},
    ),
    *(
        {"xtc_probability": 0.5},
        {"mirostat": 2},
        {"adaptive_target": 0.4},
        {"banned_strings": ["a"]},
        {"bad_words_ids": [[34, 98]]},
    ),
    *({"top_n_sigma": 1.0}, {"logprobs": 1}, {"min_tokens": 9}, {"dynatemp_range": 0.5}),
]


def jobs(count: int, seed: int) -> list[tuple[list[int], SamplingParams]]:
    rng, made = random.Random(seed), list[tuple[list[int], SamplingParams]]()
    while len(made) < count:
        prompt = [BOS, *rng.choices(range(256), k=rng.randint(0, 40))]
        more = dict(rng.choice(OTHERS))
        params = constrained(rng, len(made), **more)
        try:
            Constraints(ByteTokenizer()).require(params)
        except UsageError:  # a random schema that nothing satisfies
            continue
        made.append((prompt, params))
    return made


def test_a_batch_gives_the_bits_of_each_request_alone() -> None:
    """With chunks, preemption and the prefix cache, and beside requests without a constraint."""
    given = jobs(48, seed=3)
    for changes in ({}, {"num_pages": 44, "max_tokens": 9}):
        engine = chance_engine(**changes)
        requests = [engine.add(prompt, params) for prompt, params in given]
        run(engine)
        assert [result(request) for request in requests] == [alone(*job) for job in given]
        assert engine.num_free_pages == engine._plan.num_pages


class Guesses:
    """A drafter that guesses a few ids, some of which are right."""

    def __init__(self) -> None:
        self.num_guessed = 0

    def start(self, request: Request) -> None:
        pass

    def draft(self, requests: Sequence[Request], rows: int) -> None:
        for request in requests:
            request.draft_at = len(request.output_ids) + 1
            request.draft_ids[:] = [*b'": "', *b" llama"][: 1 + len(request.output_ids) % 5]
            self.num_guessed += len(request.draft_ids)

    def note(self, rows: int, seconds: float) -> None:
        pass

    def finish(self, request: Request) -> None:
        pass


def test_speculation_changes_no_token() -> None:
    given, guesses = jobs(48, seed=5), Guesses()
    plan = make_plan(max_context=640, num_pages=200)
    config, model = EngineConfig(), tiny_config(vocab_size=VOCAB_SIZE)
    engine = Engine(Chance(plan), ByteTokenizer(), plan, config, model, guesses)
    requests = [engine.add(prompt, params) for prompt, params in given]
    run(engine)
    assert [result(request) for request in requests] == [alone(*job) for job in given]
    assert sum(request.num_accepted for request in requests) > 9


def test_jumping_ahead_changes_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    given = jobs(48, seed=4)
    jumped = [alone(*job) for job in given]
    monkeypatch.setattr(Constraint, "forced", lambda self: ())
    assert [alone(*job) for job in given] == jumped


def test_forced_tokens_take_no_steps() -> None:
    engine = chance_engine()
    request = engine.add(
        [BOS, 3], SamplingParams(choice=["a forced answer", "b"], temperature=1.0, seed=1, logit_bias={97: 50.0})
    )
    run(engine)
    assert bytes(request.output_ids) == b"a forced answer" and request.finish_reason is FinishReason.STOP
    assert isinstance(engine._backend, FakeBackend) and len(engine._backend.batches) == 1


def test_log_probabilities_are_those_of_each_token_so_nothing_is_skipped() -> None:
    engine, params = chance_engine(), SamplingParams(choice=["a forced answer"], logprobs=2, processed_logprobs=True)
    request = engine.add([BOS, 3], params)
    run(engine)
    assert [entry.token_id for entry in request.logprobs] == request.output_ids == list(b"a forced answer")
    assert all(len(entry.top) == 2 and entry.logprob < 0 for entry in request.logprobs)
    assert [entry.processed.top for entry in request.logprobs if entry.processed] == [((i, 0.0),) for i in request.output_ids]


def finished(**given: Any) -> tuple[str, Request]:
    engine = chance_engine()
    request = engine.add([BOS, 3], SamplingParams(**given))
    text = "".join(output.text for output in run(engine)[request.id])
    return text, request


def test_an_answer_ends_with_its_grammar() -> None:
    text, request = finished(regex="abc")
    assert (text, request.finish_reason, request.stop_reason) == ("abc", FinishReason.STOP, None)
    text, request = finished(regex="abc", max_tokens=3)
    assert (text, request.finish_reason) == ("abc", FinishReason.STOP)
    text, request = finished(regex="abc", max_tokens=2)
    assert (text, request.finish_reason) == ("ab", FinishReason.LENGTH)


def test_an_end_is_allowed_only_where_the_grammar_may_end() -> None:
    for wanted in ({EOS: 100.0}, {EOS: 100.0, 7: 100.0}):
        text, request = finished(regex="ab*", logit_bias=wanted, stop_ids=[7])
        assert text == "a" and request.output_ids == [97, EOS]
    text, request = finished(regex="ab*", logit_bias={7: 100.0}, stop_ids=[BOS], max_tokens=4, temperature=1.0, seed=1)
    assert request.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)


def test_the_constraints_that_are_kept_are_few_and_short() -> None:
    constraints = Constraints(ByteTokenizer())
    for number in range(7):
        constraints.require(SamplingParams(choice=[f"{number}" + "a" * 250_000]))
    assert len(constraints._compiled) == 4
    for number in range(100):
        constraints.require(SamplingParams(regex=f"a{number}"))
    assert len(constraints._compiled) == MAX_COMPILED


def test_ignore_eos_goes_on_while_the_grammar_does() -> None:
    text, request = finished(regex="ab{0,9}", ignore_eos=True, logit_bias={EOS: 100.0})
    assert (text, request.finish_reason) == ("abbbbbbbbb", FinishReason.STOP)
    text, request = finished(regex="ab{0,9}", ignore_eos=True, logit_bias={EOS: 100.0}, stop_ids=[EOS])
    assert (text, request.stop_reason) == ("a", EOS)


def test_stop_texts_and_stop_ids_end_an_answer_where_they_stand() -> None:
    text, request = finished(choice=["one, two"], stop=[", "])
    assert (text, request.stop_reason) == ("one", ", ")
    text, request = finished(choice=["one, two"], stop_ids=[ord(",")])
    assert (request.output_ids, request.stop_reason) == (list(b"one,"), ord(","))


def test_a_grammar_may_name_an_end_of_text_token_where_it_ends() -> None:
    text, request = finished(grammar="start: /ab/ <[257]>", logit_bias={EOS: 100.0})
    assert (text, request.output_ids, request.finish_reason) == ("ab", [97, 98, EOS], FinishReason.STOP)
    text, request = finished(grammar="start: /a/ <[257]> /b/")
    assert (text, request.finish_reason) == ("a", FinishReason.ERROR)
    assert request.error.endswith(f"the model's end-of-text token {EOS} ends the answer, and the form goes on after it")


DEAD_ENDS: list[tuple[dict[str, Any], str, str]] = [
    ({"regex": "abc", "suppress_ids": [98]}, "a", "regex: token 98 must follow, but is suppressed"),
    ({"regex": "abc", "begin_suppress_ids": [97]}, "", "regex: token 97 must follow, but is suppressed"),
    ({"regex": "abc", "logit_bias": {99: -1e30}}, "ab", "regex: token 99 must follow, but is suppressed"),
    ({"regex": "abc", "min_tokens": 5}, "abc", f"regex: token {EOS} must follow, but is suppressed"),
    ({"regex": "abc", "min_tokens": 5, "ignore_eos": True}, "abc", "regex: no token can follow"),
]


@pytest.mark.parametrize(("given", "text", "error"), DEAD_ENDS, ids=str)
def test_a_dead_end_is_an_error_of_its_request_only(given: dict[str, Any], text: str, error: str) -> None:
    engine = chance_engine()
    other = engine.add([BOS, 9], SamplingParams(max_tokens=9))
    request = engine.add([BOS, 3], SamplingParams(**given))
    outputs = run(engine)
    assert "".join(output.text for output in outputs[request.id]) == text
    assert request.finish_reason is FinishReason.ERROR and request.error.startswith(error)
    assert other.finish_reason is FinishReason.LENGTH and engine.num_free_pages == engine._plan.num_pages


def test_a_bias_that_only_makes_a_token_unlikely_ends_nothing() -> None:
    assert finished(regex="abc", logit_bias={98: -100.0})[0] == "abc"


def test_logits_that_are_not_finite_are_seen_behind_the_mask() -> None:
    engine = chance_engine()
    assert isinstance(engine._backend, FakeBackend)
    engine._backend._logits = lambda ids: np.full(VOCAB_SIZE, np.nan, np.float32)  # type: ignore[method-assign]
    request = engine.add([BOS], SamplingParams(regex="a[bc]"))
    run(engine)
    assert "not finite" in request.error


class Last:
    """A caller's sampler: the last id that is left, or an id of its own."""

    def __init__(self, own: int | None = None) -> None:
        self.own = own

    def sample(self, logits: Row, history: History) -> int:
        return int(np.flatnonzero(np.isfinite(logits))[-1]) if self.own is None else self.own


def test_a_callers_sampler_chooses_from_what_is_left() -> None:
    engine = chance_engine()
    request, wrong = (
        engine.add([BOS], SamplingParams(regex="[abc]{3}"), Last()),
        engine.add([BOS], SamplingParams(regex="a"), Last(5)),
    )
    run(engine)
    assert request.output_ids == [99, 99, 99]
    assert wrong.error == "regex: the sampler chose token 5, which may not follow"


def test_an_aborted_request_leaves_nothing_and_thousands_leave_nothing() -> None:
    engine, rng = chance_engine(), random.Random(8)
    seen: weakref.WeakSet[Constraint] = weakref.WeakSet()
    for number in range(600):
        request = engine.add([BOS, rng.randrange(256)], SamplingParams(regex=f"[a-z]{{3}}{number % 100}", max_tokens=9))
        constraint = engine._live[request.id].constraint
        assert constraint is not None
        seen.add(constraint)
        del constraint
        engine.step()
        if rng.random() < 0.5:
            engine.abort(request.id)
        elif rng.random() < 0.1:
            engine.abort_all()
    run(engine)
    gc.collect()
    assert not seen and len(engine.admission.constraints._compiled) == MAX_COMPILED
    assert engine.num_free_pages == engine._plan.num_pages


# ---- the library ------------------------------------------------------------------------------------------------------------


class Llama(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=8)
    age: int = pydantic.Field(ge=0, le=30)
    colour: str = pydantic.Field(pattern="^(brown|white)$")


@pytest.fixture
def llm() -> Iterator[LLM]:
    plan = make_plan(max_context=640, num_pages=400)
    checkpoint: Checkpoint = random_checkpoint(tiny_config(vocab_size=VOCAB_SIZE))
    with LLM.from_parts(checkpoint, ByteTokenizer(), Chance(plan), plan, EngineConfig()) as it:
        yield it


def test_a_pydantic_model_comes_back_as_an_instance(llm: LLM) -> None:
    completion = llm.generate("x", schema=Llama, temperature=1.0, seed=5)
    assert isinstance(completion.parsed, Llama) and completion.parsed.colour in ("brown", "white")
    assert (
        llm.generate("x", json_schema=Llama.model_json_schema(), temperature=1.0, seed=5).parsed == completion.parsed.model_dump()
    )
    assert isinstance(llm.generate("x", SamplingParams(json_object=True, temperature=1.0, seed=2)).parsed, dict)


def test_what_is_not_whole_is_not_parsed(llm: LLM) -> None:
    cut = llm.generate("x", schema=Llama, max_tokens=4)
    with pytest.raises(ConstraintError, match="the answer is not whole: it was cut after 4 tokens"):
        _ = cut.parsed
    with pytest.raises(ConstraintError, match="the answer is not whole: the stop text 'name' ended it"):
        _ = llm.generate("x", schema=Llama, stop="name").parsed
    with pytest.raises(ConstraintError, match="json_schema: token 110 must follow, but is suppressed"):
        _ = llm.generate("x", schema=Llama, suppress_ids=[ord("n")]).parsed
    with pytest.raises(UsageError, match="there is nothing to parse"):
        _ = llm.generate("x", max_tokens=3).parsed
    with pytest.raises(UsageError, match="schema and json_schema are two names of one argument"):
        llm.generate("x", schema=Llama, json_schema=Llama)


async def ask(llm: AsyncLLM) -> tuple[Completion, Completion]:
    whole = await llm.generate("x", schema=Llama, temperature=1.0, seed=5)
    stream = llm.stream("x", schema=Llama, temperature=1.0, seed=5)
    _ = [piece async for piece in stream]
    return whole, stream.completion


def test_asyncio_gets_the_same_instance(llm: LLM) -> None:
    whole, streamed = asyncio.run(ask(AsyncLLM.from_llm(llm)))
    assert whole.parsed == streamed.parsed == llm.generate("x", schema=Llama, temperature=1.0, seed=5).parsed


def test_sixteen_threads_share_the_constraints(llm: LLM) -> None:
    def ask(number: int) -> None:
        schema = {"type": "object", "properties": {"n": {"const": number % 5}}, "required": ["n"], "additionalProperties": False}
        completions[number] = llm.generate(f"{number}", schema=schema, temperature=1.0, seed=number)

    completions: dict[int, Completion] = {}
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [completions[number].parsed for number in range(16)] == [{"n": number % 5} for number in range(16)]


# ---- the document, and real weights -----------------------------------------------------------------------------------------


def test_the_document_shows_what_comes_out(default_model: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    case = doctest.DocTestParser().get_doctest("".join(blocks), {}, "constraints.md", str(DOCUMENT), 0)
    told = io.StringIO()
    doctest.DocTestRunner(verbose=False).run(case, out=told.write)
    assert len(case.examples) > 10 and told.getvalue() == ""


def test_the_document_names_every_keyword_that_is_enforced() -> None:
    text = DOCUMENT.read_text("utf-8")
    names = {*FORMATS, *NUMBER_FORMATS, *(SUPPORTED - {"$defs", "definitions", "$schema", "$id", "id", "additionalItems"})}
    assert [name for name in sorted(names) if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)] == []


@pytest.mark.full
def test_the_default_model_obeys_twenty_schemas_and_more(default_model: Path) -> None:
    with LLM(default_model) as llm:
        schemas = [random_schema(random.Random(seed)) for seed in range(2000, 2032)]
        params = [SamplingParams(json_schema=schema, temperature=0.7, seed=n, max_tokens=400) for n, schema in enumerate(schemas)]
        prompts = [f"Write JSON for this schema: {json.dumps(schema)[:600]}\n" for schema in schemas]
        completions = llm.generate(prompts, params)
    whole = [(schema, one) for schema, one in zip(schemas, completions) if one.finish_reason is FinishReason.STOP]
    assert len(whole) >= 20  # the others hold open lists, in which a small model never ends
    assert [found for schema, one in whole if (found := fault(schema, one.text))] == []
