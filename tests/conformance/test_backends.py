"""What every backend must do: the reference's numbers at odd sizes, and the same bits alone, in chunks, in a batch, in any pages.

A backend joins by its line in BACKENDS_UNDER_TEST.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import pytest

from puna.backends import backend_spec, create_backend
from puna.backends.base import Backend
from puna.batch import Batch, Logits
from puna.config import EngineConfig, KVType, WeightsType
from puna.errors import ModelFormatError
from puna.formats.base import Checkpoint
from puna.formats.blocks import BLOCK_TYPES
from puna.model.rope import RopeConfig
from puna.model.spec import AttentionSpec, Dense, Experts, LayerSpec, ModelConfig
from puna.plan import DEVICE, Plan, make_plan
from tests.fakes import chunk_of, random_checkpoint, tiny_config, with_layers

BACKENDS_UNDER_TEST: list[str] = ["reference", "cpu", "torch"]

# Error of a row's logits, root mean square and largest, in units of the row's standard deviation. With float weights and K and V
# in float32 only the order of sums differs from the reference. K and V in half precision (relative error 2**-11) and int8
# activations cost more, and these random weights forgive less than trained ones: the reference made to do both reaches
# (0.061, 0.20); of the shapes, a head_dim of 2 is the worst for half precision, (0.0023, 0.008). K and V in bf16 have three bits
# less than in f16; in int8 a head's rounding is 1 / 254 of its largest number: yarn is the worst, (0.032, 0.105).
EXACT, HALF, QUANTISED = (2e-5, 1e-4), (0.004, 0.015), (0.09, 0.35)
KV_TOLERANCE = {"f32": EXACT, "f16": HALF, "bf16": (0.032, 0.12), "int8": (0.05, 0.2)}
QUANTS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")  # of the tiny models, which have no rows of whole K-blocks
K_QUANTS = ("Q4_K", "Q5_K", "Q6_K")  # of the wide ones
CPU_QUANTS = (
    "Q5_0",
    "Q5_1",
    "Q3_K",
    "Q2_K",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4",
)  # of the wide ones, where `cpu` has them; the others make other types of them
KV_TYPES: dict[str, tuple[KVType, ...]] = {
    "reference": ("f32",),
    "cpu": ("f32", "f16", "int8"),
    "torch": ("f32", "bf16", "f16", "int8"),
}
THREADS = {"torch": 1}  # its threads wait busily: where other work runs, two are ten times slower than one on such tiny models
PAGE_SIZE = 16
NUM_PAGES = 24

YARN = RopeConfig(scaling="yarn", factor=4.0, original_context=16, attention_factor=1.1386)
# Name -> sizes that kernels get wrong: grouping ratios 1, 3, 4, 8; head_dim 8, 20, 64, 100; sizes that are no multiple of 32;
# windows within, across and at the end of a page; and what only some families have.
ODD_SIZES: dict[str, ModelConfig] = {
    "plain": tiny_config(),
    "ratio-1": tiny_config(num_heads=4, num_kv_heads=4, hidden_size=96, ffn_size=160),
    "ratio-3-head-64": tiny_config(num_heads=3, num_kv_heads=1, head_dim=64, hidden_size=192, ffn_size=96),
    "ratio-4-head-20": tiny_config(num_heads=8, num_kv_heads=2, head_dim=20, hidden_size=160, ffn_size=96),
    "ratio-8-head-100": tiny_config(num_heads=8, num_kv_heads=1, head_dim=100, hidden_size=64, ffn_size=64),
    "head-2": tiny_config(num_heads=2, num_kv_heads=1, head_dim=2, hidden_size=32, ffn_size=32),
    "hidden-70-ffn-172": tiny_config(hidden_size=70, ffn_size=172),
    "ffn-33-vocab-61": tiny_config(ffn_size=33, vocab_size=61),
    "biases": tiny_config(qkv_bias=True, o_bias=True, ffn_bias=True, hidden_size=70, ffn_size=33, head_dim=18),
    "qk-norm-head-20": tiny_config(qk_norm=True, qkv_bias=True, num_heads=6, num_kv_heads=3, head_dim=20),
    "qk-norm-ratio-3-head-64": tiny_config(qk_norm=True, num_heads=3, num_kv_heads=1, head_dim=64),
    "window-1": tiny_config(sliding_window=1, num_heads=4, num_kv_heads=4),
    "window-5-ratio-1": tiny_config(sliding_window=5, num_heads=4, num_kv_heads=4),
    "window-17-one-layer-of-two": tiny_config(sliding_window=17, windowed_layers=(1,), num_heads=6, num_kv_heads=2),
    "window-32": tiny_config(sliding_window=32),
    "yarn": tiny_config(rope=YARN),
    "dynamic": tiny_config(rope=RopeConfig(scaling="dynamic", factor=2.0, original_context=16)),
    "tied-one-layer": tiny_config(num_layers=1, tie_embeddings=True, vocab_size=97),
}
GLOBAL, LOCAL = RopeConfig(theta=1e5, scaling="linear", factor=2.0), RopeConfig()
LONG = RopeConfig(
    scaling="longrope", original_context=16, factors=(1.0, 1.5, 2.0, 2.5, 3.0), long_factors=(1.0, 2.0, 4.0, 6.0, 8.0),
    attention_factor=1.19, dim=10,
)  # fmt: skip
# What families have beyond the block above: each part alone, and two that mix many.
FAMILY_SIZES: dict[str, ModelConfig] = {
    "norms-after": with_layers(tiny_config(hidden_size=70), AttentionSpec(), Dense(96), "after"),
    "norms-both": with_layers(tiny_config(hidden_size=70), AttentionSpec(), Dense(33), "both"),
    "full-qk-norm": with_layers(tiny_config(head_dim=20), AttentionSpec(qk_norm="full", qkv_bias=True), Dense(96)),
    "gelu": with_layers(tiny_config(), AttentionSpec(), Dense(33, "gelu", bias=True)),
    "scale": with_layers(tiny_config(), AttentionSpec(scale=0.4), Dense(96)),
    "softcap": with_layers(tiny_config(), AttentionSpec(softcap=3.0, window=17), Dense(96)),
    "logit-softcap": replace(tiny_config(vocab_size=61), logit_softcap=2.0, embedding_scale=8.0),
    "no-rope-every-other-layer": replace(
        tiny_config(), layers=(LayerSpec(AttentionSpec(rope=None), Dense(96)), LayerSpec(AttentionSpec(window=17), Dense(96)))
    ),
    "two-ropes": replace(
        tiny_config(),
        ropes=(GLOBAL, LOCAL),
        layers=(LayerSpec(AttentionSpec(), Dense(96)), LayerSpec(AttentionSpec(window=9, rope=1), Dense(96))),
    ),
    "longrope-partial": tiny_config(head_dim=16, rope=LONG),
    "scaled-queries": tiny_config(rope=replace(YARN, q_beta=0.3)),
    "experts-2-of-5": with_layers(tiny_config(), AttentionSpec(), Experts(33, count=5, top_k=2)),
    "dense-beside-experts": replace(
        tiny_config(hidden_size=70),
        layers=(
            LayerSpec(AttentionSpec(), Dense(172)),
            LayerSpec(AttentionSpec(qk_norm="full"), Experts(33, count=9, top_k=3, activation="gelu"), "both"),
        ),
    ),
    "experts-not-normalised": with_layers(tiny_config(hidden_size=70), AttentionSpec(), Experts(64, 3, 3, normalises=False)),
    "like-gemma": with_layers(
        replace(tiny_config(num_kv_heads=1, head_dim=36, tie_embeddings=True), embedding_scale=8.0, logit_softcap=5.0),
        AttentionSpec(window=20, scale=0.2, softcap=6.0, qk_norm="head"), Dense(96, "gelu"), "both",
    ),
    "like-olmo": with_layers(tiny_config(num_kv_heads=4), AttentionSpec(window=20, qk_norm="full"), Dense(96), "after"),
}  # fmt: skip
# With rows of one, two and three K-blocks, beside others that have none.
WIDE_SIZES: dict[str, ModelConfig] = {
    "wide": tiny_config(head_dim=64, hidden_size=256, ffn_size=512, vocab_size=61),
    "wide-tied-ffn": tiny_config(hidden_size=256, ffn_size=768, tie_embeddings=True),
    "wide-ffn-hidden-70": tiny_config(hidden_size=70, ffn_size=512),
}


@contextmanager
def loaded(device: str, checkpoint: Checkpoint, threads: int = 0, kv: KVType = "auto") -> Iterator[Backend]:
    config = EngineConfig(device=device, threads=threads or THREADS.get(device, 0), page_size=PAGE_SIZE, kv_type=kv)
    backend = create_backend(config)
    try:
        backend.load(checkpoint, plan_of(checkpoint, config, backend))
        yield backend
    finally:
        backend.close()


def plan_of(checkpoint: Checkpoint, config: EngineConfig, backend: Backend) -> Plan:
    layouts = backend_spec(config.device).layouts
    plan = make_plan(checkpoint.config, checkpoint.tensors, config, layouts, backend.info.free_bytes)
    assert plan.num_pages >= NUM_PAGES
    return plan


Piece = tuple[Sequence[int], int, Sequence[int]]  # ids, position of the first, page ids


def forward(backend: Backend, *pieces: Piece, last_only: bool = False, prompt_length: int = 1) -> Logits:
    """One step of several sequences; logits of every row, or of each sequence's last."""
    chunks = [chunk_of(ids, first, pages, 1 if last_only else len(ids), prompt_length) for ids, first, pages in pieces]
    return np.array(backend.step(Batch.of(chunks)).logits())


