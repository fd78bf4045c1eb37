"""`python -m puna.compat.llama2c` against measured outputs of `run`, and its chat against a step by step twin of that loop."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna import formats
from puna.compat import llama2c
from puna.compat.llama2c import Options, RunSampler, XorShift, draw, draw_top_p, parse, softmax
from puna.compat.session import Session
from puna.convert import convert
from puna.errors import ContextLengthError, NumericalError
from puna.formats.llama2c_tokenizer import read_tokenizer
from puna.llm import LLM
from puna.tokenizers import build_tokenizer
from puna.tokenizers.base import Tokenizer
from tests.models import random_tensors, tiny_config, write_gguf, write_llama2c

EOS = 2
CONFIG = tiny_config(num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, hidden_size=16, ffn_size=24, max_context=64)


class Run:
    """The program in this process: exit code, bytes on stdout, text on stderr."""

    def __init__(self, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capture, self._monkeypatch = capfdbinary, monkeypatch

    def __call__(self, *arguments: str | Path, stdin: bytes = b"") -> tuple[int, bytes, str]:
        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        code = llama2c.main([str(argument) for argument in arguments])
        out, err = self._capture.readouterr()
        return code, out, err.decode()


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run(capfdbinary, monkeypatch)


@pytest.fixture
def stories(shared_data: Path) -> Path:
    return shared_data / "stories260K"


# ---- measured outputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["stories260K.bin", "stories260K_v1.bin"])
@pytest.mark.parametrize(
    ("flags", "md5"),
    [
        (["-t", "0", "-n", "256"], "4dea1f2cb295ed525ebada921cfacc49"),
        (["-t", "1.0", "-p", "0.9", "-s", "133742"], "1ceef376716c94e4de4cd695f3dfafa3"),
    ],
    ids=["greedy", "drawn"],
)
def test_the_output_of_run_byte_for_byte(file: str, flags: list[str], md5: str, stories: Path, run: Run) -> None:
    code, out, err = run(stories / file, *flags, "-z", stories / "tok512.bin")
    assert code == 0 and hashlib.md5(out).hexdigest() == md5
    assert err.startswith("achieved tok/s: ") and float(err.split(": ")[1]) > 0 and err.count("\n") == 1


def test_a_prompt_is_printed_and_counts(stories: Path, run: Run) -> None:
    _, out, _ = run(stories / "stories260K.bin", "-z", stories / "tok512.bin", "-t", "0", "-n", "40", "-i", "One day, Lily met a")
    expected = b"One day, Lily met a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red\n"
    assert out == expected


def test_tokenizer_bin_of_the_current_folder_is_the_default(stories: Path, run: Run) -> None:
    Path("tokenizer.bin").write_bytes((stories / "tok512.bin").read_bytes())
    assert run(stories / "stories260K.bin", "-t", "0", "-n", "6")[1] == b"Once upon a time, there\n"


def test_a_prompt_longer_than_the_steps_is_cut_and_no_number_is_drawn(stories: Path, run: Run) -> None:
    model, tokenizer = stories / "stories260K.bin", stories / "tok512.bin"
    _, out, err = run(model, "-z", tokenizer, "-n", "3", "-i", "One day, Lily met a")
    assert out == b"One day,\n" and "achieved" in err
    assert run(model, "-z", tokenizer, "-n", "1", "-t", "0")[1:] == (b"Once\n", "")  # one step has no speed, as in run


def test_no_steps_are_all_steps_and_so_are_too_many(stories: Path, run: Run) -> None:
    flags: list[str | Path] = [stories / "stories260K.bin", "-z", stories / "tok512.bin", "-t", "0"]
    texts = {run(*flags, "-n", steps)[1] for steps in ("0", "-3", "512", "100000")}
    assert len(texts) == 1


@pytest.mark.parametrize(("to", "shards"), [("gguf", 1), ("meta", 2), ("safetensors", 1)])
def test_the_same_model_in_another_format_has_the_same_output(to: str, shards: int, stories: Path, run: Run) -> None:
    target = Path.cwd() / ("stories.gguf" if to == "gguf" else "stories")
    convert(stories / "stories260K.bin", target, to=to, shards=shards, tokenizer=stories / "tok512.bin")
    _, out, _ = run(target, "-s", "133742")
    assert hashlib.md5(out).hexdigest() == "1ceef376716c94e4de4cd695f3dfafa3"


def test_a_quantised_checkpoint_tells_nearly_the_same_story(stories: Path, run: Run, tmp_path: Path) -> None:
    with LLM.load(stories / "stories260K.bin", tokenizer=stories / "tok512.bin", device="reference") as llm:
        config = llm.model
    assert config.hidden_size == 64
    model = write_llama2c(tmp_path / "v2.bin", config, _tensors(stories / "stories260K.bin"), version=2, group_size=4)
    _, out, _ = run(model, "-z", stories / "tok512.bin", "-t", "0", "-n", "40")
    assert out.startswith(b"Once upon a time, there was a little girl named Lily. She loved to play outside in the park.")


def _tensors(path: Path) -> dict[str, Any]:
    return {name: tensor.dequantize() for name, tensor in formats.open_checkpoint(path).tensors.items()}


# The two of llama2.c's own test, and what was measured with it.
LLAMA2_IDS = {
    "": [1],
    "I believe the meaning of life is": [1, 306, 4658, 278, 6593, 310, 2834, 338],
    "Simply put, the theory of relativity states that ": [
        1,
        3439,
        17632,
        1925,
        29892,
        278,
        6368,
        310,
        14215,
        537,
        5922,
        393,
        29871,
    ],
    "Hello, world!": [1, 15043, 29892, 3186, 29991],
    "  two spaces": [1, 259, 1023, 8162],
    "naïve 🦙 日本語": [1, 1055, 30085, 345, 29871, 243, 162, 169, 156, 29871, 30325, 30346, 30968],
}
STORY_IDS = {
    "One day, Lily met a": [1, 385, 328, 432, 317, 284, 316, 261],
    "hello 🦙": [1, 281, 306, 414, 410, 243, 162, 169, 156],
}


@pytest.mark.parametrize("text", LLAMA2_IDS)
def test_texts_have_the_ids_of_run_with_llama_2s_tokenizer(text: str, shared_data: Path) -> None:
    assert _tokenizer(shared_data / "llama2/tokenizer.bin", 32000).encode(text, bos=True) == LLAMA2_IDS[text]


@pytest.mark.parametrize("text", STORY_IDS)
def test_texts_have_the_ids_of_run_with_the_stories_tokenizer(text: str, stories: Path) -> None:
    assert _tokenizer(stories / "tok512.bin", 512).encode(text, bos=True) == STORY_IDS[text]


def _tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    return build_tokenizer(read_tokenizer(path, vocab_size))


# ---- numbers --------------------------------------------------------------------------------------------------------


def test_random_numbers_are_those_of_run() -> None:
    numbers = XorShift(133742)
    assert [numbers.uint32(), numbers.uint32()] == [3033531262, 2674377904]
    assert XorShift(133742).uniform() == np.float32(0.706299007) and XorShift(1337).uniform() == np.float32(0.230317235)
    again = XorShift(133742)
    for _ in range(24):
        again.uint32()
    assert again.state == 5587477710070986179


@pytest.mark.parametrize("seed", range(40))
def test_draws_are_those_of_a_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    probabilities = softmax(random.normal(0, 3, 60).astype(np.float32))
    coin, top_p = np.float32(random.random()), np.float32(random.choice([0.01, 0.5, 0.9, 0.999]))
    assert draw(probabilities, coin) == _draw_loop(list(enumerate(probabilities)), coin)
    cutoff = (np.float32(1) - top_p) / np.float32(59)
    ranked = sorted(((i, p) for i, p in enumerate(probabilities) if p >= cutoff), key=lambda pair: -pair[1])
    total, kept = np.float32(0), []
    for pair in ranked:
        kept.append(pair)
        total += pair[1]
        if total > top_p:
            break
    assert draw_top_p(probabilities, top_p, coin) == _draw_loop(kept, coin * total)


def _draw_loop(pairs: Sequence[tuple[int, np.float32]], coin: np.float32) -> int:
    total = np.float32(0)
    for index, probability in pairs:
        total += probability
        if coin < total:
            return index
    return pairs[-1][0]


def test_greedy_takes_the_first_of_equals_and_draws_nothing() -> None:
    sampler = RunSampler(0.0, 0.9, 7)
    assert sampler(np.array([1, 3, 3], np.float32)) == 1 and sampler.random.state == 7


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_an_error(temperature: float) -> None:
    with pytest.raises(NumericalError):
        RunSampler(temperature, 0.9, 7)(np.array([1, np.nan], np.float32))


# ---- flags ----------------------------------------------------------------------------------------------------------


def test_defaults_and_limits_are_those_of_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1234.5)
    assert parse(["m"]) == Options("m", 1.0, 0.9, 1234, 256, None, None, "generate", None)
    odd = parse(["m", "-t", "-1", "-p", "1.5", "-s", "-2", "-n", "-7", "-m", "chat", "-i", "a", "-y", "b", "-z", "c"])
    assert odd == Options("m", 0.0, 0.9, 2**64 - 2, 0, "a", "c", "chat", "b")
    assert parse(["m", "-s", "0"]).seed == 1234 and parse(["m", "-s", str(2**32 + 5)]).seed == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "CHECKPOINT is missing"),
        (["m", "-x", "1"], "there is no flag '-x'"),
        (["m", "-t"], "-t needs a value"),
        (["m", "-t", "warm"], "-t is 'warm'; a number is needed"),
        (["m", "-p", "nan"], "-p is 'nan'"),
        (["m", "-n", "1.5"], "-n is '1.5'; a whole number is needed"),
        (["m", "-m", "talk"], "generate or chat"),
        (["m", "-i", "\udcff"], "-i is not UTF-8"),
    ],
)
def test_wrong_usage_is_told_with_the_flags_and_exit_code_1(arguments: list[str], words: str, run: Run) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (1, b"") and words in err and "usage: python -m puna.compat.llama2c" in err
    assert [line for line in err.partition("usage:")[2].splitlines() if len(line) > 80] == []


def test_a_file_that_is_not_there_is_exit_code_1(run: Run, tmp_path: Path) -> None:
    code, out, err = run(tmp_path / "none.bin")
    assert (code, out) == (1, b"") and "none.bin" in err and "Traceback" not in err


def test_a_tokenizer_that_does_not_belong_is_refused_with_both_sizes(stories: Path, shared_data: Path, run: Run) -> None:
    code, _, err = run(stories / "stories260K.bin", "-z", shared_data / "llama2/tokenizer.bin")
    assert code == 1 and "512" in err


# ---- other models, printing, chat -----------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that sometimes ends its answers."""
    tensors = random_tensors(CONFIG, seed=5)
    tensors["lm_head"][EOS] *= 2.5
    return write_llama2c(tmp_path / "model.bin", CONFIG, tensors)


