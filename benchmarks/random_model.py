"""A GGUF file of a well-known shape with random weights, for `speed.py`: speed does not ask for trained ones.

    python benchmarks/random_model.py m.gguf [--shape 1.1b] [--quantize q4_k_m]

The blocks of each type are encoded once and dealt out again and again, so that a large file takes seconds. `q4_k_m` is the mix
that `puna convert` makes: Q6_K for the output, and for v_proj and down_proj of half of the layers.
"""

from __future__ import annotations

import argparse
from collections import Counter
from functools import cache
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from puna.convert import QUANTIZATIONS, SAME, choose_types
from puna.formats.base import Checkpoint, Tensor, TokenizerSpec
from puna.formats.blocks import BLOCK_TYPES, ENCODERS
from puna.formats.rows import ComputedRows
from puna.model.spec import ModelConfig, plain_model
from puna.model.weights import tensor_shapes
from puna.writers import WRITERS
from puna.writers.base import WriteJob

Bytes = npt.NDArray[np.uint8]

SHAPES = {  # layers, heads, K/V heads, head_dim, hidden, ffn, vocabulary, context
    "1.1b": plain_model(22, 32, 4, 64, 2048, 5632, 32000, 2048, name="1.1B"),
    "135m": plain_model(30, 9, 3, 64, 576, 1536, 49152, 8192, tie_embeddings=True, name="135M"),
    "135m-wide": plain_model(30, 8, 4, 64, 512, 1536, 49152, 8192, tie_embeddings=True, name="135M, rows of whole superblocks"),
    "toy": plain_model(2, 4, 2, 64, 256, 512, 512, 512, name="toy"),
}
POOL = 1 << 22  # weights


@cache
def pool(kind: str) -> Bytes:
    values = np.random.default_rng(0).standard_normal((POOL // 256, 256)).astype(np.float32) * np.float32(0.02)
    return ENCODERS[kind](values).reshape(-1)


def tensor(name: str, shape: tuple[int, ...], kind: str) -> Tensor:
    """A tensor whose rows are generated on request."""
    size = BLOCK_TYPES[kind].row_bytes(shape[-1])
    block_bytes = BLOCK_TYPES[kind].block_bytes

    def rows(first: int, last: int) -> Bytes:
        return np.resize(np.roll(pool(kind), 7 * first * block_bytes), (last - first, size))

    return Tensor(name, shape, BLOCK_TYPES[kind], ComputedRows((prod(shape[:-1]), size), rows))


def tokenizer(vocab_size: int) -> TokenizerSpec:
    """SentencePiece: three control tokens, 256 bytes, and pieces that nobody writes."""
    tokens = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256))]
    types = [2, 3, 3, *[6] * 256, *[1] * (vocab_size - len(tokens))]
    tokens += [b"unused%d" % index for index in range(vocab_size - len(tokens))]
    scores = -np.arange(vocab_size, dtype=np.float32)
    return TokenizerSpec("spm", tokens, scores, np.array(types, np.int32), bos_id=1, eos_id=2, unk_id=0, add_bos=True)


def checkpoint_of(config: ModelConfig, quantize: str) -> Checkpoint:
    """The model in the types that `puna convert --quantize` would give to its matrices."""
    shapes = tensor_shapes(config)
    plain = Checkpoint(Path(config.name), "memory", config, {name: tensor(name, shape, "F32") for name, shape in shapes.items()})
    types = choose_types(plain, WRITERS["gguf"], "gguf", quantize)
    tensors = {name: tensor(name, shape, types[name].type) for name, shape in shapes.items()}
    return Checkpoint(Path(config.name), "memory", config, tensors, tokenizer(config.vocab_size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="1.1b")
    parser.add_argument("--quantize", choices=(*QUANTIZATIONS, *SAME), default="q4_k_m")
    given = parser.parse_args()
    checkpoint = checkpoint_of(SHAPES[given.shape], SAME.get(given.quantize, given.quantize))
    types = {name: tensor.type.name for name, tensor in checkpoint.tensors.items()}
    WRITERS["gguf"].write(WriteJob(checkpoint, types), given.target)
    print(f"{given.target}: {given.target.stat().st_size} bytes, {dict(Counter(types.values()))}")


if __name__ == "__main__":
    main()