def random_ids(config: ModelConfig, count: int, seed: int = 0) -> list[int]:
    ids: list[int] = np.random.default_rng(seed).integers(0, config.vocab_size, count).tolist()
    return ids


def require_close(found: Logits, expected: Logits, tolerance: tuple[float, float]) -> None:
    difference = np.abs(found - expected) / expected.std(axis=1, keepdims=True)
    errors = float(np.sqrt(np.square(difference).mean(axis=1)).max()), float(difference.max())
    print("error: root mean square, largest:", *errors)
    assert errors[0] < tolerance[0] and errors[1] < tolerance[1]


PAGES = [3, 11, 7, 0]
AUTO: dict[str, KVType] = {"reference": "f32", "cpu": "f16", "torch": "bf16"}  # what each makes of "auto"
devices = pytest.mark.parametrize("device", BACKENDS_UNDER_TEST)
DEVICES_KV = [(device, kv) for device in BACKENDS_UNDER_TEST for kv in KV_TYPES[device]]
kv_types = pytest.mark.parametrize(("device", "kv"), DEVICES_KV)
# What can change a bit: the default, and int8 of our own kernels, which are written a whole head at a time.
CAN_CHANGE_BITS: list[tuple[str, KVType]] = [*AUTO.items(), ("cpu", "int8")]
bit_kv_types = pytest.mark.parametrize(("device", "kv"), CAN_CHANGE_BITS)


