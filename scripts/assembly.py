"""Prints the machine code of a kernel for this CPU or another: `python -m scripts.assembly multiply_q4_0 --level avx512`.

`docs/kernels.md` reads it. Nothing is run, so any machine can show the code of all classes of CPU.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from puna.backends.cpu import compiled, host

# Level -> triple and CPU as LLVM names them. `portable` stands for what is compiled where no level fits.
TARGETS = {
    "avx512": ("x86_64-linux-gnu", "icelake-server"),
    "avxvnni": ("x86_64-linux-gnu", "alderlake"),
    "avx2": ("x86_64-linux-gnu", "haswell"),
    "dotprod": ("aarch64-linux-gnu", "neoverse-n1"),
    "portable": ("aarch64-linux-gnu", "cortex-a53"),
}


def assembly(name: str, level: str) -> str:
    """Of an entry of `compiled.ENTRIES`. The level counts only in a process that has not imported the kernels yet."""
    host.LEVEL, host.PORTABLE = level, level in host.PLAIN
    from puna.backends.cpu import emit

    module, num_arguments = compiled.ENTRIES[name]
    kernel = getattr(importlib.import_module(f"puna.backends.cpu.{module}"), name)
    return emit.assembly(kernel, num_arguments, *TARGETS[level])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("entry", choices=compiled.ENTRIES, metavar="ENTRY", help="such as multiply_q4_0, attend_f16, run")
    parser.add_argument("--level", choices=TARGETS, default=host.LEVEL, help="a class of CPU [this one's]")
    given = parser.parse_args()
    sys.stdout.write(assembly(given.entry, given.level) + "\n")


if __name__ == "__main__":
    main()
