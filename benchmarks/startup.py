"""From process start to the first token of an answer, with warm caches: `puna run` as a person types it.

    python benchmarks/startup.py [--repeat 7]

The clock starts before the process is made and stops when the first byte of the answer arrives on its standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

FLOORS = {"python": "pass", "numpy": "import numpy", "numba": "import numba"}


def first_byte_s(command: list[str]) -> float:
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 1)
        seconds = time.perf_counter() - start
        process.stdout.read()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=7)
    given = parser.parse_args()
    commands = {name: [sys.executable, "-c", f"{code}; print(1)"] for name, code in FLOORS.items()}
    commands["puna run"] = [sys.executable, "-m", "puna", "run", "Hello", "-n", "8"]
    for command in commands.values():
        first_byte_s(command)
    rows = {name: [first_byte_s(command) for _ in range(given.repeat)] for name, command in commands.items()}
    for name, values in rows.items():
        print(f"{name:10}{statistics.median(values):7.2f} s   {min(values):.2f}-{max(values):.2f}")
    print(json.dumps({name: round(statistics.median(values), 3) for name, values in rows.items()}))


if __name__ == "__main__":
    main()
