"""Finds the tensor that an allocation was for, from its size: 86.00 MiB is one 4096 x 11008 matrix in half precision, of a
model of 7B.

PyTorch's allocator asks CUDA for blocks of 2 MiB, of 20 MiB, or of whole multiples of 2 MiB, and its message names the block.
Sizes are compared as the message prints them, to its last digit. If several tensors fit, those of models named in the text come
first, then half precision and whole matrices of the most used models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from puna.machine.planning.known_models import KNOWN_MODELS, find_model
from puna.model.spec import ModelConfig
from puna.model.weights import tensor_shapes
from puna.plan import kv_bytes
from puna.units import MIB, POWERS, foreign_bytes, mib_or_gib

SMALL, LARGE, FROM_LARGE = 2 * MIB, 20 * MIB, 10 * MIB  # blocks of PyTorch's allocator
WIDTHS = {2: "half-precision", 4: "float32", 1: "int8"}  # bytes -> what a number of so many bytes is, the likeliest first
FILE_TYPES = {2: "F16", 4: "F32", 1: "Q8_0"}
SHARES = (1, 2, 4, 8)  # processes among which a matrix is shared
MIN_LOGITS = 256 * MIB
MIN_PART = 0.25  # share of the card: below it, the size alone does not identify a model that the text does not name
LENGTHS = tuple(1 << power for power in range(9, 18))  # tokens
NEAR_END = 1 << 15  # characters at either end of a text that are searched for models and settings

_MODEL_NAME = re.compile(r"[\w.-]{0,40}(?:llama|vicuna|mistral|smollm|stories)[\w.-]{0,40}", re.IGNORECASE)
_SETTING = re.compile(r"max_(seq_len|batch_size)\W{1,4}(\d{1,7})")


@dataclass(frozen=True, slots=True)
class AllocatedTensor:
    """What an allocation was for. `kind`: "weights", "kv-cache", "scores" or "logits"."""

    kind: str
    words: str
    cure: tuple[str, ...]
    model: str = ""
    config: ModelConfig | None = None
    file_type: str = "F16"


@dataclass(frozen=True, slots=True)
class Hints:
    """What else the text says: model names, and the sizes given to Meta's program."""

    models: tuple[str, ...] = ()
    max_seq_len: int | None = None
    max_batch_size: int | None = None

    @classmethod
    def of(cls, text: str) -> Hints:
        """
        >>> Hints.of("--ckpt_dir llama-2-7b-chat/ --max_seq_len 512 --max_batch_size 4")
        Hints(models=('llama-2-7b',), max_seq_len=512, max_batch_size=4)
        """
        text = text if len(text) <= 2 * NEAR_END else f"{text[:NEAR_END]}\n{text[-NEAR_END:]}"
        names = [found[0] for found, _ in zip(_MODEL_NAME.finditer(text), range(200))]
        known = dict.fromkeys(model[0] for model in map(find_model, names) if model is not None)
        settings = {found[1]: int(found[2]) for found, _ in zip(_SETTING.finditer(text), range(50))}
        return cls(tuple(known), settings.get("seq_len"), settings.get("batch_size"))


def identify(wanted: str, capacity: int | None, text: str = "") -> AllocatedTensor | None:
    """The tensor that `wanted` ("86.00 MiB") was for, on a device of `capacity` bytes; None if no tensor has that size.

    >>> identify("86.00 MiB", 12552138096).kind, identify("20.00 MiB", 12552138096)
    ('weights', None)
    """
    size = foreign_bytes(wanted)
    if size is None or size in (SMALL, LARGE):
        return None
    hints = Hints.of(text)
    match = _Size(size, _tolerance(wanted))
    return next((found for search in _SEARCHES if (found := search(match, capacity, hints)) is not None), None)


def weights_bytes(config: ModelConfig, width: int = 2) -> int:
    """
    >>> mib_or_gib(weights_bytes(KNOWN_MODELS["llama-2-7b"]))
    '12.55 GiB'
    """
    return width * sum(prod(shape) for shape in tensor_shapes(config).values())


@dataclass(frozen=True, slots=True)
class _Size:
    """A size as it was printed."""

    num_bytes: int
    tolerance: float

    def fits(self, tensor_bytes: float) -> bool:
        return abs(_block(tensor_bytes) - self.num_bytes) <= self.tolerance


