"""Stands in for the module llama_cpp: what it is told to do stands in the environment."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

__version__ = "0.0.1"


class Llama:
    def __init__(self, model_path: str, **settings: object) -> None:
        print("a library that writes to standard output")
        if problem := os.environ.get("FAKE_PROBLEM"):
            raise ValueError(problem)
        self.threads, self.computed = settings["n_threads"], 0

    def reset(self) -> None:
        self.computed = 0

    def eval(self, ids: Sequence[int]) -> None:
        self.computed += len(ids)
        if place := os.environ.get("FAKE_NEVER_ENDS"):
            Path(place).write_text(str(os.getpid()))
            time.sleep(60)
        if os.environ.get("FAKE_DIES") and self.computed > 4:
            os.abort()
        time.sleep(2e-4 * len(ids))
