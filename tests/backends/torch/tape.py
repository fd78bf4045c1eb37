"""A recorder as CUDA graphs are, for kernels in Triton's interpreter: the same calls at the same addresses with the same numbers.

What is recorded is not done, but for what only makes tensors. A replay makes no decision: whatever followed from numbers on the
host stays as it was when it was recorded, and reading a number of the device is refused. So a step that would go wrong in a graph
goes wrong here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

Call = Callable[[], object]
NOT_IN_GRAPHS = {"_local_scalar_dense": "reads a number of the device", "nonzero": "makes a size of numbers"}


class _Listening(TorchDispatchMode):  # type: ignore[misc]
    """Runs and records torch's operations; a replay writes its results into the same memory."""

    def __init__(self, calls: list[Call]) -> None:
        super().__init__()
        self._calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if name in NOT_IN_GRAPHS:
            raise RuntimeError(f"a recording {NOT_IN_GRAPHS[name]}: {name}")
        result = func(*args, **(kwargs or {}))
        if not name.startswith(("empty", "new_empty")):
            self._calls.append(lambda: _into(result, func(*args, **(kwargs or {}))))
        return result


def _into(places: Any, results: Any) -> None:
    """Copy new tensors, but not views or tensors changed in place."""
    for place, result in zip(tree_leaves(places), tree_leaves(results), strict=True):
        if isinstance(place, torch.Tensor) and place.data_ptr() != result.data_ptr():
            place.copy_(result)


class Tape:
    """See `puna.backends.torch.graph.Recorder`."""

    def __init__(self) -> None:
        self.num_recorded = 0
        self.num_replayed = 0

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        calls: list[Call] = []
        launcher: Any = triton.runtime.interpreter.GridExecutor
        launch = launcher.__call__

        def note(kernel: Any, *args: Any, **kwargs: Any) -> None:
            calls.append(lambda: launch(kernel, *args, **kwargs))

        launcher.__call__ = note
        try:
            with _Listening(calls):
                work()
        finally:
            launcher.__call__ = launch
        self.num_recorded += 1

        def replay() -> None:
            self.num_replayed += 1
            with _disable_current_modes():
                for call in calls:
                    call()

        return replay
