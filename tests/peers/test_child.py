"""The peers that are installed here measure a tiny model; each in a child, as `puna bench --vs` runs it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from puna.peers import GGUF, PEERS, SAFETENSORS
from puna.peers.process import loaded_peer
from tests.cli.conftest import Puna
from tests.cli.conftest import puna as puna  # a fixture


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_measures_a_tiny_model(name: str, tiny_gguf: Path, puna: Puna) -> None:
    peer = PEERS[name]
    if not all(map(importlib.util.find_spec, peer.modules)):
        pytest.skip(f"{peer.modules[0]} is not installed")
    if not {GGUF, SAFETENSORS} & set(peer.loads):
        pytest.skip(f"it loads {peer.loads[0]}, and nobody has converted one here")
    model = tiny_gguf
    if SAFETENSORS in peer.loads:
        model = tiny_gguf.with_name("folder")
        assert puna("convert", str(tiny_gguf), str(model), "--to", "safetensors").code == 0
    assert peer.can_load(model)
    with loaded_peer(peer, sys.executable, model, 1, 64) as loaded:
        assert loaded.version and loaded.computes
        prompt, answer = loaded.measure([5, 6, 7, 8], [9, 10])
        assert prompt > 0 and answer > 0
        assert loaded.measure([5, 6, 7, 8], []).prompt > 0
