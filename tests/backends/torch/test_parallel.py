"""Several processes that share a model, started by torchrun on this machine: the same text as from one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from puna.backends.base import ProcessPlace
from puna.backends.torch import parallel, watch
from puna.errors import UsageError
from puna.request import Batch
from tests.models import random_tensors, tiny_config, write_llama2c

ROOT = Path(__file__).parents[3]
CONFIG = tiny_config(num_heads=4, num_kv_heads=2, head_dim=8, hidden_size=32, ffn_size=48, max_context=64)
PUNA = ["-m", "puna"]
RUN = ["--raw", "Once upon a time", "-n", "16", "--ignore-eos", "--json"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """One model in Meta's format, in 1, 2 and 4 files."""
    folder = tmp_path_factory.mktemp("meta")
    source = write_llama2c(folder / "model.bin", CONFIG, random_tensors(CONFIG, seed=7))
    for count in (1, 2, 4):
        words = ["convert", source, folder / str(count), "--to", "meta", "--shards", str(count)]
        subprocess.run([sys.executable, *PUNA, *map(str, words)], env=environment(), check=True, capture_output=True)
    return {count: folder / str(count) for count in (1, 2, 4)}


def environment() -> dict[str, str]:
    ours = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PUNA_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def torchrun(count: int, *words: str | Path) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    return [*launcher, *PUNA, *map(str, words)]


def answer(command: list[str]) -> str:
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    text = json.loads(done.stdout.splitlines()[-1])["text"]
    assert isinstance(text, str)
    return text


@pytest.fixture(scope="module")
def alone(checkpoints: dict[int, Path]) -> str:
    return answer([sys.executable, *PUNA, "run", str(checkpoints[1]), *RUN, "--device", "torch"])


@pytest.mark.parametrize("num_shards", [1, 2, 4])
def test_two_processes_give_the_text_of_one_whatever_the_shards(
    num_shards: int, checkpoints: dict[int, Path], alone: str
) -> None:
    assert answer(torchrun(2, "run", checkpoints[num_shards], *RUN)) == alone


def test_more_processes_than_kv_heads_repeat_them(checkpoints: dict[int, Path], alone: str) -> None:
    assert answer(torchrun(4, "run", checkpoints[2], *RUN)) == alone


@pytest.mark.full  # half a minute; tiny models stand for it in the normal tier
def test_three_processes_of_the_default_model(default_model: Path) -> None:
    words = ["run", "What is the capital of Peru?", "-n", "8", "--json"]
    assert answer(torchrun(3, *words)) == answer([sys.executable, *PUNA, *words, "--device", "torch"])


