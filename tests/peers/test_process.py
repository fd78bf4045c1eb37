"""A peer in a child: it answers with seconds, and whatever happens to it is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from puna.peers import PEERS, Peer
from puna.peers.process import PeerError, dialogue, loaded_peer, require_installed
from tests.machine.test_children import is_gone

LLAMA_CPP = PEERS["llama.cpp"]


def test_a_peer_tells_its_version_and_the_seconds_of_prompt_and_answer(fake_llama_cpp: Path, tiny_gguf: Path) -> None:
    require_installed(LLAMA_CPP, sys.executable)
    with loaded_peer(LLAMA_CPP, sys.executable, tiny_gguf, 1, 64) as peer:
        assert (peer.version, peer.computes) == ("0.0.1", "the file's types")
        prompt, answer = peer.measure([1] * 50, [2] * 10)
        assert prompt >= 0.01 and answer >= 0.002
        assert peer.measure([1], []).answer < answer


def test_one_that_cannot_load_the_model_says_why_in_its_own_words(
    fake_llama_cpp: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PROBLEM", "unknown model architecture: 'gpt-oss'\nand more lines")
    with pytest.raises(PeerError) as caught, loaded_peer(LLAMA_CPP, sys.executable, tiny_gguf, 1, 64):
        pass
    assert caught.value.line == "ValueError: unknown model architecture: 'gpt-oss'"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_one_that_dies_names_its_signal(fake_llama_cpp: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DIES", "1")
    with loaded_peer(LLAMA_CPP, sys.executable, tiny_gguf, 1, 64) as peer:
        assert peer.measure([1, 2], [3]).prompt > 0
        for _ in range(2):
            with pytest.raises(PeerError, match="it was ended by SIGABRT"):
                peer.measure([1, 2, 3, 4, 5], [])


def test_one_that_is_missing_has_the_command_that_installs_it() -> None:
    missing = Peer("puna.peers.llama_cpp", ("sys", "no_such_module_here"), "no-such-package", ())
    with pytest.raises(PeerError) as caught:
        require_installed(missing, sys.executable)
    assert caught.value.hint == f"Install it: {sys.executable} -m pip install no-such-package"
    with pytest.raises(PeerError, match="is no Python of"):
        require_installed(missing, "no-such-python-here")


@pytest.mark.skipif(sys.platform == "win32", reason="the programs are of POSIX")
def test_the_end_of_the_block_ends_the_program_and_what_it_started() -> None:
    talk = "import json, os, subprocess, sys; child = subprocess.Popen(['sleep', '60'])\n"
    talk += "for line in sys.stdin: print(json.dumps([os.getpid(), child.pid]), flush=True)"
    with dialogue([sys.executable, "-c", talk], 1) as child:
        pids = list(child.ask({}))
    assert all(is_gone(int(pid)) for pid in pids)
    with pytest.raises(PeerError, match="cannot be started"), dialogue(["no-such-program-here"], 1):
        pass
