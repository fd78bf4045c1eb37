"""`rope.py` and `attention.py` against plain torch: all types of KV, odd heads, windows, pages; the same bits in any batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from puna.backends import BACKENDS
from puna.backends.torch import plain
from puna.backends.torch.kv import DTYPES, Half, LayerKV
from puna.backends.torch.step import Step, make_step
from puna.batch import Batch
from puna.model.rope import RopeConfig
from puna.model.rotary import RotaryTables
from puna.model.spec import AttentionSpec
from tests.backends.torch import interpreter
from tests.backends.torch.interpreter import error, normal
from tests.fakes import chunk_of, tiny_config

interpreter.require()
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter and numbers that are not finite

from puna.backends.torch import kernels  # noqa: E402
from puna.backends.torch.kernels import attention  # noqa: E402
from puna.backends.torch.kernels.gpu_properties import GPUProperties  # noqa: E402

PAGE_SIZE, NUM_PAGES = 16, 24
CLOSE = 1e-4  # the kernels split float32 in two bf16
SHAPES = [(1, 1, 2), (3, 1, 64), (8, 2, 20), (8, 1, 100), (4, 4, 128)]  # heads, kv_heads, head_dim
Piece = tuple[int, int, list[int]]  # rows, position of the first, page ids

# Each shape with two of the types, each type with two or three of the shapes.
PAIRS = [(shape, list(DTYPES)[(i + j) % len(DTYPES)]) for i, shape in enumerate(SHAPES) for j in (0, 2)]
pairs = pytest.mark.parametrize(("shape", "kv_type"), PAIRS, ids=str)


def empty_kv(kv_type: str, num_kv_heads: int, head_dim: int) -> LayerKV:
    """Pages with values that must not be read."""

    def half() -> Half:
        shape = (NUM_PAGES, num_kv_heads, PAGE_SIZE, head_dim)
        numbers = torch.full(shape, 77 if kv_type == "int8" else torch.nan, dtype=DTYPES[kv_type])
        return Half(numbers, torch.full(shape[:3], torch.nan) if kv_type == "int8" else None)

    return LayerKV(half(), half())


def rotary_of(head_dim: int) -> RotaryTables:
    """Two tables of k and one of q: of a layer with scaled queries, and of one without rotation."""
    config = tiny_config(head_dim=head_dim, rope=RopeConfig(q_beta=0.3, original_context=8))
    scaled, nope = (replace(layer, attention=AttentionSpec(rope=rope)) for layer, rope in zip(config.layers, (0, None)))
    return RotaryTables(replace(config, layers=(scaled, nope)))


def step_of(head_dim: int, *pieces: Piece, of_prompts: bool = False) -> Step:
    batch = Batch.of([chunk_of([0] * rows, first, pages, num_logits=0, prompt_length=1) for rows, first, pages in pieces])
    return make_step(batch, rotary_of(head_dim), PAGE_SIZE, torch.from_numpy(batch.token_ids), of_prompts)


def filled_kv(kv_type: str, num_kv_heads: int, head_dim: int, *pieces: Piece) -> LayerKV:
    """K and V of all positions up to the last of each piece; the same for a position wherever it lies."""
    kv = empty_kv(kv_type, num_kv_heads, head_dim)
    for rows, first, pages in pieces:
        step = step_of(head_dim, (first + rows, 0, pages))
        kv.keys.write(step.slots, normal(first + rows, num_kv_heads, head_dim, seed=pages[0]))
        kv.values.write(step.slots, normal(first + rows, num_kv_heads, head_dim, seed=pages[0] + 100))
    return kv


def queries(heads: int, head_dim: int, *pieces: Piece) -> torch.Tensor:
    return torch.cat([normal(first + rows, heads, head_dim, seed=pages[0] + 200)[first:] for rows, first, pages in pieces])


# ---- rope_write -----------------------------------------------------------------------------------------------------


@pairs
def test_rope_write(shape: tuple[int, int, int], kv_type: str) -> None:
    heads, kv_heads, head_dim = shape
    has_norms = head_dim in (20, 128)
    step = step_of(head_dim, (1, 16, [3, 5]), (3, 14, [7, 2]))
    qkv = normal(4, (heads + 2 * kv_heads) * head_dim)
    norms = (1 + normal(head_dim, seed=1) / 8, 1 + normal(head_dim, seed=2) / 8) if has_norms else None
    expected_kv, found_kv = empty_kv(kv_type, kv_heads, head_dim), empty_kv(kv_type, kv_heads, head_dim)
    expected = plain.rope_write(qkv, heads, norms, 1e-5, expected_kv, step)
    found = kernels.rope_write(qkv, heads, norms, 1e-5, found_kv, step)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for mine, truth in ((found_kv.keys, expected_kv.keys), (found_kv.values, expected_kv.values)):
        require_same_pages(kv_type, mine, truth)
    if not has_norms:  # V passes through no arithmetic: not a bit may differ
        assert torch.equal(found_kv.values.numbers.nan_to_num(), expected_kv.values.numbers.nan_to_num())


@pytest.mark.parametrize("tables", [(0, 0), (2, 0), (1, 1)])
def test_rope_write_norms_all_heads_together_and_takes_each_table(tables: tuple[int, int]) -> None:
    step, qkv = step_of(20, (1, 16, [3, 5]), (3, 14, [7, 2])), normal(4, (3 + 2 * 2) * 20)
    norms = 1 + normal(3 * 20, seed=1) / 8, 1 + normal(2 * 20, seed=2) / 8
    expected_kv, found_kv = empty_kv("f32", 2, 20), empty_kv("f32", 2, 20)
    expected = plain.rope_write(qkv.clone(), 3, norms, 1e-5, expected_kv, step, tables)
    found = kernels.rope_write(qkv, 3, norms, 1e-5, found_kv, step, tables)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    require_same_pages("f32", found_kv.keys, expected_kv.keys)


def require_same_pages(kv_type: str, found: Half, expected: Half) -> None:
    """Equal except for the last bit of the type; unwritten memory is unchanged."""
    steps = {"int8": 1.0, "bf16": 0.02, "f16": 0.004, "f32": 1e-5}[kv_type]
    torch.testing.assert_close(found.numbers.float(), expected.numbers.float(), rtol=0, atol=steps, equal_nan=True)
    if found.scales is not None and expected.scales is not None:
        torch.testing.assert_close(found.scales, expected.scales, rtol=1e-6, atol=0, equal_nan=True)


def test_int8_of_zeros_and_of_broken_numbers() -> None:
    step, kv = step_of(4, (3, 0, [0])), empty_kv("int8", 1, 4)
    qkv = torch.zeros(3, 12)
    qkv[1, 9], qkv[2, 9] = torch.nan, 3.0
    kernels.rope_write(qkv, 1, None, 1e-5, kv, step)
    read = kv.values.read(torch.tensor([0]), 0, 3)[0]
    assert torch.equal(read[0], torch.zeros(4)) and torch.isnan(read[1]).all()
    torch.testing.assert_close(read[2], torch.tensor([0.0, 3.0, 0.0, 0.0]))


# ---- attend ---------------------------------------------------------------------------------------------------------


@pairs
def test_decode_rows(shape: tuple[int, int, int], kv_type: str) -> None:
    heads, kv_heads, head_dim = shape
    pieces: list[Piece] = [(1, 0, [9]), (2, 15, [3, 1]), (1, 79, [4, 8, 0, 6, 11])]
    kv, q, step = filled_kv(kv_type, kv_heads, head_dim, *pieces), queries(heads, head_dim, *pieces), step_of(head_dim, *pieces)
    assert error(kernels.attend(q, kv, 0, step), plain.attend(q, kv, 0, step)) < CLOSE


@pairs
def test_prefill_rows(shape: tuple[int, int, int], kv_type: str) -> None:
    heads, kv_heads, head_dim = shape
    pieces: list[Piece] = [(1, 3, [9]), (19, 30, [3, 1, 12, 14])]
    kv, q = filled_kv(kv_type, kv_heads, head_dim, *pieces), queries(heads, head_dim, *pieces)
    step = step_of(head_dim, *pieces, of_prompts=True)
    assert error(kernels.attend(q, kv, 0, step), plain.attend(q, kv, 0, step)) < CLOSE


@pytest.mark.parametrize("window", [1, 5, 17, 32])
@pytest.mark.parametrize("rows", [1, 18])
def test_windows(window: int, rows: int) -> None:
    piece: Piece = (rows, 70, [4, 8, 0, 6, 11, 2])
    kv, q, step = filled_kv("f32", 2, 16, piece), queries(4, 16, piece), step_of(16, piece, of_prompts=rows > 1)
    assert error(kernels.attend(q, kv, window, step), plain.attend(q, kv, window, step)) < CLOSE


@pytest.mark.parametrize("rows", [1, 18])
@pytest.mark.parametrize(("kv_type", "scale", "cap"), [("int8", 0.4, 3.0), ("f32", 0.0, 50.0), ("bf16", 0.05, 0.0)])
def test_scaled_and_capped_scores(kv_type: str, scale: float, cap: float, rows: int) -> None:
    piece: Piece = (rows, 40, [4, 8, 0, 6])
    kv, q, step = filled_kv(kv_type, 2, 16, piece), 9 * queries(4, 16, piece), step_of(16, piece, of_prompts=rows > 1)
    found, expected = kernels.attend(q, kv, 0, step, scale, cap), plain.attend(q, kv, 0, step, scale, cap)
    assert error(found, expected) < CLOSE
    assert error(plain.attend(q, kv, 0, step), expected) > 100 * CLOSE, "it makes no difference here"


@pytest.mark.parametrize("window", [0, 17])
@pytest.mark.parametrize("kv_type", ["bf16", "int8"])
@pytest.mark.parametrize("of_prompts", [False, True])
def test_a_rows_bits_do_not_depend_on_the_batch(
    of_prompts: bool, kv_type: str, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows alone, beside others, and at other places of other tiles."""
    monkeypatch.setattr(np, "matmul", interpreter.product_in_order)
    here: list[Piece] = [(1, 100, [4, 8, 0, 6, 11, 2, 3]), (1, 5, [7]), (20, 10, [1, 5]), (1, 64, [14, 15, 16, 17, 18])]
    kv, q, step = filled_kv(kv_type, 2, 16, *here), queries(6, 16, *here), step_of(16, *here, of_prompts=of_prompts)
    together = kernels.attend(q, kv, window, step).split([rows for rows, _, _ in here])
    for i in (3, 0, 1, 2):
        alone = kernels.attend(queries(6, 16, here[i]), kv, window, step_of(16, here[i], of_prompts=of_prompts))
        assert torch.equal(alone, together[i])
    later: Piece = (17, 13, [1, 5])
    found = kernels.attend(queries(6, 16, later), kv, window, step_of(16, later, of_prompts=of_prompts))
    assert torch.equal(found, together[2][3:])


