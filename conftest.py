"""What holds for every test and doctest: a cache of their own, and files left out where a part of puna cannot be imported."""

from __future__ import annotations

import importlib.util
from itertools import pairwise

import pytest

from tests import own_cache

own_cache.use()

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["puna/backends/torch/kernels/*"]

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
