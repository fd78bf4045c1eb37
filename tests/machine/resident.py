"""Loads models one after the other and prints what each took: run as a process of its own, whose memory nobody else uses.

python -m tests.machine.resident DEVICE [--fill] [--f32] MODEL ...       one line of JSON each
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

from puna.config import KVType
from puna.llm import LLM
from puna.machine.planning.devices import PlannedDevice
from puna.machine.planning.fit import fit
from puna.resources import own_bytes, return_free_memory


def load(device: str, path: Path, options: list[str]) -> dict[str, int]:
    kv_type: KVType = "f32" if "--f32" in options else "auto"  # as many bytes for half the work
    with LLM.load(path, device=device, max_batch=1, threads=1, kv_type=kv_type, prefix_cache=False) as llm:
        assert llm.footprint is not None
        facts = {"predicted": llm.footprint.predicted_bytes, "actual": llm.footprint.actual_bytes, "process": own_bytes()}
        facts["process_predicted"] = facts["predicted"] + _overhead(llm)
        if "--fill" in options:
            facts |= _filled(llm)
        return facts


def _overhead(llm: LLM) -> int:
    from puna.formats import open_checkpoint

    device = PlannedDevice("cpu", "", 1 << 40, 1 << 40, 1 << 40)
    items = fit(open_checkpoint(llm.path), llm.config, device).items
    return sum(item.bytes for item in items if item.part == "overhead")


def _filled(llm: LLM) -> dict[str, int]:
    """Memory that the second half of the context took, after the first half had touched everything else."""
    context = llm.plan.max_context
    # Large enough that the MiB or two which Python gives back at its own time are no hundredth of it.
    ids = [3 + i % 200 for i in range(context)]
    for _ in range(2):  # the second time nothing is new
        llm.generate(ids[: context // 2 - 1], max_tokens=1, ignore_eos=True)
    before = _settled_bytes()
    llm.generate(ids[: context - 1], max_tokens=1, ignore_eos=True)
    return {"kv_predicted": llm.plan.kv_bytes // 2, "kv_actual": _settled_bytes() - before}


def _settled_bytes() -> int:
    """After freed memory went back to the system."""
    gc.collect()
    return_free_memory()
    return own_bytes()


if __name__ == "__main__":
    device, *rest = sys.argv[1:]
    options = [word for word in rest if word.startswith("--")]
    for text in rest:
        if text not in options:
            print(json.dumps(load(device, Path(text), options)), flush=True)
