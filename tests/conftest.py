"""Shared fixtures: real model files, if this machine has them."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from puna import hub
from tests import real_files
from tests.forked import ForkServer

ROOT = Path(__file__).parents[1]
os.environ["VIRTUAL_ENV"] = sys.prefix  # as in an activated environment, for what puna tells people to type there

# In a shell's background, or under nohup, programs that the tests signal would not hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small real files, which is no part of the repository."""
    folder = Path(os.environ.get("PUNA_TEST_DATA", ROOT / "../shared/data")).resolve()
    if not folder.is_dir():
        pytest.skip("the shared test data is not here; PUNA_TEST_DATA may name its folder")
    return folder


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The default model from puna's cache; nothing is fetched here."""
    model = hub.CATALOGUE[hub.DEFAULT_MODEL]
    if not hub.is_cached(model):
        pytest.skip("the default model is not in the cache: run `python -m tests.real_files` first")
    return model.target


@pytest.fixture(scope="session")
def llama3_tokenizer() -> Path:
    """Llama 3's tokenizer.model, from puna's cache or where PUNA_LLAMA3_TOKENIZER says."""
    path = real_files.llama3_tokenizer()
    if path is None or not path.is_file():
        pytest.skip("Llama 3's tokenizer is not in the cache: run `python -m tests.real_files`, or set PUNA_LLAMA3_TOKENIZER")
    return path


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """Starts programs that need PyTorch without importing it anew."""
    if importlib.util.find_spec("torch") is None or not hasattr(os, "fork"):
        pytest.skip("PyTorch is not installed, or this system does not fork")
    with ForkServer() as server:
        yield server
