"""A language model of a few lines, for traces that need no real one, and runs of sources on it."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.explain.source.explained import Dissection
from puna.explain.source.reading import source_of
from puna.explain.source.tracing import SourceRun, run_loop

VOCAB_SIZE = 40


class ToyModel:
    """Logits that depend on the last token alone; a token is a letter."""

    name = "toy"
    vocab_size, max_context, bos_id, eos_id = VOCAB_SIZE, 64, -1, 0
    stop_ids: Sequence[int] = (0,)
    sizes = {"hidden_size": 8, "max_batch": 4}  # noqa: RUF012

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        grid = np.arange(VOCAB_SIZE, dtype=np.float32)
        return np.stack([np.cos(grid * (1 + one % 7)) * 3 for one in ids]).astype(np.float32)

    def encode(self, text: str) -> list[int]:
        return [1 + ord(letter) % (VOCAB_SIZE - 1) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(self.piece, ids))

    def piece(self, token_id: int) -> str:
        return chr(ord("0") + token_id)


def run(source: str, function: str = "f", **chosen: Any) -> SourceRun:
    """Carry out a function of a source that is recognised as a loop."""
    file = Dissection(source_of(source, "t.py"))
    definition = next(one for one in file.definitions if one.name.rpartition(".")[2] == function)
    loop = file.loop_of(definition)
    assert loop is not None and isinstance(definition.node, ast.FunctionDef), "not recognised"
    return run_loop(definition.name, definition.node, loop, file.scope(definition), ToyModel(), chosen)


def sampling(body: str) -> str:
    """A sampling step, so that it is run, around some lines."""
    lines = "\n".join(f"    {line}" for line in body.split("\n"))
    return (
        f"import torch\nimport math\nimport torch.nn.functional as F\n\ndef f(probs):\n    torch.multinomial(probs, 1)\n{lines}\n"
    )
