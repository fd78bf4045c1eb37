"""Meta's class against a slow, obvious twin of its loop, over the reference backend; and against token ids that were measured."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from puna.backends.reference import ReferenceBackend
from puna.batch import Batch
from puna.compat import meta
from puna.compat.dialogs import SPECIAL_TAGS, llama2_ids, llama3_ids
from puna.compat.meta import Llama
from puna.config import EngineConfig
from puna.convert import convert
from puna.errors import ModelNotFoundError, UsageError
from puna.formats import open_checkpoint
from puna.llm import Stream
from puna.request import SamplingParams
from puna.tokenizers import build_tokenizer
from tests.fakes import chunk_of, make_plan
from tests.models import TinyTokenizer, bpe_tokenizer, random_tensors, spm_tokenizer, tiny_config, write_gguf, write_llama2c

EOS, PAD = 2, -1
SEQ, BATCH = 24, 4
CONFIG = tiny_config(num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, hidden_size=16, ffn_size=24, max_context=64)
Logits = npt.NDArray[np.float32]
LogitsOf = Callable[[tuple[int, ...]], Logits]  # ids -> what comes after the last of them


# ---- the twin -------------------------------------------------------------------------------------------------------


@dataclass
class Twin:
    """Meta's generate, step by step and row by row, as section 3 of the facts about it says. Nothing is fast or clever."""

    logits_of: LogitsOf
    bits: np.random.PCG64 = field(default_factory=lambda: np.random.PCG64(1))

    def generate(
        self, prompts: list[list[int]], max_gen_len: int, temperature: float, top_p: float, logprobs: bool, echo: bool
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        shortest, longest = min(map(len, prompts)), max(map(len, prompts))
        total = min(SEQ, max_gen_len + longest)
        tokens = [ids + [PAD] * (total - len(ids)) for ids in prompts]
        given = [[token_id != PAD for token_id in row] for row in tokens]
        scores = [[0.0] * total for _ in prompts]
        if shortest == total:
            scores = [[logprob(self.logits_of(tuple(row[: i + 1])), row[i]) for i in range(total)] for row in tokens]
        ended = [False] * len(prompts)
        before = 0
        for now in range(shortest, total):
            for r, row in enumerate(tokens):
                token_id = self.sample(self.logits_of(tuple(row[:now])), temperature, top_p)
                row[now] = row[now] if given[r][now] else token_id
                for i in range(before + 1, now + 1):
                    scores[r][i] = logprob(self.logits_of(tuple(row[:i])), row[i])
                ended[r] = ended[r] or (not given[r][now] and row[now] == EOS)
            before = now
            if all(ended):
                break
        rows, values = [], []
        for ids, row, score in zip(prompts, tokens, scores, strict=True):
            part = slice(0 if echo else len(ids), len(ids) + max_gen_len)
            kept, known = row[part], score[part]
            end = kept.index(EOS) if EOS in kept else len(kept)
            rows.append(kept[:end])
            values.append(known[:end])
        return rows, values if logprobs else None

    def sample(self, logits: Logits, temperature: float, top_p: float) -> int:
        if temperature <= 0:
            return int(np.argmax(logits))
        masses = np.exp((logits - logits.max()) / np.float32(temperature))
        probabilities = masses / masses.sum()
        ranked = sorted(range(len(logits)), key=lambda i: (-probabilities[i], i))
        kept, total = [], np.float32(0)
        for i in ranked:
            if total > top_p:
                break
            kept.append(i)
            total += probabilities[i]
        coin = (int(self.bits.random_raw()) >> 11) * 2.0**-53 * sum(float(probabilities[i]) for i in kept)
        for i in kept:
            coin -= float(probabilities[i])
            if coin < 0:
                return i
        return kept[-1]


def logprob(logits: Logits, token_id: int) -> float:
    exact = logits.astype(np.float64)
    return float(exact[token_id] - exact.max() - math.log(np.exp(exact - exact.max()).sum()))


# ---- the model ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that sometimes ends its texts."""
    path = tmp_path_factory.mktemp("model")
    tensors = random_tensors(CONFIG, seed=5)
    tensors["lm_head"][EOS] *= 2.5
    write_llama2c(path / "model.bin", CONFIG, tensors)
    return path


@pytest.fixture(scope="module")
def logits_of(folder: Path) -> LogitsOf:
    """Recompute every prefix in one pass."""
    plan = make_plan(max_tokens=64, max_context=64)
    backend = ReferenceBackend(EngineConfig(device="reference"))
    backend.load(open_checkpoint(folder), plan)

    @lru_cache(None)
    def logits(ids: tuple[int, ...]) -> Logits:
        assert PAD not in ids
        batch = Batch.of([chunk_of(ids, 0, range(4), num_logits=1, prompt_length=len(ids))])
        row: Logits = backend.step(batch).logits()[0]
        return row

    return logits


def build(folder: Path, **changes: Any) -> Llama:
    settings: dict[str, Any] = {"max_seq_len": SEQ, "max_batch_size": BATCH, "device": "reference"} | changes
    return Llama.build(str(folder), str(folder / "tokenizer.bin"), **settings)


@pytest.fixture(scope="module")
def mended(folder: Path) -> Iterator[Llama]:
    llama = build(folder)
    yield llama
    llama.close()


@pytest.fixture
def strict(folder: Path) -> Iterator[Llama]:
    llama = build(folder, strict_compat=True)
    yield llama
    llama.close()


# ---- generate -------------------------------------------------------------------------------------------------------

ONE = [[1, 270, 280]]
RAGGED = [[1, 270], [1, 280, 281, 282, 283, 284, 285], [1], [1, 290, 261, 262]]
WITH_EOS = [[1, 270, EOS, 1, 280], [1, 275, 276]]
FULL = [[1, *range(260, 259 + SEQ)]]
NEARLY_FULL = [[1, *range(260, 257 + SEQ)], [1, 263]]
SAME_LENGTH = [[1, 270, 271], [1, 280, 281], [1, 290, 291]]

GREEDY: dict[str, tuple[list[list[int]], dict[str, Any]]] = {
    "one prompt": (ONE, {}),
    "one token": ([[1]], {}),
    "ragged": (RAGGED, {}),
    "ragged, short answers": (RAGGED, {"max_gen_len": 2}),
    "ragged, up to max_seq_len": (RAGGED, {"max_gen_len": 100}),
    "same lengths": (SAME_LENGTH, {}),
    "the same prompt twice": (ONE * 2, {}),
    "a full batch": (SAME_LENGTH + ONE, {}),
    "echo": (ONE, {"echo": True}),
    "echo, ragged": (RAGGED, {"echo": True}),
    "echo, one token": ([[1]], {"echo": True}),
    "logprobs": (ONE, {"logprobs": True}),
    "logprobs, one token": ([[1]], {"logprobs": True}),
    "logprobs, ragged": (RAGGED, {"logprobs": True}),
    "logprobs and echo": (ONE, {"logprobs": True, "echo": True}),
    "logprobs and echo, ragged": (RAGGED, {"logprobs": True, "echo": True}),
    "logprobs and echo, up to max_seq_len": (RAGGED, {"logprobs": True, "echo": True, "max_gen_len": 100}),
    "eos in the prompt": (WITH_EOS, {}),
    "eos in the prompt, echo": (WITH_EOS, {"echo": True}),
    "eos in the prompt, echo and logprobs": (WITH_EOS, {"echo": True, "logprobs": True}),
    "eos ends the prompt": ([[1, 270, EOS]], {"echo": True}),
    "a prompt of max_seq_len": (FULL, {}),
    "a prompt of max_seq_len, echo": (FULL, {"echo": True}),
    "a prompt of max_seq_len beside a short one": (FULL + ONE, {}),
    "a prompt of max_seq_len beside a short one, echo and logprobs": (FULL + ONE, {"echo": True, "logprobs": True}),
    "a prompt near max_seq_len": (NEARLY_FULL, {"max_gen_len": 10}),
    "a prompt near max_seq_len, echo and logprobs": (NEARLY_FULL, {"max_gen_len": 10, "echo": True, "logprobs": True}),
    "nothing to generate": (RAGGED, {"max_gen_len": 0}),
    "nothing to generate, echo": (RAGGED, {"max_gen_len": 0, "echo": True}),
    "nothing to generate, echo and logprobs, ragged": (RAGGED, {"max_gen_len": 0, "echo": True, "logprobs": True}),
    "a negative temperature": (ONE, {"temperature": -1.0}),
    "one new token": (RAGGED, {"max_gen_len": 1, "logprobs": True}),
}

SAMPLED: dict[str, tuple[list[list[int]], dict[str, Any]]] = {
    "defaults": (RAGGED, {}),
    "temperature 1": (RAGGED, {"temperature": 1.0, "logprobs": True}),
    "hot": (RAGGED, {"temperature": 3.0}),
    "top_p 0 is greedy": (RAGGED, {"temperature": 1.0, "top_p": 0.0}),
    "top_p 1 is everything": (RAGGED, {"temperature": 1.0, "top_p": 1.0}),
    "top_p above 1": (ONE, {"temperature": 1.0, "top_p": 1.5}),
    "top_p small": (SAME_LENGTH, {"temperature": 2.0, "top_p": 0.1}),
    "eos in the prompt": (WITH_EOS, {"temperature": 1.0, "echo": True}),
    "short answers, which run on unseen": (RAGGED, {"temperature": 1.0, "max_gen_len": 3}),
    "up to max_seq_len": (NEARLY_FULL, {"temperature": 1.0, "max_gen_len": 100, "echo": True, "logprobs": True}),
}


def arguments(changes: dict[str, Any], temperature: float) -> dict[str, Any]:
    return {"max_gen_len": 8, "temperature": temperature, "top_p": 0.9, "logprobs": False, "echo": False} | changes


def same(ours: Any, theirs: Any) -> bool:
    """The same shapes and ids, log-probabilities to 1e-6."""
    (ids, scores), (true_ids, true_scores) = ours, theirs
    if ids != true_ids or (scores is None) != (true_scores is None):
        return False
    return scores is None or all(a == pytest.approx(b, abs=1e-6) for a, b in zip(scores, true_scores, strict=True))


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_answers_are_those_of_the_original(name: str, mended: Llama, strict: Llama, logits_of: LogitsOf) -> None:
    prompts, changes = GREEDY[name]
    expected = Twin(logits_of).generate(prompts, **arguments(changes, 0.0))
    assert same(strict.generate(prompts, **arguments(changes, 0.0)), expected)
    assert same(mended.generate(prompts, **arguments(changes, 0.0)), expected)


@pytest.mark.parametrize("name", SAMPLED)
def test_strict_answers_draw_from_one_stream_for_the_whole_batch(name: str, strict: Llama, logits_of: LogitsOf) -> None:
    prompts, changes = SAMPLED[name]
    twin = Twin(logits_of)
    for _ in range(2):  # the second call goes on where the first one left the stream
        expected = twin.generate(prompts, **arguments(changes, 0.6))
        assert same(strict.generate(prompts, **arguments(changes, 0.6)), expected)


def test_the_table_has_answers_that_end_and_answers_that_are_cut(mended: Llama) -> None:
    reasons = [
        r for prompts, changes in GREEDY.values() for r in mended.generate(prompts, **arguments(changes, 0.0)).finish_reasons
    ]
    assert {"stop", "length"} == set(reasons)


@pytest.mark.parametrize("prompts", [FULL, SAME_LENGTH])
def test_log_probabilities_of_a_prompt_without_an_answer_are_shifted_unless_strict(
    prompts: list[list[int]], mended: Llama, strict: Llama, logits_of: LogitsOf
) -> None:
    asked = arguments({"max_gen_len": 0, "echo": True, "logprobs": True}, 0.0)
    assert same(strict.generate(prompts, **asked), Twin(logits_of).generate(prompts, **asked))
    right = [[0.0, *(logprob(logits_of(tuple(ids[:i])), ids[i]) for i in range(1, len(ids)))] for ids in prompts]
    assert same(mended.generate(prompts, **asked), (prompts, right))


def test_what_is_drawn_for_a_prompt_does_not_depend_on_those_beside_it(folder: Path) -> None:
    def first_of(prompts: list[list[int]]) -> list[list[int]]:
        llama = build(folder)
        made = [llama.generate(prompts, 10, temperature=1.5)[0][0], llama.generate(ONE, 10, temperature=1.5)[0][0]]
        llama.close()
        return made

    alone, beside = first_of([RAGGED[0]]), first_of([RAGGED[0], *FULL])
    assert alone[0] == beside[0]


def test_two_calls_differ_and_two_processes_agree_unless_the_seed_differs(folder: Path) -> None:
    def calls(seed: int) -> list[list[list[int]]]:
        llama = build(folder, seed=seed)
        made = [llama.generate([[1, 270]] * 2, 12, temperature=2.0, top_p=1.0)[0] for _ in range(2)]
        llama.close()
        return made

    (first, second), again, other = calls(1), calls(1), calls(-7)
    assert [first, second] == again and first != second and first[0] != first[1] and other != again


def test_a_cut_answer_says_so(mended: Llama) -> None:
    assert mended.generate(FULL, 8, temperature=0).finish_reasons == ["length"]
    tokens, logprobs = mended.generate([], 8)
    assert tokens == [] and logprobs is None


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_what_the_original_asserts_is_an_assertion_error_that_says_what_to_do(mended: Llama, strict: Llama) -> None:
    for llama in (mended, strict):
        with pytest.raises(AssertionError, match="there are 5 prompts; max_batch_size is 4"):
            llama.generate([[1]] * 5, 4)
        with pytest.raises(AssertionError, match="prompt 1 has 25 tokens; max_seq_len is 24") as caught:
            llama.generate([[1], [1] * 25], 4)
        assert isinstance(caught.value, UsageError) and "max_seq_len" in caught.value.hint
        with pytest.raises(AssertionError, match="of type bytes"):
            llama.text_completion([b"x"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"prompt_tokens": [[1, 300]]}, "300 is not in the vocabulary"),
        ({"prompt_tokens": [[1, -1]]}, "-1 is not in the vocabulary"),
        ({"prompt_tokens": [[]]}, "no tokens"),
        ({"prompt_tokens": [["a"]]}, "whole numbers"),
        ({"top_p": -0.5}, "top_p"),
        ({"temperature": math.nan}, "temperature"),
        ({"max_gen_len": -1}, "max_gen_len is -1"),
        ({"max_gen_len": None}, "max_gen_len is None"),
        ({"max_gen_len": "3"}, "max_gen_len is '3'"),
        ({"temperature": None}, "temperature is None"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_p": "much"}, "top_p is 'much'"),
        ({"prompt_tokens": None}, "prompt_tokens is None"),
        ({"prompt_tokens": [1, 2]}, "prompt 0 is 1; a list of token ids is needed"),
        ({"prompt_tokens": [{1, 2}]}, "prompt 0 is {1, 2}; a list of token ids is needed"),
    ],
    ids=str,
)
def test_other_arguments_that_cannot_be_are_refused_in_words(call: dict[str, Any], words: str, mended: Llama) -> None:
    given: dict[str, Any] = {"prompt_tokens": ONE, "max_gen_len": 4} | call
    with pytest.raises(UsageError, match=words):
        mended.generate(**given)


