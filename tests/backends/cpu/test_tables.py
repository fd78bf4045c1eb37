"""LoRA adapters in the memory of the CPU: as many bytes as the plan says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from puna.backends import BACKENDS
from puna.backends.cpu.tables import packed_adapter
from puna.formats.base import Adapter, LowRank
from puna.plan import adapter_bytes


@pytest.mark.parametrize(("rank", "columns", "rows"), [(1, 1, 1), (4, 63, 100), (7, 64, 96), (16, 576, 192)])
def test_a_packed_adapter_takes_what_the_plan_says(rank: int, columns: int, rows: int) -> None:
    part = LowRank(np.ones((rank, columns), np.float32), np.ones((rows, rank), np.float32))
    adapter = Adapter(Path("a"), {"layers.0.q_proj": part, "layers.1.o_proj": part})
    packed = packed_adapter(adapter)
    taken = sum(half.nbytes for halves in packed.values() for half in halves)
    assert taken == adapter_bytes(adapter, BACKENDS["cpu"].layouts["as-is"])