def test_a_gguf_file_works_too_and_prints_all_its_bytes(tmp_path: Path, run: Run) -> None:
    code, out, _ = run(
        write_gguf(tmp_path / "m.gguf", CONFIG, random_tensors(CONFIG, 3)), "-i", "llama 🦙", "-n", "30", "-s", "3"
    )
    assert code == 0 and "llama 🦙".encode() in out


def test_single_bytes_that_cannot_be_printed_are_not_as_in_run(model: Path, run: Run) -> None:
    _, out, _ = run(model, "-i", "a🦙b", "-n", "6", "-t", "0")
    assert out.startswith(b"a") and "🦙".encode() not in out


def test_end_of_text_is_printed_and_goes_on_and_begin_of_text_ends(model: Path, run: Run) -> None:
    outs = [run(model, "-s", str(seed), "-n", "60")[1] for seed in range(1, 6)]
    assert any(b"\n</s>\n" in out for out in outs)


@pytest.mark.parametrize("seed", ["1", "2", "3", "7"])
@pytest.mark.parametrize("system", ["", "Be kind."])
@pytest.mark.parametrize("temperature", ["0", "1.0"])
def test_a_chat_is_that_of_a_step_by_step_twin(model: Path, system: str, seed: str, temperature: str, run: Run) -> None:
    lines = ["hi", "and?", "so", "more", "x", "y", "z"]
    stdin = "\n".join([system, *lines]) + "\n"
    _, out, _ = run(model, "-m", "chat", "-s", seed, "-t", temperature, "-n", "60", stdin=stdin.encode())
    twin = _chat_twin(model, system, lines, parse([str(model), "-s", seed, "-t", temperature, "-n", "60"]))
    assert out == twin