def _block(size: float) -> int:
    """The block that the allocator asks for.

    >>> _block(1000) // MIB, _block(3 * MIB) // MIB, _block(86 * MIB) // MIB, _block(87 * MIB) // MIB
    (2, 20, 86, 88)
    """
    if size <= MIB:
        return SMALL
    return LARGE if size < FROM_LARGE else -(-int(size) // SMALL) * SMALL


def _tolerance(text: str) -> float:
    """Half of the last digit that a message prints."""
    unit = text.split()[-1].upper()[:1]
    return float(1024 ** POWERS.get(unit, 0)) / 200 + 1


def _weights(size: _Size, capacity: int | None, hints: Hints) -> AllocatedTensor | None:
    for name, config, rows, columns, width, share in _matrices(hints):
        if not size.fits(rows * columns * width / share):
            continue
        whole = weights_bytes(config, width) // share
        part = f"a {share}th part of one" if share > 1 else "one"
        what = f"{mib_or_gib(size.num_bytes)} is {part} {rows} x {columns} {WIDTHS[width]} matrix of {name}"
        if capacity is not None and whole < MIN_PART * capacity and name not in hints.models:
            continue
        if capacity is not None and whole <= 0.95 * capacity:
            return _crowded(what, name, config, whole, capacity, hints)
        of = f" and the GPU has {mib_or_gib(capacity)}" if capacity is not None else ""
        words = (
            f"{what}: you ran out while the model was built. Its weights alone are {mib_or_gib(whole)}{of}. A smaller batch or a "
            "shorter context cannot help."
        )
        cure = ("Fewer bits per weight: 8-bit weights halve it, 4-bit weights quarter it.", "Or keep some layers in main memory.")
        return AllocatedTensor("weights", words, cure, name, config, FILE_TYPES[width])
    return None


def _crowded(what: str, name: str, config: ModelConfig, whole: int, capacity: int, hints: Hints) -> AllocatedTensor:
    """A matrix of a model whose weights would fit: something else uses the memory."""
    batch, length = hints.max_batch_size or 32, hints.max_seq_len or 1024
    words = (
        f"{what}; its weights are {mib_or_gib(whole)} and would fit into {mib_or_gib(capacity)}. The rest of the GPU's memory is "
        f"used by K and V, reserved in advance for the whole batch and context ({batch} x {length} tokens: "
        f"{mib_or_gib(kv_bytes(config, batch * length, 'f16'))}), or another process."
    )
    cure = ("Lower --max_batch_size and --max_seq_len.", "See what else uses the card: nvidia-smi")
    return AllocatedTensor("kv-cache", words, cure, name, config)


def _matrices(hints: Hints) -> Iterator[tuple[str, ModelConfig, int, int, int, int]]:
    """Name, sizes, rows, columns, bytes per number, number of shares; the likeliest first."""
    named = [(name, KNOWN_MODELS[name]) for name in hints.models]
    models = [
        *named,
        *((n, KNOWN_MODELS[n]) for n in ("llama-2-7b", "llama-2-13b", "llama-2-70b", "llama-3-8b")),
        *KNOWN_MODELS.items(),
    ]
    for share in SHARES:
        for width in WIDTHS:
            for name, config in models:
                shapes = {shape for shape in tensor_shapes(config).values() if len(shape) == 2}
                if name not in hints.models:  # logits have the same sizes as the matrices of the vocabulary
                    shapes = {shape for shape in shapes if shape[0] != config.vocab_size}
                yield from ((name, config, rows, columns, width, share) for rows, columns in sorted(shapes))


def _kv(size: _Size, capacity: int | None, hints: Hints) -> AllocatedTensor | None:
    """One layer's K or V, which Meta's program reserves for the whole batch and context."""
    batch, length = hints.max_batch_size, hints.max_seq_len
    if batch is None or length is None:
        return None
    for name in hints.models or ("llama-2-7b", "llama-2-13b", "llama-2-70b"):
        config = KNOWN_MODELS[name]
        if size.fits(batch * length * config.kv_size * 2):
            words = (
                f"{mib_or_gib(size.num_bytes)} is one layer's K (or V) of {name} at {batch} x {length} tokens; all layers' "
                f"together are {mib_or_gib(kv_bytes(config, batch * length, 'f16'))}, beside {mib_or_gib(weights_bytes(config))} "
                "of weights."
            )
            return AllocatedTensor(
                "kv-cache", words, ("Lower --max_batch_size or --max_seq_len: both shrink it in proportion.",), name, config
            )
    return None


def _scores(size: _Size, capacity: int | None, hints: Hints) -> AllocatedTensor | None:
    """Attention scores, all in memory at once: they grow with the square of the length."""
    if size.num_bytes < 1024 * MIB:
        return None
    for heads in (32, 40, 64):
        for length in LENGTHS:
            for width in (2, 4):
                if size.fits(heads * length * length * width):
                    words = (
                        f"{mib_or_gib(size.num_bytes)} is as large as the attention scores of {heads} heads for {length} x "
                        f"{length} tokens ({WIDTHS[width]}), all in memory at once: half the length needs a quarter."
                    )
                    cure = (
                        'An attention that never holds all scores: attn_implementation="sdpa" or "flash_attention_2".',
                        "Or shorter prompts.",
                    )
                    return AllocatedTensor("scores", words, cure)
    return None


def _logits(size: _Size, capacity: int | None, hints: Hints) -> AllocatedTensor | None:
    """Logits of all positions of a prompt; only the last position's are needed."""
    if size.num_bytes < MIN_LOGITS:
        return None
    for vocab in (32000, 128256):
        for length in LENGTHS:
            for width in (4, 2):
                if size.fits(length * vocab * width):
                    words = (
                        f"{mib_or_gib(size.num_bytes)} is as large as the logits of {length} tokens over a vocabulary of {vocab} "
                        f"({WIDTHS[width]}): a row for each token of the batch, where the last row of each text is enough."
                    )
                    return AllocatedTensor(
                        "logits", words, ("A smaller batch or shorter prompts; newer versions keep the last row only.",)
                    )
    return None


_SEARCHES = (_kv, _weights, _scores, _logits)  # K and V come first: they need settings from the text, so they mislead least
