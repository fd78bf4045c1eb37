"""Two machines, simulated by two network namespaces that this test creates and removes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.torch.test_parallel import CONFIG, PUNA, RUN, text_of
from tests.forked import ForkServer, completed, environment, rank_variables
from tests.models import random_tensors, write_llama2c

NODES = ("10.77.31.1", "10.77.31.2")


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def namespaces() -> Iterator[list[str]]:
    """Names of two namespaces with a wire between them."""
    names = [f"puna{os.getpid()}{side}" for side in "ab"]
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("two network namespaces need the program `ip` and root")
    try:
        for name in names:
            run("ip", "netns", "add", name)
    except subprocess.CalledProcessError:
        run("ip", "netns", "delete", names[0]) if Path("/run/netns", names[0]).exists() else None
        pytest.skip("network namespaces cannot be made here")
    try:
        run("ip", "link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1])
        for name, address in zip(names, NODES, strict=True):
            for words in (
                ["addr", "add", f"{address}/24", "dev", name],
                ["link", "set", name, "up"],
                ["link", "set", "lo", "up"],
            ):
                run("ip", "netns", "exec", name, "ip", *words)
        yield names
    finally:
        for name in names:
            run("ip", "netns", "delete", name)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_llama2c(tmp_path / "model.bin", CONFIG, random_tensors(CONFIG, seed=7))


@pytest.fixture
def alone(model: Path, fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    words = [*PUNA, "run", str(model), *RUN, "--device", "torch"]
    return text_of(fork_server.run(1, words, tmp_path_factory.mktemp("alone")))


def test_two_nodes_give_the_text_of_one_process(
    namespaces: list[str], model: Path, alone: str, fork_server: ForkServer, tmp_path: Path
) -> None:
    words, begun = [*PUNA, "run", str(model), *RUN], []
    for rank, name in enumerate(namespaces):
        folder = tmp_path / name
        folder.mkdir()
        variables = rank_variables(rank, 2, machines=2, master=NODES[0], port=29517)
        begun.append(fork_server.start(words, folder, variables, network=f"/run/netns/{name}"))
    first, second = (completed([one], words, tmp_path / name) for one, name in zip(begun, namespaces, strict=True))
    assert text_of(first) == alone
    assert (second.returncode, second.stdout) == (0, ""), second.stderr


@pytest.mark.full  # torchrun on both; forked ranks stand for it in the normal tier
def test_two_nodes_of_torchrun_give_the_text_of_one_process(namespaces: list[str], model: Path, alone: str) -> None:
    launch = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    launch += ["--master_addr", NODES[0], "--master_port", "29517"]
    words = [*PUNA, "run", str(model), *RUN]
    nodes = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, *launch, "--node_rank", str(rank), *words],
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank, name in enumerate(namespaces)
    ]  # fmt: skip
    try:
        results = [node.communicate(timeout=240) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], results
    assert json.loads(results[0][0].splitlines()[-1])["text"] == alone
    assert results[1][0] == ""