def test_shares_of_a_long_row_are_merged_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "tile_of", lambda kv_type, padded: attention.AttentionTile(16, 16))
    monkeypatch.setattr(attention, "MAX_SPLITS", 4)
    piece: Piece = (1, 150, [4, 8, 0, 6, 11, 2, 3, 1, 5, 7])
    kv, q, step = filled_kv("f16", 1, 16, piece), queries(5, 16, piece), step_of(16, piece)
    for _ in range(2):  # the counters must stand at zero again
        assert error(kernels.attend(q, kv, 0, step), plain.attend(q, kv, 0, step)) < CLOSE


@pytest.mark.parametrize(("rows", "heads"), [(1, 33), (3, 40)])
def test_more_heads_of_a_group_than_a_tile_has_rows(rows: int, heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MAX_SPLITS", 2)
    piece: Piece = (rows, 40, [4, 8, 0])
    kv, q, step = filled_kv("f32", 1, 16, piece), queries(heads, 16, piece), step_of(16, piece, of_prompts=rows > 1)
    assert attention.tile_of(attention.OTHER, 16).prefill_rows < heads
    for _ in range(2):  # the counters must stand at zero again
        assert error(kernels.attend(q, kv, 0, step), plain.attend(q, kv, 0, step)) < CLOSE


@pytest.mark.parametrize("kv_type", ["bf16", "f32"])
@pytest.mark.parametrize("rows", [1, 19])
def test_a_card_with_less_memory_computes_the_same_bits(rows: int, kv_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "matmul", interpreter.product_in_order)
    piece: Piece = (rows, 70, [4, 8, 0, 6, 11, 2])
    kv, q, step = filled_kv(kv_type, 1, 256, piece), queries(2, 256, piece), step_of(256, piece, of_prompts=rows > 1)
    expected = kernels.attend(q, kv, 0, step)
    monkeypatch.setattr(attention, "gpu_properties", lambda device: GPUProperties(99 << 10, 32))
    assert torch.equal(kernels.attend(q, kv, 0, step), expected)


def test_no_tokens() -> None:
    kv, step = empty_kv("f32", 1, 8), step_of(8, (0, 0, [0]))
    assert kernels.attend(torch.empty(0, 2, 8), kv, 0, step).shape == (0, 16)
    assert kernels.rope_write(torch.empty(0, 32), 2, None, 1e-5, kv, step).shape == (0, 2, 8)


def test_the_plan_counts_as_many_shares_as_the_kernel_leaves() -> None:
    shares = {layout.attention_shares for layout in BACKENDS["torch"].layouts.values()}
    assert shares == {attention.MAX_SPLITS}
