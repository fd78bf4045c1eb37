"""Attention over many spans equals the reference, with the same bits for any split into tiles and spans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from puna.backends.cpu import buffers
from puna.backends.cpu.compiled import load_entry
from puna.batch import Logits
from puna.config import KVType
from puna.model.spec import ModelConfig
from tests.conformance.test_backends import KV_TOLERANCE, Piece, forward, loaded, random_ids, require_close
from tests.fakes import random_checkpoint, tiny_config

LENGTH = 700  # positions: five spans of 128, and a part of one
PAGES = [int(page) for page in np.random.default_rng(0).permutation(44)]
OTHERS = [50 + page for page in PAGES]


def shape(**changes: object) -> ModelConfig:
    return tiny_config(num_layers=2, max_context=768, **changes)


SHAPES = {
    "ratio-3": shape(num_heads=6, num_kv_heads=2),
    "ratio-1": shape(num_heads=3, num_kv_heads=3, head_dim=20),
    "ratio-4": shape(num_heads=4, num_kv_heads=1, head_dim=48),
    "ratio-5": shape(num_heads=5, num_kv_heads=1, head_dim=24),
    "ratio-7": shape(num_heads=14, num_kv_heads=2),
    "ratio-8": shape(num_heads=8, num_kv_heads=1, head_dim=40),
    "window-200": shape(sliding_window=200),
    "window-130-of-one-layer": shape(sliding_window=130, windowed_layers=(1,), num_heads=3, num_kv_heads=3),
}


def fed(config: ModelConfig, cuts: Sequence[int], threads: int, kv: KVType = "f32", beside: bool = False) -> Logits:
    """Logits of all positions, fed in pieces that end at `cuts`; `beside`: together with a shorter sequence."""
    checkpoint = random_checkpoint(config, seed=1)
    ids, other = random_ids(config, LENGTH), random_ids(config, LENGTH, seed=9)
    rows = []
    with loaded("cpu", checkpoint, threads=threads, kv=kv) as backend:
        for first, last in zip((0, *cuts), (*cuts, LENGTH), strict=True):
            for at in range(first, last, 128):  # a step has no more than 256 rows
                until = min(at + 128, last)
                pieces: list[Piece] = [(ids[at:until], at, PAGES)]
                if beside and until - at < 100:
                    pieces.insert(0, (other[at // 2 : at // 2 + 3], at // 2, OTHERS))
                found = forward(backend, *pieces)
                rows.append(found[-(until - at) :])
    return np.concatenate(rows)


@pytest.mark.parametrize("kv", ["f32", "f16", "int8"])
@pytest.mark.parametrize("name", SHAPES)
def test_long_contexts_are_the_references(name: str, kv: KVType) -> None:
    config = SHAPES[name]
    checkpoint = random_checkpoint(config, seed=1)
    with loaded("reference", checkpoint) as reference:
        expected = forward(reference, (random_ids(config, LENGTH), 0, PAGES))
    require_close(fed(config, (), threads=2, kv=kv), expected, KV_TOLERANCE[kv])


@pytest.mark.parametrize(("name", "kv"), [*((name, "f32") for name in SHAPES), ("ratio-5", "int8"), ("window-200", "int8")])
def test_bits_do_not_depend_on_who_computes_which_span(name: str, kv: KVType) -> None:
    """In chunks, token by token where spans begin and end, beside another sequence, by 1, 2, 3 and 5 threads."""
    config = SHAPES[name]
    whole = fed(config, (), threads=1, kv=kv)
    by_token = (*range(126, 131), *range(255, 259), 300, *range(383, 387), *range(690, 700))
    for threads in (1, 2, 3, 5):
        for beside in (False, True):
            assert np.array_equal(fed(config, by_token, threads, kv, beside), whole), (threads, beside)


def test_where_sums_of_spans_have_no_room_whole_tiles_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SHAPES["ratio-3"]
    whole = fed(config, (640, 641, 642), threads=2)
    monkeypatch.setattr(buffers, "MAX_PARTIALS", 3)
    assert np.array_equal(fed(config, (640, 641, 642), threads=2), whole)


@pytest.mark.parametrize("head_dim", [2, 20, 64, 100])
def test_int8_rounds_to_a_127th_of_the_largest_number(head_dim: int) -> None:
    """Ties go to the even number; zeros, tiny numbers and numbers that are not finite have scales that say so."""
    rng = np.random.default_rng(head_dim)
    rows = rng.standard_normal((2, head_dim)).astype(np.float32) * np.float32(3.7)
    for row, number in ((rows[1], 0.0), (rows[1], 1e-36), (rows[0], np.nan), (rows[1], np.inf)):
        page = written_int8(rows)
        for x, q, scale in zip(rows, *read_int8(page, head_dim), strict=True):
            assert scale == np.abs(x).max() * np.float32(1 / 127) or not np.isfinite(x).all()
            assert np.isfinite(x).all() == np.isfinite(scale)
            expected = np.rint(x * (np.float32(127) / np.abs(x).max())) if np.isfinite(scale) and scale > 1e-32 else q
            assert np.array_equal(q, expected)
        row[:] = number


PAGE_SIZE, SLOT = 16, 5


def written_int8(rows: Logits) -> npt.NDArray[np.uint8]:
    """A page with a key and a value in one slot.  # rows (2, head_dim)"""
    head_dim, width = rows.shape[1], -(-rows.shape[1] // 16) * 16
    page = np.zeros((head_dim + width + 8) * PAGE_SIZE, np.uint8)
    beside = np.concatenate((rows, np.full((2, 8), 1e9)), axis=1, dtype=np.float32)  # what follows must not count
    k, v = (row.ctypes.data for row in beside)
    load_entry("write_kv_int8")(k, v, page.ctypes.data, PAGE_SIZE, head_dim, SLOT, 0, head_dim)
    return page


def read_int8(page: npt.NDArray[np.uint8], head_dim: int) -> tuple[list[npt.NDArray[np.int8]], list[np.float32]]:
    """The numbers and the scales of the key and the value."""
    values, scales = head_dim * PAGE_SIZE, page[-8 * PAGE_SIZE :].view(np.float32).reshape(2, PAGE_SIZE)
    numbers = page[: -8 * PAGE_SIZE].view(np.int8)
    width = (len(numbers) - values) // PAGE_SIZE
    key, value = numbers[:values].reshape(head_dim, PAGE_SIZE)[:, SLOT], numbers[values:].reshape(PAGE_SIZE, width)[SLOT]
    assert not value[head_dim:].any()
    return [key, value[:head_dim]], list(scales[:, SLOT])
