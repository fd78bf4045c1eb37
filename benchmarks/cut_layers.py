"""Writes a model without some of its layers: a draft model for the whole one, as in self-speculation.

(Zhang et al. 2023, arXiv 2309.08168.) Nothing is trained, so its guesses show what the other layers alone are worth.

    python benchmarks/cut_layers.py MODEL OUT.gguf --skip 12,14,16,18
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from puna.convert import choose_types
from puna.formats import open_checkpoint
from puna.formats.base import Checkpoint
from puna.hub import resolve
from puna.progress import SILENT
from puna.writers import WRITERS
from puna.writers.base import WriteJob


def cut(checkpoint: Checkpoint, skipped: set[int]) -> Checkpoint:
    """The model without the layers of these numbers."""
    kept = [layer for layer in range(checkpoint.config.num_layers) if layer not in skipped]
    names = {f"layers.{old}.": f"layers.{new}." for new, old in enumerate(kept)}
    tensors = {}
    for name, tensor in checkpoint.tensors.items():
        prefix = ".".join(name.split(".")[:2]) + "."
        if not name.startswith("layers."):
            tensors[name] = tensor
        elif prefix in names:
            tensors[names[prefix] + name.removeprefix(prefix)] = tensor
    config = dataclasses.replace(checkpoint.config, layers=tuple(checkpoint.config.layers[layer] for layer in kept))
    return dataclasses.replace(checkpoint, config=config, tensors=tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--skip", required=True, help="numbers of layers to leave out")
    given = parser.parse_args()
    checkpoint = cut(open_checkpoint(resolve(given.model, SILENT)), set(map(int, given.skip.split(","))))
    writer = WRITERS["gguf"]
    types = {name: choice.type for name, choice in choose_types(checkpoint, writer, "gguf", None).items()}
    writer.write(WriteJob(checkpoint, types), given.out)
    print(f"{given.out}: {checkpoint.config.num_layers} layers, {given.out.stat().st_size >> 20} MiB")


if __name__ == "__main__":
    main()