class Case(NamedTuple):
    """A model on a device."""

    quant: str
    shape: str
    device: str
    kv: KVType


class Loaded(NamedTuple):
    """A case, loaded."""

    case: Case
    checkpoint: Checkpoint
    backend: Backend


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    """Tests of one model stand side by side, so it is loaded once; what others left in its pages is overwritten, or not read."""
    case: Case = request.param
    checkpoint = random_model(case.shape, case.quant, seed=1)
    with loaded(case.device, checkpoint, kv=case.kv) as backend:
        yield Loaded(case, checkpoint, backend)


def models(shapes: Sequence[str], on: Sequence[tuple[str, KVType]]) -> pytest.MarkDecorator:
    """These shapes in every type of theirs, and the wide ones in the K-quants and in those of `cpu`."""
    sizes = [*product(QUANTS, shapes), *product(K_QUANTS + CPU_QUANTS, WIDE_SIZES)]
    cases = [Case(*size, *where) for size in sizes for where in on if size[0] not in CPU_QUANTS or where[0] == "cpu"]
    return pytest.mark.parametrize("model", cases, indirect=True, ids="-".join)


@lru_cache(maxsize=4)  # one model's tests stand side by side
def random_model(shape: str, quant: str, seed: int) -> Checkpoint:
    """Not to be changed by a test: others have it too."""
    return random_checkpoint((ODD_SIZES | WIDE_SIZES | FAMILY_SIZES)[shape], quant, seed=seed)