def test_a_folder_without_a_checkpoint_is_an_assertion_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=f"no checkpoint files found in {tmp_path}") as caught:
        Llama.build(tmp_path, None, 16, 1)
    assert isinstance(caught.value, ModelNotFoundError)


def test_the_parallel_size_is_that_of_the_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="Loading a checkpoint for MP=2 but world size is 1") as caught:
        build(folder, model_parallel_size=2)
    assert "any number of shards" in caught.value.hint  # type: ignore[attr-defined]
    build(folder, model_parallel_size=1).close()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AssertionError, match="Loading a checkpoint for MP=1 but world size is 2"):
        build(folder, model_parallel_size=1)
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UsageError, match="WORLD_SIZE is 'two'"):
        build(folder)


@pytest.mark.parametrize(
    ("to", "shards", "tokenizer"),
    [("meta", 1, "tokenizer.model"), ("meta", 2, None), ("safetensors", 1, None), ("gguf", 1, None)],
)
def test_a_checkpoint_of_any_format_gives_the_same_answers(
    to: str, shards: int, tokenizer: str | None, folder: Path, mended: Llama, tmp_path: Path
) -> None:
    target = tmp_path / ("model.gguf" if to == "gguf" else "model")
    convert(folder / "model.bin", target, to=to, shards=shards, tokenizer=folder / "tokenizer.bin")
    llama = Llama.build(target, tokenizer and target / tokenizer, SEQ, BATCH, device="reference")
    assert llama.generate(RAGGED, 6, 0.0) == mended.generate(RAGGED, 6, 0.0)
    assert llama.text_completion(["The llama"], 0.0, max_gen_len=5) == mended.text_completion(["The llama"], 0.0, max_gen_len=5)
    llama.close()


