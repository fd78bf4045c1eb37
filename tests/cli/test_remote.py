"""--server: `run` and `chat` say the same with a model that a running server has, and name what it cannot do."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("puna.server", reason="the server is not installed")

from puna.cli.remote import NOT_SENT, RemoteLLM
from puna.cli.server_link import ServerLink
from puna.config import EngineConfig
from puna.errors import PunaError, UsageError
from puna.llm import LLM
from puna.request import SamplingParams
from puna.server.models import ServedModel
from puna.server.wires.openai_chat import ChatCompletionFields
from puna.server.wires.openai_completions import TextCompletionFields
from tests.cli.conftest import Puna
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf
from tests.server.serving import SETTINGS, RunningServer, serving

KEY = "sk-llama"
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = replace(tiny_config(), max_context=256)
    path = tmp_path_factory.mktemp("remote") / "tiny.gguf"
    return write_gguf(path, config, random_tensors(config, seed=1), tokenizer=bpe_tokenizer(), chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def running(model: Path) -> Iterator[RunningServer]:
    llm = LLM(model, EngineConfig(device="reference"))
    with serving(ServedModel("tiny", None, llm), settings=replace(SETTINGS, api_keys=(KEY,))) as server:
        yield server


@pytest.fixture
def remote(running: RunningServer) -> tuple[str, ...]:
    return "--server", f"http://127.0.0.1:{running.port}", "--api-key", KEY


@pytest.fixture
def local(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))
    return "--device", "reference"


CASES: dict[str, list[str]] = {
    "plain": ["hello"],
    "sampled": ["hello", "--temperature", "0.9", "--top-k", "40", "--top-p", "0.9", "--seed", "7"],
    "filters": [
        "hello",
        "--temperature",
        "1.2",
        "--seed",
        "3",
        "--xtc-probability",
        "0.5",
        "--samplers",
        "temperature;top_k;min_p",
    ],
    "penalties": [
        "hello",
        "--repetition-penalty",
        "1.3",
        "--dry-multiplier",
        "0.8",
        "--logit-bias",
        "70=4",
        "--suppress-id",
        "5",
    ],
    "a system message": ["hello", "--system", "Hum."],
    "stop texts": ["hello", "--stop", "e", "--stop", "zz", "--include-stop-str-in-output"],
    "a choice": ["hello", "--choice", "yes", "--choice", "no"],
    "a schema": ["hello", "--json-schema", '{"type": "integer"}'],
    "an object": ["hello", "--json-object"],
    "a regex": ["hello", "--regex", "[ab]{3}"],
    "several": ["hello", "--n", "3", "--temperature", "1", "--seed", "5"],
    "log-probabilities": ["hello", "--logprobs", "2"],
    "raw": ["hello", "--raw"],
    "raw, several": ["hello", "--raw", "--n", "2", "--temperature", "1", "--seed", "5"],
    "no end": ["hello", "--ignore-eos", "--min-tokens", "4"],
    "a template's variable": ["hello", "--template-arg", "mood=calm"],
}


@pytest.mark.parametrize("words", CASES.values(), ids=CASES.keys())
def test_run_says_the_same(model: Path, remote: tuple[str, ...], local: tuple[str, ...], puna: Puna, words: list[str]) -> None:
    here = puna("run", str(model), *words, "-n", "12", *local)
    there = puna("run", "tiny", *words, "-n", "12", *remote)
    assert (there.code, there.out) == (here.code, here.out) == (0, there.out), (here.err, there.err)


def facts_of(text: str) -> dict[str, Any]:
    """What --json tells, without what differs by nature: the model's name, times, and what the cache had."""
    facts: dict[str, Any] = json.loads(text)
    stats = {name: facts["stats"][name] for name in ("prompt_tokens", "output_tokens")}
    return {**facts, "model": "", "stats": stats, "token_texts": []}


@pytest.mark.parametrize("words", [["hello", "--logprobs", "3"], ["hello", "--n", "2", "--temperature", "1", "--seed", "2"]])
def test_json_tells_the_same(model: Path, remote: tuple[str, ...], local: tuple[str, ...], puna: Puna, words: list[str]) -> None:
    here = facts_of(puna("run", str(model), *words, "--json", "-n", "9", *local).out)
    there = facts_of(puna("run", "tiny", *words, "--json", "-n", "9", *remote).out)
    for one in (*here.get("choices", ()), *there.get("choices", ())):
        one["token_texts"] = []
    assert there == here


@pytest.mark.parametrize(
    "words",
    [
        ["hello", "--temperature", "1", "--seed", "5"],
        ["hello", "--temperature", "1", "--seed", "5", "--n", "2"],
        ["hello", "--raw", "--json-object", "--json"],
    ],
    ids=["a chat", "several", "raw"],
)
def test_a_receipt_of_a_servers_answer_is_the_one_of_here(
    model: Path, remote: tuple[str, ...], local: tuple[str, ...], puna: Puna, tmp_path: Path, words: list[str]
) -> None:
    for name, flags in (("here", (str(model), *words, *local)), ("there", ("tiny", *words, *remote))):
        (tmp_path / name).mkdir()
        done = puna("run", *flags, "-n", "9", "--receipt", str(tmp_path / name / "r.json"))
        assert done.code == 0, done.err
    files = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "there").iterdir()) and len(files) == 1 + ("--n" in words)
    for file in files:
        here, there = (json.loads((tmp_path / name / file).read_text("utf-8")) for name in ("here", "there"))
        assert there["model"] == "tiny" and {**there, "model": ""} == {**here, "model": ""}
        assert puna("replay", str(tmp_path / "there" / file), str(model), *local).code == 0


