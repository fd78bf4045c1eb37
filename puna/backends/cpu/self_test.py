"""CPU self test: `python -m puna.backends.cpu.self_test` loads kernels, checks a result, measures, and prints one line of JSON.

It runs in its own process, because an instruction that the CPU lacks ends the process. Takes half a second, more to compile.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import Any

from puna.errors import PunaError

CHECKED_FLOATS = 4096


def try_cpu() -> dict[str, Any]:
    """What the CPU does, or "problem": why it does not."""
    started = time.perf_counter()
    try:
        from puna.backends.cpu import host, roofline
        from puna.cores import choose_threads

        host.require_cpu()
        total = sum_of_ones()
    except PunaError as error:
        return {"problem": error.typed.message, "hint": error.typed.hint}
    except ImportError as error:
        return {"problem": f"{error.name or 'a package'} cannot be imported: {error}", "module": error.name}
    threads = choose_threads().start
    return {
        "cpu": host.CPU_NAME,
        "threads": threads,
        "is_right": total == CHECKED_FLOATS,
        "ready_s": round(time.perf_counter() - started, 3),
        "limits": asdict(roofline.measure(threads)),
    }


def sum_of_ones() -> int:
    """Add up many ones with a compiled kernel, whose sums begin with the first 32 of them."""
    import numpy as np

    from puna.backends.cpu.compiled import load_entry
    from puna.backends.cpu.layout import aligned_zeros

    ones = aligned_zeros(4 * CHECKED_FLOATS)
    ones.view(np.float32)[:] = 1.0
    return load_entry("read_memory")(ones.ctypes.data, ones.nbytes) - 32


if __name__ == "__main__":
    sys.stdout.write(json.dumps(try_cpu()) + "\n")