@lru_cache(maxsize=1)
def reference_logits(shape: str, quant: str, seed: int, length: int) -> Logits:
    """What the reference computes for the first `length` of `random_ids`."""
    checkpoint = random_model(shape, quant, seed)
    with loaded("reference", checkpoint) as reference:
        return forward(reference, (random_ids(checkpoint.config, length), 0, PAGES))


# Until a backend has all of FAMILY_SIZES it stays out.
WITH_FAMILIES: list[str] = ["reference", "cpu", "torch"]
CHOOSERS = ("experts-2-of-5", "dense-beside-experts")  # activations in int8 turn a near tie of two experts
families = pytest.mark.parametrize(
    ("quant", "shape"), [*product(("F32",), FAMILY_SIZES), *product(("Q8_0",), (s for s in FAMILY_SIZES if s not in CHOOSERS))]
)


@pytest.mark.parametrize("device", WITH_FAMILIES)
@families
def test_families_have_the_references_logits(device: str, quant: str, shape: str) -> None:
    checkpoint = random_model(shape, quant, seed=1)
    with loaded(device, checkpoint, kv="f32") as backend:
        require_the_references_logits(Loaded(Case(quant, shape, device, "f32"), checkpoint, backend))


@pytest.mark.parametrize("device", WITH_FAMILIES)
@families
def test_families_agree_bit_for_bit_in_chunks_and_steps(device: str, quant: str, shape: str) -> None:
    checkpoint = random_model(shape, quant, seed=1)
    with loaded(device, checkpoint) as backend:
        require_the_same_bits_in_chunks(checkpoint, backend)


@pytest.mark.parametrize("device", WITH_FAMILIES)
@pytest.mark.parametrize("quant", ["F32", "Q8_0"])
@pytest.mark.parametrize("shape", [*CHOOSERS, "like-gemma", "like-olmo", "two-ropes"])
def test_families_have_the_same_bits_in_a_batch_and_on_any_threads(device: str, quant: str, shape: str) -> None:
    checkpoint = random_model(shape, quant, seed=1)
    with loaded(device, checkpoint) as backend:
        require_the_same_bits_in_a_batch(checkpoint, backend)
    test_threads_change_no_bit(device, "auto", quant, shape)


def tolerance(device: str, quant: str, kv: KVType) -> tuple[float, float]:
    own = KV_TOLERANCE[KV_TYPES[device][0] if kv == "auto" else kv]
    if BLOCK_TYPES[quant].block_size == 1:
        return own
    if device == "cpu" and kv == "int8":  # its activations are rounded too: the two errors add up
        return QUANTISED[0] + own[0], QUANTISED[1] + own[1]
    return QUANTISED


@models(list(ODD_SIZES), DEVICES_KV)
def test_logits_are_the_references(model: Loaded) -> None:
    require_the_references_logits(model)


def require_the_references_logits(model: Loaded) -> None:
    (quant, shape, device, kv), checkpoint, backend = model
    ids = random_ids(checkpoint.config, 41)
    expected = reference_logits(shape, quant, seed=1, length=41)
    found = forward(backend, (ids, 0, PAGES))
    assert found.dtype == np.float32 and found.shape == (41, checkpoint.config.vocab_size)
    require_close(found, expected, tolerance(device, quant, kv))


@models(list(ODD_SIZES), CAN_CHANGE_BITS)
def test_chunks_decode_steps_and_one_shot_agree_bit_for_bit(model: Loaded) -> None:
    require_the_same_bits_in_chunks(model.checkpoint, model.backend)


def require_the_same_bits_in_chunks(checkpoint: Checkpoint, backend: Backend) -> None:
    ids = random_ids(checkpoint.config, 37, seed=2)
    whole = forward(backend, (ids, 0, PAGES))
    steps = [forward(backend, ([i], p, [1, 2, 4])) for p, i in enumerate(ids)]
    cuts = [0, 1, 3, 8, 16, 17, 33, 37]
    chunks = [forward(backend, (ids[a:b], a, [5, 6, 8])) for a, b in pairwise(cuts)]
    assert np.array_equal(np.concatenate(steps), whole), "decoding differs from prefill"
    assert np.array_equal(np.concatenate(chunks), whole), "chunks differ from one shot"


@models(["plain", "ratio-3-head-64", "hidden-70-ffn-172"], CAN_CHANGE_BITS)
def test_a_batch_changes_no_bit(model: Loaded) -> None:
    require_the_same_bits_in_a_batch(model.checkpoint, model.backend)


