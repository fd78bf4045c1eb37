"""Experts: the router's choice, the order of a step's pairs, packing, and that an expert which no token chose is never read."""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
import pytest

from puna.backends import reference
from puna.backends.cpu import experts
from puna.backends.cpu.buffers import buffer_bytes, routing_bytes, sizes_of
from puna.backends.cpu.jit import FLAGS
from puna.backends.cpu.layout import KINDS, padded
from puna.backends.cpu.packing import pack
from puna.config import EngineConfig
from puna.formats.base import Checkpoint, Tensor
from puna.model.spec import AttentionSpec, Experts, ModelConfig
from puna.plan import scratch_bytes
from tests.conformance.test_backends import PAGES, forward, loaded, random_ids, require_close, tolerance
from tests.fakes import make_plan, make_tensor, random_checkpoint, tiny_config, with_layers


@numba.njit(**FLAGS)
def run_choose(logits: int, count: int, top_k: int, normalises: int, chosen: int, shares: int) -> None:
    experts.choose_experts(logits, count, top_k, normalises, chosen, shares)


@numba.njit(**FLAGS)
def run_sort(chosen: int, tokens: int, top_k: int, count: int, pair_rows: int, row_tokens: int, ends: int) -> None:
    experts.sort_pairs(chosen, tokens, top_k, count, pair_rows, row_tokens, ends)


def choice(logits: list[float], spec: Experts) -> tuple[list[int], list[float]]:
    """What `choose_experts` makes of one token; behind the logits lie numbers that it must not take."""
    space = np.full(padded(spec.count, 8) + 8, 1e30, np.float32)
    space[: spec.count] = logits
    chosen, shares = np.zeros(spec.top_k, np.int32), np.zeros(spec.top_k, np.float32)
    run_choose(space.ctypes.data, spec.count, spec.top_k, int(spec.normalises), chosen.ctypes.data, shares.ctypes.data)
    return chosen.tolist(), shares.tolist()