def test_an_answer_that_was_broken_off_has_no_receipt(running: RunningServer) -> None:
    llm = RemoteLLM(ServerLink(f"http://127.0.0.1:{running.port}/v1", KEY), "tiny")
    llm.wants_receipts = True
    with llm.chat_stream([{"role": "user", "content": "hello"}], SamplingParams(max_tokens=None, ignore_eos=True)) as stream:
        next(stream)
        with pytest.raises(UsageError, match="the server told no receipt"):
            stream.receipts()


def test_a_conversation_says_the_same_and_is_saved(
    model: Path, remote: tuple[str, ...], local: tuple[str, ...], puna: Puna, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = "/set temperature 0.8\n/set seed 4\nhello\nand then?\n/stats\n"
    here = puna("chat", str(model), "-n", "9", "--ignore-eos", *local, stdin=typed)
    monkeypatch.setenv("PUNA_SERVER", remote[1])
    monkeypatch.setenv("PUNA_API_KEY", KEY)
    there = puna("chat", "-n", "9", "--ignore-eos", stdin=typed)
    assert (there.code, there.out) == (0, here.out) and here.out.strip(), there.err
    assert "context" in there.err
    again = puna("chat", "--continue", "-n", "3", stdin="more\n")
    assert again.code == 0 and "Continuing with 4 messages" in again.err


def test_a_full_context_is_told_as_it_is_here(remote: tuple[str, ...], puna: Puna) -> None:
    done = puna("run", "x" * 2000, *remote)
    first, second = done.err.strip().splitlines()
    assert done.code == 2 and "the context holds 256" in first and second.startswith("Shorten the prompt")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--device", "cpu"], "--device cannot be set with --server"),
        (["--weights", "int8", "--threads", "1"], "--weights, --threads cannot be set with --server"),
        (["--template", "chatml"], "--template cannot be set with --server"),
        (["--cache-dir", "x"], "--cache-dir cannot be set with --server"),
        (["--best-of", "2", "--temperature", "1"], "--best-of is not possible with --server"),
        (["--logprobs", "1", "--processed-logprobs"], "--processed-logprobs is not possible with --server"),
        (["--raw", "--logprobs", "1"], "--logprobs with --server is for chats"),
        (["--no-thinking"], "no switch for thinking"),
        (["--lora-name", "x"], "x"),
    ],
)
def test_what_the_server_decides_or_cannot_do_is_refused_by_name(
    remote: tuple[str, ...], puna: Puna, words: list[str], told: str
) -> None:
    done = puna("run", "hello", *words, *remote)
    lines = done.err.strip().splitlines()
    assert done.code == 2 and told in lines[0] and len(lines) <= 2, done.err


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_server_that_is_not_there_or_refuses_is_told_in_two_lines(running: RunningServer, puna: Puna) -> None:
    here = f"http://127.0.0.1:{running.port}"
    for words, told in {
        ("--server", f"http://127.0.0.1:{closed_port()}"): "Start one with `puna serve`",
        ("--server", here): "--api-key KEY",
        ("--server", here, "--api-key", "wrong"): "--api-key KEY",
        ("--server", f"{here}/nowhere", "--api-key", KEY): "without a path: --server http://127.0.0.1:8000",
        ("--server", "localhost:8000"): "--server http://127.0.0.1:8000",
        ("--server", "http://"): "--server http://127.0.0.1:8000",
    }.items():
        for command in (["run", "hi"], ["chat"]):
            done = puna(*command, *words)
            lines = done.err.strip().splitlines()
            assert done.code in (1, 2) and not done.out and told in done.err and 1 <= len(lines) <= 2, (words, done)
    unknown = puna("run", "llama-9b", "hi", "--server", here, "--api-key", KEY)
    assert unknown.code == 2 and "'llama-9b' is not served" in unknown.err and "Served: tiny" in unknown.err


def test_an_empty_server_means_none(model: Path, local: tuple[str, ...], puna: Puna, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_SERVER", "http://127.0.0.1:1")
    assert puna("run", str(model), "hello", "-n", "2", "--server", "", *local).code == 0


def test_an_answer_that_the_server_breaks_off_is_an_error(running: RunningServer) -> None:
    llm = RemoteLLM(ServerLink(f"http://127.0.0.1:{running.port}/v1", KEY), "tiny")
    params = SamplingParams(max_tokens=None, ignore_eos=True)
    with llm.chat_stream([{"role": "user", "content": "hello"}], params) as stream:
        first = next(stream)
        stream._events._response.close()  # as a connection that breaks
        *_, last = list(stream)
    assert first.finish_reason is None and last.finish_reason == "error"
    assert "broke off" in stream.completion.error and stream.completion.text.startswith(first.text)


def test_every_sampling_parameter_is_sent_or_refused() -> None:
    """What the client sends, both wires take: a field that is added to SamplingParams shows here."""
    own = {*SamplingParams.__dataclass_fields__}.difference(NOT_SENT, ("logprobs", "json_object", "logit_bias"))
    for fields in (ChatCompletionFields, TextCompletionFields):
        assert own <= {*fields.SETTINGS.values()} & {*fields.SETTINGS}, own - {*fields.SETTINGS}
        assert {"logit_bias", "logprobs", "response_format", "return_token_ids", "return_receipt"} <= {*fields.model_fields}


def test_an_answer_beyond_all_measure_is_not_read(running: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.cli.server_link.MAX_ANSWER", 20)
    with pytest.raises(PunaError, match="answers with more than"):
        ServerLink(f"http://127.0.0.1:{running.port}/v1", KEY).get("/v1/models")