def require_the_same_bits_in_a_batch(checkpoint: Checkpoint, backend: Backend) -> None:
    """Sequences of many lengths in one step, decode rows between chunks, in two orders."""
    prompts = [random_ids(checkpoint.config, n, seed=n) for n in (1, 2, 7, 16, 17, 1, 1, 30, 5)]
    tables = [[2 * i + 1, 2 * i] for i in range(len(prompts))]
    alone = [forward(backend, (ids, 0, table)) for ids, table in zip(prompts, tables, strict=True)]
    for order in (range(len(prompts)), [8, 3, 0, 5, 1, 7, 2, 6, 4]):
        together = forward(backend, *((prompts[i], 0, tables[i]) for i in order))
        assert np.array_equal(together, np.concatenate([alone[i] for i in order]))
    last = forward(backend, *((ids, 0, table) for ids, table in zip(prompts, tables, strict=True)), last_only=True)
    assert np.array_equal(last, np.stack([rows[-1] for rows in alone]))


@devices
def test_the_default_of_k_and_v_is_among_the_types_that_are_tested(device: str) -> None:
    checkpoint, config = random_model("plain", "F32", seed=1), EngineConfig(device=device, page_size=PAGE_SIZE)
    backend = create_backend(config)
    assert plan_of(checkpoint, config, backend).kv_type == AUTO[device]
    backend.close()


@devices
def test_decode_rows_of_a_batch_change_no_bit(device: str) -> None:
    checkpoint = random_checkpoint(ODD_SIZES["ratio-4-head-20"], "Q8_0", seed=4)
    prompts = [random_ids(checkpoint.config, n, seed=n) for n in (3, 15, 16, 31)]
    tables = [[2 * i, 2 * i + 1] for i in range(4)]
    with loaded(device, checkpoint) as backend:
        for ids, table in zip(prompts, tables, strict=True):
            forward(backend, (ids[:-1], 0, table))
        together = forward(backend, *(([ids[-1]], len(ids) - 1, t) for ids, t in zip(prompts, tables, strict=True)))
        alone = [forward(backend, (ids, 0, [20, 21]))[-1] for ids in prompts]
    assert np.array_equal(together, np.stack(alone))


@devices
def test_the_order_of_pages_changes_no_bit(device: str) -> None:
    checkpoint = random_checkpoint(ODD_SIZES["ratio-1"], "F16", seed=5)
    ids = random_ids(checkpoint.config, 60)
    with loaded(device, checkpoint) as backend:
        expected = forward(backend, (ids, 0, [0, 1, 2, 3]))
        for seed in range(4):
            table = np.random.default_rng(seed).permutation(NUM_PAGES)[:4].tolist()
            assert np.array_equal(forward(backend, (ids, 0, table)), expected), table


@devices
def test_a_shared_page_is_read_as_ones_own(device: str) -> None:
    checkpoint = random_checkpoint(ODD_SIZES["plain"], seed=6)
    shared, ends = random_ids(checkpoint.config, 16), ([1, 2, 3], [4, 5])
    with loaded(device, checkpoint) as backend:
        expected = [forward(backend, (shared + end, 0, [3, 4]))[16:] for end in ends]
        forward(backend, (shared, 0, [9]))
        found = forward(backend, *((end, 16, [9, page]) for end, page in zip(ends, (1, 2), strict=True)))
    assert np.array_equal(found, np.concatenate(expected))


@devices
def test_stale_numbers_in_a_page_are_not_read(device: str) -> None:
    """After the row's own position a page may hold any value, even inf or nan."""
    checkpoint = random_checkpoint(ODD_SIZES["plain"], seed=7)
    broken = checkpoint.tensors["embed"].data[:].copy()
    broken.view(np.float32)[5] = np.nan
    tensor = type(checkpoint.tensors["embed"])
    embed = checkpoint.tensors["embed"]
    poisoned = dict(checkpoint.tensors) | {"embed": tensor(embed.name, embed.shape, embed.type, broken)}
    bad = Checkpoint(checkpoint.path, checkpoint.format, checkpoint.config, poisoned)
    ids = [i for i in random_ids(checkpoint.config, 20) if i != 5]
    with loaded(device, bad) as backend:
        expected = forward(backend, (ids, 0, [1, 2]))
        assert np.isfinite(expected).all()
        assert np.isnan(forward(backend, ([5] * 32, 0, [3, 4]))).any()
        assert np.array_equal(forward(backend, (ids, 0, [3, 4])), expected)


