"""Several processes that share a model, forked (`tests.forked`) or started by torchrun: the same text as from one."""

from __future__ import annotations

import dataclasses
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

from puna.backends.base import ProcessRank
from puna.backends.torch import heartbeat, parallel
from puna.batch import Batch
from puna.convert import convert
from puna.errors import UsageError
from tests.fakes import chunk_of
from tests.forked import ForkServer, environment, rank_variables
from tests.models import random_tensors, tiny_config, write_llama2c

CONFIG = tiny_config(num_heads=4, num_kv_heads=2, head_dim=8, hidden_size=32, ffn_size=48, max_context=64)
PUNA = ["-m", "puna"]
RUN = ["--raw", "Once upon a time", "-n", "16", "--ignore-eos", "--json"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """One model in Meta's format, in 1, 2 and 4 files."""
    folder = tmp_path_factory.mktemp("meta")
    source = write_llama2c(folder / "model.bin", CONFIG, random_tensors(CONFIG, seed=7))
    return {count: convert(source, folder / str(count), to="meta", shards=count).path for count in (1, 2, 4)}


def torchrun(count: int, *words: str | Path) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    return [*launcher, *map(str, words)]


def started(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240, check=False)


def text_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    text = json.loads(done.stdout.splitlines()[-1])["text"]
    assert isinstance(text, str)
    return text


@pytest.fixture(scope="module")
def alone(checkpoints: dict[int, Path], fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    words = [*PUNA, "run", str(checkpoints[1]), *RUN, "--device", "torch"]
    return text_of(fork_server.run(1, words, tmp_path_factory.mktemp("alone")))


def test_two_processes_of_torchrun_give_the_text_of_one(checkpoints: dict[int, Path], alone: str) -> None:
    assert text_of(started(torchrun(2, *PUNA, "run", checkpoints[2], *RUN))) == alone


@pytest.mark.parametrize(("num_shards", "num_processes"), [(1, 2), (2, 2), (4, 2), (2, 4)])  # four repeat the two K/V heads
def test_processes_give_the_text_of_one_whatever_the_shards(
    num_shards: int, num_processes: int, checkpoints: dict[int, Path], alone: str, fork_server: ForkServer, tmp_path: Path
) -> None:
    words = [*PUNA, "run", str(checkpoints[num_shards]), *RUN]
    assert text_of(fork_server.run(num_processes, words, tmp_path)) == alone


@pytest.mark.full  # half a minute; tiny models stand for it in the normal tier
def test_three_processes_of_the_default_model(default_model: Path) -> None:
    words = ["run", "What is the capital of Peru?", "-n", "8", "--json"]
    alone = started([sys.executable, *PUNA, *words, "--device", "torch"])
    assert text_of(started(torchrun(3, *PUNA, *words))) == text_of(alone)


def test_a_number_that_does_not_work_is_refused_with_those_that_do(
    checkpoints: dict[int, Path], fork_server: ForkServer, tmp_path: Path
) -> None:
    done = fork_server.run(3, [*PUNA, "run", str(checkpoints[1]), *RUN], tmp_path)
    assert done.returncode != 0
    assert "cannot be split in 3 parts: it has 4 heads, 2 K/V heads" in done.stderr and "work: 1, 2, 4." in done.stderr


def test_commands_that_share_no_model_are_done_by_one_process(
    checkpoints: dict[int, Path], fork_server: ForkServer, tmp_path: Path
) -> None:
    done = fork_server.run(2, [*PUNA, "convert", str(checkpoints[1]), str(tmp_path / "m.gguf"), "--to", "gguf"], tmp_path)
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


MODES = [
    ("once", 0, "text length"),
    ("twice", 0, "refused a second model cannot be loaded"),
    ("interrupted", 1, "KeyboardInterrupt\nDeviceError"),
]


@pytest.mark.parametrize(("mode", "code", "words"), MODES)
def test_a_program_of_two_processes_ends_soon_and_in_words(
    mode: str, code: int, words: str, checkpoints: dict[int, Path], fork_server: ForkServer, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = fork_server.run(2, [str(tmp_path / "program.py"), str(checkpoints[1]), mode], tmp_path, timeout=60)
    require_an_end_in_words(done, code, words)


@pytest.mark.full  # half a minute; forked ranks stand for torchrun's in the normal tier
@pytest.mark.parametrize(("mode", "code", "words"), MODES)
def test_a_program_that_torchrun_starts_ends_soon_and_in_words(
    mode: str, code: int, words: str, checkpoints: dict[int, Path], tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = torchrun(2, tmp_path / "program.py", checkpoints[1], mode)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    require_an_end_in_words(done, code, words)


def require_an_end_in_words(done: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    assert words in done.stdout and done.returncode == code, done.stdout + done.stderr
    assert "parallel.py" not in done.stderr, "a traceback, beside torchrun's own"
    assert code == 0 or "ended during a step" in done.stderr or "lost their connection" in done.stderr


@pytest.mark.parametrize("port", ["abc", "0", "99999"])
def test_a_port_that_is_none_is_told(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", port)
    with pytest.raises(UsageError, match=f"MASTER_PORT is '{port}'"):
        heartbeat.open_store(ProcessRank(0, 2), is_first=True)


WAITING = """
from puna.backends.torch.model import create
from puna.config import EngineConfig
print("here", flush=True)
create(EngineConfig(device="torch"))
"""


def test_a_process_that_waits_for_others_hears_that_it_is_to_end(fork_server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(WAITING)
    waiting = fork_server.start([str(tmp_path / "program.py")], tmp_path, rank_variables(0, 2))
    try:
        for _ in range(600):
            if (tmp_path / "stdout").read_text() == "here\n":
                break
            time.sleep(0.1)
        time.sleep(1)
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(timeout=8) != 0
    finally:
        waiting.kill()


def test_a_rank_whose_group_has_lost_another_ends_with_a_message(
    checkpoints: dict[int, Path], fork_server: ForkServer, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "stdin")  # brings nothing, and does not end while this process has it open
    kept = os.open(tmp_path / "stdin", os.O_RDWR)
    words = [*PUNA, "chat", str(checkpoints[1]), "--raw"]
    first, other = fork_server.start_ranks(2, words, tmp_path, stdin=str(tmp_path / "stdin"))
    try:
        _wait_for_the_group([psutil.Process(first.pid), psutil.Process(other.pid)])
        first.kill()
        assert other.wait(timeout=15) == 1
        errors = (tmp_path / "stderr").read_text()
        assert "lost their connection" in errors or "store does not answer" in errors
    finally:
        other.kill()
        os.close(kept)


@pytest.mark.full  # 20 seconds; in the normal tier, a forked rank notices that another is dead
@pytest.mark.parametrize("victim", [0, 1])
def test_torchrun_ends_all_ranks_if_one_is_dead(victim: int, checkpoints: dict[int, Path]) -> None:
    command = torchrun(2, *PUNA, "chat", checkpoints[1], "--raw")
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
        ranks = {int(child.environ()["RANK"]): child for child in launcher.children() if "RANK" in child.environ()}
        if len(ranks) == 2:
            _wait_for_the_group(list(ranks.values()))
            return ranks
        time.sleep(0.1)
    raise AssertionError("the ranks did not start")


def _wait_for_the_group(ranks: list[psutil.Process]) -> None:
    for _ in range(600):
        if all(len(rank.net_connections()) > 2 for rank in ranks):
            time.sleep(1)
            return
        time.sleep(0.1)
    raise AssertionError("the ranks did not come together")


# ---- what passes between ranks ------------------------------------------------------------------------------------------


def test_a_batch_survives_the_way_to_another_rank() -> None:
    batch = Batch.of([chunk_of([5, 6], 0, [3], 0, prompt_length=2), chunk_of([7], 9, [1, 2], 1, prompt_length=4)])
    head, body = parallel._head(batch), parallel._body(batch)
    assert len(head) == parallel._HEAD_SIZE and len(body) == parallel._body_size(head)
    heard = parallel._batch(head, body)
    for field in dataclasses.fields(Batch):
        told, whole = getattr(heard, field.name), getattr(batch, field.name)
        assert np.array_equal(told, whole) and told.dtype == whole.dtype, field.name


def test_torchruns_variables_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert ProcessRank.from_env() == ProcessRank(0, 1, 0, 1)
    monkeypatch.setenv("RANK", "3")
    assert ProcessRank.from_env() == ProcessRank(0, 1, 0, 1), "without a world there is one process"
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UsageError, match="WORLD_SIZE is 'two'"):
        ProcessRank.from_env()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(UsageError, match="the rank must be below the size"):
        ProcessRank.from_env()