@pytest.mark.parametrize("normalises", [False, True])
@pytest.mark.parametrize(("count", "top_k"), [(1, 1), (3, 2), (5, 5), (8, 2), (9, 4), (64, 8), (130, 16)])
def test_experts_are_chosen_as_by_the_reference(count: int, top_k: int, normalises: bool) -> None:
    spec = Experts(32, count, top_k, normalises=normalises)
    for seed in range(20):
        print("seed", seed)
        rng = np.random.default_rng(seed)
        for logits in (3 * rng.standard_normal(count), rng.integers(-2, 3, count)):  # the second ones have many ties
            numbers, shares = reference.route(logits.astype(np.float32), spec)
            chosen, found = choice(logits.tolist(), spec)
            assert chosen == numbers
            np.testing.assert_allclose(found, shares, rtol=2e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_logits_choose_experts_that_exist_and_give_no_finite_share(bad: float) -> None:
    chosen, shares = choice([0.0, bad, 1.0, bad, 0.0], Experts(32, 5, 3))
    assert all(0 <= expert < 5 for expert in chosen) and np.isnan(shares).all()
    chosen, shares = choice([bad] * 5, Experts(32, 5, 3))
    assert all(0 <= expert < 5 for expert in chosen) and np.isnan(shares).all()


@pytest.mark.parametrize(("tokens", "top_k", "count"), [(1, 1, 1), (1, 3, 8), (7, 2, 3), (40, 4, 128), (256, 8, 9)])
def test_pairs_are_sorted_by_expert_then_by_token(tokens: int, top_k: int, count: int) -> None:
    rng = np.random.default_rng(tokens)
    chosen = np.stack([rng.permutation(count)[:top_k] for _ in range(tokens)]).astype(np.int32)
    pair_rows, row_tokens, ends = np.empty_like(chosen), np.empty(tokens * top_k, np.int32), np.empty(count, np.int32)
    run_sort(chosen.ctypes.data, tokens, top_k, count, pair_rows.ctypes.data, row_tokens.ctypes.data, ends.ctypes.data)
    expected = sorted((expert, token, rank) for (token, rank), expert in np.ndenumerate(chosen))
    assert row_tokens.tolist() == [token for _, token, _ in expected]
    assert [pair_rows[token, rank] for _, token, rank in expected] == list(range(tokens * top_k))
    assert ends.tolist() == np.cumsum(np.bincount(chosen.ravel(), minlength=count)).tolist()


@pytest.mark.parametrize("quant", KINDS)
def test_each_expert_is_packed_like_a_matrix_of_its_own(quant: str) -> None:
    columns = max(32, KINDS[quant].block)
    values = np.random.default_rng(0).standard_normal((3, 13, columns)).astype(np.float32)
    whole = pack(make_tensor("layers.0.up_experts", values, quant), KINDS[quant])
    alone = [pack(make_tensor("w", part, quant), KINDS[quant]) for part in values]
    assert whole.bytes == alone[0].bytes == alone[0].array.nbytes
    assert whole.array.tobytes() == b"".join(part.array.tobytes() for part in alone)


def like(quant: str, **changes: int) -> Checkpoint:
    config = with_layers(tiny_config(**changes), AttentionSpec(), Experts(64, count=6, top_k=2))
    return random_checkpoint(config, quant, seed=5)


@pytest.mark.parametrize("quant", ["F32", "Q8_0", "Q4_1", "Q5_0"])
def test_an_expert_that_no_token_chose_is_not_read(quant: str) -> None:
    """The router never chooses number 3, whose weights are nan or, where a scale may not be that, huge."""
    checkpoint = like(quant)
    ids = random_ids(checkpoint.config, 30)
    tensors = dict(checkpoint.tensors)
    for number in range(checkpoint.config.num_layers):
        _close_off(tensors, f"layers.{number}.router")
    with loaded("cpu", replace(checkpoint, tensors=tensors)) as backend:
        expected = forward(backend, (ids, 0, PAGES))
    for number in range(checkpoint.config.num_layers):
        for name in ("gate_experts", "up_experts", "down_experts"):
            _poison(tensors, f"layers.{number}.{name}", quant)
    with loaded("cpu", replace(checkpoint, tensors=tensors)) as backend:
        assert np.array_equal(forward(backend, (ids, 0, PAGES)), expected) and np.isfinite(expected).all()


def _close_off(tensors: dict[str, Tensor], name: str) -> None:
    """Make the logit of expert 3 zero: one of experts 1 and 2, and one of 4 and 5, has more."""
    router = tensors[name].dequantize().copy()
    router[3], router[2], router[4] = 0.0, -router[1], -router[5]
    tensors[name] = make_tensor(name, router, "F32")


def _poison(tensors: dict[str, Tensor], name: str, quant: str) -> None:
    tensor = tensors[name]
    data = tensor.data[:].copy()
    rows = data.reshape(tensor.shape[0], tensor.shape[1], -1)
    block = rows[3].view(np.float32) if quant == "F32" else rows[3].reshape(-1).view(tensor.type.layout)["d"]
    block[...] = np.nan if quant == "F32" else 65504
    tensors[name] = replace(tensor, data=data)


MIXED: ModelConfig = with_layers(
    tiny_config(hidden_size=256, ffn_size=256), AttentionSpec(), Experts(256, count=4, top_k=4, normalises=False)
)


@pytest.mark.parametrize("gate", ["F16", "Q4_K"])
@pytest.mark.parametrize("up", ["Q8_0", "F32", "Q6_K"])
@pytest.mark.parametrize("down", ["Q5_K", "BF16"])
def test_matrices_of_an_expert_may_differ_in_type(gate: str, up: str, down: str) -> None:
    tensors = dict(random_checkpoint(MIXED, seed=6).tensors)
    for name, tensor in tensors.items():
        types = {"gate_experts": gate, "up_experts": up, "down_experts": down}
        if kind := types.get(name.rpartition(".")[2]):
            tensors[name] = make_tensor(name, tensor.dequantize().reshape(tensor.shape), kind)
    checkpoint = replace(random_checkpoint(MIXED, seed=6), tensors=tensors)
    ids = random_ids(MIXED, 21)
    with loaded("reference", checkpoint) as one, loaded("cpu", checkpoint, kv="f32") as other:
        expected, found = (forward(backend, (ids, 0, PAGES)) for backend in (one, other))
    require_close(found, expected, tolerance("cpu", "Q8_0", "f32"))


def test_buffers_of_a_step_hold_all_pairs_of_the_largest_step() -> None:
    """A step of as many tokens as the plan allows, alone and after a smaller one: no pair overwrites another."""
    checkpoint = like("Q8_0", max_context=512)
    ids = random_ids(checkpoint.config, 256)
    with loaded("cpu", checkpoint, threads=2) as backend:
        whole = forward(backend, (ids, 0, list(range(16))))
        steps = np.concatenate([forward(backend, ([i], p, list(range(20, 36)))) for p, i in enumerate(ids[:40])])
    assert np.array_equal(steps, whole[:40])


WIDTHS = {"num_heads": 32, "num_kv_heads": 8, "head_dim": 128, "hidden_size": 2048, "vocab_size": 1000}
LIKE_FILES: dict[str, ModelConfig] = {
    "dense": tiny_config(**WIDTHS, ffn_size=6144),
    "like-mixtral": with_layers(tiny_config(**WIDTHS), AttentionSpec(), Experts(14336, count=8, top_k=2)),
    "like-qwen3-moe": with_layers(tiny_config(**WIDTHS), AttentionSpec(qk_norm="head"), Experts(768, count=128, top_k=8)),
}


@pytest.mark.parametrize("name", LIKE_FILES)
def test_the_plan_counts_the_buffers_of_a_step(name: str) -> None:
    config = LIKE_FILES[name]
    engine = EngineConfig(chunk_tokens=256, max_batch=64)
    plan = make_plan(max_tokens=256, max_sequences=64, scratch_bytes=scratch_bytes(config, engine))
    sizes = sizes_of(config, plan, threads=2)
    buffers = buffer_bytes(config, plan, sizes, num_tables=1)
    others = sum(buffers[name] for name in ("kv", "logits", "scratch", "partials"))
    needed = sum(buffers.values()) - others + sum(routing_bytes(config, plan, sizes).values())
    assert needed <= plan.scratch_bytes <= 2 * needed