def test_a_number_that_does_not_work_is_refused_with_those_that_do(checkpoints: dict[int, Path]) -> None:
    done = subprocess.run(
        torchrun(3, "run", checkpoints[1], *RUN), env=environment(), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode != 0
    assert "cannot be split in 3 parts: it has 4 heads, 2 K/V heads" in done.stderr and "work: 1, 2, 4." in done.stderr


def test_commands_that_share_no_model_are_done_by_one_process(checkpoints: dict[int, Path], tmp_path: Path) -> None:
    words = ["convert", str(checkpoints[1]), str(tmp_path / "m.gguf"), "--to", "gguf"]
    done = subprocess.run(torchrun(2, *words), env=environment(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("m.gguf") <= 1 and "exists" not in done.stderr


PROGRAM = """
import sys
from puna import LLM, PunaError
from puna.backends.torch.parallel import Group

def load():
    return LLM.load(sys.argv[1], device="torch")

match sys.argv[2]:
    case "once":
        with load() as llm:
            print("text", llm.generate("Once", max_tokens=4).finish_reason)
    case "twice":
        load().close()
        try:
            load()
        except PunaError as error:
            print("refused", error.message)
    case "interrupted":
        llm, whole = load(), Group.sum
        def interrupt(self, x):
            Group.sum = whole
            raise KeyboardInterrupt
        Group.sum = interrupt
        for _ in range(2):
            try:
                llm.generate("Once", max_tokens=4)
            except (KeyboardInterrupt, PunaError) as error:
                print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("mode", "code", "words"),
    [
        ("once", 0, "text length"),
        ("twice", 0, "refused a second model cannot be loaded"),
        ("interrupted", 1, "KeyboardInterrupt\nDeviceError"),
    ],
)
def test_a_program_that_torchrun_starts_ends_soon_and_in_words(
    mode: str, code: int, words: str, checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(tmp_path / "program.py"), str(checkpoints[1]), mode]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert words in done.stdout and done.returncode == code, done.stdout + done.stderr
    assert "parallel.py" not in done.stderr, "a traceback, beside torchrun's own"
    assert code == 0 or "ended during a step" in done.stderr or "lost their connection" in done.stderr


@pytest.mark.parametrize("port", ["abc", "0", "99999"])
def test_a_port_that_is_none_is_told(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", port)
    with pytest.raises(UsageError, match=f"MASTER_PORT is '{port}'"):
        watch.open_store(ProcessPlace(0, 2), is_first=True)


def test_a_process_that_waits_for_others_hears_that_it_is_to_end() -> None:
    variables = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "29577", "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, "-c", "from puna.backends.torch.model import create; from puna.config import EngineConfig; "
               "print('here', flush=True); create(EngineConfig(device='torch'))"]  # fmt: skip
    with subprocess.Popen(command, env=environment() | variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as waiting:
        try:
            assert waiting.stdout is not None and waiting.stdout.readline() == b"here\n"
            time.sleep(1)
            waiting.send_signal(signal.SIGINT)
            assert waiting.wait(timeout=8) != 0
        finally:
            waiting.kill()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_rank_ends_all_with_a_message(victim: int, checkpoints: dict[int, Path]) -> None:
    command = torchrun(2, "chat", checkpoints[1], "--raw")
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, stderr=pipe, text=True) as launcher:
        try:
            ranks = _ranks_of(psutil.Process(launcher.pid))
            ranks[victim].kill()
            started = time.monotonic()
            _, errors = launcher.communicate(timeout=15)
            assert time.monotonic() - started < 15 and launcher.returncode != 0
            assert "signal 9" in errors.lower() or "lost their connection" in errors
            assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks.values())
        finally:
            for child in psutil.Process(launcher.pid).children(recursive=True) if launcher.poll() is None else []:
                child.send_signal(signal.SIGKILL)
            launcher.kill()


def _ranks_of(launcher: psutil.Process) -> dict[int, psutil.Process]:
    """Rank -> process, once both are in their group."""
    for _ in range(600):
        found = {}
        for child in launcher.children():
            variables = child.environ()
            if any(thread for thread in child.threads()) and "RANK" in variables and len(child.net_connections()) > 2:
                found[int(variables["RANK"])] = child
        if len(found) == 2:
            time.sleep(1)
            return found
        time.sleep(0.1)
    raise AssertionError("the ranks did not come together")


# ---- what passes between ranks ------------------------------------------------------------------------------------------


def test_a_batch_survives_the_way_to_another_rank() -> None:
    batch = Batch(
        token_ids=np.array([5, 6, 7], np.int32),
        positions=np.array([0, 1, 9], np.int32),
        starts=np.array([0, 2, 3], np.int32),
        page_tables=np.array([[3, -1], [1, 2]], np.int32),
        logit_rows=np.array([1], np.int32),
        prompt_lengths=np.array([2, 4], np.int32),
    )
    head, body = parallel._head(batch), parallel._body(batch)
    assert len(head) == parallel._HEAD_SIZE and len(body) == parallel._body_size(head)
    heard = parallel._batch(head, body)
    for name in parallel._FIELDS:
        assert np.array_equal(getattr(heard, name), getattr(batch, name)), name


def test_torchruns_variables_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert ProcessPlace.from_env() == ProcessPlace(0, 1, 0, 1)
    monkeypatch.setenv("RANK", "3")
    assert ProcessPlace.from_env() == ProcessPlace(0, 1, 0, 1), "without a world there is one process"
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UsageError, match="WORLD_SIZE is 'two'"):
        ProcessPlace.from_env()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(UsageError, match="the rank must be below the size"):
        ProcessPlace.from_env()
