"""What is timed, and that puna and a peer get the same tokens, new ones for each pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from puna.llm import LLM
from puna.peers import PEERS
from puna.peers.base import LoadedPeer, Measure, Seconds
from puna.peers.comparison import PeerComparison, Rival, Workload, own_measure
from puna.peers.process import PeerError
from puna.progress import SILENT


@pytest.fixture
def llm(tiny_gguf: Path) -> Iterator[LLM]:
    with LLM.load(tiny_gguf, device="reference", prefix_cache=False, report=SILENT) as loaded:
        yield loaded


def test_both_read_the_same_tokens_and_each_pair_has_new_ones(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[tuple[tuple[int, ...], int]]] = {"puna": [], "peer": []}

    def keeping(name: str) -> Measure:
        def measure(prompt: Sequence[int], answer: Sequence[int]) -> Seconds:
            asked[name].append((tuple(prompt), len(answer)))
            return Seconds(0.5, 0.25)

        return measure

    @contextmanager
    def loaded(peer: Any, python: str, model: Path, threads: int, context: int) -> Iterator[LoadedPeer]:
        assert model == llm.path and context >= 12
        yield LoadedPeer("1.0", "F32", keeping("peer"))

    monkeypatch.setattr("puna.peers.comparison.loaded_peer", loaded)
    monkeypatch.setattr("puna.peers.comparison.own_measure", lambda llm: keeping("puna"))
    tests = [Workload.prompt(6), Workload.decode(4, depth=8)]
    facts = PeerComparison(llm, tests, 2, SILENT).against(Rival("llama.cpp", PEERS["llama.cpp"]))
    assert asked["puna"] == asked["peer"]
    assert [(len(prompt), answer) for prompt, answer in asked["puna"]] == [(6, 0)] * 3 + [(8, 4)] * 3
    assert len(set(asked["puna"])) == 6
    assert [(row["test"], row["puna"], row["ratio"]) for row in facts["tests"]] == [("pp6", 12.0, 1.0), ("tg4 @ d8", 16.0, 1.0)]
    assert facts["limits_before"].keys() == facts["limits_after"].keys() >= {"read_bytes_per_s", "int8_ops_per_s"}


def test_punas_own_runs_write_as_many_tokens_after_the_first_as_asked(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    generate, written = llm.generate, []

    def keeping(*arguments: Any) -> Any:
        done = generate(*arguments)
        written.append(len(done.token_ids))
        return done

    monkeypatch.setattr(llm, "generate", keeping)
    prompt, answer = own_measure(llm)([1, 2, 3], [4, 5])
    assert written == [3] and prompt > 0 and answer > 0


def test_a_peer_that_does_not_read_the_models_format_says_what_it_reads(llm: LLM) -> None:
    comparison = PeerComparison(llm, [Workload.prompt(4)], 1, SILENT)
    with pytest.raises(PeerError, match="it loads a folder that ct2-transformers-converter wrote") as caught:
        comparison.against(Rival("ctranslate2", PEERS["ctranslate2"]))
    assert caught.value.hint == "Give it the same model so: --peer-model ctranslate2=PATH"
