"""Short names of models that are not cached: at a terminal puna asks; without one it prints the command."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from puna import backends, hub
from puna.cli import fetch
from puna.config import EngineConfig
from puna.errors import DeviceError, DownloadError
from puna.progress import SILENT, Reporter
from tests.cli.conftest import FakeLLM, Puna


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """At a terminal; what is pulled is kept here."""
    pulled: list[str] = []

    def pull(name: str, report: Reporter) -> Path:
        pulled.append(name)
        return tmp_path / "m.gguf"

    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "is_terminal", lambda: True)
    monkeypatch.setattr("puna.cli.pull.is_terminal", lambda: True)
    monkeypatch.setattr(hub, "pull", pull)
    monkeypatch.setattr("puna.hub.headers.matrix_types", lambda name: ())
    return pulled


@pytest.mark.parametrize("command", [("run", "llama-2-7b", "hi"), ("chat", "llama-2-7b"), ("pull", "llama-2-7b")], ids=str)
def test_a_person_is_asked_with_size_and_licence_before_it_is_fetched(
    puna: Puna, fake: FakeLLM, asked: list[str], command: tuple[str, ...]
) -> None:
    done = puna(*command, stdin="y\n")
    assert asked == ["llama-2-7b"]
    source = "from hf:TheBloke/Llama-2-7B-Chat-GGUF/llama-2-7b-chat.Q4_K_M.gguf"
    for words in ("llama-2-7b: about 4.1 GB; licence: Llama 2", source, "Fetch it?"):
        assert words in done.err
    assert "https://huggingface.co/meta-llama/Llama-2-7b-chat-hf" in done.err


@pytest.mark.parametrize("command", [("run", "llama-2-7b", "hi"), ("pull", "llama-2-7b")], ids=str)
def test_nothing_is_fetched_where_the_answer_is_no(puna: Puna, fake: FakeLLM, asked: list[str], command: tuple[str, ...]) -> None:
    done = puna(*command, stdin="n\n")
    assert asked == [] and done.code == 1 and "To fetch it later: puna pull llama-2-7b" in done.err


def test_another_answer_is_asked_for_again(puna: Puna, asked: list[str]) -> None:
    done = puna("pull", "llama-2-7b", stdin="maybe\nNO\n")
    assert asked == [] and done.code == 1 and done.err.count("Fetch it?") == 2
    assert "Type y or n, or press Enter for yes.\n" in done.err and "Error" not in done.err
    assert puna("pull", "llama-2-7b", stdin="\n").code == 0 and asked == ["llama-2-7b"]


def test_pull_does_not_ask_where_it_is_told_not_to(puna: Puna, asked: list[str]) -> None:
    assert puna("pull", "--yes", "llama-2-7b").code == 0 and asked == ["llama-2-7b"]


def test_the_terms_of_a_gated_repository_are_named(puna: Puna, asked: list[str]) -> None:
    assert "Its owner requires an agreement first" in puna("pull", "llama-3.1-405b", stdin="n\n").err


@pytest.mark.parametrize("flags", [("--require-gpu",), ("--device", "cuda"), ("--device", "cuda:1", "--require-gpu")], ids=str)
def test_a_gpu_is_looked_for_before_anything_is_fetched(
    puna: Puna, fake: FakeLLM, asked: list[str], monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    def require_gpu(number: int = 0) -> None:
        raise DeviceError(f"there is no cuda:{number}", hint="Use --device cpu.")

    monkeypatch.setattr(backends, "_module", lambda kind: SimpleNamespace(require_gpu=require_gpu))
    for command in (("run", "llama-2-7b", "hi"), ("chat", "llama-2-7b"), ("embed", "llama-2-7b", "hi")):
        done = puna(*command, *flags, stdin="y\n")
        assert done.code == 1 and "there is no cuda:" in done.err and "Fetch it?" not in done.err
    assert asked == [] and fake.loaded == []


def test_other_names_and_models_that_are_here_are_not_asked_about(
    puna: Puna, fake: FakeLLM, asked: list[str], tmp_path: Path
) -> None:
    (tmp_path / "m.gguf").touch()
    for model in (str(tmp_path / "m.gguf"), "hf:o/r/m.gguf", "smollm2-135m-instruct", "smollm2-135m"):
        assert "Fetch it?" not in puna("run", model, "hi").err
    assert asked == []


def test_without_a_terminal_the_command_is_named(puna: Puna, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path))
    for command in (("run", "llama-2-7b", "hi"), ("chat", "llama-2-7b"), ("inspect", "llama-2-7b"), ("bench", "llama-2-7b")):
        done = puna(*command)
        assert done.code == 2 and done.err.splitlines()[-1] == "Fetch it: puna pull llama-2-7b", command


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_person_can_be_asked_where_both_ends_are_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for stdin, stderr in ((Terminal(), Terminal()), (Terminal(), io.StringIO()), (io.StringIO(), Terminal())):
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("sys.stderr", stderr)
        assert fetch.is_terminal() == (stdin.isatty() and stderr.isatty())


# ---- kernels, while a model is fetched


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sequence[str], str]]:
    """The types and the type of K and V whose kernels the CPU was told to compile."""
    told: list[tuple[Sequence[str], str]] = []

    class CPU:
        @staticmethod
        def begin_to_compile(types: Sequence[str], kv_type: str) -> None:
            told.append((types, kv_type))

    monkeypatch.setattr(backends, "_module", lambda name: CPU)
    monkeypatch.setattr(backends, "NVIDIA_DRIVER", ())
    return told


def served(monkeypatch: pytest.MonkeyPatch, types: Sequence[str]) -> None:
    """A Hub whose download ends only when the compilation has begun; it knows the headers by the whole name."""
    began = threading.Event()

    def matrix_types(name: str) -> Sequence[str]:
        assert name == "hf:Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf"
        began.set()
        return types

    def pull(name: str | None, report: Reporter) -> Path:
        assert began.wait(10)
        return Path("m.gguf")

    monkeypatch.setattr("puna.hub.headers.matrix_types", matrix_types)
    monkeypatch.setattr(hub, "pull", pull)


@pytest.mark.parametrize("name", ["qwen3-4b", "hf:Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf"])
def test_kernels_are_compiled_while_a_model_of_the_hub_is_fetched(
    compiled: list[tuple[Sequence[str], str]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    served(monkeypatch, ("Q6_K", "Q4_K"))
    assert fetch.fetch(name, EngineConfig(device="cpu", kv_type="f32"), SILENT) == Path("m.gguf")
    assert compiled == [(("Q6_K", "Q4_K"), "f32")]


def test_those_of_the_default_model_are_known_without_its_header(
    compiled: list[tuple[Sequence[str], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "pull", lambda name, report: Path("m.gguf"))
    fetch.fetch(None, None, SILENT)
    assert compiled == [(hub.CATALOGUE[hub.DEFAULT_MODEL].weight_types, "f16")]


def test_no_header_is_read_for_a_device_that_compiles_nothing_beforehand(
    compiled: list[tuple[Sequence[str], str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("puna.hub.headers.matrix_types", asked.append)
    monkeypatch.setattr(hub, "pull", lambda name, report: Path("m.gguf"))
    fetch.fetch("qwen3-4b", EngineConfig(device="reference"), SILENT)
    assert asked == [] and compiled == []


@pytest.mark.parametrize("environment", [{}, {"PUNA_THREADS": "many"}], ids=["no header", "a bad variable"])
def test_a_download_succeeds_whatever_hinders_the_kernels(
    compiled: list[tuple[Sequence[str], str]], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    def refuse(name: str) -> Sequence[str]:
        raise DownloadError("no header")

    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("puna.hub.headers.matrix_types", refuse)
    monkeypatch.setattr(hub, "pull", lambda name, report: Path("m.gguf"))
    assert fetch.fetch("qwen3-4b", None, SILENT) == Path("m.gguf") and compiled == []


def test_a_download_succeeds_where_no_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(hub, "pull", lambda name, report: Path("m.gguf"))
    assert fetch.fetch("qwen3-4b", None, SILENT) == Path("m.gguf")