def _chat_twin(path: Path, system: str, lines: list[str], options: Options) -> bytes:
    """The loop of `run`: one token in, one number drawn, whatever the token."""
    out = io.BytesIO()
    out.write(b"Enter system prompt (optional): ")
    asked = iter(lines)
    with LLM.load(path, kv_type="f32", max_batch=1, prefix_cache=False) as llm:
        assert llm.tokenizer is not None
        session, sample = Session(llm), RunSampler(options.temperature, options.top_p, options.seed)
        printer = llama2c.Printer(llm.tokenizer, out, is_own=True)
        is_user, ids, used, following = True, [0], 0, 0
        for position in range(options.num_steps):
            if is_user:
                out.write(b"User: ")
                text = next(asked)
                if position == 0 and system:
                    text = f"<<SYS>>\n{system}\n<</SYS>>\n\n{text}"
                ids, used, is_user = llm.tokenizer.encode(f"[INST] {text} [/INST]", bos=True), 0, False
                out.write(b"Assistant: ")
            token_id = ids[used] if used < len(ids) else following
            used += 1
            is_user = token_id == EOS
            following = sample(session.feed([token_id])[-1])
            if used >= len(ids) and following != EOS:
                printer.token(token_id, following)
            if following == EOS:
                out.write(b"\n")
    out.write(b"\n")
    return out.getvalue()


def test_the_end_of_input_ends_a_chat(model: Path, run: Run) -> None:
    assert run(model, "-m", "chat") == (0, b"Enter system prompt (optional): \n", "")
    code, out, _ = run(model, "-m", "chat", "-y", "")
    assert (code, out) == (0, b"User: \n")


def test_a_tape_gives_the_same_logits_in_any_pieces_and_has_an_end(model: Path) -> None:
    ids = [1, *range(260, 280)]
    rows: list[Any] = []
    for sizes in ((21,), (1, 20), (5, 16)):
        with LLM.load(model, kv_type="f32", max_batch=1, prefix_cache=False) as llm:
            session, start = Session(llm), 0
            for size in sizes:
                last = session.feed(ids[start : start + size])
                start += size
            rows.append(last)
            with pytest.raises(ContextLengthError):
                session.feed([1] * 64)
    assert all(np.allclose(rows[0], row, rtol=1e-5, atol=1e-6) for row in rows)