def test_loading_is_told_in_one_line_on_stdout_and_the_sizes_have_their_names(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llama = build(folder)
    out = capsys.readouterr().out
    assert out.startswith("Loaded in ") and out.endswith(" seconds\n") and out.count("\n") == 1
    params = llama.model.params
    assert (params.dim, params.n_layers, params.vocab_size, params.max_seq_len, params.max_batch_size) == (16, 1, 300, SEQ, BATCH)
    llama.close()


def test_strict_needs_a_model_without_a_prefix_cache(mended: Llama) -> None:
    with pytest.raises(UsageError, match="prefix_cache=False"):
        Llama(mended.llm, 4, strict_compat=True)


# ---- texts ----------------------------------------------------------------------------------------------------------

TEXTS = ["the day", "lily", "", "</s> is text"]


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("max_gen_len", [None, 0, 3])
def test_texts_are_completed_as_their_ids_are(echo: bool, max_gen_len: int | None, mended: Llama, strict: Llama) -> None:
    ids = [mended.tokenizer.encode(text, bos=True, eos=False) for text in TEXTS]
    tokens, logprobs = strict.generate(ids, SEQ - 1 if max_gen_len is None else max_gen_len, 0, 0.9, True, echo)
    assert logprobs is not None
    for llama in (mended, strict):
        done = llama.text_completion(TEXTS, 0, 0.9, max_gen_len, logprobs=True, echo=echo)
        assert [p["generation"] for p in done] == [llama.tokenizer.decode(row) for row in tokens]
        assert [p["tokens"] for p in done] == [[llama.tokenizer.decode([i]) for i in row] for row in tokens]
        assert [p["logprobs"] for p in done] == [pytest.approx(row, abs=1e-6) for row in logprobs]


def test_a_prediction_has_the_keys_of_the_original_and_what_was_lost_in_more_of_them(mended: Llama, strict: Llama) -> None:
    assert [set(p) for p in strict.text_completion(["a"], 0)] == [{"generation"}]
    assert [set(p) for p in strict.text_completion(["a"], 0, logprobs=True)] == [{"generation", "tokens", "logprobs"}]
    assert [set(p) for p in mended.text_completion(["a"], 0)] == [{"generation", "finish_reason"}]
    (told,) = mended.text_completion(["the day"], 0, max_gen_len=6, logprobs=True, echo=True)
    assert set(told) == {"generation", "tokens", "logprobs", "finish_reason", "pieces", "text_offset"}
    whole = "".join(told["pieces"])
    assert whole.removeprefix(" ") == told["generation"]
    assert [whole[a:b] for a, b in zip(told["text_offset"], [*told["text_offset"][1:], None])] == told["pieces"]


def test_nothing_made_has_no_pieces(mended: Llama) -> None:
    (told,) = mended.text_completion(["the day"], 0, max_gen_len=0, logprobs=True)
    assert (told["generation"], told["tokens"], told["pieces"], told["text_offset"]) == ("", [], [], [])


# ---- dialogs --------------------------------------------------------------------------------------------------------


def say(*contents: str, system: str | None = None) -> list[meta.Message]:
    """A dialog, the user first."""
    turns: list[meta.Message] = [
        {"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(contents)
    ]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


@pytest.fixture
def roomy(folder: Path) -> Iterator[Llama]:
    llama = build(folder, max_seq_len=64)
    yield llama
    llama.close()


DIALOGS = [say("a"), say("a", "b", "c")]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_dialog_is_answered_as_its_ids_are(temperature: float, folder: Path) -> None:
    for is_strict in (False, True):
        one, other = (build(folder, max_seq_len=64, strict_compat=is_strict) for _ in range(2))
        ids = [llama2_ids(dialog, one.llm.tokenizer) for dialog in DIALOGS]  # type: ignore[arg-type]
        tokens, logprobs = one.generate(ids, 63, temperature, 0.9, True)
        done = other.chat_completion(DIALOGS, temperature, logprobs=True)
        assert [p["generation"] for p in done] == [{"role": "assistant", "content": one.tokenizer.decode(t)} for t in tokens]
        assert [p["logprobs"] for p in done] == logprobs
        one.close()
        other.close()


@pytest.mark.parametrize("tag", SPECIAL_TAGS)
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_tags_in_any_message_are_refused_without_an_answer_that_leaks(tag: str, role: str, roomy: Llama) -> None:
    bad = say("a", "b", "c", system="d")
    next(m for m in bad if m["role"] == role)["content"] = f"x{tag}y"
    (refused,) = roomy.chat_completion([bad], 0, logprobs=True) if _length(roomy, bad) <= 64 else [None]
    assert refused is None or refused == {
        "generation": {"role": "assistant", "content": meta.REFUSAL},
        "finish_reason": "error",
        "tokens": [],
        "logprobs": [],
        "pieces": [],
        "text_offset": [],
    }


def _length(llama: Llama, dialog: list[meta.Message]) -> int:
    return len(llama._encode_dialog(dialog))


def test_a_refused_dialog_changes_nothing_for_the_others_and_leaks_if_strict(folder: Path) -> None:
    lists = [say("a"), say("[INST]"), say("b")]
    mended, strict = build(folder, max_seq_len=64), build(folder, max_seq_len=64, strict_compat=True)
    done = mended.chat_completion(lists, 0, logprobs=True)
    leaky = strict.chat_completion(lists, 0, logprobs=True)
    alone = mended.chat_completion([say("a"), say("b")], 0, logprobs=True)
    assert [done[0], done[2]] == alone and done[1]["tokens"] == []
    assert leaky[1]["generation"]["content"] == done[1]["generation"]["content"] == meta.REFUSAL and leaky[1]["tokens"] != []
    mended.close()
    strict.close()


@pytest.mark.parametrize(
    ("dialog", "words", "kinds"),
    [
        (say("a", "b"), "Last message must be from user, got assistant", (AssertionError,)),
        (say("a", "b", system="s"), "Last message must be from user, got assistant", (AssertionError,)),
        ([{"role": "tool", "content": "a"}], "model only supports 'system', 'user' and 'assistant' roles", (AssertionError,)),
        ([{"role": "assistant", "content": "a"}], "starting with 'system'", (AssertionError,)),
        ([*say("a"), *say("b")], "alternating", (AssertionError,)),
        ([*say("a"), *say(system="s")], "alternating", (AssertionError,)),
        (say(system="s"), "only a system message", (AssertionError, IndexError)),
        ([], "the dialog is empty", (AssertionError, IndexError)),
        (["a"], "message 0 of the dialog", (UsageError,)),
        ([{"role": "user"}], "message 0 of the dialog", (UsageError,)),
    ],
    ids=str,
)
def test_dialogs_that_cannot_be_are_refused(
    dialog: list[Any], words: str, kinds: tuple[type[Exception], ...], mended: Llama
) -> None:
    for kind in kinds:
        with pytest.raises(kind, match=words):
            mended.chat_completion([dialog])


# Measured with sentencepiece on Llama 2's own tokenizer, and published with the model.
LLAMA2_GOLDEN = {
    "one question": (
        say("what is the recipe of mayonnaise?"),
        [1, 518, 25580, 29962, 825, 338, 278, 9522, 412, 310, 1122, 11586, 895, 29973, 518, 29914, 25580, 29962],
    ),
    "two questions": (
        say("hi", "hello", "bye"),
        [
            *[1, 518, 25580, 29962, 7251, 518, 29914, 25580, 29962, 22172, 29871, 2],
            *[1, 518, 25580, 29962, 491, 29872, 518, 29914, 25580, 29962],
        ],
    ),
}


@pytest.fixture(scope="module")
def llama2(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """A tiny model with Llama 2's real vocabulary."""
    folder = tmp_path_factory.mktemp("llama2")
    config = dataclasses.replace(CONFIG, vocab_size=32000)
    write_llama2c(folder / "model.bin", config, random_tensors(config, seed=6))
    (folder / "tokenizer.bin").write_bytes((shared_data / "llama2" / "tokenizer.bin").read_bytes())
    llama = build(folder, max_seq_len=64)
    yield llama
    llama.close()


@pytest.mark.parametrize("name", LLAMA2_GOLDEN)
def test_dialogs_have_the_measured_ids_of_llama_2(name: str, llama2: Llama) -> None:
    dialog, expected = LLAMA2_GOLDEN[name]
    assert llama2._encode_dialog(dialog) == expected
    spaced = [{"role": m["role"], "content": f" {m['content']}\n"} for m in dialog]
    assert llama2._encode_dialog(spaced) == expected  # type: ignore[arg-type]


def test_a_system_message_stands_within_the_first_question(llama2: Llama) -> None:
    ids = llama2._encode_dialog(say("hi", system="be brief"))
    assert llama2.tokenizer.decode(ids) == "[INST] <<SYS>>\nbe brief\n<</SYS>>\n\nhi [/INST]"
    assert ids[0] == 1 and ids.count(1) == 1


def test_llama_2s_control_tokens_are_text_in_a_text_and_a_decoded_token_has_lost_its_space(llama2: Llama) -> None:
    tokenizer = llama2.tokenizer
    assert tokenizer.encode("</s>", bos=False, eos=False) == [1533, 29879, 29958]
    assert tokenizer.encode("hi", True, True) == [1, 7251, 2]
    assert (tokenizer.n_words, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (32000, 1, 2, -1)
    ids = tokenizer.encode("to be happy.", bos=False, eos=False)
    assert tokenizer.decode(ids) == "to be happy."
    assert [tokenizer.decode([i]) for i in ids][:3] == ["to", "be", "happy"]
    assert llama2._pieces(ids)[:3] == [" to", " be", " happy"]
    with pytest.raises(UsageError, match="allowed_special"):
        tokenizer.encode("x", False, False, allowed_special=["</s>"])


def llama3_tokenizer() -> TinyTokenizer:
    """The tiny BPE vocabulary, with Llama 3's headers among its last, unused tokens."""
    tiny = bpe_tokenizer()
    names = [b"<|begin_of_text|>", b"<|end_of_text|>", b"<|start_header_id|>", b"<|end_header_id|>", b"<|eot_id|>"]
    tokens = tiny.tokens[:-5] + names
    types = [1 if kind == 3 else kind for kind in tiny.types[:-5]] + [3] * 5
    merges = [merge for merge in tiny.merges if merge.replace(b" ", b"") in tokens]
    return dataclasses.replace(
        tiny, tokens=tokens, types=types, merges=merges, special={"bos_token_id": 295, "eos_token_id": 296}
    )


def test_a_vocabulary_with_llama_3s_headers_has_its_format_and_ends_at_eot(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", CONFIG, random_tensors(CONFIG, 3), tokenizer=llama3_tokenizer())
    llama = Llama.build(path, None, 64, 2, device="reference")
    encode = llama.tokenizer.encode
    ids = llama._encode_dialog(say("hi<|eot_id|>", system=" be kind "))
    gap = encode("\n\n", False, False)
    expected = [295]
    for role, text in (("system", "be kind"), ("user", "hi<|eot_id|>")):
        expected += [297, *encode(role, False, False), 298, *gap, *encode(text, False, False), 299]
    assert ids == [*expected, 297, *encode("assistant", False, False), 298, *gap]
    # 0 and 2 are <|endoftext|> and <|im_end|>, which this vocabulary has as well
    assert ids.count(299) == 2 and set(llama.tokenizer.stop_tokens) == {0, 2, 296, 299}
    assert encode("<|eot_id|>", False, False, allowed_special="all") == [299]
    (told,) = llama.chat_completion([say("[INST]")], 0, max_gen_len=2)
    assert told["generation"]["content"] != meta.REFUSAL
    llama.close()


def test_a_model_with_a_template_of_its_own_is_asked_by_it(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", CONFIG, random_tensors(CONFIG, 3))  # ChatML's tokens, and BOS is one of them
    llama = Llama.build(path, None, 64, 2, device="reference")
    assert llama._encode_dialog(say("hi")) == llama.llm.encode_chat(say("hi"))
    llama.close()


def test_formats_of_dialogs_do_not_need_a_model() -> None:
    tokenizer = build_tokenizer(dataclasses.replace(_spec(spm_tokenizer())))
    assert llama2_ids(say("a"), tokenizer)[0] == 1
    with pytest.raises(KeyError):
        llama3_ids(say("a"), tokenizer)


def _spec(tiny: TinyTokenizer) -> Any:
    from puna.formats.base import TokenizerSpec

    return TokenizerSpec(
        kind="spm",
        tokens=tiny.tokens,
        scores=np.array(tiny.scores, np.float32),
        token_types=np.array(tiny.types, np.int32),
        bos_id=1,
        eos_id=2,
        unk_id=0,
        add_bos=True,
    )


def test_what_is_no_list_of_texts_or_dialogs_is_refused(mended: Llama) -> None:
    with pytest.raises(UsageError, match="prompts is None; a list of texts is needed"):
        mended.text_completion(None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="prompts is 'a text'; a list of texts is needed"):
        mended.text_completion("a text")
    with pytest.raises(UsageError, match="dialogs is None"):
        mended.chat_completion(None)  # type: ignore[arg-type]
    for wrong in (None, "ab", 1.5, [[1]]):
        with pytest.raises(UsageError, match="the tokens"):
            mended.tokenizer.decode(wrong)  # type: ignore[arg-type]


def test_a_seed_that_is_no_number_is_refused_before_the_model_is_loaded(folder: Path) -> None:
    with pytest.raises(UsageError, match="seed is 'x'"):
        build(folder, seed="x")


def test_a_missing_tokenizer_is_not_a_missing_checkpoint(folder: Path) -> None:
    with pytest.raises(AssertionError, match="there is no tokenizer nosuch"):
        Llama.build(str(folder), "nosuch", max_seq_len=32, max_batch_size=2)


def test_limits_are_named_as_the_caller_names_them(folder: Path) -> None:
    with pytest.raises(UsageError, match="max_seq_len is 99999") as caught:
        build(folder, max_seq_len=99999)
    assert "max_context" not in caught.value.line and "max-context" not in caught.value.line


@pytest.mark.parametrize("is_strict", [False, True])
def test_no_prompts_give_no_answers(is_strict: bool, folder: Path) -> None:
    llama = build(folder, strict_compat=is_strict)
    assert tuple(llama.generate([], 4)) == ([], None) and llama.text_completion([]) == [] and llama.chat_completion([]) == []
    llama.close()


def test_a_refused_prompt_leaves_no_other_running(folder: Path) -> None:
    llama = build(folder, strict_compat=True)
    with pytest.raises(UsageError, match="9999 is not in the vocabulary"):
        llama.generate([[1, 5], [1, 6], [1, 9999]], 4, temperature=0)
    assert not llama.llm.engine.has_work
    llama.close()


# ---- beside other streams of the model ------------------------------------------------------------------------------

FORMS: dict[str, Callable[[Llama], Any]] = {
    "generate": lambda llama: llama.generate(RAGGED, 8, 0.0, logprobs=True, echo=True),
    "generate, drawn": lambda llama: llama.generate(RAGGED, 8, 1.0),
    "generate, of a full prompt": lambda llama: llama.generate([[1, *range(200, 263)]], 8, 0.0, logprobs=True, echo=True),
    "text_completion": lambda llama: llama.text_completion(["the day", "lily"], 1.0, max_gen_len=12, logprobs=True),
    "chat_completion": lambda llama: llama.chat_completion(DIALOGS, 1.0, max_gen_len=12, logprobs=True),
}


@pytest.mark.parametrize("is_strict", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_stream_of_the_same_model_loses_nothing(form: str, is_strict: bool, folder: Path) -> None:
    """One that is read before the call and after it, and one that another thread reads meanwhile."""
    alone, beside = (build(folder, max_seq_len=64, strict_compat=is_strict) for _ in range(2))
    params = SamplingParams(max_tokens=40, ignore_eos=True)
    expected, whole = FORMS[form](alone), alone.llm.generate([1, 270, 280], params).token_ids

    def read(stream: Stream) -> tuple[int, ...]:
        return tuple(token_id for piece in stream for token_id in piece.token_ids)

    found: list[tuple[int, ...]] = []
    stream, other = beside.llm.stream([[1, 270, 280]] * 2, params)
    first = next(stream).token_ids + next(stream).token_ids
    thread = threading.Thread(target=lambda: found.append(read(other)))
    thread.start()
    assert FORMS[form](beside) == expected
    assert first + read(stream) == whole
    thread.join()
    assert found == [whole]
    alone.close()
    beside.close()