@devices
@pytest.mark.parametrize("count", [1, 5, 40])
def test_eight_bit_numbers_may_be_minus_128(device: str, count: int) -> None:
    """Our quantizer never makes one; files of eight-bit weights hold them."""
    checkpoint = random_checkpoint(ODD_SIZES["plain"], "Q8_0", seed=12)
    rng = np.random.default_rng(12)
    for tensor in checkpoint.tensors.values():
        if tensor.type.name == "Q8_0":
            blocks = tensor.data[:].view(tensor.type.layout)
            blocks["qs"] = np.where(rng.random(blocks["qs"].shape) < 0.5, -128, 127)
            blocks["d"] /= 3  # all numbers are the largest now: keep the size of what the matrix maps
    ids = random_ids(checkpoint.config, count)
    with loaded("reference", checkpoint) as reference, loaded(device, checkpoint, kv="f32") as backend:
        require_close(forward(backend, (ids, 0, [0, 1, 2])), forward(reference, (ids, 0, [0, 1, 2])), QUANTISED)


@devices
@pytest.mark.parametrize("value", [np.inf, np.nan], ids=str)
@pytest.mark.parametrize("quant", ["Q8_0", "Q4_1", "Q4_K", "Q6_K"])
def test_a_block_whose_scale_is_not_finite_is_refused_when_the_model_is_loaded(device: str, quant: str, value: float) -> None:
    checkpoint = random_checkpoint(WIDE_SIZES["wide"], quant, seed=9)
    name = "layers.1.down_proj"
    down = checkpoint.tensors[name]
    blocks = down.data[:].copy().reshape(-1).view(down.type.layout)
    blocks["d"][len(blocks) // 2] = value
    tensors = {**checkpoint.tensors, name: replace(down, data=blocks.view(np.uint8).reshape(down.data.shape))}
    bad = replace(checkpoint, tensors=tensors)
    with pytest.raises(ModelFormatError, match=f"tensor '{name}': d of the block"), loaded(device, bad):
        pass


@devices
def test_a_row_of_wrong_numbers_harms_no_other(device: str) -> None:
    checkpoint = random_checkpoint(ODD_SIZES["plain"], seed=8)
    checkpoint.tensors["embed"].data[:].view(np.float32)[5] = np.nan
    ids = [i for i in random_ids(checkpoint.config, 20) if i != 5]
    with loaded(device, checkpoint) as backend:
        expected = forward(backend, (ids, 0, [1, 2]))
        together = forward(backend, ([5, 6], 0, [3]), (ids, 0, [1, 2]), ([7, 5], 0, [4]))
    assert np.array_equal(together[2:-2], expected)
    assert not np.isfinite(together[0]).all()


@bit_kv_types
@pytest.mark.parametrize(("quant", "shape"), [("Q4_1", "ratio-3-head-64"), *product(K_QUANTS + CPU_QUANTS, ["wide"])])
def test_threads_change_no_bit(device: str, kv: KVType, quant: str, shape: str) -> None:
    checkpoint = random_model(shape, quant, seed=9)
    ids = random_ids(checkpoint.config, 33)
    rows = []
    for threads in (1, 2, 3):
        with loaded(device, checkpoint, threads=threads, kv=kv) as backend:
            rows.append(forward(backend, (ids, 0, PAGES)))
            together = forward(backend, (ids[:19], 0, [1, 2]), (ids[:1], 0, [4]), (ids, 0, PAGES))
            assert np.array_equal(together, np.concatenate([rows[0][:19], rows[0][:1], rows[0]])), threads
    assert all(np.array_equal(rows[0], one) for one in rows[1:])


@kv_types
def test_the_longest_position_can_be_computed(device: str, kv: KVType) -> None:
    checkpoint = random_checkpoint(ODD_SIZES["plain"], seed=10)
    ids = random_ids(checkpoint.config, checkpoint.config.max_context)
    with loaded("reference", checkpoint) as reference, loaded(device, checkpoint, kv=kv) as backend:
        expected, found = (forward(each, (ids, 0, list(range(8))), last_only=True) for each in (reference, backend))
    require_close(found, expected, tolerance(device, "F32", kv))


@devices
def test_logits_need_not_be_asked_for(device: str) -> None:
    checkpoint = random_checkpoint(ODD_SIZES["plain"], seed=11)
    with loaded(device, checkpoint) as backend:
        none = backend.step(Batch.of([chunk_of([1, 2], 0, [0], num_logits=0, prompt_length=2)])).logits()
        assert none.shape == (0, checkpoint.config.vocab_size)
        expected = forward(backend, ([1, 2, 3], 0, [1]))[-1]
        assert np.array_equal(forward(backend, ([3], 2, [0]))[0], expected)


@devices
def test_closing_twice_is_harmless_and_a_second_model_can_be_loaded(device: str) -> None:
    for seed in (1, 2):
        with loaded(device, random_checkpoint(ODD_SIZES["plain"], seed=seed)) as backend:
            forward(backend, ([1], 0, [0]))
        backend.close()


@devices
def test_info_names_the_device(device: str) -> None:
    backend = create_backend(EngineConfig(device=device))
    assert backend.info.name == device
    assert backend.info.threads >= 1
    assert 0 < backend.info.free_bytes <= backend.info.total_bytes
    backend.close()


@pytest.mark.parametrize(
    ("device", "weights", "offloaded"),
    [
        *((device, "as-is", 0) for device in BACKENDS_UNDER_TEST),
        ("torch", "int8", 0),
        ("torch", "int4", 0),
        ("torch", "as-is", 1),
    ],
)
@pytest.mark.parametrize(
    ("shape", "quant"), [("biases", "F32"), ("hidden-70-ffn-172", "BF16"), ("wide", "Q4_K"), ("tied-one-layer", "Q4_1")]
)
def test_the_plans_placements_are_what_the_backend_makes(
    device: str, weights: WeightsType, offloaded: int, shape: str, quant: str
) -> None:
    checkpoint = random_model(shape, quant, seed=1)
    config = EngineConfig(device=device, threads=1, page_size=PAGE_SIZE, weights=weights)
    backend = create_backend(config)
    plan = plan_of(checkpoint, config, backend).offloading(offloaded)
    backend.load(checkpoint, plan)
    made = backend.weights_bytes()
    backend.close()
    assert made == plan.weights_bytes == sum(one.bytes for one in plan.placements if one.where == DEVICE)
    assert {one.name for one in plan.placements if one.type} == set(checkpoint.tensors)


@pytest.mark.parametrize("device", WITH_FAMILIES)
@pytest.mark.parametrize("shape", ["dense-beside-experts", "like-olmo"])
def test_the_plans_placements_are_what_the_backend_makes_of_families(device: str, shape: str) -> None:
    test_the_plans_placements_are_what_the_backend_makes(device, "as-is", 0, shape, "Q8_0")


@kv_types
@pytest.mark.parametrize("shape", ["ratio-8-head-100", "window-17-one-layer-of-two"])
def test_pages_that_were_read_and_written_elsewhere_change_no_bit(device: str, kv: KVType, shape: str) -> None:
    checkpoint = random_model(shape, "Q8_0", seed=6)
    ids = random_ids(checkpoint.config, 37)
    with loaded(device, checkpoint, kv=kv) as backend:
        expected = forward(backend, (ids, 0, PAGES))[32:]
        pages = backend.read_pages(PAGES[:2])
        assert pages.dtype == np.uint8 and pages.shape[0] == 2
        assert np.array_equal(backend.read_pages(PAGES[1:2]), pages[1:])
        held = backend.read_pages([9])
        backend.write_pages([8, 5], pages)
        assert np.array_equal(backend.read_pages([5, 8]), pages[::-1])
        assert np.array_equal(forward(backend, (ids[32:], 32, [8, 5, 2])), expected)
        assert np.array_equal(backend.read_pages([9]), held)
    with loaded(device, checkpoint, kv=kv) as other:
        other.write_pages([1, 0], pages)
        assert np.array_equal(forward(other, (ids[32:], 32, [1, 0, 4])), expected)
        assert other.kv_arithmetic and isinstance(other.prompts_apart, bool)
