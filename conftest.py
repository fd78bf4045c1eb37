"""Every test and doctest has its own cache and one thread for torch; files of parts that cannot be imported are left out."""

from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Generator
from itertools import pairwise

import pytest

from tests import own_cache

own_cache.use()

# torch's threads wait busily for one another: on tiny matrices, and with tests in every core, two take ten times as long as one.
# A test that is about threads asks for its number.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Files -> the packages without which they cannot be imported.
NEEDED = {"puna/backends/torch/kernels/*": ("triton",), "scripts/*pictures.py": ("playwright", "PIL")}
collect_ignore_glob = [files for files, packages in NEEDED.items() if not all(map(importlib.util.find_spec, packages))]

# Tests that take five seconds and more, the longest first. They begin each worker's part of the list: none is left for the end.
SLOW = (
    "test_interpreted.py::",
    "test_compiled.py::",
    "test_parallel.py::test_three_processes",
    "test_parallel.py::test_torchrun_ends",
    "test_parallel.py::test_a_program_that_torchrun_starts",
    "test_parallel.py::test_two_processes_of_torchrun",
    "test_two_nodes.py::",
    "test_actual.py::",
    "test_generation.py::test_64_prompts",
    "test_exact.py::test_every_instruction_set",
    "test_hostile_tokenizers.py::test_a_thousand_mutants",
    "test_hostile_gguf.py::",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests, more than a million objects, stay to the end: no search for garbage looks at them, now or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Spread the slow tests over the workers: xdist gives each of them one stretch of the list to begin with."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers == 1:
        return
    ranks = {id(item): next((i for i, part in enumerate(SLOW) if part in item.nodeid), len(SLOW)) for item in items}
    slow = sorted((item for item in items if ranks[id(item)] < len(SLOW)), key=lambda item: ranks[id(item)])
    others = [item for item in items if ranks[id(item)] == len(SLOW)]
    # Stretches of equal length, as xdist cuts them: each worker's slow tests, then its share of the others.
    items.clear()
    cuts = [len(slow + others) * i // workers for i in range(workers + 1)]
    for worker, (first, last) in enumerate(pairwise(cuts)):
        own = slow[worker::workers]
        count = max(last - first - len(own), 0)
        items += own + others[:count]
        del others[:count]
    items += others
