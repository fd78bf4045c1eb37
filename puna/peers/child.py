"""The child's end: loads a model in a peer, and measures what each line of its standard input asks for.

    python -P .../puna/machine/launch.py puna.peers.child MODULE MODEL THREADS CONTEXT

It prints a line of JSON once the model is loaded, then one per question. An error ends it with a traceback on standard error, and
so does an end of its input, in silence.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import IO, Any


def main(module: str, model: str, threads: str, context: str) -> None:
    """Load, then answer until the input ends."""
    with _own_output() as answers:
        loaded = importlib.import_module(module).load(Path(model), int(threads), int(context))
        _say(answers, {"version": loaded.version, "computes": loaded.computes})
        for line in sys.stdin:
            question = json.loads(line)
            _say(answers, loaded.measure(question["prompt"], question["answer"])._asdict())


def _own_output() -> IO[str]:
    """Standard output, for the answers alone: what libraries print there goes to standard error from now on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _say(answers: IO[str], answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
